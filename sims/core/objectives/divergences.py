"""Distances between policies: estimated from samples, and exact over all responses.

Directions are in the names. ρ = log π(y) − log π_ref(y), the log-ratio of the policy to the reference, is what every
estimator takes; y is drawn from the policy.
"""

from __future__ import annotations

import torch
from torch import Tensor


def k1(log_ratio: Tensor) -> Tensor:
    """KL(π‖π_ref), one sample: ρ. Unbiased, signed; as a loss its expected gradient is 0. Any shape."""
    return log_ratio


def k2(log_ratio: Tensor) -> Tensor:
    """½ρ². Biased as a value; as a loss over whole sequences its expected gradient is that of KL(π‖π_ref).

    Taken per token and summed it descends Σ over prefixes of π(prefix)·KL_t with the weights π(prefix) held fixed,
    which is neither KL. Schulman, "Approximating KL divergence", 2020.
    """
    return 0.5 * log_ratio.square()


def k3(log_ratio: Tensor) -> Tensor:
    """e^{−ρ} − 1 + ρ, >= 0. Unbiased as a value, per token too; as a loss over whole sequences it descends
    KL(π_ref‖π), the other direction. Per token, see `k2`. Source: as `k2`.
    """
    return torch.expm1(-log_ratio) + log_ratio  # expm1: e^x − 1 − x loses all its digits for small x


KL_ESTIMATORS = {"k1": k1, "k2": k2, "k3": k3}


def entropy(logp: Tensor) -> Tensor:
    """H(p) = −Σ p log p in nats. logp: (..., N) over all responses; returns (...). Responses of probability 0
    contribute 0."""
    return -_expect(logp, logp)


def kl(logp: Tensor, logq: Tensor) -> Tensor:
    """KL(p‖q) = Σ p (log p − log q) in nats. logp, logq: (..., N); returns (...). Infinite where q = 0 < p."""
    return _expect(logp, logp - logq)


def _expect(logp: Tensor, x: Tensor) -> Tensor:
    """E_p[x] with 0·∞ = 0: a response of probability 0 contributes nothing."""
    return torch.where(logp > -torch.inf, logp.exp() * x, 0.0).sum(-1)


def kl_policy_ref(logp_policy: Tensor, logp_ref: Tensor) -> Tensor:
    """KL(π‖π_ref), the penalty of KL-regularised reinforcement learning. Shapes as `kl`."""
    return kl(logp_policy, logp_ref)


def kl_ref_policy(logp_policy: Tensor, logp_ref: Tensor) -> Tensor:
    """KL(π_ref‖π), minimised by maximum likelihood on reference samples. Shapes as `kl`."""
    return kl(logp_ref, logp_policy)
