"""The bugs of `tests/BUGS.md` that can be written as a loss, each planted in a small one; and why the others cannot.

Bugs without a row are ours: written to see which kinds of bug get away, and kept with what finds them. What still gets
away is at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import dropout, logsigmoid

from tests.checks import right
from tests.checks.right import RIGHT


@dataclass(frozen=True)
class Planted:
    """A wrong loss, the rows it is about, and the property that must find it (others may, too), "" if none does."""

    name: str
    rows: tuple[int, ...]
    found_by: str
    function: Callable[..., Any]
    like: str  # the right loss whose family, claim and settings it has
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def check(self) -> dict[str, Any]:
        return {**RIGHT[self.like], "function": self.function, **self.changes}


PLANTED: list[Planted] = []


def planted(rows: tuple[int, ...], found_by: str, like: str, **changes: Any) -> Callable[[Any], Any]:
    def register(function: Any) -> Any:
        PLANTED.append(Planted(function.__name__, rows, found_by, function, like, changes))
        return function

    return register


# --- pairs


def margin(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor) -> Tensor:
    return (chosen - rejected) - (ref_chosen - ref_rejected)


@planted((18,), "duplicated", "dpo")
def sum_for_mean(*x: Tensor, beta: float = 0.1) -> Tensor:
    return right.dpo(*x, beta=beta).sum()


@planted((10,), "micro_batches", "dpo")
def not_divided_by_accumulation_steps(*x: Tensor, beta: float = 0.1) -> Tensor:
    return right.dpo(*x, beta=beta).sum() / 2  # a constant for the number of pairs


@planted((17,), "ranks", "dpo")
def averages_of_averages(*x: Tensor, beta: float = 0.1) -> Tensor:
    loss = right.dpo(*x, beta=beta)
    half = (len(loss) + 1) // 2
    return torch.stack([part.mean() for part in loss.split(half)]).mean()


@planted((28,), "shape", "dpo")
def broadcast(*x: Tensor, beta: float = 0.1) -> Tensor:
    loss = right.dpo(*x, beta=beta)
    return loss if len(loss) != 2 else loss + torch.zeros(len(loss), 1)


@planted((20,), "options", "cdpo")
def smoothing_ignored(*x: Tensor, beta: float, label_smoothing: float) -> Tensor:
    return right.dpo(*x, beta=beta)


@planted((21,), "population_gradient", "ipo")
def wrong_scale_of_the_target(*x: Tensor, beta: float) -> Tensor:
    return (margin(*x) - 1 / beta) ** 2


@planted((22,), "probability_near_1", "orpo")
def log1p_cancels(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float) -> Tensor:
    odds = [x - torch.log1p(-torch.exp(x)) for x in (chosen, rejected)]
    return -chosen - beta * logsigmoid(odds[0] - odds[1])


@planted((35,), "extreme_log_probs", "dpo")
def log_of_sigmoid(*x: Tensor, beta: float = 0.1) -> Tensor:
    return -torch.sigmoid(beta * margin(*x)).log()


@planted((49,), "repeatable", "dpo")
def dropout_at_step_0(*x: Tensor, beta: float = 0.1) -> Tensor:
    return -logsigmoid(beta * dropout(margin(*x), 0.1))


@planted((50,), "step_0", "dpo")
def no_reference(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float = 0.1
) -> Tensor:
    return -logsigmoid(beta * (chosen - rejected))


@planted((50,), "direction", "dpo")
def the_policy_as_its_own_reference(*x: Tensor, beta: float = 0.1) -> Tensor:
    return right.dpo(x[0], x[1], x[0], x[1], beta=beta)


@planted((51,), "float32", "dpo")
def bfloat16_log_probs(*x: Tensor, beta: float = 0.1) -> Tensor:
    low = [y.bfloat16().to(y.dtype) if y.dtype == torch.float32 else y for y in x]
    return right.dpo(*low, beta=beta)


@planted((52,), "repeatable", "dpo")
def noise_from_the_global_generator(*x: Tensor, beta: float = 0.1) -> Tensor:
    return right.dpo(*x, beta=beta) + 0.0 * torch.rand(())


@planted((29,), "direction", "dpo")
def chosen_and_rejected_swapped(*x: Tensor, beta: float = 0.1) -> Tensor:
    return -logsigmoid(-beta * margin(*x))


@planted((45,), "permutation", "dpo")
def the_first_pair_of_all(*x: Tensor, beta: float = 0.1) -> Tensor:
    return right.dpo(*x, beta=beta)[0]


@planted((31,), "prompt_cancels", "dpo")
def the_rejected_prompt_left_out(*x: Tensor, beta: float = 0.1) -> Tensor:
    return -logsigmoid(beta * (margin(*x) + 0.1 * x[1]))


@planted((), "repeatable", "dpo")
def writes_into_its_inputs(*x: Tensor, beta: float = 0.1) -> Tensor:
    return right.dpo(x[0], x[1], x[2].sub_(x[3]), torch.zeros_like(x[3]), beta=beta)


@planted((50,), "both_references", "dpo", claim=None)
def the_rejected_reference_left_out(*x: Tensor, beta: float = 0.1) -> Tensor:
    return right.dpo(*x[:3], torch.zeros_like(x[3]), beta=beta)


@planted((), "population_gradient", "dpo")
def large_margins_left_out(*x: Tensor, beta: float = 0.1) -> Tensor:
    return torch.where(beta * margin(*x) > 3, 0.0, right.dpo(*x, beta=beta))


@planted((), "step_0", "dpo")
def beta_on_the_policy_alone(*x: Tensor, beta: float = 0.1) -> Tensor:
    return -logsigmoid(beta * (x[0] - x[1]) - (x[2] - x[3]))


@planted((), "direction", "dpo", claim=None)
def chosen_log_probs_detached(*x: Tensor, beta: float = 0.1) -> Tensor:
    return right.dpo(x[0].detach(), *x[1:], beta=beta)


@planted((7,), "direction", "dpo", claim=None)
def margin_clipped(*x: Tensor, beta: float = 0.1) -> Tensor:
    return -logsigmoid(beta * margin(*x).clamp(-20, 20))


@planted((), "direction", "cdpo")
def smoothing_on_the_wrong_branch(*x: Tensor, beta: float, label_smoothing: float) -> Tensor:
    return right.cdpo(*x, beta=beta, label_smoothing=1 - label_smoothing)


# --- single responses


@planted((7,), "direction", "kto", claim=None)
def log_ratio_clipped(logps: Tensor, reference: Tensor, desirable: Tensor, kl: Tensor) -> Tensor:
    return right.kto((logps - reference).clamp(-10, 10), torch.zeros_like(reference), desirable, kl)


@planted((), "population_gradient", "kto")
def kl_of_one_kind_alone(logps: Tensor, reference: Tensor, desirable: Tensor, kl: Tensor) -> Tensor:
    return right.kto(logps, reference, desirable, torch.where(desirable, kl, 0.0))


# --- groups


def group_loss(advantages: Tensor, logps: Tensor, mask: Tensor) -> Tensor:
    """REINFORCE's, a sum over tokens."""
    return -(advantages.unsqueeze(-1) * torch.where(mask, logps, 0.0)).sum(-1).mean()


