"""What a response was worth, beyond what was expected of it.

Responses of one prompt are a group: the K axis. `weight` marks the absent (0); None means that all are there.
"""

from __future__ import annotations

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

    Its expected policy gradient is exactly (K−1)/K of the true one, because the own reward is in the baseline.
    """
    return rewards - group_mean(rewards, weight)


def leave_one_out(rewards: Tensor, weight: Tensor | None = None) -> Tensor:
    """r_k − mean of the others = K/(K−1)·(r_k − mean). rewards, weight: (..., B, K); returns (..., B, K).

    Unbiased for independent responses; needs K >= 2 (a response without others gets 0). Kool et al. 2019; Ahmadian et
    al. 2024 (RLOO).
    """
    if weight is None:
        count = rewards.shape[-1]
        if count < 2:
            raise ValueError(f"leave_one_out: {count} response a prompt: must be at least 2")
        return centred(rewards) * (count / (count - 1))
    count_present = (weight > 0).sum(-1, keepdim=True)
    factor = count_present / (count_present - 1).clamp(min=1)
    return torch.where(count_present > 1, centred(rewards, weight) * factor, 0.0)


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float | Tensor, lam: float | Tensor) -> Tensor:
    """Generalised advantage estimates, walking backwards over the tokens that the policy chose.

        δ_t = r_t + γ V_{t+1} − V_t,    A_t = δ_t + γλ A_{t+1},    V = 0 after the last token

    rewards, values, mask: (..., L); returns (..., L), 0 in masked slots. γ is a discount a token, λ the trace decay.
    A masked slot inside a response is stepped over: it neither ends the response nor discounts. Schulman et al. 2016.
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
