"""How an experiment is computed: by which random generator, and where."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from sims.core.numerics.compiler import check_compiler
from sims.core.numerics.noise import Generator
from sims.core.spec import Spec, SpecError, setting
from sims.environments.space import TokenSpace
from sims.environments.toy import RewardLabeller
from sims.policies.stacked import StackedPolicy

T = TypeVar("T")


@dataclass(frozen=True)
class Computation(Spec, kind="computation"):
    """Random generator and device.

    The generators' numbers are the same on every device, and so are the environments and initial parameters, which are
    made on the CPU. What a GPU computes differs in the last bits: exponentials and logarithms (log_softmax), sums and
    cumulative sums, matrix products. A draw on the boundary between two responses then comes out differently, and two
    runs drift apart, equally distributed.

    >>> sims.run(sims.RLOO(), sims.BanditR1(), updates=20, runs=2, generator="philox")
    Result(rloo on bandit_r1: 2 runs of 20 updates, ...)
    """

    generator: Generator = setting(
        "pcg64", "random generator: NumPy's PCG64DXSM; or Philox, which a GPU computes itself, with the same numbers"
    )
    device: Literal["cpu", "cuda"] = setting("cpu", "where to compute; cuda, a GPU, pays for many runs at a time")
    capture: bool = setting(
        False,
        "capture an update as a graph and replay it, with the same numbers but for rounding: on a GPU a fifth of the "
        "time or less for up to a thousand runs; on a CPU, with a C++ compiler and after some seconds, a third to all",
        omit_default=True,
    )

    @property
    def larger_stacks(self) -> int:
        """How many times more runs share a stack than on a CPU, whose cache limits them: on an H100 an update takes as
        long for a thousand runs as for one."""
        return 1 if self.device == "cpu" else 16

    def check_here(self) -> None:
        """SpecError if this machine lacks the device."""
        if self.device == "cuda" and not torch.cuda.is_available():
            raise SpecError("device", "cuda", "there is no GPU here: must be cpu")
        if self.capture and self.device == "cpu":
            check_compiler("capture", torch.device("cpu"))


def move(thing: T, device: torch.device | str) -> T:
    """A tensor, or what holds tensors, on a device. Policies and environments are changed in place, and returned."""
    if isinstance(thing, Tensor):
        return thing.to(device)  # type: ignore[return-value]
    if isinstance(thing, (list, tuple)):
        return type(thing)(move(item, device) for item in thing)  # type: ignore[return-value]
    if isinstance(thing, dict):
        return {key: move(item, device) for key, item in thing.items()}  # type: ignore[return-value]
    if isinstance(thing, (StackedPolicy, RewardLabeller)) or _holds_tensors(thing):
        for name, value in vars(thing).items():
            thing.__dict__[name] = move(value, device)
    return thing


def _holds_tensors(thing: Any) -> bool:
    """Whether it is one of our data classes that is no setting; a token space's tensors are of no run."""
    return dataclasses.is_dataclass(thing) and not isinstance(thing, (type, Spec, TokenSpace))
