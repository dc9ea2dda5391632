"""Exercises of notebook 5: stale samples, the clip, and what a KL penalty leaves in reach."""

from __future__ import annotations

import numpy as np
import torch

from sims import exact
from sims.core.losses.policy_gradient import clipped_loss

from .checking import Exercise, Problem


def _two_policies(random: np.random.Generator) -> Problem:
    responses = int(random.integers(4, 8))
    return {name: exact.log_softmax(random.normal(size=responses)) for name in ("logp", "logp_sampler")}


def _ratios(random: np.random.Generator) -> Problem:
    """Ratios on both sides of the clip range, with advantages of both signs."""
    ratio = np.concatenate([random.uniform(0.3, 0.7, 2), random.uniform(0.85, 1.15, 2), random.uniform(1.3, 2.0, 2)])
    return {"ratio": ratio, "advantage": random.uniform(0.5, 1.5, 6) * np.tile([1.0, -1.0], 3), "epsilon": 0.2}


def _reference_and_rewards(random: np.random.Generator) -> Problem:
    responses = int(random.integers(4, 8))
    logp_ref = exact.log_softmax(random.normal(size=responses))
    return {"logp_ref": logp_ref, "rewards": random.uniform(size=responses), "beta": float(random.uniform(0.1, 0.5))}


def _share_that_counts(logp: np.ndarray, logp_sampler: np.ndarray) -> float:
    return float(1.0 / np.exp(2 * logp - logp_sampler).sum())


effective_share = Exercise(
    problem=_two_policies,
    exact=_share_that_counts,
    faults={
        "Policy and sampler are exchanged: the ratio is π/μ, and it is averaged under μ.": lambda p, q: (
            _share_that_counts(q, p)
        ),
        "This is 1/E_μ[w], which is always 1: the ratio is to be squared.": lambda p, q: 1.0 / np.exp(p).sum(),
        "This is E_μ[w²]: the share is its reciprocal.": lambda p, q: np.exp(2 * p - q).sum(),
        "The expectation is taken under π: with w², that is E_μ[w³].": lambda p, q: 1.0 / np.exp(3 * p - 2 * q).sum(),
        "The squares are averaged as if all responses were equally likely: weigh them by μ.": lambda p, q: (
            1.0 / np.exp(2 * (p - q)).mean()
        ),
        "The squares are summed over responses, not averaged: weigh each by μ.": lambda p, q: (
            1.0 / np.exp(2 * (p - q)).sum()
        ),
        "This is e^{−KL(π‖μ)}: close for small shifts, but not the variance of the weights.": lambda p, q: np.exp(
            -exact.kl_policy_ref(p, q)
        ),
    },
    done="1/E_μ[w²], w = π/μ: how many of the sampler's draws a weighted estimate is worth, per draw.",
    tolerance=1e-9,
)


def _clipped_slope(ratio: np.ndarray, advantage: np.ndarray, epsilon: float) -> np.ndarray:
    """∂/∂log π of −min(wA, clip(w)A), by automatic differentiation of the package's loss."""
    logp = torch.log(torch.from_numpy(ratio)).requires_grad_()
    clipped_loss(logp, torch.from_numpy(advantage), epsilon, epsilon).sum().backward()
    return np.asarray(logp.grad)


clipped_slope = Exercise(
    problem=_ratios,
    exact=_clipped_slope,
    faults={
        "You clip on both sides: min() keeps the gradient where the ratio has moved the wrong way, so that mistakes "
        "can be taken back.": lambda w, a, e: np.where(np.abs(w - 1.0) > e, 0.0, -w * a),
        "Nothing is clipped: beyond 1 ± ε the smaller term may be a constant.": lambda w, a, e: -w * a,
        "The ratio is missing: d(w)/d(log π) = w.": lambda w, a, e: np.where(
            ((a > 0) & (w > 1 + e)) | ((a < 0) & (w < 1 - e)), 0.0, -a
        ),
        "The sign is wrong: a loss falls as a response with a positive advantage gains.": lambda w, a, e: np.where(
            ((a > 0) & (w > 1 + e)) | ((a < 0) & (w < 1 - e)), 0.0, w * a
        ),
        "The clipped ratio is a constant: where it is the smaller term, the gradient is 0.": lambda w, a, e: (
            -np.clip(w, 1 - e, 1 + e) * a
        ),
        "The sign of the advantage is forgotten: for a negative one the clip is below, at 1 − ε.": lambda w, a, e: (
            np.where(w > 1 + e, 0.0, -w * a)
        ),
    },
    done="−w·A, and 0 once a response has moved beyond the range in the direction that its advantage asks for.",
)


def _best_in_reach(logp_ref: np.ndarray, rewards: np.ndarray, beta: float) -> float:
    return float(exact.expected_reward(exact.optimum(logp_ref, rewards, beta), rewards))


in_reach = Exercise(
    problem=_reference_and_rewards,
    exact=_best_in_reach,
    faults={
        "This is the reference's reward: weigh the rewards by π*.": lambda p, r, b: exact.expected_reward(p, r),
        "This is the largest reward: with β above 0, π* does not always give the best response.": lambda p, r, b: (
            r.max()
        ),
        "This is the objective, E[r] − β·KL: β·log Z. Its first term is asked for.": lambda p, r, b: exact.objective(
            exact.optimum(p, r, b), p, r, b
        ),
        "β multiplies the reward: π* has e^{r/β}.": lambda p, r, b: _best_in_reach(p, r, 1.0 / b),
        "The reference is missing: this is the mean under softmax(r/β).": lambda p, r, b: _best_in_reach(
            np.zeros_like(p), r, b
        ),
        "π* is not normalised: divide by Z.": lambda p, r, b: (np.exp(p + r / b) * r).sum(),
        "The rewards are averaged as if π* gave every response alike.": lambda p, r, b: r.mean(),
    },
    done="E[r] under π_ref·e^{r/β}/Z: no algorithm with this β can want more, however it draws its samples.",
)
