"""Frozen copies of a model: what they share with it, and in what precision they hold the rest."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


def half(dtype: torch.dtype) -> torch.dtype:
    """What autocast casts a tensor of this dtype to."""
    return torch.bfloat16 if dtype == torch.float32 else dtype


def keep_as_computed(model: nn.Module, own: Iterable[Tensor]) -> None:
    """Weights of linear layers in bfloat16, to which autocast would cast them at each call: the same numbers from half
    the memory. own: the weights that may be changed. Those that are also an embedding stay."""
    for p in cast_at_each_call(model, own):
        p.data = p.data.to(half(p.dtype))


def cast_at_each_call(model: nn.Module, own: Iterable[Tensor]) -> list[nn.Parameter]:
    """See `keep_as_computed`."""
    mine = {id(x) for x in own}
    linear = [x for x in model.modules() if isinstance(x, nn.Linear | Conv1D)]
    inside = {id(layer) for layer in linear}
    rest = {id(p) for x in model.modules() if id(x) not in inside for p in x.parameters(recurse=False)}
    kept = mine - rest
    found = {id(p): p for layer in linear for p in layer.parameters(recurse=False) if id(p) in kept}
    return list(found.values())


def copy_module(module: nn.Module, trained: Iterable[Tensor]) -> nn.Module:
    """A copy with `trained` parameters of its own; all others, like the base under an adapter, are shared."""
    own = {id(x) for x in trained}
    tensors = itertools.chain(module.parameters(), module.buffers())
    return copy.deepcopy(module, {id(x): x for x in tensors if id(x) not in own})
