"""Exact quantities of a policy whose responses are listed: expected reward, entropy, KL, optimum, best-of-n.

Responses are the last axis, N; logp is their log-probability, −∞ where a response never occurs. Everything is in nats
and float64, and independent of the estimators and losses of `sims.core`, which are tested against it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def expectation(logp: np.ndarray, x: np.ndarray) -> np.ndarray:
    """E_p[x] = Σ p·x with 0·∞ = 0. logp, x: (..., N); returns (...)."""
    with np.errstate(invalid="ignore"):
        return np.where(np.isneginf(logp), 0.0, np.exp(logp) * x).sum(-1)


def expected_reward(logp: np.ndarray, rewards: np.ndarray) -> np.ndarray:
    """E_π[r]. logp, rewards: (..., N); returns (...).

    >>> round(float(sims.exact.expected_reward(np.log([0.25, 0.75]), np.array([0.0, 1.0]))), 12)
    0.75
    """
    return expectation(logp, rewards)


def entropy(logp: np.ndarray) -> np.ndarray:
    """H(π) = −Σ π log π. logp: (..., N); returns (...).

    >>> bool(np.isclose(sims.exact.entropy(np.log([0.5, 0.5])), np.log(2)))
    True
    """
    return -expectation(logp, logp)


def kl_policy_ref(logp_policy: np.ndarray, logp_ref: np.ndarray) -> np.ndarray:
    """KL(π‖π_ref) = Σ π (log π − log π_ref). Both (..., N); returns (...), infinite where π_ref = 0 < π.

    >>> always_first, uniform = np.array([0.0, -np.inf]), np.log([0.5, 0.5])
    >>> bool(np.isclose(sims.exact.kl_policy_ref(always_first, uniform), np.log(2)))
    True
    """
    return expectation(logp_policy, _difference(logp_policy, logp_ref))


def kl_ref_policy(logp_policy: np.ndarray, logp_ref: np.ndarray) -> np.ndarray:
    """KL(π_ref‖π), the other direction. Shapes as `kl_policy_ref`.

    >>> always_first, uniform = np.array([0.0, -np.inf]), np.log([0.5, 0.5])
    >>> float(sims.exact.kl_ref_policy(always_first, uniform))
    inf
    """
    return expectation(logp_ref, _difference(logp_ref, logp_policy))


def optimum(logp_ref: ArrayLike, rewards: ArrayLike, beta: float) -> np.ndarray:
    """log π*, π* = π_ref·e^{r/β}/Z: the policy that maximises E[r] − β·KL(π‖π_ref). Both (..., N); returns the same.

    It is the optimum of that objective only: of expected reward alone, or within a policy class that does not contain
    it, the best policy differs.

    >>> np.exp(sims.exact.optimum(np.log([0.5, 0.5]), [0.0, np.log(3)], beta=1.0)).round(12)  # odds of 1 to 3
    array([0.25, 0.75])
    """
    score = np.asarray(logp_ref) + np.asarray(rewards) / beta
    top = score.max(-1, keepdims=True)
    return score - top - np.log(np.exp(score - top).sum(-1, keepdims=True))


def best_of_n(logp: np.ndarray, rewards: np.ndarray, n: int) -> np.ndarray:
    """The distribution of the best of n independent draws, as probabilities: both (..., N), returns the same.

        P(y) = p(y) / p(r = r_y) · [p(r <= r_y)^n − p(r < r_y)^n]

    Ties are broken uniformly, so that within a level of reward the distribution is proportional to p.

    >>> sims.exact.best_of_n(np.log([0.5, 0.5]), np.array([0.0, 1.0]), n=2).round(12)  # the worse wins if drawn twice
    array([0.25, 0.75])
    """
    p = np.exp(logp)
    theirs, own = rewards[..., None, :], rewards[..., :, None]
    below = np.where(theirs < own, p[..., None, :], 0.0).sum(-1)
    level = np.where(theirs == own, p[..., None, :], 0.0).sum(-1)
    win = (below + level) ** n - below**n
    return p * np.divide(win, level, out=np.zeros_like(win), where=level > 0)


def win_rate(logp: np.ndarray, logp_other: np.ndarray, rewards: np.ndarray) -> np.ndarray:
    """Probability that a response of one policy has more reward than an independent one of the other, ties one half.

        Σ_y Σ_y' p(y)·q(y')·([r(y) > r(y')] + ½·[r(y) = r(y')])

    All (..., N); returns (...). It is linear in each policy, and blind to how much better a response is.

    >>> float(sims.exact.win_rate(np.log([0.25, 0.75]), np.log([0.5, 0.5]), np.array([0.0, 1.0])).round(12))  # ¾·½ + ¼
    0.625
    """
    p, q = np.exp(logp), np.exp(logp_other)
    order = np.sign(rewards[..., :, None] - rewards[..., None, :])
    return np.asarray(0.5 + 0.5 * np.einsum("...i,...ij,...j->...", p, order, q))


def kl_best_of_n_bound(n: int) -> float:
    """log n − (n−1)/n: upper bound of KL(best of n‖p), attained for continuous rewards. Beirami et al. 2024.

    >>> round(sims.exact.kl_best_of_n_bound(4), 4)
    0.6363
    """
    return float(np.log(n) - (n - 1) / n)


def objective(logp: np.ndarray, logp_ref: np.ndarray, rewards: np.ndarray, beta: float) -> np.ndarray:
    """J = E_π[r] − β·KL(π‖π_ref). All (..., N); returns (...). At `optimum` it is β·log Z.

    >>> logp, logp_ref, rewards = np.log([0.25, 0.75]), np.log([0.5, 0.5]), np.array([0.0, np.log(3)])
    >>> bool(np.isclose(sims.exact.objective(logp, logp_ref, rewards, beta=1.0), np.log(2)))  # Z = ½·1 + ½·3
    True
    """
    value = expected_reward(logp, rewards)
    return value - beta * kl_policy_ref(logp, logp_ref) if beta else value


def objective_weights(logp: np.ndarray, logp_ref: np.ndarray, rewards: np.ndarray, beta: float) -> np.ndarray:
    """∂J/∂ℓ(y) = π(y)·(r(y) − β·(ℓ(y) − ℓ_ref(y))). All (..., N); returns the same.

    A constant added to the bracket (the −β of ∂(π log π), a baseline) has no effect, as Σ π·∇ℓ = 0; it is left out.

    >>> sims.exact.objective_weights(np.log([0.25, 0.75]), np.log([0.5, 0.5]), np.array([0.0, 1.0]), beta=0.0).round(12)
    array([0.  , 0.75])
    """
    gain = rewards - beta * _difference(logp, logp_ref) if beta else rewards
    with np.errstate(invalid="ignore"):
        return np.where(np.isneginf(logp), 0.0, np.exp(logp) * gain)


def _difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a − b; (−∞) − (−∞) is a NaN that `expectation` then drops, without numpy's warning."""
    with np.errstate(invalid="ignore"):
        return a - b