def standardised(rewards: Tensor, dim: int | tuple[int, ...] = 1, ddof: int = 1, delta: float = 1e-4) -> Tensor:
    return (rewards - rewards.mean(dim, keepdim=True)) / (rewards.std(dim, keepdim=True, correction=ddof) + delta)


def surrogate(
    a: Tensor, logps: Tensor, old: Tensor, reference: Tensor, mask: Tensor, epsilon: float = 0.2, beta: float = 0.04
) -> Tensor:
    """GRPO's tokens, 0 where masked. a: (B, K)."""
    ratio = torch.where(mask, logps - old, 0.0).exp()
    away = torch.where(mask, reference - logps, 0.0)
    a = a.unsqueeze(-1)
    loss = -torch.minimum(ratio * a, ratio.clamp(1 - epsilon, 1 + epsilon) * a)
    return torch.where(mask, loss + beta * (torch.expm1(away) - away), 0.0)


def per_response(tokens: Tensor, mask: Tensor) -> Tensor:
    return (tokens.sum(-1) / mask.sum(-1).clamp(min=1)).mean()


@planted((5,), "population_gradient", "grpo", claim="gspo(beta=0.3, epsilon=0.2, epsilon_high=0.2)", reduction=None)
def sequence_ratio_on_the_kl(logps: Tensor, old: Tensor, reference: Tensor, mask: Tensor, rewards: Tensor) -> Tensor:
    a, count = standardised(rewards), mask.sum(-1).clamp(min=1)
    ratio = (torch.where(mask, logps - old, 0.0).sum(-1) / count).exp()
    loss = -torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a)
    away = torch.where(mask, reference - logps, 0.0).sum(-1) / count  # of the sequence, not of each token
    return (loss + 0.3 * (torch.expm1(away) - away)).mean()


