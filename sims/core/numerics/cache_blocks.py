"""Slices of a tensor that fit into the cache: several elementwise passes over one slice read memory once."""

from __future__ import annotations

from torch import Tensor

from .recorded import on_host

IN_CACHE = 1 << 17  # elements per slice: a core's cache holds a few tensors of this size


def pieces(x: Tensor) -> list[slice]:
    """Slices of the leading axis of x, in order, each of IN_CACHE numbers or one row. Operations on separate rows give
    the same bits slice by slice, in as little as half the time. A tensor that is not on the CPU is one slice."""
    if x.numel() <= IN_CACHE or not on_host(x):
        return [slice(None)]
    size = max(1, IN_CACHE * len(x) // x.numel())
    return [slice(start, start + size) for start in range(0, len(x), size)]
