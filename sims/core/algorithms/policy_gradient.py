"""Algorithms that follow the gradient of the expected reward of their own samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..advantages import at_last_token, gae, leave_one_out, whiten
from ..batch import Batch, Outputs, masked, over, sequence_sum
from ..divergences import k1
from ..losses.policy_gradient import clipped_loss, reinforce_loss, value_loss
from ..reductions import TokenReduction, token_shares
from ..spec import setting
from .base import Algorithm, State, Targets, present, response_shares


@dataclass(frozen=True)
class PolicyGradient(Algorithm):
    """L = −A·ℓ, with the KL to the reference inside the reward: R = r − βρ, without gradient.

    The gradient of −β·log π inside R has mean zero, so that −∇E[L] = ∇(E[r] − β·KL(π‖π_ref)).
    """

    on_policy: ClassVar[bool] = True
    negative_gradient: ClassVar[bool] = True

    beta: float = setting(0.0, "weight of KL(policy || reference) in the reward", at_least=0, per_run=True)

    @property
    def needs_reference(self) -> bool:
        return isinstance(self.beta, Tensor) or self.beta > 0

    def penalised(self, batch: Batch) -> Tensor:
        """R = r − β(ℓ_sampler − ℓ_ref), (..., B, K)."""
        rewards = batch.need("rewards")
        if batch.logp_ref is None or not self.needs_reference:
            return rewards
        ratio = sequence_sum(k1(batch.need("logp_sampler") - batch.logp_ref), batch.mask)
        return rewards - over(self.beta, 2) * ratio

    def at_update(self, batch: Batch, targets: Targets, probe_logp: Tensor | None) -> Targets:
        return {**targets, "share": response_shares(batch, targets)}

    def loss(self, outputs: Outputs, batch: Batch, targets: Targets) -> Tensor:
        loss = reinforce_loss(sequence_sum(outputs.logp, batch.mask), targets["advantages"])
        return (targets["share"] * loss).sum(-1)


@dataclass(frozen=True)
class Reinforce(PolicyGradient, kind="reinforce"):
    """REINFORCE with the mean of all rewards of earlier batches as baseline: A = R − b.

    b excludes the own batch, so the gradient stays unbiased; it is 0 on the first batch.
    """

    source: ClassVar[str] = "Williams 1992"

    baseline: Literal["running_mean", "none"] = setting("running_mean", "what is subtracted from the reward")

    def initial_state(self, lead: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> State:
        if self.baseline == "none":
            return {}
        zeros = torch.zeros(lead, dtype=dtype, device=device)
        return {"reward_mean": zeros, "reward_count": zeros.clone()}

    def targets(self, batch: Batch, state: State) -> tuple[Targets, State]:
        rewards = self.penalised(batch)
        if self.baseline == "none":
            return {"advantages": rewards}, state
        advantages = rewards - state["reward_mean"][..., None, None]
        there = present(batch)
        count = state["reward_count"] + there.sum((-2, -1))
        total = state["reward_mean"] * state["reward_count"] + masked(rewards, there).sum((-2, -1))
        mean = total / count.clamp(min=1)
        return {"advantages": advantages}, {"reward_mean": mean, "reward_count": count}


@dataclass(frozen=True)
class RLOO(PolicyGradient, kind="rloo"):
    """REINFORCE with leave-one-out baseline: A_k = R_k − mean of the prompt's other rewards.

    Unbiased, and the reward's scale of shift cancels within a prompt.
    """

    min_generations: ClassVar[int] = 2
    source: ClassVar[str] = "Kool et al. 2019; Ahmadian et al. 2024"

    def targets(self, batch: Batch, state: State) -> tuple[Targets, State]:
        return {"advantages": leave_one_out(self.penalised(batch), batch.weight)}, state


@dataclass(frozen=True)
class PPO(Algorithm, kind="ppo"):
    """Proximal policy optimisation: clipped surrogate, critic, generalised advantages.

        r_t = −β·ρ_t + 1[last]·r,    A = GAE(r_t, V),    L = −min(wA, clip(w)A) + vf_coef·½·max(value losses)

    w = π/π_old per token, π_old the policy that drew the tokens. At w = 1 its gradient is REINFORCE's with the critic
    as baseline. `reduction` says how tokens become one number (`reductions.token_shares`); TRL uses token_mean.
    """

    on_policy: ClassVar[bool] = True
    negative_gradient: ClassVar[bool] = True
    sample_reuse: ClassVar[bool] = True
    needs_critic: ClassVar[bool] = True
    source: ClassVar[str] = "Schulman et al. 2017; Ouyang et al. 2022"

    beta: float = setting(0.0, "weight of KL(policy || reference) in each token's reward", at_least=0, per_run=True)
    epsilon: float = setting(0.2, "clip range of the ratio to the sampling policy", above=0, per_run=True)
    vf_coef: float = setting(0.5, "weight of the value loss", at_least=0, per_run=True)
    cliprange_value: float | None = setting(
        None, "clip range of the value around its old value; none: no clipping", above=0
    )
    gamma: float = setting(1.0, "discount a token", at_least=0, at_most=1, per_run=True)
    lam: float = setting(0.95, "trace decay of the generalised advantages", at_least=0, at_most=1, per_run=True)
    whiten_advantages: bool = setting(False, "scale the batch's advantages to mean 0 and variance 1 (biased)")
    reduction: TokenReduction = setting("sequence_sum", "how tokens become one number")

    @property
    def needs_reference(self) -> bool:
        return isinstance(self.beta, Tensor) or self.beta > 0

    def targets(self, batch: Batch, state: State) -> tuple[Targets, State]:
        mask, values = batch.mask, masked(batch.need("values"), batch.mask)
        rewards = at_last_token(batch.need("rewards"), mask)
        if batch.logp_ref is not None and self.needs_reference:
            rewards = rewards - over(self.beta, 3) * masked(k1(batch.need("logp_sampler") - batch.logp_ref), mask)
        advantages = gae(rewards, values, mask, over(self.gamma, 2), over(self.lam, 2))
        returns = advantages + values
        if self.whiten_advantages:
            advantages = whiten(advantages, mask & present(batch).unsqueeze(-1))
        return {"advantages": advantages, "returns": returns}, state

    def at_update(self, batch: Batch, targets: Targets, probe_logp: Tensor | None) -> Targets:
        share = token_shares(batch.weight, batch.mask, targets["advantages"], self.reduction)
        return {**targets, "share": share}

    def loss(self, outputs: Outputs, batch: Batch, targets: Targets) -> Tensor:
        if outputs.values is None:
            raise ValueError("ppo needs a critic: outputs.values is missing")
        log_ratio = masked(outputs.logp - batch.need("logp_sampler"), batch.mask)
        clip = over(self.epsilon, 3)
        policy = clipped_loss(log_ratio, targets["advantages"], clip, clip)
        values = masked(outputs.values, batch.mask)
        critic = value_loss(values, targets["returns"], masked(batch.need("values"), batch.mask), self.cliprange_value)
        return (targets["share"] * (policy + over(self.vf_coef, 3) * critic)).sum((-2, -1))
