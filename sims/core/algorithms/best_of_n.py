"""Maximum likelihood on the best of a prompt's responses: alone, with a negative gradient on others, or with a KL
penalty."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sims.core.losses.likelihood import likelihood_loss, unlikelihood_loss
from sims.core.objectives.batch import Batch, Outputs, in_use, masked, over, sequence_sum
from sims.core.objectives.divergences import k3
from sims.core.spec import setting

from .base import State, Targets, present
from .likelihood import LikelihoodAlgorithm


@dataclass(frozen=True)
class BestOfN(LikelihoodAlgorithm, kind="best_of_n"):
    """Imitate the best of each prompt's K responses: L = −ℓ(argmax_k r_k). Ties share the weight equally.

    On samples of π_ref it fits the best-of-n distribution, whose KL to the reference is at most log n − (n−1)/n, with
    equality for continuous rewards (`sims.exact.best_of_n`).

    >>> sims.run(sims.BestOfN(), sims.BanditR1(), updates=20, runs=2, num_generations=4)
    Result(best_of_n on bandit_r1: 2 runs of 20 updates, ...)
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
class BestOfNNegative(BestOfN, kind="best_of_n_negative"):
    """Best-of-N with a negative gradient: L = −ℓ(argmax_k r_k) + β·Σ_k d_k·f(ℓ_k), d_k > 0 for lower rewards.

    `negatives` selects the responses whose likelihood is lowered, `form` the term f:

        worst          d = 1 for argmin_k r_k, ties share         log_prob        f = ℓ
        mean_of_rest   d = 1/n for each of the n not the best     log_ratio       f = ρ = ℓ − ℓ_ref, for the best too
        sum_of_rest    d = 1 for each of them                     log_complement  f = −log(1 − e^ℓ)

    The six variants of the released code are these three with log_prob, the last two with log_ratio, and sum_of_rest
    with log_complement. Differs from that code in: (1) ties: responses tied for the best are all imitated, there only
    the first, and the others are lowered; (2) mean_of_rest with log_ratio divides by n, there, by mistake, it sums; (3)
    `gate` is 0.01 in its token bandit, 0 in its 1-D bandit, and absent from log_complement.

    ℓ_ref is a constant: log_ratio has another loss than log_prob but the same gradient. With both, ℓ_k falls without
    bound, as the gradient by ℓ_k is the constant β·d_k. That of log_complement vanishes like e^ℓ.

    >>> sims.run(sims.BestOfNNegative(), sims.BanditR1(), updates=20, runs=2, num_generations=4)
    Result(best_of_n_negative on bandit_r1: 2 runs of 20 updates, ...)
    """

    negative_gradient: ClassVar[bool] = True
    source: ClassVar[str] = "Tajwar et al. 2024, released code"

    beta: float = setting(0.05, "weight of the negative term; the best response has weight 1", at_least=0, per_run=True)
    negatives: Literal["worst", "mean_of_rest", "sum_of_rest"] = setting(
        "worst", "responses whose likelihood is lowered: the worst, or all but the best, averaged or summed"
    )
    form: Literal["log_prob", "log_ratio", "log_complement"] = setting(
        "log_prob", "term that lowers them: l = log pi, log(pi/pi_ref), or -log(1 - pi), which saturates"
    )
    gate: float = setting(
        0.0, "ignore negatives less likely than this share of the likeliest best response", at_least=0, below=1
    )

    @property
    def needs_reference(self) -> bool:
        return self.form == "log_ratio"

    def targets(self, batch: Batch, state: State) -> tuple[Targets, State]:
        targets, state = super().targets(batch, state)
        rest = present(batch) & (targets["weight"] == 0)
        if self.negatives == "worst":
            rewards = batch.need("rewards").masked_fill(~rest, float("inf"))
            rest = rest & (rewards == rewards.amin(-1, keepdim=True))
        down = rest.to(targets["weight"].dtype)
        if self.negatives != "sum_of_rest":
            down = down / down.sum(-1, keepdim=True).clamp(min=1.0)
        return {**targets, "down": down}, state

    def response_loss(self, outputs: Outputs, batch: Batch) -> Tensor:
        return likelihood_loss(self._score(outputs, batch))

    def _score(self, outputs: Outputs, batch: Batch) -> Tensor:
        """ℓ, or with log_ratio ρ: (..., B, K)."""
        logp = outputs.logp - batch.need("logp_ref") if self.needs_reference else outputs.logp
        return sequence_sum(logp, batch.mask)

    def _negative_loss(self, outputs: Outputs, batch: Batch, best: Tensor) -> Tensor:
        """f, or 0 below the gate: (..., B, K). best: (..., B, K), above 0 for responses that are imitated."""
        score = self._score(outputs, batch)
        if self.form == "log_complement":
            # A response without tokens has probability 1 under every policy.
            score = unlikelihood_loss(score.masked_fill(~batch.mask.any(-1), -float("inf")))
        if self.gate > 0:
            logp = sequence_sum(outputs.logp.detach(), batch.mask)
            least = logp.masked_fill(best == 0, -float("inf")).amax(-1, keepdim=True) + math.log(self.gate)
            score = torch.where(logp > least, score, 0.0)
        return score

    def loss(self, outputs: Outputs, batch: Batch, targets: Targets) -> Tensor:
        share = targets["share"].sum(-1)  # of the prompt: the best responses' shares add up to it
        lowered = (targets["down"] * self._negative_loss(outputs, batch, targets["weight"])).sum(-1)
        return super().loss(outputs, batch, targets) + over(self.beta, share) * share * lowered


@dataclass(frozen=True)
class SuperHF(BestOfN, kind="superhf"):
    """Supervised fine-tuning on the best response, with a KL penalty to the reference: L = −ℓ(argmax_k r_k) + β·Σ_t
    k3(ρ_t) of that response.

    Differs from best_of_n in: (1) the KL term. As in the authors' code it is KL(π_ref‖π), and only on the filtered
    responses, so that it does not penalise the policy elsewhere. The code sums over the vocabulary at each token; k3 of
    the sampled tokens needs only their log-probs, and has the same gradient in expectation if tokens are drawn from π,
    which filtered ones are not.

    >>> sims.run(sims.SuperHF(beta=0.35), sims.BanditR1(), updates=20, runs=2, num_generations=4)
    Result(superhf on bandit_r1: 2 runs of 20 updates, ...)
    """

    source: ClassVar[str] = "Mukobi et al. 2023"

    beta: float = setting(0.35, "weight of KL(reference || policy) on the filtered responses", at_least=0, per_run=True)

    @property
    def needs_reference(self) -> bool:
        return in_use(self.beta)

    def response_loss(self, outputs: Outputs, batch: Batch) -> Tensor:
        loss = super().response_loss(outputs, batch)
        if not self.needs_reference:
            return loss
        ratio = masked(outputs.logp - batch.need("logp_ref"), batch.mask)
        return loss + over(self.beta, loss) * k3(ratio).sum(-1)
