"""Population weights of the policy gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .population import Population, expect_over_batches, expect_over_groups, expect_over_responses, population

if TYPE_CHECKING:
    from sims.core.algorithms.clipped import CISPO, DAPO, GRPO, GSPO, PPO, DrGRPO, GroupPolicyGradient
    from sims.core.algorithms.policy_gradient import RLOO, Reinforce


def penalised_rewards(beta: float, problem: Population) -> np.ndarray:
    """R(y) = r(y) − β·(log μ(y) − log π_ref(y)): (K, X, N), by slot, as each has its own sampling distribution μ."""
    return problem.rewards - beta * (problem.logp_sampler - problem.logp_ref).sum(-1)


@population("reinforce")
def reinforce_weights(algorithm: Reinforce, problem: Population) -> np.ndarray:
    """−μ(y)·(R(y) − b), b the mean reward of earlier batches, or 0."""
    gain = penalised_rewards(algorithm.beta, problem)
    baseline = problem.state["reward_mean"] if algorithm.baseline == "running_mean" else 0.0
    return expect_over_responses(problem, lambda k: -(gain[k] - baseline))


@population("rloo")
def rloo_weights(algorithm: RLOO, problem: Population) -> np.ndarray:
    """−μ(y)·(R(y) − E_μ[R]): the others' mean is independent of the response, so it is replaced by its expectation.

    With clipping the minimum depends on the other responses, and groups are enumerated.
    """
    distribution, gain = problem.shared_distribution, penalised_rewards(algorithm.beta, problem)[0]
    epsilon = algorithm.epsilon
    if epsilon is None:
        return -distribution * (gain - (distribution * gain).sum(-1, keepdims=True)) / problem.prompts
    log_ratio = (problem.logp - problem.logp_sampler[0]).sum(-1)
    others = problem.generations - 1

    def group_weights(x: int, groups: np.ndarray) -> np.ndarray:
        own = gain[x, groups]
        advantages = own - (own.sum(-1, keepdims=True) - own) / others
        return clipped_slope(log_ratio[x, groups], advantages, epsilon, epsilon) / problem.generations

    return expect_over_groups(problem, group_weights)


@population("ppo")
def ppo_weights(algorithm: PPO, problem: Population) -> np.ndarray:
    """share·(−w_t·A_t where the unclipped term is the smaller one, else 0; + β·k′(ρ_t) if kl_in = loss): (X, N, L).

    Without the value loss. An adapted β is that of the state.
    """
    distribution, epsilon, beta = problem.logp_sampler[0], algorithm.epsilon, problem.state.get("beta", algorithm.beta)
    log_ratio = problem.logp - distribution
    rewards, charge = terminal_rewards(problem), np.zeros_like(distribution)
    if algorithm.kl_in == "reward":
        rewards = rewards - beta * kl_estimate(algorithm.kl_estimator, distribution - problem.logp_ref)
    else:
        charge = beta * kl_slope(algorithm.kl_estimator, problem.logp - problem.logp_ref)
    advantages = advantage_estimates(problem, rewards, algorithm.gamma, algorithm.lam)
    if not algorithm.whiten_advantages and algorithm.reduction != "token_mean":
        slope = clipped_slope(log_ratio, advantages, epsilon, epsilon) + charge
        return expect_over_responses(problem, lambda k: response_token_shares(problem, algorithm.reduction) * slope)

    def batch_weights(batches: np.ndarray) -> np.ndarray:
        rows = np.arange(problem.prompts)[:, None]
        drawn = advantages[rows, batches]
        if algorithm.whiten_advantages:
            drawn = standardised(drawn, problem.mask[batches])
        share = batch_token_shares(problem, batches, algorithm.reduction)
        return share * (clipped_slope(log_ratio[rows, batches], drawn, epsilon, epsilon) + charge[rows, batches])

    return expect_over_batches(problem, batch_weights)


def kl_estimate(estimator: str, log_ratio: np.ndarray) -> np.ndarray:
    """k1 = ρ, k2 = ½ρ², k3 = e^{−ρ} − 1 + ρ. Any shape."""
    return {"k1": log_ratio, "k2": 0.5 * log_ratio**2, "k3": np.expm1(-log_ratio) + log_ratio}[estimator]


def kl_slope(estimator: str, log_ratio: np.ndarray) -> np.ndarray:
    """∂k/∂ρ. Any shape."""
    return {"k1": np.ones_like(log_ratio), "k2": log_ratio, "k3": -np.expm1(-log_ratio)}[estimator]


@population("grpo")
def grpo_weights(algorithm: GRPO, problem: Population) -> np.ndarray:
    """A mean over a response's tokens; see `group_policy_weights`."""
    return group_policy_weights(algorithm, problem, "sequence_mean", algorithm.importance_sampling_level)


