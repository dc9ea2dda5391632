"""Gradient checkpointing of a model's layers, without training mode elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


@contextmanager
def checkpointed_layers(backbone: nn.Module, on: bool) -> Iterator[None]:
    """Gradient checkpointing inside the block. Layers do it only in training mode, which is set on these layers alone,
    so that dropout stays off."""
    layers = checkpoint_layers(backbone) if on else []
    again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
    for layer in layers:
        layer.training = layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = again  # type: ignore[assignment]
    try:
        yield
    finally:
        for layer in layers:
            layer.training = layer.gradient_checkpointing = False


def checkpoint_layers(module: nn.Module) -> list[GradientCheckpointingLayer]:
    """Layers that transformers can checkpoint: they keep only their input, and recompute the rest for the gradient."""
    return [layer for layer in module.modules() if isinstance(layer, GradientCheckpointingLayer)]
