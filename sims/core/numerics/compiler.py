"""Whether torch.compile makes code here."""

from __future__ import annotations

import torch
from torch import Tensor

from sims.core.spec import SpecError


def check_compiler(field: str, device: torch.device) -> None:
    """SpecError naming `field` where torch.compile makes no code for this device: on a CPU it needs a C++ compiler, on
    a GPU Triton.

    Compiles a sum, some seconds the first time on a machine."""
    try:
        torch.compile(_probe)(torch.zeros(4, device=device))
    except Exception as error:  # of its backend, of the compiler that it calls
        needs = "a C++ compiler (g++ or clang)" if device.type == "cpu" else "Triton"
        first = " ".join((str(error).strip().splitlines() or [""])[0].split())[:200]
        raise SpecError(field, True, f"needs {needs} that works: {type(error).__name__}: {first}") from error


def _probe(x: Tensor) -> Tensor:
    return x.sin() + x.cos()
