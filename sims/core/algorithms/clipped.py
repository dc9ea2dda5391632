"""Policy gradients that reuse a batch for several updates, with clipped importance ratios.

Notation: w = π/π_old, the importance ratio to the policy that drew the tokens; ρ the log-ratio to the reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sims.core.losses.policy_gradient import clipped_loss, value_loss, weighted_loss
from sims.core.objectives.advantages import at_last_token, equal_rewards, gae, standardised, whiten
from sims.core.objectives.batch import Batch, Outputs, in_use, lengths, masked, over
from sims.core.objectives.divergences import KL_ESTIMATORS, k1, k3
from sims.core.objectives.reductions import TokenReduction, token_shares
from sims.core.spec import SpecError, setting

from .base import Algorithm, State, Targets, present


@dataclass(frozen=True)
class PPO(Algorithm, kind="ppo"):
    """Proximal policy optimisation: clipped surrogate, critic, generalised advantages.

        r_t = −β·k(ρ_t) + 1[last]·r,    A = GAE(r_t, V),    L = −min(wA, clip(w)A) + vf_coef·½·max(value losses)

    w is per token. At w = 1 its gradient is REINFORCE's with the critic as baseline. Where libraries disagree:

    - `reduction` over tokens: TRL's PPO averages over all tokens (token_mean).
    - `kl_in`: OpenAI, TRL and OpenRLHF's default put the KL into each token's reward; verl and OpenRLHF also offer it
      in the loss. k1 in the loss has an expected gradient of zero at w = 1, and k2 and k3 in the loss minimise other
      objectives than k1 in the reward (`divergences`).
    - `kl_estimator`: k1 in all of them by default, k3 as an option in TRL, k2 and k3 in OpenRLHF and verl. In the
      reward, only k1 gives the gradient of KL(π‖π_ref).
    - `target_kl`: Ziegler et al. adapt β after each batch, β ← β·(1 + 0.1·clip(KL/target − 1, ±0.2)), KL being the
      batch's mean of Σ_t k1. Their code's 0.1 is (samples per batch)/horizon, as verl's is.

    >>> sims.run(sims.PPO(beta=0.05), sims.BanditR1(), updates=20, runs=2, epochs=4)
    Result(ppo on bandit_r1: 2 runs of 20 updates, ...)
    """

    on_policy: ClassVar[bool] = True
    negative_gradient: ClassVar[bool] = True
    sample_reuse: ClassVar[bool] = True
    needs_critic: ClassVar[bool] = True
    penalises_reward: ClassVar[bool] = True
    source: ClassVar[str] = "Schulman et al. 2017; Ziegler et al. 2019; Ouyang et al. 2022"

    beta: float = setting(
        0.0, "weight of the KL penalty to the reference; the initial value with target_kl", at_least=0, per_run=True
    )
    kl_in: Literal["reward", "loss"] = setting(
        "reward", "where the KL penalty enters: subtracted from each token's reward, or added to the loss"
    )
    kl_estimator: Literal["k1", "k2", "k3"] = setting(
        "k1",
        "estimator of each token's KL from its log-ratio x to the reference: k1 = x, k2 = x^2/2, k3 = exp(-x) - 1 + x",
    )
    target_kl: float | None = setting(
        None, "KL per response towards which beta is adapted after each batch; none: beta is fixed", above=0
    )
    epsilon: float = setting(
        0.2,
        "importance ratios to the sampling policy are clipped to 1 - epsilon ... 1 + epsilon",
        above=0,
        per_run=True,
    )
    vf_coef: float = setting(0.5, "weight of the value loss", at_least=0, per_run=True)
    cliprange_value: float | None = setting(
        None, "clip range of the critic's value around its value at collection; none: no clipping", above=0
    )
    gamma: float = setting(1.0, "discount factor per token", at_least=0, at_most=1, per_run=True)
    lam: float = setting(0.95, "lambda of generalised advantage estimation (GAE)", at_least=0, at_most=1, per_run=True)
    whiten_advantages: bool = setting(False, "normalise the batch's advantages to mean 0 and variance 1 (biased)")
    reduction: Literal["sequence_sum", "sequence_mean", "token_mean"] = setting(
        "sequence_sum", "reduction over tokens: sum per response, mean per response, or one mean over all tokens"
    )

    def check(self) -> None:
        if self.needs_reference:
            return
        for name, unused in (("kl_in", "reward"), ("kl_estimator", "k1"), ("target_kl", None)):
            if getattr(self, name) != unused:
                raise SpecError(name, getattr(self, name), f"has no effect with beta = 0: leave it at {unused}")

    @property
    def needs_reference(self) -> bool:
        return in_use(self.beta)

    def initial_state(self, lead: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> State:
        if self.target_kl is None:
            return {}
        return {"beta": torch.zeros(lead, dtype=dtype, device=device) + self.beta}

    def targets(self, batch: Batch, state: State) -> tuple[Targets, State]:
        mask, values = batch.mask, masked(batch.need("values"), batch.mask)
        scores = batch.need("rewards")
        rewards = at_last_token(scores, mask)
        targets: Targets = {}
        if self.needs_reference:
            ratio = masked(batch.ratio_to_reference(), mask)
            beta = over(state.get("beta", self.beta), ratio)
            if self.kl_in == "reward":
                rewards = rewards - beta * masked(KL_ESTIMATORS[self.kl_estimator](ratio), mask)
            else:
                targets["beta"] = torch.zeros_like(ratio) + beta
            state = self._adapted(state, ratio, present(batch))
        advantages = gae(rewards, values, mask, over(self.gamma, scores), over(self.lam, scores))
        targets["returns"] = advantages + values
        if self.whiten_advantages:
            advantages = whiten(advantages, mask & present(batch).unsqueeze(-1))
        return {**targets, "advantages": advantages}, state

    def _adapted(self, state: State, ratio: Tensor, there: Tensor) -> State:
        """β for the next batch: β·(1 + 0.1·clip(KL/target − 1, ±0.2))."""
        if self.target_kl is None:
            return state
        kl = masked(k1(ratio).sum(-1), there).sum((-2, -1)) / there.sum((-2, -1)).clamp(min=1)
        miss = (kl / self.target_kl - 1.0).clamp(-0.2, 0.2)
        return {**state, "beta": state["beta"] * (1.0 + 0.1 * miss)}

    def at_update(self, batch: Batch, targets: Targets, probe_logp: Tensor | None) -> Targets:
        share = token_shares(batch.weight, batch.mask, targets["advantages"], self.reduction)
        return {**targets, "share": share}

    def loss(self, outputs: Outputs, batch: Batch, targets: Targets) -> Tensor:
        if outputs.values is None:
            raise ValueError("ppo needs a critic: outputs.values is missing")
        log_ratio = masked(outputs.logp - batch.need("logp_sampler"), batch.mask)
        clip = over(self.epsilon, log_ratio)
        loss = clipped_loss(log_ratio, targets["advantages"], clip, clip)
        if "beta" in targets:
            ratio = masked(outputs.logp - batch.need("logp_ref"), batch.mask)
            loss = loss + targets["beta"] * KL_ESTIMATORS[self.kl_estimator](ratio)
        values, old = masked(outputs.values, batch.mask), masked(batch.need("values"), batch.mask)
        loss = loss + over(self.vf_coef, values) * value_loss(values, targets["returns"], old, self.cliprange_value)
        return (targets["share"] * loss).sum((-2, -1))


@dataclass(frozen=True)
class GroupPolicyGradient(Algorithm):
    """L = −min(wA, clip(w)A) + β·k3(ρ) per token, A_k = (r_k − mean of the group)/(its standard deviation + δ).

    `ddof` is the deviation's: 1 in TRL and verl (`torch.std`), 0 in HALOs. A zero-advantage group, one of equal
    rewards, gets exactly 0. k3 per token minimises Σ over prefixes of π(prefix)·KL_t(π_ref‖π) with the weights
    π(prefix) held fixed (see `divergences`), further scaled by the token reduction: not the gradient of a KL inside the
    reward. As in the libraries it has no importance ratio, so that it is biased on reused samples.
    """

    min_generations: ClassVar[int] = 2
    on_policy: ClassVar[bool] = True
    negative_gradient: ClassVar[bool] = True
    sample_reuse: ClassVar[bool] = True
    clips_weights: ClassVar[bool] = False  # whatever the advantage's sign, and not only what would leave the clip range
    reduction: ClassVar[TokenReduction] = "sequence_mean"

    beta: float = setting(0.0, "weight of the KL penalty (k3 estimator, per token)", at_least=0, per_run=True)
    epsilon: float = setting(
        0.2, "importance ratios are clipped from below at 1 - epsilon", above=0, at_most=1, per_run=True
    )
    epsilon_high: float | None = setting(
        None, "importance ratios are clipped from above at 1 + epsilon_high; none: epsilon", above=0
    )
    scale_rewards: Literal["group", "batch", "none"] = setting(
        "group", "standard deviation that advantages are divided by: of the prompt's group, of the whole batch, or none"
    )
    ddof: int = setting(
        1, "degrees of freedom subtracted from the count in the standard deviation", at_least=0, at_most=1
    )
    std_epsilon: float = setting(1e-4, "constant added to the standard deviation", at_least=0)

    def check(self) -> None:
        if self.scale_rewards == "none":
            for name, unused in (("ddof", 1), ("std_epsilon", 1e-4)):
                if getattr(self, name) != unused:
                    rule = f"has no effect with scale_rewards = none: leave it at {unused}"
                    raise SpecError(name, getattr(self, name), rule)

    @property
    def needs_reference(self) -> bool:
        return in_use(self.beta)

    @property
    def level(self) -> Literal["token", "sequence"]:
        """Whether importance ratios are per token or per response."""
        return "token"

    @property
    def divisor(self) -> int | None:
        """What each response's sum over tokens is divided by (reduction = constant_length)."""
        return None

    def targets(self, batch: Batch, state: State) -> tuple[Targets, State]:
        rewards = batch.need("rewards")
        advantages = standardised(rewards, batch.weight, self.scale_rewards, self.ddof, self.std_epsilon)
        return {"advantages": advantages}, state

    def at_update(self, batch: Batch, targets: Targets, probe_logp: Tensor | None) -> Targets:
        weight = targets.get("weight", batch.weight)
        share = token_shares(weight, batch.mask, batch.need("logp_sampler"), self.reduction, self.divisor)
        return {**targets, "share": share}

    def log_ratio(self, logp: Tensor, batch: Batch) -> Tensor:
        """log w of each token; with level = sequence the mean over the response's tokens, the same for each. Shape of
        logp, (..., B, K, L)."""
        ratio = masked(logp - batch.need("logp_sampler"), batch.mask)
        if self.level == "token":
            return ratio
        return (ratio.sum(-1) / lengths(batch.mask).clamp(min=1)).unsqueeze(-1).expand_as(ratio)

    def token_loss(self, logp: Tensor, log_ratio: Tensor, advantages: Tensor) -> Tensor:
        """The surrogate of each token. logp, log_ratio: (..., B, K, L); advantages: (..., B, K, 1)."""
        high = self.epsilon if self.epsilon_high is None else self.epsilon_high
        return clipped_loss(log_ratio, advantages, over(self.epsilon, log_ratio), over(high, log_ratio))

    def loss(self, outputs: Outputs, batch: Batch, targets: Targets) -> Tensor:
        log_ratio = self.log_ratio(outputs.logp, batch)
        loss = self.token_loss(masked(outputs.logp, batch.mask), log_ratio, targets["advantages"].unsqueeze(-1))
        if self.needs_reference:
            loss = loss + over(self.beta, loss) * k3(masked(outputs.logp - batch.need("logp_ref"), batch.mask))
        return (targets["share"] * loss).sum((-2, -1))


