"""Advantages: reward minus a baseline.

Responses to one prompt are a group: the K axis. A response of `weight` 0 is absent; None means that all are present.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .batch import masked


def group_mean(rewards: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean reward of each prompt's responses. rewards, weight: (..., B, K); returns (..., B, 1)."""
    if weight is None:
        return rewards.mean(-1, keepdim=True)
    present = weight > 0
    return masked(rewards, present).sum(-1, keepdim=True) / present.sum(-1, keepdim=True).clamp(min=1)


def centred(rewards: Tensor, weight: Tensor | None = None) -> Tensor:
    """r_k − mean(r): each response against its whole group, itself included. Shapes as `group_mean`, returns (..., B,
    K).

    Its expected policy gradient is exactly (K−1)/K of the true one, because a response's own reward is in its baseline.
    """
    difference = rewards - group_mean(rewards, weight)
    return difference if weight is None else masked(difference, weight > 0)


def leave_one_out(rewards: Tensor, weight: Tensor | None = None) -> Tensor:
    """r_k − mean of the others = K/(K−1)·(r_k − mean). rewards, weight: (..., B, K); returns (..., B, K).

    Unbiased for independent responses; needs K >= 2 (a response alone in its group gets 0). Kool et al. 2019; Ahmadian
    et al. 2024 (RLOO).
    """
    if weight is None:
        count = rewards.shape[-1]
        if count < 2:
            raise ValueError(f"leave_one_out: {count} response per prompt: must be at least 2")
        return centred(rewards) * (count / (count - 1))
    count_present = (weight > 0).sum(-1, keepdim=True).to(rewards.dtype)  # a ratio of integers would be float32
    factor = count_present / (count_present - 1).clamp(min=1)
    return torch.where(count_present > 1, centred(rewards, weight) * factor, 0.0)


def standardised(
    rewards: Tensor,
    weight: Tensor | None = None,
    scale: Literal["group", "batch", "none"] = "group",
    ddof: int = 1,
    epsilon: float = 1e-4,
) -> Tensor:
    """(r_k − mean of its group) / (standard deviation + ε). rewards, weight: (..., B, K); returns (..., B, K).

    scale: the standard deviation to divide by: the group's (GRPO), that of all rewards of the batch (TRL's "batch"), or
    none (Dr. GRPO). ddof: 1 divides the squares by count − 1 (`torch.std`: TRL, verl), 0 by the count (HALOs). A
    zero-advantage group, one of equal rewards, gets exactly 0: the rounding error of its mean, divided by ε, would be
    an advantage. Biased: the deviation depends on the response's own reward, and prompts that nearly all responses
    solve, or nearly all fail, weigh more. Shao et al. 2024.
    """
    difference = torch.where(equal_rewards(rewards, weight), 0.0, centred(rewards, weight))
    if scale == "none":
        return difference
    axes = (-1,) if scale == "group" else (-2, -1)
    there = torch.ones_like(rewards, dtype=torch.bool) if weight is None else weight > 0
    count = there.sum(axes, keepdim=True)
    mean = masked(rewards, there).sum(axes, keepdim=True) / count.clamp(min=1)
    squares = masked(rewards - mean, there).square().sum(axes, keepdim=True)
    deviation = torch.sqrt(squares / (count - ddof).clamp(min=1)) + epsilon
    # Where all rewards are equal the division could be 0/0; the numerator is 0 already.
    return difference / torch.where(squares > 0, deviation, 1.0)


def equal_rewards(rewards: Tensor, weight: Tensor | None = None) -> Tensor:
    """Whether all responses of a prompt got the same reward, bit for bit; True with fewer than two responses. Shapes as
    `group_mean`, returns (..., B, 1) bool."""
    if weight is None:
        return rewards.amax(-1, keepdim=True) == rewards.amin(-1, keepdim=True)
    absent = weight <= 0
    highest = rewards.masked_fill(absent, -torch.inf).amax(-1, keepdim=True)
    return highest <= rewards.masked_fill(absent, torch.inf).amin(-1, keepdim=True)


def mean_so_far(mean: Tensor, count: Tensor, rewards: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over all rewards of a run, with one more batch. mean, count: (...); rewards, there: (..., B, K).

    Returns the new mean and count. Rewards where `there` is False are ignored.
    """
    counted = masked(rewards, there)  # the rewards themselves if all are there
    more = count + (there.shape[-2] * there.shape[-1] if counted is rewards else there.sum((-2, -1)))
    total = mean * count + counted.sum((-2, -1))
    return total / more.clamp(min=1), more


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float | Tensor, lam: float | Tensor) -> Tensor:
    """Generalised advantage estimates, walking backwards over the tokens that the policy chose.

        δ_t = r_t + γ V_{t+1} − V_t,    A_t = δ_t + γλ A_{t+1},    V = 0 after the last token

    rewards, values, mask: (..., L); returns (..., L), 0 in masked slots. γ is the discount per token, λ the trace
    decay. A masked slot inside a response is skipped: it neither ends the response nor discounts. Schulman et al. 2016.
    """
    rewards, values = masked(rewards, mask), masked(values, mask)
    advantage = torch.zeros_like(values[..., 0])
    next_value = torch.zeros_like(advantage)
    steps: list[Tensor] = []
    for t in reversed(range(values.shape[-1])):
        here = mask[..., t]
        delta = rewards[..., t] + gamma * next_value - values[..., t]
        advantage = torch.where(here, delta + gamma * lam * advantage, advantage)
        next_value = torch.where(here, values[..., t], next_value)
        steps.append(torch.where(here, advantage, 0.0))
    return torch.stack(steps[::-1], dim=-1)


def whiten(x: Tensor, mask: Tensor, epsilon: float = 1e-8) -> Tensor:
    """(x − mean) / sqrt(variance + ε) over the real tokens of a run's whole batch.

    x, mask: (..., B, K, L); the variance is the biased one (ddof 0); returns x's shape, 0 in masked slots. Couples the
    responses of a batch: the result is no longer an unbiased policy gradient.
    """
    axes = (-3, -2, -1)
    count = mask.sum(axes, keepdim=True).clamp(min=1)
    deviation = masked(x - masked(x, mask).sum(axes, keepdim=True) / count, mask)
    variance = deviation.square().sum(axes, keepdim=True) / count
    return deviation / torch.sqrt(variance + epsilon)


def at_last_token(rewards: Tensor, mask: Tensor) -> Tensor:
    """The reward of a response, paid at its last token. rewards: (...); mask: (..., L); returns (..., L)."""
    if mask.shape[-1] == 1:
        return masked(rewards.unsqueeze(-1), mask)
    position = torch.arange(mask.shape[-1], device=mask.device)
    last = torch.where(mask, position, -1).amax(-1, keepdim=True)
    return torch.where(position == last, rewards.unsqueeze(-1), 0.0)
