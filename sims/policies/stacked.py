"""Parameters of many runs: copying, averaging, cloning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from sims.core.spec import SpecError
from sims.environments.space import TokenSpace


def check_fit(loss: Tensor, learning_rate: float) -> None:
    """Refuse, with SpecError, to go on with a fit to the data policy that has diverged. loss: a scalar."""
    if not bool(loss.isfinite()):
        raise SpecError("fit_learning_rate", learning_rate, "must be smaller: the fit to the data policy diverged")


class StackedPolicy:
    """R policies over the responses of one token space; R is every parameter's leading axis."""

    def __init__(self, space: TokenSpace, parameters: Sequence[Tensor]) -> None:
        self.space, self._parameters = space, list(parameters)

    def parameters(self) -> Sequence[Tensor]:
        return self._parameters

    @torch.no_grad()
    def copy_from(self, other: Self) -> None:
        for mine, theirs in zip(self._parameters, other._parameters, strict=True):
            mine.copy_(theirs)  # not a blend at rate 1, which makes NaN of a logit of −inf

    @torch.no_grad()
    def blend_from(self, other: Self, rate: float) -> None:
        for mine, theirs in zip(self._parameters, other._parameters, strict=True):
            mine.lerp_(theirs.detach(), rate)

    def clone(self) -> Self:
        """A copy with parameters of its own, without gradient."""
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy._parameters = [p.detach().clone() for p in self._parameters]
        return copy

    def of_runs(self, runs: Sequence[int]) -> Self:
        """A copy of some of the runs, of all that is a tensor here."""
        copy = self.clone()
        copy._parameters = [p[list(runs)] for p in copy._parameters]
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                # What is one for all stays so: a matrix product's rounding may depend on the memory layout.
                one = value.stride(0) == 0
                copy.__dict__[name] = value[:1].expand(len(runs), *value.shape[1:]) if one else value[list(runs)]
        return copy