@population("dr_grpo")
def dr_grpo_weights(algorithm: DrGRPO, problem: Population) -> np.ndarray:
    """A sum over a response's tokens, by one constant."""
    level, constant = algorithm.importance_sampling_level, algorithm.constant_length
    return group_policy_weights(algorithm, problem, "constant_length", level, constant_length=constant)


@population("dapo")
def dapo_weights(algorithm: DAPO, problem: Population) -> np.ndarray:
    """A mean over the tokens of groups whose advantages are not 0."""
    level, drop = algorithm.importance_sampling_level, algorithm.drop_equal_groups
    return group_policy_weights(algorithm, problem, "token_mean", level, drop_equal=drop)


@population("gspo")
def gspo_weights(algorithm: GSPO, problem: Population) -> np.ndarray:
    """One importance ratio per response."""
    return group_policy_weights(algorithm, problem, "sequence_mean", "sequence")


@population("cispo")
def cispo_weights(algorithm: CISPO, problem: Population) -> np.ndarray:
    """−clip(w)·A as the derivative by each token's own ℓ_t, for either level of w."""
    level = algorithm.importance_sampling_level
    return group_policy_weights(algorithm, problem, "token_mean", level, weighs_only=True)


def group_policy_weights(
    algorithm: GroupPolicyGradient,
    problem: Population,
    reduction: str,
    level: str,
    constant_length: int | None = None,
    drop_equal: bool = False,
    weighs_only: bool = False,
) -> np.ndarray:
    """share·(∂surrogate/∂ℓ_t + β(1 − e^{−ρ_t})) over all batches: (X, N, L).

    With level = token the surrogate's derivative by log w belongs to that token; with sequence it is divided equally
    among the response's tokens, as log w is their mean.
    """
    rows = np.arange(problem.prompts)[:, None]
    lengths = problem.lengths[:, None]
    low, high = algorithm.epsilon, algorithm.epsilon if algorithm.epsilon_high is None else algorithm.epsilon_high
    log_ratio = problem.logp - problem.logp_sampler[0]
    if level == "sequence":
        log_ratio = np.broadcast_to((log_ratio.sum(-1) / problem.lengths)[..., None], log_ratio.shape)
    charge = algorithm.beta * kl_slope("k3", problem.logp - problem.logp_ref)

    def batch_weights(batches: np.ndarray) -> np.ndarray:
        rewards = problem.rewards[rows, batches]
        advantages = group_advantages(rewards, algorithm)[..., None]
        mixed = np.ptp(rewards, axis=-1, keepdims=True)[..., None] > 0
        share = batch_token_shares(problem, batches, reduction, constant_length)
        if drop_equal:
            counted = problem.mask[batches] * mixed
            total = counted.sum((1, 2, 3), keepdims=True)
            share = np.divide(counted, total, out=np.zeros_like(share), where=total > 0)
        drawn = log_ratio[rows, batches]
        if weighs_only:
            return share * (charge[rows, batches] - np.clip(np.exp(drawn), 1.0 - low, 1.0 + high) * advantages)
        pull = share * clipped_slope(drawn, advantages, low, high)
        if level == "sequence":
            pull = problem.mask[batches] * pull.sum(-1, keepdims=True) / lengths[batches]
        return pull + share * charge[rows, batches]

    return expect_over_batches(problem, batch_weights)


