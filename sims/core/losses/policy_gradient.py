"""Losses whose gradient is a policy gradient. Log-ratios are log π − log π_old; advantages carry no gradient."""

from __future__ import annotations

import torch
from torch import Tensor


def reinforce_loss(logp: Tensor, advantages: Tensor) -> Tensor:
    """−A·log π: its gradient on samples of π is that of −E[A]. Any shape, one per unit. Williams 1992.

    Without a correction it is the policy gradient only on samples of the current policy.
    """
    return -advantages * logp


def clipped_loss(log_ratio: Tensor, advantages: Tensor, clip_low: float | Tensor, clip_high: float | Tensor) -> Tensor:
    """−min(w·A, clip(w, 1 − clip_low, 1 + clip_high)·A) with w = π/π_old = e^{log_ratio}. Any shape, one per unit.

    The smaller of the two never rewards leaving the clip range, yet lets a policy that has left it come back. At w = 1
    the gradient is REINFORCE's. Schulman et al. 2017 (clip_low = clip_high); Yu et al. 2025 (DAPO: clip_high larger).
    """
    ratio = log_ratio.exp()
    clipped = torch.minimum(torch.maximum(ratio, _bound(ratio, 1.0 - clip_low)), _bound(ratio, 1.0 + clip_high))
    return -torch.minimum(ratio * advantages, clipped * advantages)


def value_loss(values: Tensor, returns: Tensor, values_old: Tensor, clip: float | Tensor | None) -> Tensor:
    """½·max((V − G)², (clip(V, V_old ± clip) − G)²), without clipping ½(V − G)². Any shape, one per token.

    The larger of the two: a value that left the range gets no gradient for leaving it. Schulman's PPO code; Huang et
    al. 2024 (N+ details).
    """
    error = (values - returns).square()
    if clip is not None:
        near = values_old + torch.minimum(
            torch.maximum(values - values_old, _bound(values, -clip)), _bound(values, clip)
        )
        error = torch.maximum(error, (near - returns).square())
    return 0.5 * error


def _bound(like: Tensor, value: float | Tensor) -> Tensor:
    """A clip bound as a tensor: `torch.clamp` takes either two floats or two tensors, and an array over runs is one."""
    return value if isinstance(value, Tensor) else like.new_tensor(value)
