"""Small networks, one per run: stacked layers (R, in, out), no slower than `vmap`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from .noise import Noise


def initial_uniform(noise: Noise, shape: tuple[int, ...], fan_in: int, dtype: torch.dtype) -> Tensor:
    """U(−1/√fan_in, 1/√fan_in), the initialisation of `torch.nn.Linear`: (R, *shape)."""
    return ((2.0 * noise.uniforms("initial weights", *shape) - 1.0) / fan_in**0.5).to(dtype)


def initial_layers(noise: Noise, widths: Sequence[int], dtype: torch.dtype) -> list[Tensor]:
    """Weight (R, in, out) and bias (R, 1, out) of each layer between the widths."""
    layers = []
    for fan_in, fan_out in itertools.pairwise(widths):
        layers.append(initial_uniform(noise, (fan_in, fan_out), fan_in, dtype))
        layers.append(initial_uniform(noise, (1, fan_out), fan_in, dtype))
    return layers


def last_hidden(features: Tensor, layers: Sequence[Tensor], normalise_first: bool = False) -> Tensor:
    """The last hidden layer of a ReLU network, (R, X, width). features: (R, X, D); layers: as `initial_layers` made
    them; normalise_first: LayerNorm without weights after the first."""
    x = features
    for i in range(len(layers) // 2 - 1):
        x = x @ layers[2 * i] + layers[2 * i + 1]
        if i == 0 and normalise_first:
            x = layer_norm(x, x.shape[-1:])
        x = x.relu()
    return x


def output(features: Tensor, layers: Sequence[Tensor], normalise_first: bool = False) -> Tensor:
    """The output layer for each prompt: (R, X, out)."""
    return last_hidden(features, layers, normalise_first) @ layers[-2] + layers[-1]
