"""Long passes over many numbers, piece by piece, so that what one pass leaves is still in the cache for the next."""

from __future__ import annotations

from torch import Tensor

IN_CACHE = 1 << 17  # numbers of a tensor that a core's cache holds beside a few others of the size


def pieces(x: Tensor) -> list[slice]:
    """Slices of the leading axis of x, in order, each of IN_CACHE numbers or one row. Passes that take every row by
    itself give the same bits in pieces, in as little as half the time. A tensor off the CPU is one piece."""
    if x.numel() <= IN_CACHE or not x.is_cpu:
        return [slice(None)]
    size = max(1, IN_CACHE * len(x) // x.numel())
    return [slice(start, start + size) for start in range(0, len(x), size)]