@dataclass(frozen=True)
class GRPO(GroupPolicyGradient, kind="grpo"):
    """Group relative policy optimisation: PPO's clipped surrogate, with group advantages instead of a critic.

        L = (1/K)Σ_k (1/|y_k|)Σ_t −min(wA, clip(w)A) + β·k3(ρ),    A_k = (r_k − mean)/(std + δ)

    Dividing by the deviation gives more weight to prompts that are nearly always or nearly never solved; 1/|y| gives
    more weight to the tokens of short responses. `importance_sampling_level` = sequence gives every token the ratio
    e^{(ℓ−ℓ_old)/|y|}, as in TRL. TRL's default β is 0.

    >>> sims.run(sims.GRPO(beta=0.04), sims.BanditR1(), updates=20, runs=2, num_generations=8, epochs=2)
    Result(grpo on bandit_r1: 2 runs of 20 updates, ...)
    """

    source: ClassVar[str] = "Shao et al. 2024 (DeepSeekMath)"

    beta: float = setting(0.04, "weight of the KL penalty (k3 estimator, per token)", at_least=0, per_run=True)
    importance_sampling_level: Literal["token", "sequence"] = setting(
        "token", "one importance ratio per token, or per response: the geometric mean of its tokens' ratios"
    )

    @property
    def level(self) -> Literal["token", "sequence"]:
        return self.importance_sampling_level