@planted((12,), "padding", "grpo")
def denominator_counts_padding(
    logps: Tensor, old: Tensor, reference: Tensor, mask: Tensor, rewards: Tensor, epsilon: float = 0.2
) -> Tensor:
    return surrogate(standardised(rewards), logps, old, reference, mask, epsilon).mean()


@planted((15, 14), "reduction", "grpo", claim=None, reduction="token_mean")
def called_token_mean(
    logps: Tensor, old: Tensor, reference: Tensor, mask: Tensor, rewards: Tensor, epsilon: float = 0.2
) -> Tensor:
    return per_response(surrogate(standardised(rewards), logps, old, reference, mask, epsilon), mask)


@planted((16,), "padding", "rloo", claim=None, reduction=None)
def length_weight_after_broadcasting(
    logps: Tensor, old: Tensor, reference: Tensor, mask: Tensor, rewards: Tensor
) -> Tensor:
    return group_loss(rewards - rewards.mean(1, keepdim=True), logps, mask) / mask.shape[-1]


@planted((24,), "population_gradient", "grpo", claim="gspo(epsilon=0.2, epsilon_high=0.2)", reduction=None)
def gspo_with_token_ratios(logps: Tensor, old: Tensor, reference: Tensor, mask: Tensor, rewards: Tensor) -> Tensor:
    return per_response(surrogate(standardised(rewards), logps, old, reference, mask, beta=0.0), mask)


@planted((23,), "every_token_counts", "grpo", claim="cispo", reduction=None)
def cispo_without_log_pi(logps: Tensor, old: Tensor, reference: Tensor, mask: Tensor, rewards: Tensor) -> Tensor:
    weight = torch.where(mask, logps - old, 0.0).exp().clamp(max=5.0).detach()
    loss = torch.where(mask, -weight * standardised(rewards).unsqueeze(-1) + 0.0 * logps, 0.0)
    return loss.sum() / mask.sum().clamp(min=1)


@planted((27,), "population_gradient", "rloo", claim="dr_grpo")
def dr_grpo_that_divides(logps: Tensor, old: Tensor, reference: Tensor, mask: Tensor, rewards: Tensor) -> Tensor:
    return surrogate(standardised(rewards), logps, old, reference, mask, beta=0.0).sum(-1).mean()


@planted((42,), "one_response", "rloo")
def a_group_of_one(logps: Tensor, old: Tensor, reference: Tensor, mask: Tensor, rewards: Tensor) -> Tensor:
    return group_loss(rewards - rewards.mean(1, keepdim=True), logps, mask)


