"""How the layers of a model are computed where responses are scored and trained on: as they are, made again for the
gradient, or compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from .settings import Scoring

_FORMS = 64  # compiled forms of a layer that are kept: of policy, copies and reward models, for short and long rows


@contextmanager
def computed_layers(backbone: nn.Module, scoring: Scoring) -> Iterator[None]:
    """Layers as `gradient_checkpointing` and `torch_compile` ask, inside the block.

    Only their `forward` is replaced, so that what wraps them (hooks, sharding) stays outside. Sampling does not come
    here: it computes a token at a time, for which `cache_implementation = static` captures the whole step.
    """
    again = scoring.gradient_checkpointing and torch.is_grad_enabled()
    if scoring.torch_compile:
        forward = compiled_layer()
    elif again:
        forward = one_layer
    else:
        yield
        return
    layers: list[Any] = checkpoint_layers(backbone)
    for layer in layers:
        layer.forward = partial(forward, layer, again)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def one_layer(layer: nn.Module, again: bool, *states: Tensor, **options: Any) -> Any:
    """A layer's own forward. again: keep its input alone, and compute the rest once more for the gradient."""
    forward = type(layer).forward
    if not again:
        return forward(layer, *states, **options)
    own = partial(forward, layer, **options)
    return checkpoint(own, *states, use_reentrant=False, preserve_rng_state=False)  # there is no dropout


@lru_cache
def compiled_layer() -> Callable[..., Any]:
    """`one_layer` by torch.compile: one form serves all layers of a model, and rows of any length from the second
    length on. It is made at the first call."""
    import torch._dynamo  # takes half a second

    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.config.recompile_limit = max(limit, _FORMS)
    return torch.compile(one_layer)


def checkpoint_layers(module: nn.Module) -> list[GradientCheckpointingLayer]:
    """Layers that transformers can checkpoint: they keep only their input, and recompute the rest for the gradient."""
    return [layer for layer in module.modules() if isinstance(layer, GradientCheckpointingLayer)]


def check_layers(model: nn.Module, scoring: Scoring) -> None:
    """ValueError where `scoring` asks for something of layers that a model has not: those of transformers' own kind."""
    for name in ("gradient_checkpointing", "torch_compile"):
        if getattr(scoring, name) and not checkpoint_layers(model):
            raise ValueError(f"{name} = True: {type(model).__name__} has no layers that transformers can checkpoint")
