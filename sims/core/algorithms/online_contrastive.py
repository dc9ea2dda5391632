"""Online algorithms on pairs whose two responses are drawn from different distributions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from sims.core.losses.contrastive import nash_md_loss
from sims.core.objectives.batch import Batch, Outputs, over, pick, sequence_sum
from sims.core.spec import setting

from .base import PairAlgorithm, SlotDistribution, Targets
from .contrastive import DPO


def opponents(num_generations: int, distribution: SlotDistribution) -> tuple[SlotDistribution, ...]:
    """The first half of the responses from the policy, the second half from `distribution`: pairing = halves matches
    them."""
    half = num_generations // 2
    return (SlotDistribution("policy"),) * half + (distribution,) * (num_generations - half)


@dataclass(frozen=True)
class XPO(DPO, kind="xpo"):
    """Exploratory preference optimisation: L = −log σ(β(ρ_w − ρ_l)) + α·ℓ(ỹ), y ~ π and ỹ ~ π_ref.

    Differs from DPO: (1) the second response ỹ of each pair is drawn from the reference, and (2) the likelihood of ỹ,
    chosen or not, is lowered: an exploration bonus for responses unlike the reference's. At α = 0 it is online DPO
    against the reference's responses.

    >>> sims.run(sims.XPO(alpha=1e-5), sims.BanditR1(), updates=20, runs=2)
    Result(xpo on bandit_r1: 2 runs of 20 updates, ...)
    """

    on_policy: ClassVar[bool] = True
    source: ClassVar[str] = "Xie et al. 2024"

    pairing: Literal["halves"] = setting(
        "halves", "pairs: each of the policy's responses against one of the reference's"
    )
    alpha: float = setting(1e-5, "weight of the exploration bonus", at_least=0, per_run=True)

    def slot_distributions(self, num_generations: int) -> tuple[SlotDistribution, ...]:
        return opponents(num_generations, SlotDistribution("reference"))

    def loss(self, outputs: Outputs, batch: Batch, targets: Targets) -> Tensor:
        _, explored = pick(sequence_sum(outputs.logp, batch.mask), batch.need("pairs"))
        bonus = (targets["share"] * explored).sum(-1)
        return super().loss(outputs, batch, targets) + over(self.alpha, bonus) * bonus


@dataclass(frozen=True)
class NashMD(PairAlgorithm, kind="nash_md"):
    """Nash mirror descent: L = −(P(y ≻ y′) − ½)·ℓ(y) + β·KL(π‖π_ref), y ~ π and y′ ~ ∝ π^{1−a}·π_ref^a token by token.

    The opponent y′ is the policy mixed with the reference: at a = 0 (self-play) the gradient vanishes at the Nash
    equilibrium π ∝ π_ref·e^{P(y ≻ π)/β}. (1) It is a policy gradient, whose reward is the preference: only y has a
    gradient, and only fresh samples are used. (2) The KL is a score-function term over whole sequences, as in the
    paper; the per-token form of TRL's late trainer drops the effect of a token on the KL of the tokens after it.

    >>> sims.run(sims.NashMD(), sims.BanditR1(), updates=20, runs=2)
    Result(nash_md on bandit_r1: 2 runs of 20 updates, ...)
    """

    on_policy: ClassVar[bool] = True
    source: ClassVar[str] = "Munos et al. 2024"

    pairing: Literal["halves"] = setting("halves", "pairs: each of the policy's responses against one of the mixture's")
    beta: float = setting(0.1, "weight of KL(policy || reference), the paper's tau", at_least=0, per_run=True)
    mixture_coef: float = setting(
        0.5,
        "weight a of the reference in the opponent, drawn from pi^(1-a) pi_ref^a per token; 0: self-play",
        at_least=0,
        at_most=1,
        per_run=True,
    )

    def slot_distributions(self, num_generations: int) -> tuple[SlotDistribution, ...]:
        return opponents(num_generations, SlotDistribution("mixture", self.mixture_coef))

    def loss(self, outputs: Outputs, batch: Batch, targets: Targets) -> Tensor:
        pairs = batch.need("pairs")
        logp, _ = pick(sequence_sum(outputs.logp, batch.mask), pairs)
        ratio, _ = pick(self.score(outputs, batch), pairs)
        loss = nash_md_loss(logp, ratio, batch.need("pair_label"), over(self.beta, ratio))
        return (targets["share"] * loss).sum(-1)
