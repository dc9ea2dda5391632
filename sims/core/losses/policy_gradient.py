"""Losses whose gradient is a policy gradient. Log-ratios are log π − log π_old; advantages have no gradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def reinforce_loss(logp: Tensor, advantages: Tensor) -> Tensor:
    """−A·log π: its gradient on samples of π is that of −E[A]. Any shape, elementwise. Williams 1992.

    Without a correction it is the policy gradient only on samples of the current policy.

    >>> sims.losses.reinforce_loss(logp=torch.tensor([-1.0, -2.0]), advantages=torch.tensor([1.0, -1.0]))
    tensor([ 1., -2.])
    """
    return -advantages * logp


def clipped_loss(log_ratio: Tensor, advantages: Tensor, clip_low: float | Tensor, clip_high: float | Tensor) -> Tensor:
    """−min(w·A, clip(w, 1 − clip_low, 1 + clip_high)·A) with w = π/π_old = e^{log_ratio}. Any shape, elementwise.

    The minimum never rewards leaving the clip range, but keeps the gradient that leads back into it. At w = 1 the
    gradient is REINFORCE's. Schulman et al. 2017 (clip_low = clip_high); Yu et al. 2025 (DAPO: clip_high larger).

    >>> ratio = torch.tensor([0.5, 1.0, 2.0])
    >>> sims.losses.clipped_loss(ratio.log(), torch.ones(3), clip_low=0.2, clip_high=0.2)  # only 2 is clipped, to 1.2
    tensor([-0.5000, -1.0000, -1.2000])
    """
    # Clipped before the exponential: a ratio that overflows would have the gradient 0·∞.
    lowest, highest = _log_bounds(clip_low, clip_high)
    bounded = torch.where(advantages >= 0, _at_most(log_ratio, highest), _at_least(log_ratio, lowest))
    return -advantages * bounded.exp()


def weighted_loss(
    logp: Tensor, log_ratio: Tensor, advantages: Tensor, clip_low: float | Tensor, clip_high: float | Tensor
) -> Tensor:
    """−sg(clip(w, 1 − clip_low, 1 + clip_high))·A·log π: the importance ratio is only a weight.

    sg: stop-gradient, a constant for the derivative. Any shape, elementwise.

    Unlike in `clipped_loss` every token keeps its gradient, however large its ratio: the clip bounds its weight.
    Without log π there would be no gradient at all. MiniMax 2025 (CISPO).

    >>> logp, ratio = torch.tensor([-1.0, -1.0]), torch.tensor([1.0, 9.0])
    >>> sims.losses.weighted_loss(logp, ratio.log(), torch.ones(2), clip_low=1.0, clip_high=4.0)  # a weight of 1, of 5
    tensor([1., 5.])
    """
    lowest, highest = _log_bounds(clip_low, clip_high)
    weight = _at_least(_at_most(log_ratio.detach(), highest), lowest).exp()
    return -weight * advantages * logp


def value_loss(values: Tensor, returns: Tensor, values_old: Tensor, clip: float | Tensor | None) -> Tensor:
    """½·max((V − G)², (clip(V, V_old ± clip) − G)²), without clipping ½(V − G)². Any shape, elementwise.

    The maximum: a value that left the clip range towards the target has no gradient. Schulman's PPO code; Huang et al.
    2024 (N+ details).

    >>> value, target, old = torch.tensor(1.0), torch.tensor(3.0), torch.tensor(1.0)
    >>> sims.losses.value_loss(value, target, old, clip=None)  # ½·2²
    tensor(2.)
    """
    error = (values - returns).square()
    if clip is not None:
        near = values_old + _at_least(_at_most(values - values_old, clip), -clip)
        error = torch.maximum(error, (near - returns).square())
    return 0.5 * error


def _log_bounds(clip_low: float | Tensor, clip_high: float | Tensor) -> tuple[float | Tensor, float | Tensor]:
    """log(1 − clip_low) and log(1 + clip_high); −∞, no bound, where 1 − clip_low <= 0."""
    lowest: float | Tensor
    if isinstance(clip_low, Tensor):
        lowest = torch.log((1.0 - clip_low).clamp(min=0.0))
    else:
        lowest = math.log1p(-clip_low) if clip_low < 1.0 else -math.inf
    return lowest, torch.log1p(clip_high) if isinstance(clip_high, Tensor) else math.log1p(clip_high)


def _at_most(x: Tensor, bound: float | Tensor) -> Tensor:
    """`torch.clamp` takes floats or tensors of x's own shape; a bound here may be an array over runs."""
    return torch.minimum(x, bound) if isinstance(bound, Tensor) else x.clamp(max=bound)


def _at_least(x: Tensor, bound: float | Tensor) -> Tensor:
    """See `_at_most`."""
    return torch.maximum(x, bound) if isinstance(bound, Tensor) else x.clamp(min=bound)