@dataclass(frozen=True)
class DrGRPO(GRPO, kind="dr_grpo"):
    """GRPO done right: without its two biases.

    Differs from GRPO in: (1) A = r − mean, not divided by the deviation; (2) Σ_t is divided by the same constant for
    every response, not by its length; (3) no KL by default. With constant_length = 1 its expected gradient on fresh
    samples is exactly (K−1)/K of the policy gradient. The constant is the longest completion allowed in the authors'
    code and in TRL, whose loss_type = dr_grpo alone still divides by the group's deviation (scale_rewards = group).

    >>> sims.run(sims.DrGRPO(), sims.TokenTree(), updates=20, runs=2, num_generations=8)
    Result(dr_grpo on token_tree: 2 runs of 20 updates, ...)
    """

    reduction: ClassVar[TokenReduction] = "constant_length"
    source: ClassVar[str] = "Liu et al. 2025"

    beta: float = setting(0.0, "weight of the KL penalty (k3 estimator, per token)", at_least=0, per_run=True)
    scale_rewards: Literal["group", "batch", "none"] = setting(
        "none", "standard deviation that advantages are divided by: of the prompt's group, of the whole batch, or none"
    )
    constant_length: int = setting(1, "constant that each response's sum over tokens is divided by", at_least=1)

    @property
    def divisor(self) -> int | None:
        return self.constant_length


