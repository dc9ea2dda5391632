"""Maximum likelihood on filtered responses: the best share of a batch, or those above a rising threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sims.core.objectives.batch import Batch, in_use, over, sequence_sum
from sims.core.objectives.divergences import k1
from sims.core.objectives.reductions import shares
from sims.core.schedule import Schedule
from sims.core.spec import SpecError, setting

from .base import State, Targets, present
from .likelihood import LikelihoodAlgorithm

Top = Literal["per_prompt", "over_all_prompts"]


def best_share(scores: Tensor, there: Tensor, keep: float | Tensor, top: Top) -> Tensor:
    """Which responses are among the best: (..., B, K) bool. scores, there: (..., B, K); keep: a share in (0, 1].

    per_prompt: the ⌈keep·K⌉ best of each prompt; over_all_prompts: the ⌈keep·B·K⌉ best of the batch, mostly of easy
    prompts. Ties with the last one kept are kept. Responses where `there` is False are ignored.
    """
    scores = scores.masked_fill(~there, -float("inf"))
    if top == "per_prompt":
        ranked, count = scores, there.sum(-1, keepdim=True)
    else:
        ranked, count = scores.flatten(-2).unsqueeze(-2), there.sum((-2, -1), keepdim=True)
    # 0.07 · 100 is 7.000000000000001 in floating point, and means 7.
    last = torch.ceil(over(keep, count) * count.double() - 1e-6).long() - 1
    threshold = ranked.sort(-1, descending=True).values.gather(-1, last.clamp(min=0))
    return (scores >= threshold) & there


@dataclass(frozen=True)
class RejectionSampling(LikelihoodAlgorithm, kind="rejection_sampling"):
    """Rejection sampling: imitate the best share of the responses, L = −mean ℓ over those kept. Ties are kept.

    `top` = per_prompt takes the ⌈keep·K⌉ best of each prompt (Llama 2: the best one); over_all_prompts takes the
    ⌈keep·B·K⌉ best of the batch, as one flat mean, mostly of easy prompts. The baseline to compare with is SFT on as
    many responses chosen at random.

    >>> sims.run(sims.RejectionSampling(keep=0.25), sims.BanditR1(), updates=20, runs=2, num_generations=8)
    Result(rejection_sampling on bandit_r1: 2 runs of 20 updates, ...)
    """

    min_generations: ClassVar[int] = 2
    on_policy: ClassVar[bool] = True
    source: ClassVar[str] = "Touvron et al. 2023"

    keep: float = setting(0.25, "share of the responses that are imitated", above=0, at_most=1, per_run=True)
    top: Top = setting("per_prompt", "whether the best are taken of each prompt, or of the whole batch")

    def scores(self, batch: Batch) -> Tensor:
        """Scores by which responses are ranked: (..., B, K)."""
        return batch.need("rewards")

    def targets(self, batch: Batch, state: State) -> tuple[Targets, State]:
        scores = self.scores(batch)
        if self.top == "per_prompt" and scores.shape[-1] < 2:
            raise ValueError("num_generations = 1: must be at least 2 with top = per_prompt, which compares responses")
        kept = best_share(scores, present(batch), self.keep, self.top)
        return {"weight": kept.to(scores.dtype)}, state

    def at_update(self, batch: Batch, targets: Targets, probe_logp: Tensor | None) -> Targets:
        if self.top == "per_prompt":
            return super().at_update(batch, targets, probe_logp)
        return {**targets, "share": flat_shares(targets["weight"])}


def flat_shares(weight: Tensor) -> Tensor:
    """Each response's share of one mean over all responses of the minibatch. (..., B, K) both."""
    flat = weight.flatten(-2).unsqueeze(-2)
    return shares(flat, flat).reshape(weight.shape)


@dataclass(frozen=True)
class RAFT(RejectionSampling, kind="raft"):
    """Reward-ranked fine-tuning: iterated rejection sampling from the current policy.

    Differs from rejection_sampling in: (1) it is iterated: each batch is drawn from the current policy, and used for
    several epochs; (2) by default it keeps a fifth of the whole batch, as its code does
    (collection strategy "top"); its documentation describes the best of each prompt (per_prompt, the code's "local");
    (3) `beta` ranks by r − βρ, the paper's extension by a KL penalty.

    >>> sims.run(sims.RAFT(), sims.BanditR1(), updates=20, runs=2, epochs=2)
    Result(raft on bandit_r1: 2 runs of 20 updates, ...)
    """

    min_generations: ClassVar[int] = 1
    sample_reuse: ClassVar[bool] = True
    penalises_reward: ClassVar[bool] = True
    source: ClassVar[str] = "Dong et al. 2023"

    keep: float = setting(0.2, "share of the responses that are imitated", above=0, at_most=1, per_run=True)
    top: Top = setting("over_all_prompts", "whether the best are taken of each prompt, or of the whole batch")
    beta: float = setting(0.0, "weight of the log-ratio to the reference in the ranking", at_least=0, per_run=True)

    @property
    def needs_reference(self) -> bool:
        return in_use(self.beta)

    def check_schedule(self, schedule: Schedule) -> None:
        if self.top == "per_prompt" and schedule.num_generations < 2:
            raise SpecError("num_generations", schedule.num_generations, "must be at least 2 with top = per_prompt")

    def scores(self, batch: Batch) -> Tensor:
        if not self.needs_reference:
            return batch.need("rewards")
        ratio = sequence_sum(k1(batch.ratio_to_reference()), batch.mask)
        return batch.need("rewards") - over(self.beta, ratio) * ratio


@dataclass(frozen=True)
class ReST(LikelihoodAlgorithm, kind="rest"):
    """Reinforced self-training: several passes over a batch with a rising reward threshold: L = −mean ℓ over r >= τ_i.

    Grow is the collection; improve step i is the schedule's i-th pass over the batch (`epochs`), whose threshold τ_i is
    the i-th quantile of the batch's rewards. Passes beyond the last quantile keep it. Differs from raft in: (1) the
    threshold rises from pass to pass, so that the set shrinks and may be overfitted; (2) the paper lowers the learning
    rate along with it, which is not done here.

    >>> sims.run(sims.ReST(), sims.BanditR1(), updates=20, runs=2, epochs=4)
    Result(rest on bandit_r1: 2 runs of 20 updates, ...)
    """

    on_policy: ClassVar[bool] = True
    sample_reuse: ClassVar[bool] = True
    source: ClassVar[str] = "Gulcehre et al. 2023"

    quantiles: tuple[float, ...] = setting(
        (0.5, 0.7, 0.8, 0.9), "rising thresholds of the improve steps, as quantiles of the batch's rewards"
    )

    def check(self) -> None:
        rising = all(a < b for a, b in zip(self.quantiles, self.quantiles[1:], strict=False))
        if not self.quantiles or not rising or self.quantiles[0] < 0 or self.quantiles[-1] >= 1:
            raise SpecError("quantiles", self.quantiles, "must be one or more numbers in [0, 1), each above the last")

    def targets(self, batch: Batch, state: State) -> tuple[Targets, State]:
        return self.at_epoch(batch, {}, 0), state

    def at_epoch(self, batch: Batch, targets: Targets, epoch: int) -> Targets:
        rewards = batch.need("rewards")
        keep = 1.0 - self.quantiles[min(epoch, len(self.quantiles) - 1)]
        kept = best_share(rewards, present(batch), keep, "over_all_prompts")
        return {**targets, "weight": kept.to(rewards.dtype)}

    def at_update(self, batch: Batch, targets: Targets, probe_logp: Tensor | None) -> Targets:
        return {**targets, "share": flat_shares(targets["weight"])}