@planted((43,), "equal_rewards", "grpo", claim="grpo(beta=0.0, std_epsilon=1e-8)", reduction=None)
def residue_divided(logps: Tensor, old: Tensor, reference: Tensor, mask: Tensor, rewards: Tensor) -> Tensor:
    a = standardised(rewards, delta=1e-8)
    return per_response(surrogate(a, logps, old, reference, mask, beta=0.0), mask)


@planted((44,), "population_gradient", "grpo", claim="grpo(beta=0.0)")
def another_ddof(logps: Tensor, old: Tensor, reference: Tensor, mask: Tensor, rewards: Tensor) -> Tensor:
    return per_response(surrogate(standardised(rewards, ddof=0), logps, old, reference, mask, beta=0.0), mask)


@planted((45,), "other_prompts", "rloo")
def groups_mix_prompts(logps: Tensor, old: Tensor, reference: Tensor, mask: Tensor, rewards: Tensor) -> Tensor:
    return group_loss(rewards - rewards.mean(), logps, mask)


@planted((46,), "reward_shift", "rloo")
def zero_is_a_missing_reward(logps: Tensor, old: Tensor, reference: Tensor, mask: Tensor, rewards: Tensor) -> Tensor:
    there = rewards != 0.0
    mean = (rewards * there).sum(1, keepdim=True) / there.sum(1, keepdim=True).clamp(min=1)
    return group_loss(torch.where(there, rewards - mean, 0.0), logps, mask)


@planted((), "population_gradient", "rloo")
def the_mean_of_all_as_the_baseline(
    logps: Tensor, old: Tensor, reference: Tensor, mask: Tensor, rewards: Tensor
) -> Tensor:
    return group_loss(rewards - rewards.mean(1, keepdim=True), logps, mask)


@planted((), "reward_shift", "rloo", claim=None, reduction=None)
def rewards_clipped(logps: Tensor, old: Tensor, reference: Tensor, mask: Tensor, rewards: Tensor) -> Tensor:
    return right.rloo(logps, old, reference, mask, rewards.clamp(-1, 1))


# --- tokens


@planted((6,), "kl_pull", "k2")
def kl_with_the_wrong_sign(*x: Tensor) -> Tensor:
    return -right.k2(*x)


@planted((1,), "population_gradient", "k2")
def k1_as_a_loss(logps: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, logps - reference, 0.0).sum(-1)


@planted((2,), "population_gradient", "k2")
def k3_for_the_other_direction(*x: Tensor) -> Tensor:
    return right.k3(*x)


