"""Losses that raise the likelihood of responses, more or less of each, and lower none on purpose."""

from __future__ import annotations

import torch
from torch import Tensor


def likelihood_loss(logp: Tensor) -> Tensor:
    """−ℓ, the negative log-likelihood of a response (or token). Any shape."""
    return -logp


def exponential_weights(rewards: Tensor, beta: float | Tensor, largest: float | Tensor) -> Tensor:
    """min(e^{r/β}, largest). rewards: (..., B, K), returns the same. Peters & Schaal 2007 (RWR).

    As β → 0 only the best sample counts; at β → ∞ all count alike. The clip keeps one lucky sample from drowning a
    batch, at the price of ranking nothing above it.
    """
    limit = largest if isinstance(largest, Tensor) else rewards.new_tensor(largest)
    return torch.minimum(torch.exp(rewards / beta), limit)
