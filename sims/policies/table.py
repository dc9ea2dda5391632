"""One free logit for each prompt, prefix and token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sims.core.loop.protocols import EnvironmentSpec, PolicySpec
from sims.core.numerics.noise import Noise
from sims.core.spec import SpecError
from sims.environments.enumerable import EnumerableSpec
from sims.environments.space import TokenSpace

from .categorical import CategoricalPolicy


class TablePolicy(CategoricalPolicy):
    """logits: (R, X, nodes, V); values: (R, X, nodes) or None."""

    def __init__(self, space: TokenSpace, logits: Tensor, values: Tensor | None = None) -> None:
        super().__init__(space, [logits] if values is None else [logits, values])

    def logits(self) -> Tensor:
        return self._parameters[0]

    def value_table(self) -> Tensor:
        return self._parameters[1]


@dataclass(frozen=True)
class Table(PolicySpec, kind="table"):
    """A table of logits, initialised at the data policy; its critic is initialised at 0.

    >>> sims.run(sims.RLOO(), sims.TokenTree(), sims.Table(), updates=20, runs=2)
    Result(rloo on token_tree: 2 runs of 20 updates, ...)
    """

    largest_stack: ClassVar[int] = 1024  # runs: measured half as costly per run as 256, for policy gradient and DPO

    def check_environment(self, environment: EnvironmentSpec) -> None:
        if not isinstance(environment, EnumerableSpec):
            raise SpecError(
                "policy", "table", f"needs an environment whose responses can be listed: not {environment.kind}"
            )

    def build(self, environment: EnumerableSpec, noise: Noise, critic: bool, dtype: torch.dtype) -> TablePolicy:
        logp = torch.from_numpy(environment.checked_reference_logp(noise)).to(dtype)
        logits = logp.expand(*noise.lead, *logp.shape[-3:]).clone()
        return TablePolicy(environment.space, logits, torch.zeros_like(logits[..., 0]) if critic else None)
