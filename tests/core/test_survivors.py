"""What mutants of the code got away with before: defaults and ranges, masks with several prompts, edges of counts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from sims.core.algorithms import Algorithm, SlotDistribution, all_algorithms
from sims.core.algorithms.clipped import PPO
from sims.core.algorithms.contrastive import KTO
from sims.core.algorithms.online_contrastive import XPO, NashMD
from sims.core.algorithms.policy_gradient import Reinforce
from sims.core.algorithms.reward_model import RewardModelLoss
from sims.core.algorithms.reward_weighted import AWR
from sims.core.loop.learner import Learner
from sims.core.loop.optimise import Optimiser
from sims.core.objectives.advantages import (
    at_last_token,
    centred,
    equal_rewards,
    gae,
    group_mean,
    leave_one_out,
    mean_so_far,
    standardised,
    whiten,
)
from sims.core.objectives.batch import Batch
from sims.core.objectives.reductions import pair_weights, shares, token_shares
from sims.core.schedule import Schedule
from sims.core.spec import Spec, describe
from sims.environments.space import TokenSpace
from tests.core.algorithms.test_every_algorithm import CASES
from tests.core.enumeration import enumerate_batches, make_problem


def tensor(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# Default and range of every number, as the papers and libraries have them: whoever changes one here changes what the
# bare name of an algorithm means. "per run": may be given as an array over runs. A new algorithm needs no line.
NUMBERS = [
    ("beta = 0.1", "float > 0 per run", "dpo cdpo robust_dpo slic group_dpo ipo dpo_nll kto xpo cpo orpo"),
    ("beta = 2.0", "float > 0 per run", "simpo"),
    ("beta = 1.0", "float > 0 per run", "rwr awr"),
    ("beta = 0.1", "float >= 0 per run", "nash_md"),
    ("beta = 0.0", "float >= 0 per run", "ppo dr_grpo dapo gspo cispo raft reinforce rloo"),
    ("beta = 0.04", "float >= 0 per run", "grpo"),
    ("beta = 0.05", "float >= 0 per run", "best_of_n_negative"),
    ("gate = 0.0", "float >= 0 and < 1", "best_of_n_negative"),
    ("beta = 0.35", "float >= 0 per run", "superhf"),
    ("length_normalised = False", "bool", "dpo cdpo robust_dpo slic group_dpo ipo xpo"),
    ("label_smoothing = 0.1", "float >= 0 and < 0.5 per run", "cdpo robust_dpo"),
    ("label_smoothing = 0.0", "float >= 0 and < 0.5 per run", "reward_model"),
    ("center_rewards_coefficient = 0.0", "float >= 0 per run", "reward_model"),
    ("alpha = 1.0", "float > 0 per run", "dpo_nll"),
    ("alpha = 1.0", "float >= 0 per run", "cpo"),
    ("alpha = 1e-05", "float >= 0 per run", "xpo"),
    ("gamma = 1.0", "float >= 0 per run", "simpo"),
    ("mixture_coef = 0.5", "float >= 0 and <= 1 per run", "nash_md"),
    ("desirable_weight = 1.0", "float >= 0 per run", "kto"),
    ("undesirable_weight = 1.0", "float >= 0 per run", "kto"),
    ("epsilon = 0.2", "float > 0 per run", "ppo"),
    ("epsilon = 0.2", "float > 0 and <= 1 per run", "grpo dr_grpo dapo"),
    ("epsilon = 0.0003", "float > 0 and <= 1 per run", "gspo"),
    ("epsilon = 1.0", "float > 0 and <= 1 per run", "cispo"),
    ("epsilon = None", "float or none > 0", "rloo"),
    ("epsilon_high = None", "float or none > 0", "grpo dr_grpo"),
    ("epsilon_high = 0.28", "float or none > 0", "dapo"),
    ("epsilon_high = 0.0004", "float or none > 0", "gspo"),
    ("epsilon_high = 4.0", "float or none > 0", "cispo"),
    ("ddof = 1", "int >= 0 and <= 1", "grpo dr_grpo dapo gspo cispo"),
    ("std_epsilon = 0.0001", "float >= 0", "grpo dr_grpo dapo gspo cispo"),
    ("constant_length = 1", "int >= 1", "dr_grpo"),
    ("drop_equal_groups = True", "bool", "dapo"),
    ("target_kl = None", "float or none > 0", "ppo"),
    ("vf_coef = 0.5", "float >= 0 per run", "ppo"),
    ("cliprange_value = None", "float or none > 0", "ppo"),
    ("gamma = 1.0", "float >= 0 and <= 1 per run", "ppo"),
    ("lam = 0.95", "float >= 0 and <= 1 per run", "ppo"),
    ("whiten_advantages = False", "bool", "ppo"),
    ("include_prompt = False", "bool", "sft"),
    ("keep = 0.25", "float > 0 and <= 1 per run", "rejection_sampling"),
    ("keep = 0.2", "float > 0 and <= 1 per run", "raft"),
    ("quantiles = (0.5, 0.7, 0.8, 0.9)", "tuple of float", "rest"),
    ("weight_clip = 20.0", "float > 0 per run", "rwr awr"),
    ("batch_size = 64", "int >= 1", "schedule"),
    ("num_generations = 2", "int >= 1", "schedule"),
    ("epochs = 1", "int >= 1", "schedule"),
    ("minibatch_size = None", "int or none >= 1", "schedule"),
    ("pool_size = None", "int or none >= 1", "schedule"),
    ("reference_every_updates = None", "int or none >= 1", "schedule"),
    ("sync_every_updates = None", "float or none >= 1", "schedule"),
    ("reference_rate = None", "float or none > 0 and <= 1", "schedule"),
]


@pytest.mark.parametrize(("number", "accepts", "kinds"), NUMBERS)
def test_defaults_and_ranges(number: str, accepts: str, kinds: str) -> None:
    for kind in kinds.split():
        cls: type[Spec] = {"reward_model": RewardModelLoss, "schedule": Schedule}.get(kind) or all_algorithms()[kind]
        field = next(f for f in dataclasses.fields(cls) if f.name == number.split()[0])
        range_ = describe(field, cls.hints()[field.name]) + " per run" * bool(field.metadata.get("per_run"))
        assert (f"{field.name} = {field.default}", range_) == (number, accepts), kind


@pytest.mark.parametrize(
    ("fewest", "kinds"),
    [(1, "ppo sft raft rest rwr awr reinforce"), (2, "dpo kto best_of_n rejection_sampling rloo grpo")],
)
def test_fewest_responses_a_prompt(fewest: int, kinds: str) -> None:
    """Groups and pairs need two, and no more; what imitates or has a baseline of its own is content with one."""
    for kind in kinds.split():
        assert all_algorithms()[kind].min_generations == fewest, kind


def test_from_which_distributions_pairs_of_two_distributions_are_drawn() -> None:
    policy, reference = SlotDistribution("policy"), SlotDistribution("reference")
    assert XPO().slot_distributions(6) == (policy,) * 3 + (reference,) * 3
    assert NashMD(mixture_coef=0.3).slot_distributions(4) == (policy,) * 2 + (SlotDistribution("mixture", 0.3),) * 2


@pytest.mark.parametrize("algorithm", CASES)
def test_one_loss_a_prompt(algorithm: Algorithm) -> None:
    """Three prompts, so that no other axis is as long: what sums over prompts in place of pairs has the same total."""
    every = enumerate_batches(make_problem(TokenSpace(2), prompts=3, seed=6), algorithm, 2)
    learner = Learner(every.policy(), Optimiser(), every.batch.lead)
    targets, _ = algorithm.targets(every.batch, every.state)
    probe_logp = learner.score_probes(every.batch) if algorithm.needs_probes else None
    targets = algorithm.at_update(every.batch, targets, probe_logp)
    loss = algorithm.loss(learner.policy.forward(every.batch, algorithm.output_request), every.batch, targets)
    assert loss.shape == (*every.batch.lead, 3)


@pytest.mark.parametrize("algorithm", [AWR(), Reinforce(), PPO(beta=0.1, target_kl=1.0)], ids=lambda a: a.kind)
def test_a_state_has_the_kind_of_numbers_that_it_is_told(algorithm: Algorithm) -> None:
    for value in algorithm.initial_state((3,), torch.float64, torch.device("meta")).values():
        assert (value.dtype, value.device.type, value.shape) == (torch.float64, "meta", (3,))


def test_reinforce_subtracts_the_mean_of_the_batches_before() -> None:
    """An expected gradient cannot see a baseline on the policy's own samples, nor one that is never learned."""
    mask = torch.ones(1, 2, 1, dtype=torch.bool)
    first, second = (
        Batch(torch.zeros(1, dtype=torch.int64), torch.zeros(1, 2, 1, dtype=torch.int64), mask, rewards=tensor(rewards))
        for rewards in ([1.0, 3.0], [5.0, 6.0])
    )
    targets, state = Reinforce().targets(first, Reinforce().initial_state((), torch.float64, torch.device("cpu")))
    assert targets["advantages"].tolist() == [[1.0, 3.0]]
    targets, state = Reinforce().targets(second, state)
    assert targets["advantages"].tolist() == [[5.0 - 2.0, 6.0 - 2.0]]
    assert (state["reward_mean"].item(), state["reward_count"].item()) == (15.0 / 4.0, 4.0)
    assert Reinforce(baseline="none").targets(second, state)[0]["advantages"].tolist() == [[5.0, 6.0]]


