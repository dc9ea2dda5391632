"""Imitate the best of a prompt's responses: alone, with a push against the others, or on a leash."""

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
    """Best-of-N with a negative gradient: L = −ℓ(argmax_k r_k) + β·Σ_k d_k·f(ℓ_k), d_k > 0 for less good responses.

    `negatives` says which are pushed down, and `form` how:

        worst          d = 1 for argmin_k r_k, ties share         log_prob        f = ℓ
        mean_of_rest   d = 1/n for each of the n not the best     log_ratio       f = ρ = ℓ − ℓ_ref, for the best too
        sum_of_rest    d = 1 for each of them                     log_complement  f = −log(1 − e^ℓ)

    The six variants of the released code are these three with log_prob, the last two with log_ratio, and sum_of_rest
    with log_complement. Differs from that code in: (1) ties: a response as good as the best is imitated and never
    pushed down, there all but the first are; (2) mean_of_rest with log_ratio divides by n, there, by a slip, it sums;
    (3) `gate` is 0.01 in its token bandit, 0 in its 1-D bandit, and absent from log_complement.

    ℓ_ref is a constant: log_ratio has the gradient of log_prob, and another loss. With both, ℓ_k falls without bound,
    as nothing ends the push: it is β·d_k whatever ℓ_k is. One of log_complement fades with e^ℓ.

    >>> sims.run(sims.BestOfNNegative(), sims.BanditR1(), updates=20, runs=2, num_generations=4)
    Result(best_of_n_negative on bandit_r1: 2 runs of 20 updates, ...)
    """

    negative_gradient: ClassVar[bool] = True
    source: ClassVar[str] = "Tajwar et al. 2024, released code"

    beta: float = setting(0.05, "weight of what pushes down, the best one's being 1", at_least=0, per_run=True)
    negatives: Literal["worst", "mean_of_rest", "sum_of_rest"] = setting("worst", "which responses are pushed down")
    form: Literal["log_prob", "log_ratio", "log_complement"] = setting("log_prob", "what of them is lowered")
    gate: float = setting(
        0.0, "leave alone what is less likely than this share of the likeliest best response", at_least=0, below=1
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
        """f, or 0 behind the gate: (..., B, K). best: (..., B, K), above 0 for those that are imitated."""
        score = self._score(outputs, batch)
        if self.form == "log_complement":
            # A response without a token is certain, and nothing that a policy does could make it less so.
            score = unlikelihood_loss(score.masked_fill(~batch.mask.any(-1), -float("inf")))
        if self.gate > 0:
            logp = sequence_sum(outputs.logp.detach(), batch.mask)
            least = logp.masked_fill(best == 0, -float("inf")).amax(-1, keepdim=True) + math.log(self.gate)
            score = torch.where(logp > least, score, 0.0)
        return score

    def loss(self, outputs: Outputs, batch: Batch, targets: Targets) -> Tensor:
        share = targets["share"].sum(-1)  # of the prompt: the best responses' shares add up to it
        pushed = (targets["down"] * self._negative_loss(outputs, batch, targets["weight"])).sum(-1)
        return super().loss(outputs, batch, targets) + over(self.beta, share) * share * pushed


@dataclass(frozen=True)
class SuperHF(BestOfN, kind="superhf"):
    """Supervised fine-tuning on the best, with a leash: L = −ℓ(argmax_k r_k) + β·Σ_t k3(ρ_t) of that response.

    Differs from best_of_n in: (1) the KL term. As in the authors' code it is KL(π_ref‖π), and only on the filtered
    responses, so that it pulls where training goes and not where the policy is. The code sums over the vocabulary at
    each token; k3 of the tokens that were chosen needs log-probs alone, and has the same gradient in expectation if
    tokens were drawn from π, which filtered ones are not.

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
