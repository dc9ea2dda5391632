"""Likelihood losses: maximum likelihood, unlikelihood, and weights that grow with the reward."""

from __future__ import annotations

import torch
from torch import Tensor

from .contrastive import log1mexp


def likelihood_loss(logp: Tensor) -> Tensor:
    """−ℓ, the negative log-likelihood of a response (or token). Any shape.

    >>> sims.losses.likelihood_loss(torch.tensor([-2.0, -0.5]))
    tensor([2.0000, 0.5000])
    """
    return -logp


def unlikelihood_loss(logp: Tensor) -> Tensor:
    """−log(1 − e^ℓ), ℓ <= 0, which lowers the likelihood of a response. Any shape. Welleck et al. 2020.

    Its derivative with respect to ℓ is π/(1 − π): it vanishes as π → 0, where that of +ℓ stays 1, and is unbounded as π
    → 1. A probability that rounds to 1 has loss −log of the smallest number of its precision, and no gradient; ℓ = −∞
    has loss 0.

    >>> sims.losses.unlikelihood_loss(torch.tensor([0.5, 0.01]).log())  # −log 0.5, −log 0.99
    tensor([0.6931, 0.0101])
    """
    return -log1mexp(logp.clamp(max=-torch.finfo(logp.dtype).tiny))


def exponential_weights(rewards: Tensor, beta: float | Tensor, largest: float | Tensor) -> Tensor:
    """min(e^{r/β}, largest). rewards: (..., B, K), returns the same. Peters & Schaal 2007 (RWR).

    As β → 0 only the best sample has weight; as β → ∞ all weights are equal. The clip keeps one sample from dominating
    a batch; rewards above it are no longer distinguished.

    >>> sims.losses.exponential_weights(torch.tensor([0.0, 1.0, 9.0]), beta=1.0, largest=20.0)  # 1, e, clipped
    tensor([ 1.0000,  2.7183, 20.0000])
    """
    weights = torch.exp(rewards / beta)
    return torch.minimum(weights, largest) if isinstance(largest, Tensor) else weights.clamp(max=largest)