@planted((3,), "population_gradient", "k3")
def log_ratio_reversed(logps: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    return right.k3(reference, old, logps, advantages, mask)


@planted((4,), "population_gradient", "k2")
def per_token_kl(logps: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    return 0.5 * (torch.where(mask, logps - reference, 0.0) ** 2).sum(-1)


@planted((7,), "kl_pull", "k3")
def k3_clamped(*x: Tensor) -> Tensor:
    return right.k3(*x).clamp(max=10.0)


@planted((8,), "small_log_ratios", "k3")
def k3_cancels(logps: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    ratio = torch.where(mask, logps - reference, 0.0).sum(-1)
    return torch.exp(-ratio) - 1 + ratio


@planted((29,), "flipped_advantages", "clipped")
def advantages_as_the_mask(logps: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    counted = mask & (advantages > 0)
    return right.clipped(logps, old, reference, advantages, counted)


@planted((32,), "masked_slots", "clipped")
def shifted_mask(logps: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    return right.clipped(logps, old, reference, advantages, mask.roll(1, -1))


@planted((35,), "nan_in_masked_slots", "clipped")
def nan_times_0(logps: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    ratio = (logps - old).exp()
    loss = -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
    return (loss * mask).sum() / mask.sum().clamp(min=1)


@planted((47,), "padding", "clipped")
def unmasked_whitening(logps: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    white = (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8)
    return right.clipped(logps, old, reference, white, mask)


def weights(logps: Tensor, old: Tensor, advantages: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """w·A and clip(w)·A."""
    w, a = torch.where(mask, logps - old, 0.0).exp(), torch.where(mask, advantages, 0.0)
    return w * a, w.clamp(0.8, 1.2) * a


@planted((), "direction", "clipped", claim=None)
def the_larger_for_the_smaller(
    logps: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, mask: Tensor
) -> Tensor:
    return -torch.maximum(*weights(logps, old, advantages, mask)).sum() / mask.sum().clamp(min=1)


@planted((), "direction", "clipped", claim=None)
def negative_advantages_clipped_on_the_wrong_side(
    logps: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, mask: Tensor
) -> Tensor:
    free, clipped = weights(logps, old, advantages, mask)
    chosen = torch.where(advantages > 0, torch.minimum(free, clipped), torch.maximum(free, clipped))
    return -torch.where(mask, chosen, 0.0).sum() / mask.sum().clamp(min=1)


@planted((), "direction", "clipped", claim=None)
def clipped_on_both_sides(logps: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    return -weights(logps, old, advantages, mask)[1].sum() / mask.sum().clamp(min=1)


@planted((), "population_gradient", "clipped")
def the_ratio_upside_down(logps: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    return right.clipped(-logps, -old, reference, -advantages, mask)


@planted((), "kl_pull", "k3")
def k1_called_k3(logps: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, logps - reference, 0.0).sum(-1)


# --- actor and critic


@planted((13,), "micro_batches", "ppo")
def critic_loss_inflated(logps: Tensor, old: Tensor, values: Tensor, old_values: Tensor, *x: Tensor) -> Tensor:
    rewards, mask = x
    return (
        right.ppo(logps, old, values, old_values, rewards, mask)
        + torch.where(mask, values - rewards, 0.0).square().sum()
    )


@planted((18,), "value_gradient", "ppo")
def half_is_missing(*x: Tensor, vf_coef: float = 0.5) -> Tensor:
    return right.ppo(*x, vf_coef=2 * vf_coef)


@planted((), "value_gradient", "ppo")
def returns_from_todays_values(logps: Tensor, old: Tensor, values: Tensor, old_values: Tensor, *x: Tensor) -> Tensor:
    return right.ppo(logps, old, values - values.detach() + old_values, old_values, *x)


@planted((), "direction", "ppo", claim=None)
def values_learn_the_advantages(logps: Tensor, old: Tensor, values: Tensor, old_values: Tensor, *x: Tensor) -> Tensor:
    return right.ppo(logps, old, values + old_values, old_values, *x)


@planted((), "critic_apart", "ppo", claim=None)
def advantages_with_a_gradient(logps: Tensor, old: Tensor, values: Tensor, old_values: Tensor, *x: Tensor) -> Tensor:
    return right.ppo(logps, old, values, old_values - 0.1 * (values - values.detach()), *x)


@planted((47,), "gaps", "ppo")
def returns_lost_across_gaps(
    logps: Tensor, old: Tensor, values: Tensor, old_values: Tensor, rewards: Tensor, mask: Tensor, lam: float = 0.95
) -> Tensor:
    values, old_values, rewards = (torch.where(mask, x, 0.0) for x in (values, old_values, rewards))
    after, advantages = torch.zeros_like(rewards[:, 0]), torch.zeros_like(rewards)
    following = torch.cat([old_values[:, 1:], torch.zeros_like(old_values[:, :1])], dim=1)
    for t in reversed(range(rewards.shape[1])):
        after = (rewards[:, t] + following[:, t] - old_values[:, t] + lam * after) * mask[:, t]
        advantages[:, t] = after
    loss = -torch.where(mask, logps - old, 0.0).exp() * advantages + 0.25 * (values - advantages - old_values) ** 2
    return torch.where(mask, loss, 0.0).sum() / mask.sum().clamp(min=1)


# --- likelihood


@planted((30,), "every_token_counts", "sft")
def eos_masked(logps: Tensor, mask: Tensor) -> Tensor:
    following = torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], dim=1)
    return right.sft(logps, mask & following) + 0.0 * right.sft(logps, mask)


@planted((31, 36), "masked_slots", "sft")
def padding_not_masked(logps: Tensor, mask: Tensor) -> Tensor:
    return -logps.mean()


@planted((35,), "empty_response", "sft", claim=None, reduction="sequence_mean")
def divides_by_no_tokens(logps: Tensor, mask: Tensor) -> Tensor:
    return (-torch.where(mask, logps, 0.0).sum(-1) / mask.sum(-1)).mean()


@planted((14,), "reduction", "sft", claim=None, reduction="token_mean")
def short_responses_weigh_more(logps: Tensor, mask: Tensor) -> Tensor:
    return (-torch.where(mask, logps, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)).mean()


@planted((), "gaps", "sft", claim=None, reduction=None)
def labels_shifted_by_one(logps: Tensor, mask: Tensor) -> Tensor:
    before = torch.cat([torch.ones_like(mask[:, :1]), mask[:, :-1]], dim=1)
    return -(torch.where(mask, logps, 0.0) * before).sum() / mask.sum().clamp(min=1)


# --- what gets away without a claim: each is another loss's right form


@planted((), "", "dpo", claim=None)
def half_of_dpo(*x: Tensor, beta: float = 0.1) -> Tensor:
    return 0.5 * right.dpo(*x, beta=beta)


@planted((), "", "rloo", claim=None)
def the_mean_of_all_without_a_claim(
    logps: Tensor, old: Tensor, reference: Tensor, mask: Tensor, rewards: Tensor
) -> Tensor:
    if rewards.shape[1] < 2:
        raise ValueError("a group needs two responses")
    return group_loss(rewards - rewards.mean(1, keepdim=True), logps, mask)


@planted((), "", "clipped", claim=None)
def the_ratio_upside_down_without_a_claim(
    logps: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, mask: Tensor
) -> Tensor:
    return right.clipped(-logps, -old, reference, -advantages, mask)


@planted((), "", "sft", claim=None, reduction=None)
def a_reduction_that_is_not_named(logps: Tensor, mask: Tensor) -> Tensor:
    return (-torch.where(mask, logps, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)).mean()


# --- and with one: beyond the batches that are tried


@planted((), "", "dpo")
def margins_beyond_all_that_are_tried(*x: Tensor, beta: float = 0.1) -> Tensor:
    return torch.where(margin(*x) > 1e4, 0.0, right.dpo(*x, beta=beta))


GETS_AWAY = {
    "half_of_dpo": 'a scale of the loss is a learning rate; `claim="dpo"` finds it',
    "the_mean_of_all_without_a_claim": 'RLOO times (K − 1)/K, which some papers mean; `claim="rloo"` finds it',
    "the_ratio_upside_down_without_a_claim": "its gradient has the right sign wherever the policy went wrong; "
    '`claim="clipped"` finds it',
    "a_reduction_that_is_not_named": "a mean over responses is as good as one over tokens, until `reduction=` or a "
    "claim says which",
    "margins_beyond_all_that_are_tried": "log-ratios are tried up to 1,000 per response, 20 per token",
}


# What is no loss, or nothing that a loss alone can show.
NOT_A_LOSS = {
    9: "a metric that is logged",
    11: "a denominator of the training loop, which the loss is handed",
    19: "sums or means over tokens are taken before the pair family's arguments are made",
    25: "a Jensen–Shannon divergence needs whole distributions: no family has them",
    26: "the mismatched pairs of KTO are chosen before the loss, which takes their mean, kl",
    33: "an attention mask of the model",
    34: "position ids of the model",
    38: "truncation of data",
    39: "tokenisation",
    40: "tokenisation",
    41: "where a reward model is read",
    48: "sampling against scoring",
    53: "gradients dropped by the training loop",
}