# Each function of (rewards, weight) of runs (R, B, K) = (2, 3, 4), or of (x, mask) of (R, B, K, L).
BY_GROUP: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "group_mean": group_mean,
    "centred": centred,
    "leave_one_out": leave_one_out,
    "standardised by group": standardised,
    "standardised by batch": partial(standardised, scale="batch"),
    "equal_rewards": equal_rewards,
    "shares": lambda rewards, weight: shares(weight, rewards),
    "mean_so_far": lambda rewards, weight: mean_so_far(rewards[..., 0, 0], weight[..., 0, 0], rewards, weight > 0)[0],
}
BY_TOKEN: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "whiten": whiten,
    "at_last_token": lambda x, mask: at_last_token(x[..., 0], mask),
    "gae": lambda x, mask: gae(x, x.flip(-1), mask, 0.9, 0.8),
    "sequence_mean": lambda x, mask: token_shares(None, mask, x, "sequence_mean"),
    "token_mean": lambda x, mask: token_shares(x[..., 0].abs(), mask, x, "token_mean"),
}


@pytest.mark.parametrize("function", [*BY_GROUP.values(), *BY_TOKEN.values()], ids=[*BY_GROUP, *BY_TOKEN])
def test_a_stack_of_runs_is_each_run_by_itself(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    generator = torch.Generator().manual_seed(1)
    shape = (2, 3, 4) if function in BY_GROUP.values() else (2, 3, 4, 5)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    there = torch.rand(shape, generator=generator) < 0.6
    there[0, 1] = False
    marks = there.double() if function in BY_GROUP.values() else there
    torch.testing.assert_close(function(x, marks), torch.stack([function(*run) for run in zip(x, marks, strict=True)]))


def test_leave_one_out_needs_two() -> None:
    with pytest.raises(ValueError, match="leave_one_out: 1 response per prompt: must be at least 2"):
        leave_one_out(tensor([1.0], [2.0]))


def test_leave_one_out_of_several_prompts() -> None:
    """Each prompt has a count of its own; a response without others gets 0."""
    rewards, weight = tensor([1.0, 3.0, math.nan], [4.0, math.nan, math.nan]), tensor([1.0, 1.0, 0.0], [1.0, 0.0, 0.0])
    assert leave_one_out(rewards, weight).tolist() == [[-2.0, 2.0, 0.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize(("there", "expected"), [(True, (5.0, 1)), (False, (0.0, 0))])
def test_mean_so_far_of_one_reward_and_of_none(there: bool, expected: tuple[float, int]) -> None:
    mean, count = mean_so_far(tensor(0.0)[0], tensor(0.0)[0], tensor([5.0]), torch.tensor([[there]]))
    assert (mean.item(), count.item()) == expected


def test_half_a_token_is_all_there_is() -> None:
    """Of a mean, whatever its total: the shares of one token of weight ½ are those of the whole."""
    weight, mask = tensor([0.5, 0.0]), torch.tensor([[[True, False], [True, True]]])
    assert token_shares(weight, mask, mask.double(), "token_mean").tolist() == [[[1.0, 0.0], [0.0, 0.0]]]
    weight, mask = tensor([0.5, 1.0]), torch.tensor([[[True, True], [True, False]]])  # half of two tokens, and one
    assert token_shares(weight, mask, mask.double(), "token_mean").tolist() == [[[0.25, 0.25], [0.5, 0.0]]]


def test_pairs_count_if_both_responses_are_there() -> None:
    weight, pairs = tensor([2.0, 0.0, 0.5]), torch.tensor([[[0, 2], [0, 1], [1, 2], [2, 0]]])
    assert pair_weights(None, pairs, None) is None
    assert pair_weights(weight, pairs, None) == pytest.approx(tensor([1.0, 0.0, 0.0, 1.0]))
    own = tensor([0.25, 1.0, 1.0, 4.0])
    assert pair_weights(None, pairs, own) is own
    assert pair_weights(weight, pairs, own) == pytest.approx(tensor([0.25, 0.0, 0.0, 4.0]))
    lead = (2, 3)  # runs and prompts in front change nothing
    many = pair_weights(weight.expand(*lead, -1), pairs.expand(*lead, -1, -1), own.expand(*lead, -1))
    assert torch.equal(many, tensor([0.25, 0.0, 0.0, 4.0]).expand(*lead, -1))


def test_kto_asks_only_the_pairs_that_count() -> None:
    """The first won its only pair that counts; the last was in none."""
    mask = torch.ones(1, 3, 1, dtype=torch.bool)
    zeros = torch.zeros(1, 3, 1).double()
    batch = Batch(
        prompts=torch.zeros(1, dtype=torch.int64),
        responses=zeros.long(),
        mask=mask,
        rewards=zeros[..., 0],
        logp_ref=zeros,
        pairs=torch.tensor([[[0, 1], [2, 0]]]),
        pair_label=tensor([1.0, 1.0]),
        pair_weight=tensor([1.0, 0.0]),
    )
    targets = KTO().at_update(batch.replace(probes=batch), {}, zeros)
    assert targets["desirable"].tolist() == [[1.0, 0.0, 0.5]]