@dataclass(frozen=True)
class DAPO(GRPO, kind="dapo"):
    """Decoupled clip and dynamic sampling policy optimisation: GRPO that drops zero-advantage groups.

    Differs from GRPO in: (1) the clip range is wider above 1 than below; (2) one mean over all tokens of the minibatch:
    long responses weigh more; (3) groups of equal rewards, whose advantages are 0, are dropped from that mean; (4) no
    KL by default. The paper resamples until the batch is full of other groups; here the batch shrinks, so that the
    number of samples stays fixed. TRL keeps such groups in the denominator (drop_equal_groups = false). The paper's
    penalty on overlong responses is part of the reward, and not implemented here.

    >>> sims.run(sims.DAPO(), sims.BanditR1(), updates=20, runs=2, num_generations=8, epochs=2)
    Result(dapo on bandit_r1: 2 runs of 20 updates, ...)
    """

    reduction: ClassVar[TokenReduction] = "token_mean"
    source: ClassVar[str] = "Yu et al. 2025"

    beta: float = setting(0.0, "weight of the KL penalty (k3 estimator, per token)", at_least=0, per_run=True)
    epsilon_high: float | None = setting(
        0.28, "importance ratios are clipped from above at 1 + epsilon_high; none: epsilon", above=0
    )
    drop_equal_groups: bool = setting(
        True, "drop zero-advantage groups: prompts whose responses all got the same reward"
    )

    def targets(self, batch: Batch, state: State) -> tuple[Targets, State]:
        targets, state = super().targets(batch, state)
        if self.drop_equal_groups:
            rewards = batch.need("rewards")
            weight = torch.ones_like(rewards) if batch.weight is None else batch.weight
            targets["weight"] = weight * ~equal_rewards(rewards, batch.weight)
        return targets, state


