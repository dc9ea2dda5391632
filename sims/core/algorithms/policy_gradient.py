"""Policy gradients without importance ratios, for fresh samples: REINFORCE and RLOO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sims.core.losses.policy_gradient import clipped_loss, reinforce_loss
from sims.core.objectives.advantages import leave_one_out, mean_so_far
from sims.core.objectives.batch import Batch, Outputs, in_use, over, sequence_sum
from sims.core.objectives.divergences import k1
from sims.core.spec import setting

from .base import Algorithm, State, Targets, present, response_shares


@dataclass(frozen=True)
class PolicyGradient(Algorithm):
    """L = −A·ℓ, with the KL to the reference inside the reward: R = r − βρ, without gradient.

    On fresh samples the gradient of −β·log π inside R has mean zero, so that −∇E[L] = ∇(E[r] − β·KL(π‖π_ref)). On
    samples of an older policy there is no importance correction: it is then biased.
    """

    on_policy: ClassVar[bool] = True
    penalises_reward: ClassVar[bool] = True
    negative_gradient: ClassVar[bool] = True

    beta: float = setting(
        0.0, "weight of the KL penalty, KL(policy || reference), in the reward", at_least=0, per_run=True
    )

    @property
    def needs_reference(self) -> bool:
        return in_use(self.beta)

    def penalised(self, batch: Batch) -> Tensor:
        """R = r − β(ℓ − ℓ_ref), (..., B, K), ℓ of the policy at collection; 0 where a response is absent."""
        rewards = batch.need("rewards")
        if not self.needs_reference:
            return rewards
        ratio = sequence_sum(k1(batch.ratio_to_reference()), batch.mask)
        return rewards - over(self.beta, ratio) * ratio

    def at_update(self, batch: Batch, targets: Targets, probe_logp: Tensor | None) -> Targets:
        return {**targets, "share": response_shares(batch, targets)}

    def loss(self, outputs: Outputs, batch: Batch, targets: Targets) -> Tensor:
        loss = reinforce_loss(sequence_sum(outputs.logp, batch.mask), targets["advantages"])
        return (targets["share"] * loss).sum(-1)


@dataclass(frozen=True)
class Reinforce(PolicyGradient, kind="reinforce"):
    """REINFORCE with the mean of all rewards of earlier batches as baseline: A = R − b.

    b excludes the current batch, so that the gradient is unbiased on fresh samples; it is 0 on the first batch. With a
    fixed pool b includes the current batch's rewards from the second pass on.

    >>> sims.run(sims.Reinforce(beta=0.1), sims.BanditR1(), updates=20, runs=2, num_generations=1)
    Result(reinforce on bandit_r1: 2 runs of 20 updates, ...)
    """

    source: ClassVar[str] = "Williams 1992"

    baseline: Literal["running_mean", "none"] = setting(
        "running_mean", "baseline: the mean of all earlier batches' rewards, or none"
    )

    def initial_state(self, lead: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> State:
        if self.baseline == "none":
            return {}
        zeros = torch.zeros(lead, dtype=dtype, device=device)
        return {"reward_mean": zeros, "reward_count": zeros.clone()}

    def targets(self, batch: Batch, state: State) -> tuple[Targets, State]:
        rewards = self.penalised(batch)
        if self.baseline == "none":
            return {"advantages": rewards}, state
        baseline, count = state["reward_mean"], state["reward_count"]
        mean, count = mean_so_far(baseline, count, rewards, present(batch))
        return {"advantages": rewards - baseline[..., None, None]}, {"reward_mean": mean, "reward_count": count}


@dataclass(frozen=True)
class RLOO(PolicyGradient, kind="rloo"):
    """REINFORCE with leave-one-out baseline: A_k = R_k − mean of the prompt's other rewards.

    Unbiased, and invariant to a constant added to a prompt's rewards. TRL uses PPO's clipped surrogate with the
    sequence's ratio e^{ℓ−ℓ_old} instead of A·ℓ (`epsilon` = 0.2); on fresh samples its gradient is the same.

    >>> sims.run(sims.RLOO(beta=0.1), sims.BanditR1(), updates=20, runs=2, num_generations=4)
    Result(rloo on bandit_r1: 2 runs of 20 updates, ...)
    """

    min_generations: ClassVar[int] = 2
    source: ClassVar[str] = "Kool et al. 2019; Ahmadian et al. 2024"

    epsilon: float | None = setting(
        None, "clip range of the sequence's importance ratio (TRL: 0.2); none: no ratio, no clipping", above=0
    )

    def targets(self, batch: Batch, state: State) -> tuple[Targets, State]:
        return {"advantages": leave_one_out(self.penalised(batch), batch.weight)}, state

    def log_ratio(self, logp: Tensor, batch: Batch) -> Tensor:
        """log w of each response, the sum over its tokens, the same for each. Shape of logp, (..., B, K, L)."""
        return sequence_sum(logp - batch.need("logp_sampler"), batch.mask).unsqueeze(-1).expand_as(logp)

    def loss(self, outputs: Outputs, batch: Batch, targets: Targets) -> Tensor:
        if self.epsilon is None:
            return super().loss(outputs, batch, targets)
        log_ratio = self.log_ratio(outputs.logp, batch)[..., 0]
        loss = clipped_loss(log_ratio, targets["advantages"], self.epsilon, self.epsilon)
        return (targets["share"] * loss).sum(-1)
