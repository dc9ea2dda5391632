"""A right loss of every family, written as a user would write it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

Loss = dict[str, Any]


def dpo(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float = 0.1) -> Tensor:
    return -logsigmoid(beta * ((chosen - rejected) - (ref_chosen - ref_rejected)))


def cdpo(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float, label_smoothing: float
) -> Tensor:
    h = beta * ((chosen - rejected) - (ref_chosen - ref_rejected))
    return (-(1 - label_smoothing) * logsigmoid(h) - label_smoothing * logsigmoid(-h)).mean()


def ipo(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float) -> Tensor:
    return ((chosen - rejected) - (ref_chosen - ref_rejected) - 1 / (2 * beta)) ** 2


def hinge(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float) -> Tensor:
    return torch.relu(1 - beta * ((chosen - rejected) - (ref_chosen - ref_rejected)))


def log_odds(logp: Tensor) -> Tensor:
    return logp - torch.log(-torch.expm1(logp))


def orpo(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float) -> Tensor:
    return -chosen - beta * logsigmoid(log_odds(chosen) - log_odds(rejected))


def kto(logps: Tensor, reference: Tensor, desirable: Tensor, kl: Tensor, beta: float = 0.1) -> Tensor:
    distance = beta * (logps - reference - kl)
    return torch.where(desirable, 1 - torch.sigmoid(distance), 1 - torch.sigmoid(-distance))


def rloo(logps: Tensor, old: Tensor, reference: Tensor, mask: Tensor, rewards: Tensor) -> Tensor:
    others = rewards.shape[1] - 1
    if others == 0:
        raise ValueError("a group needs two responses")
    advantages = rewards - (rewards.sum(1, keepdim=True) - rewards) / others
    return -(advantages * torch.where(mask, logps, 0.0).sum(-1)).mean()


def grpo(
    logps: Tensor,
    old: Tensor,
    reference: Tensor,
    mask: Tensor,
    rewards: Tensor,
    epsilon: float = 0.2,
    beta: float = 0.04,
    std_epsilon: float = 1e-4,
) -> Tensor:
    if rewards.shape[1] < 2:
        raise ValueError("a group needs two responses")
    advantages = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + std_epsilon)
    logps, old, reference = (torch.where(mask, x, 0.0) for x in (logps, old, reference))
    ratio, a = (logps - old).exp(), advantages.unsqueeze(-1)
    surrogate = -torch.minimum(ratio * a, ratio.clamp(1 - epsilon, 1 + epsilon) * a)
    kl = torch.expm1(reference - logps) - (reference - logps)
    tokens = torch.where(mask, surrogate + beta * kl, 0.0)
    return (tokens.sum(-1) / mask.sum(-1).clamp(min=1)).mean()


def clipped(
    logps: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, mask: Tensor, epsilon: float = 0.2
) -> Tensor:
    log_ratio = torch.where(mask, logps - old, 0.0)
    a = torch.where(mask, advantages, 0.0)
    ratio = log_ratio.exp()
    loss = -torch.minimum(ratio * a, ratio.clamp(1 - epsilon, 1 + epsilon) * a)
    return loss.sum() / mask.sum().clamp(min=1)


def k2(logps: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    return 0.5 * torch.where(mask, logps - reference, 0.0).sum(-1) ** 2


def k3(logps: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    ratio = torch.where(mask, logps - reference, 0.0).sum(-1)
    return torch.expm1(-ratio) + ratio


def ppo(
    logps: Tensor,
    old: Tensor,
    values: Tensor,
    old_values: Tensor,
    rewards: Tensor,
    mask: Tensor,
    epsilon: float = 0.2,
    lam: float = 0.95,
    vf_coef: float = 0.5,
) -> Tensor:
    """Advantages by going back from the last token; a masked one hands on what comes after it."""
    log_ratio = torch.where(mask, logps - old, 0.0)
    values, old_values, rewards = (torch.where(mask, x, 0.0) for x in (values, old_values, rewards))
    after, value_after = torch.zeros_like(rewards[:, 0]), torch.zeros_like(rewards[:, 0])
    advantages = torch.zeros_like(rewards)
    for t in reversed(range(rewards.shape[1])):
        here = rewards[:, t] + value_after - old_values[:, t] + lam * after
        after = torch.where(mask[:, t], here, after)
        value_after = torch.where(mask[:, t], old_values[:, t], value_after)
        advantages[:, t] = torch.where(mask[:, t], here, 0.0)
    returns, ratio = advantages + old_values, log_ratio.exp()
    surrogate = -torch.minimum(ratio * advantages, ratio.clamp(1 - epsilon, 1 + epsilon) * advantages)
    loss = surrogate + vf_coef * 0.5 * torch.where(mask, values - returns, 0.0) ** 2
    return torch.where(mask, loss, 0.0).sum() / mask.sum().clamp(min=1)


def sft(logps: Tensor, mask: Tensor) -> Tensor:
    return -torch.where(mask, logps, 0.0).sum() / mask.sum().clamp(min=1)


RIGHT: dict[str, Loss] = {
    "dpo": {"function": dpo, "family": "pair", "claim": "dpo"},
    "cdpo": {"function": cdpo, "family": "pair", "claim": "cdpo", "beta": 0.3, "label_smoothing": 0.2},
    "ipo": {"function": ipo, "family": "pair", "claim": "ipo", "beta": 0.2},
    "hinge": {"function": hinge, "family": "pair", "claim": "slic", "beta": 0.1},
    "orpo": {"function": orpo, "family": "pair", "claim": "orpo", "beta": 0.1},
    "kto": {"function": kto, "family": "unpaired", "claim": "kto"},
    "rloo": {"function": rloo, "family": "group", "claim": "rloo", "reduction": "sequence_sum"},
    "grpo": {"function": grpo, "family": "group", "claim": "grpo", "reduction": "sequence_mean"},
    "clipped": {"function": clipped, "family": "token", "claim": "clipped", "reduction": "token_mean"},
    "k2": {"function": k2, "family": "token", "claim": "kl_policy_ref"},
    "k3": {"function": k3, "family": "token", "claim": "kl_ref_policy"},
    "ppo": {"function": ppo, "family": "actor_critic", "claim": "ppo(reduction='token_mean')"},
    "sft": {"function": sft, "family": "likelihood", "claim": "sft(reduction='token_mean')", "reduction": "token_mean"},
}
