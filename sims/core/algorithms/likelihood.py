"""Algorithms that imitate responses, chosen or weighted by their reward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..batch import Batch, Outputs, over, sequence_sum
from ..losses.likelihood import exponential_weights, likelihood_loss
from ..spec import setting
from .base import Algorithm, State, Targets, present, response_shares


@dataclass(frozen=True)
class LikelihoodAlgorithm(Algorithm):
    """−Σ share·scale·ℓ: which responses count is `weight`, how hard each is imitated is `scale`."""

    def at_update(self, batch: Batch, targets: Targets, probe_logp: Tensor | None) -> Targets:
        return {**targets, "share": response_shares(batch, targets)}

    def loss(self, outputs: Outputs, batch: Batch, targets: Targets) -> Tensor:
        loss = likelihood_loss(sequence_sum(outputs.logp, batch.mask))
        if "scale" in targets:
            loss = targets["scale"] * loss
        return (targets["share"] * loss).sum(-1)


@dataclass(frozen=True)
class BestOfN(LikelihoodAlgorithm, kind="best_of_n"):
    """Imitate the best of each prompt's K responses: L = −ℓ(argmax_k r_k). Ties share the weight equally.

    On samples of π_ref it fits the best-of-n law, whose KL to the reference is at most log n − (n−1)/n, with equality
    for continuous rewards (`sims.exact.best_of_n`).
    """

    min_generations: ClassVar[int] = 2
    on_policy: ClassVar[bool] = True
    source: ClassVar[str] = "Stiennon et al. 2020; Tajwar et al. 2024"

    def targets(self, batch: Batch, state: State) -> tuple[Targets, State]:
        there = present(batch)
        rewards = batch.need("rewards").masked_fill(~there, -float("inf"))
        best = (rewards == rewards.amax(-1, keepdim=True)) & there
        return {"weight": best.to(rewards.dtype)}, state


@dataclass(frozen=True)
class RWR(LikelihoodAlgorithm, kind="rwr"):
    """Reward-weighted regression: L = −min(e^{r/β}, weight_clip)·ℓ, averaged over the responses.

    Its population minimiser on samples of μ is μ·e^{r/β}/Z, the KL-regularised optimum around μ, as long as no weight
    is clipped.
    """

    on_policy: ClassVar[bool] = True
    sample_reuse: ClassVar[bool] = True
    source: ClassVar[str] = "Peters & Schaal 2007; Tajwar et al. 2024"

    beta: float = setting(1.0, "temperature of the weights e^{r/beta}", above=0, per_run=True)
    weight_clip: float = setting(20.0, "largest weight", above=0, per_run=True)

    def targets(self, batch: Batch, state: State) -> tuple[Targets, State]:
        scale = exponential_weights(batch.need("rewards"), over(self.beta, 2), over(self.weight_clip, 2))
        return {"scale": scale}, state
