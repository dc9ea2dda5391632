"""Algorithms on pairs without a reference policy: they compare log-probs of responses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sims.core.losses.contrastive import dpo_loss, log_odds, simpo_loss
from sims.core.objectives.batch import Batch, Outputs, in_use, over, sequence_sum
from sims.core.spec import SpecError, setting

from .base import PairAlgorithm, per_token
from .contrastive import PairsWithLikelihood


@dataclass(frozen=True)
class CPO(PairsWithLikelihood, kind="cpo"):
    """Contrastive preference optimisation: L = −log σ(β(ℓ_w − ℓ_l)) − α·ℓ_w/|y_w|.

    Differs from DPO: (1) no reference (as if it were uniform), and (2) a likelihood term of the chosen response as the
    regulariser. α is TRL's `cpo_alpha`, and 1 in the paper, which sums ℓ_w; TRL averages it over the tokens of a batch:
    `nll_reduction`. At α = 0 there is no regulariser.

    >>> sims.run(sims.CPO(beta=0.1), sims.BanditR1(), updates=20, runs=2)
    Result(cpo on bandit_r1: 2 runs of 20 updates, ...)
    """

    source: ClassVar[str] = "Xu et al. 2024 (CPO)"

    beta: float = setting(0.1, "scale of the log-prob difference", above=0, per_run=True)
    alpha: float = setting(1.0, "weight of the chosen response's likelihood", at_least=0, per_run=True)

    def check(self) -> None:
        if not in_use(self.alpha) and self.nll_reduction != "sequence_mean":
            raise SpecError("nll_reduction", self.nll_reduction, "has no effect with alpha = 0: leave it out")

    @property
    def needs_reference(self) -> bool:
        return False

    @property
    def nll_weight(self) -> float | Tensor:
        return self.alpha

    def score(self, outputs: Outputs, batch: Batch) -> Tensor:
        return sequence_sum(outputs.logp, batch.mask)

    def pair_loss(self, margin: Tensor) -> Tensor:
        return dpo_loss(margin, over(self.beta, margin))


@dataclass(frozen=True)
class SimPO(PairAlgorithm, kind="simpo"):
    """Simple preference optimisation: L = −log σ(β(ℓ̄_w − ℓ̄_l) − γ), ℓ̄ = ℓ/|y|.

    Differs from CPO: (1) mean log-probs per token, which do not depend on length alone, (2) a target margin γ, and (3)
    no likelihood term (TRL keeps CPO's unless `cpo_alpha` = 0). γ is the margin itself, as in the paper and in TRL's
    `simpo_gamma`; the authors' configs give `gamma_beta_ratio` = γ/β.

    >>> sims.run(sims.SimPO(beta=2.0, gamma=1.0), sims.TokenTree(), updates=20, runs=2)
    Result(simpo on token_tree: 2 runs of 20 updates, ...)
    """

    source: ClassVar[str] = "Meng et al. 2024"

    beta: float = setting(2.0, "scale of the mean log-prob difference; 2 to 10 in the paper", above=0, per_run=True)
    gamma: float = setting(1.0, "target margin, the paper's gamma, not gamma/beta", at_least=0, per_run=True)

    @property
    def needs_reference(self) -> bool:
        return False

    def score(self, outputs: Outputs, batch: Batch) -> Tensor:
        return per_token(sequence_sum(outputs.logp, batch.mask), batch)

    def pair_loss(self, margin: Tensor) -> Tensor:
        return simpo_loss(margin, over(self.beta, margin), over(self.gamma, margin))


@dataclass(frozen=True)
class ORPO(PairsWithLikelihood, kind="orpo"):
    """Odds-ratio preference optimisation: L = −ℓ̄_w − β·log σ(logit e^{ℓ̄_w} − logit e^{ℓ̄_l}), ℓ̄ = ℓ/|y|.

    Differs from CPO: (1) log-odds of the mean log-prob per token are compared, (2) the likelihood has weight 1 and the
    comparison the weight β, the paper's λ and TRL's `beta`. TRL takes the likelihood over prompt and response
    together; here, as in the paper, over the response. TRL's gradient is NaN where e^{ℓ̄} rounds to 1; ours is not.

    >>> sims.run(sims.ORPO(beta=0.1), sims.TokenTree(), updates=20, runs=2)
    Result(orpo on token_tree: 2 runs of 20 updates, ...)
    """

    source: ClassVar[str] = "Hong et al. 2024"

    beta: float = setting(0.1, "weight of the odds ratio, the paper's lambda", above=0, per_run=True)

    @property
    def needs_reference(self) -> bool:
        return False

    @property
    def nll_weight(self) -> float | Tensor:
        return 1.0

    def score(self, outputs: Outputs, batch: Batch) -> Tensor:
        return log_odds(per_token(sequence_sum(outputs.logp, batch.mask), batch))

    def pair_loss(self, margin: Tensor) -> Tensor:
        return over(self.beta, margin) * dpo_loss(margin, 1.0)
