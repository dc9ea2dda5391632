"""Whether an update is being recorded, to be made again as a whole from the operations that it called."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

_depth = 0


@contextmanager
def recording() -> Iterator[None]:
    """Inside the block operations are recorded: what is not an operation of PyTorch would be left out."""
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1


def on_host(x: Tensor) -> bool:
    """Whether Python and NumPy may look at the numbers of x: it is on the CPU, and nothing is recorded. Elsewhere to
    look is to wait for the device, and in a record it happens once only."""
    return _depth == 0 and x.is_cpu