@dataclass(frozen=True)
class GSPO(GroupPolicyGradient, kind="gspo"):
    """Group sequence policy optimisation: GRPO with one importance ratio per response, clipped as one.

    Differs from GRPO in: (1) w = e^{(ℓ−ℓ_old)/|y|}, one per response, and clipped per response; (2) clip ranges of 3e-4
    and 4e-4, as a mean over many tokens changes little; (3) no KL by default.

    >>> sims.run(sims.GSPO(), sims.TokenTree(), updates=20, runs=2, num_generations=8, epochs=2)
    Result(gspo on token_tree: 2 runs of 20 updates, ...)
    """

    source: ClassVar[str] = "Zheng et al. 2025"

    epsilon: float = setting(
        3e-4, "the response's importance ratio is clipped from below at 1 - epsilon", above=0, at_most=1, per_run=True
    )
    epsilon_high: float | None = setting(
        4e-4, "the response's importance ratio is clipped from above at 1 + epsilon_high; none: epsilon", above=0
    )

    @property
    def level(self) -> Literal["token", "sequence"]:
        return "sequence"


@dataclass(frozen=True)
class CISPO(GRPO, kind="cispo"):
    """Clipped importance-sampling policy optimisation: GRPO whose clipped ratio only weights the policy gradient.

        L = −sg(clip(w))·A·log π

    Differs from GRPO in: (1) clipping bounds a token's weight and never removes its gradient; (2) by default it acts
    only from above: epsilon = 1 is no lower bound; (3) one mean over all tokens of the minibatch; (4) no KL by default.
    The bound is 1 + epsilon_high, as in the paper; TRL's epsilon_high is the bound itself, 5 where ours is 4.

    >>> sims.run(sims.CISPO(epsilon_high=4.0), sims.BanditR1(), updates=20, runs=2, num_generations=8, epochs=2)
    Result(cispo on bandit_r1: 2 runs of 20 updates, ...)
    """

    clips_weights: ClassVar[bool] = True
    reduction: ClassVar[TokenReduction] = "token_mean"
    source: ClassVar[str] = "MiniMax 2025 (MiniMax-M1)"

    beta: float = setting(0.0, "weight of the KL penalty (k3 estimator, per token)", at_least=0, per_run=True)
    epsilon: float = setting(
        1.0,
        "importance weights are clipped from below at 1 - epsilon; 1: no lower bound",
        above=0,
        at_most=1,
        per_run=True,
    )
    epsilon_high: float | None = setting(
        4.0, "importance weights are clipped from above at 1 + epsilon_high; none: epsilon", above=0
    )

    def token_loss(self, logp: Tensor, log_ratio: Tensor, advantages: Tensor) -> Tensor:
        high = self.epsilon if self.epsilon_high is None else self.epsilon_high
        return weighted_loss(logp, log_ratio, advantages, over(self.epsilon, log_ratio), over(high, log_ratio))