def group_advantages(rewards: np.ndarray, algorithm: GroupPolicyGradient) -> np.ndarray:
    """(r − mean of the group)/(standard deviation of group or batch + δ), or undivided. rewards, result: (G, X, K)."""
    deviation = rewards - rewards.mean(-1, keepdims=True)
    if algorithm.scale_rewards == "none":
        return deviation
    axes = (-1,) if algorithm.scale_rewards == "group" else (-2, -1)
    scale = np.std(rewards, axis=axes, ddof=algorithm.ddof, keepdims=True) + algorithm.std_epsilon
    unequal = np.ptp(rewards, axis=-1, keepdims=True) > 0
    return np.divide(deviation, scale, out=np.zeros_like(rewards), where=np.broadcast_to(unequal, rewards.shape))


def terminal_rewards(problem: Population) -> np.ndarray:
    """The reward of each response at its last token: (X, N, L)."""
    position = np.arange(problem.mask.shape[1])
    return problem.rewards[..., None] * (position == problem.lengths[:, None] - 1)


def advantage_estimates(problem: Population, rewards: np.ndarray, gamma: float, lam: float) -> np.ndarray:
    """GAE by its definition, A_t = Σ_{s>=t} (γλ)^{s−t} (r_s + γV_{s+1} − V_s): (X, N, L). rewards: (X, N, L)."""
    mask, length = problem.mask, problem.mask.shape[1]
    values = np.where(mask, problem.values, 0.0)
    following = np.concatenate([values[..., 1:], np.zeros_like(values[..., :1])], axis=-1)
    delta = np.where(mask, rewards + gamma * following - values, 0.0)
    ahead = np.subtract.outer(np.arange(length), np.arange(length))  # [s, t] = s − t
    decay = np.where(ahead >= 0, (gamma * lam) ** np.maximum(ahead, 0), 0.0)
    return np.where(mask, delta @ decay, 0.0)


def standardised(x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(x − mean) / sqrt(variance + 1e-8) over all real tokens of each batch. x, mask: (G, X, K, L)."""
    axes = (1, 2, 3)
    mean = np.mean(x, axis=axes, where=mask, keepdims=True)
    return (x - mean) / np.sqrt(np.var(x, axis=axes, where=mask, keepdims=True) + 1e-8)


def clipped_slope(log_ratio: np.ndarray, advantages: np.ndarray, low: float, high: float) -> np.ndarray:
    """∂/∂ℓ of −min(wA, clip(w, 1 − low, 1 + high)·A): −wA, or 0 where the clipped term is the smaller one.

    log_ratio (log w), advantages: any shapes that broadcast.
    """
    ratio = np.exp(log_ratio)
    left_upwards = (advantages > 0) & (ratio > 1.0 + high)
    left_downwards = (advantages < 0) & (ratio < 1.0 - low)
    return np.where(left_upwards | left_downwards, 0.0, -ratio * advantages)


def response_token_shares(problem: Population, reduction: str, constant_length: int | None = None) -> np.ndarray:
    """Weight of a token within its response's loss: (N, L). See `sims.core.objectives.reductions.token_shares`."""
    divisor = {
        "sequence_sum": np.ones_like(problem.lengths),
        "sequence_mean": problem.lengths,
        "constant_length": np.full_like(problem.lengths, constant_length or problem.mask.shape[1]),
    }[reduction]
    return problem.mask / divisor[:, None]


def batch_token_shares(
    problem: Population, batches: np.ndarray, reduction: str, constant_length: int | None = None
) -> np.ndarray:
    """Each token's share of a batch's loss: (G, X, K, L). batches: (G, X, K)."""
    mask = problem.mask[batches]
    if reduction == "token_mean":
        return mask / mask.sum((1, 2, 3), keepdims=True)
    return response_token_shares(problem, reduction, constant_length)[batches] / np.prod(batches.shape[1:])
