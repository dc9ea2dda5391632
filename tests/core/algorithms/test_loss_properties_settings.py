"""Row 20 of `tests/BUGS.md`, the bugs that shipped elsewhere: every setting changes something, or is refused.

Runs on a new algorithm, and on a new field, without being told.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from sims.core.algorithms import Algorithm, all_algorithms
from sims.core.algorithms.reward_model import RewardModelLoss
from sims.core.loop.optimise import Optimiser, PerRunOptimiser
from sims.core.objectives.preferences import Labeller, choose_pairs
from sims.core.schedule import Schedule
from sims.core.spec import Spec, SpecError
from tests.core.algorithms.test_every_algorithm import other_values
from tests.core.drawn_batches import KINDS, Case, Shape, Style, aim, make_case, update
from tests.core.loop.test_schedule_and_train import training

ALGORITHMS = all_algorithms()
# Log-ratios of up to 6 per token reach the widest clip range there is, 5 = e^1.6; a reward of 4 the largest weight,
# 20 = e^3.
CASE = make_case(Shape((), 3, 4, 5), Style(6, "ragged", "real", 30.0, False, "none", "none", False, torch.float64))
REWARDS = torch.tensor([[4.0, 1.0, -1.0, 0.5], [0.5, -0.25, 2.0, 1.5], [0.1, 0.1, 0.1, 0.1]], dtype=torch.float64)
# A field may be refused by itself, and mean something only together with another.
COMPANY: list[dict[str, Any]] = [{}, {"beta": 0.3}, {"scale_rewards": "group"}]


def others(cls: type[Spec], name: str) -> list[Any]:
    """Values of a field other than its default."""
    (field,) = (f for f in dataclasses.fields(cls) if f.name == name)
    value = getattr(cls(), name)
    if isinstance(value, tuple):
        return [tuple(0.5 * x for x in value) if isinstance(value[0], float) else value[:1] * len(value)]
    fewer = [value - 1] if isinstance(value, int) and not isinstance(value, bool) else []
    return other_values(field, cls.hints()[name], value) + fewer


def labelled(algorithm: Algorithm) -> Case:
    """The case with the pairs that the algorithm asks for, labelled by one who is not sure."""
    batch = CASE.batch.replace(rewards=REWARDS)
    if algorithm.label_pairing is not None:
        pairs, weight = choose_pairs(REWARDS, algorithm.label_pairing, 0.0)
        first, second = REWARDS.gather(-1, pairs[..., 0]), REWARDS.gather(-1, pairs[..., 1])
        label = logsigmoid(first - second).exp()
        batch = batch.replace(pairs=pairs, pair_weight=weight, pair_label=label)
    return dataclasses.replace(CASE, batch=batch)


def effects(algorithm: Algorithm) -> list[Any]:
    """All that a setting can change: what is drawn, and losses and gradients of two batches, two passes each."""
    case = labelled(algorithm)
    state = algorithm.initial_state((), torch.float64, torch.device("cpu"))
    seen: list[Any] = [algorithm.slot_distributions(4)]
    for _ in range(2):
        found = [update(algorithm, case, aim(algorithm, case.batch, state, epoch)) for epoch in range(2)]
        state = algorithm.targets(case.batch, state)[1]
        seen += [x.tolist() for f in found for x in (f.loss, *f.gradients)]
    return seen


FIELDS = [(kind, name) for kind in KINDS for name in ALGORITHMS[kind].names() if others(ALGORITHMS[kind], name)]


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_row_20_every_field_of_an_algorithm(kind: str, name: str) -> None:
    cls, accepted = ALGORITHMS[kind], 0
    for value, company in itertools.product(others(cls, name), COMPANY):
        if not set(company) <= set(cls.names()) - {name}:
            continue
        plain = cls(**company)
        try:
            changed = plain.replace(**{name: value})
        except SpecError as refusal:
            assert refusal.field == name
            continue
        accepted += 1
        assert effects(changed) != effects(plain), f"{name} = {value} has no effect beside {company}"
    assert accepted, f"{name} is refused whatever it is and stands beside: {COMPANY}"


def parameters_after(schedule: Schedule) -> tuple[Tensor, int]:
    """A policy after a few updates, and how many samples that took."""
    run = training(schedule)
    updates = list(run.train(12))
    return run.policy.logits().detach(), updates[-1].samples


SMALL = {"batch_size": 4, "num_generations": 2}
SCHEDULES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "batch_size": ({}, {"batch_size": 6}),
    "num_generations": ({}, {"num_generations": 4}),
    "minibatch_size": ({}, {"minibatch_size": 2}),
    "epochs": ({}, {"epochs": 2}),
    "sync_every_updates": ({}, {"sync_every_updates": 3}),
    "source": ({}, {"source": "pool", "pool_size": 8}),
    "pool_size": ({"source": "pool", "pool_size": 8}, {"source": "pool", "pool_size": 12}),
    "pool_policy": ({"source": "pool", "pool_size": 8}, {"source": "pool", "pool_size": 8, "pool_policy": "final"}),
    "replay_window": ({"source": "replay", "replay_window": 2.0}, {"source": "replay", "replay_window": 9.0}),
    "reference": ({}, {"reference": "copy", "reference_every_updates": 2}),
    "reference_every_updates": (
        {"reference": "copy", "reference_every_updates": 2},
        {"reference": "copy", "reference_every_updates": 3},
    ),
    "reference_rate": ({"reference": "ema", "reference_rate": 0.1}, {"reference": "ema", "reference_rate": 0.2}),
}


@pytest.mark.parametrize("name", Schedule.names())
def test_row_20_every_field_of_the_schedule(name: str) -> None:
    plain, changed = (parameters_after(Schedule(**SMALL | changes)) for changes in SCHEDULES[name])
    assert not torch.equal(plain[0], changed[0])


@pytest.mark.parametrize("name", Optimiser.names())
def test_row_20_every_field_of_the_optimiser(name: str) -> None:
    def parameter_after(spec: Optimiser) -> Tensor:
        parameter = torch.tensor([1.0, -2.0], dtype=torch.float64)
        optimiser = PerRunOptimiser([parameter], (), spec)
        for _ in range(3):
            gradients = [parameter.clone() ** 3]
            optimiser.step(gradients, optimiser.grad_norm(gradients))
        return parameter

    for value in others(Optimiser, name):
        assert not torch.equal(parameter_after(Optimiser(**{name: value})), parameter_after(Optimiser()))


@pytest.mark.parametrize("name", Labeller.names())
def test_row_20_every_field_of_the_labeller(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    rewards = torch.rand(20, 2, generator=generator)
    uniforms = torch.rand(20, 1, 2, generator=generator)

    def labels_of(labeller: Labeller) -> list[Any]:
        _, weight = choose_pairs(rewards, "correct_incorrect", labeller.correct_above)
        assert weight is not None
        return [labeller.label(rewards[:, :1], rewards[:, 1:], uniforms).tolist(), weight.tolist()]

    for value in others(Labeller, name):
        assert labels_of(Labeller(**{name: value})) != labels_of(Labeller())


@pytest.mark.parametrize("name", RewardModelLoss.names())
def test_row_20_every_field_of_the_reward_models_loss(name: str) -> None:
    first, second, label = torch.tensor([[0.3, -1.0], [2.0, 0.5], [1.0, 0.0]], dtype=torch.float64)
    for value in others(RewardModelLoss, name):
        changed, plain = (
            loss.pair_losses(first, second, label) for loss in (RewardModelLoss(**{name: value}), RewardModelLoss())
        )
        assert not torch.equal(changed, plain)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_10_11_53_accumulation_and_sync_are_independent(kind: str) -> None:
    """From samples to parameters: however a minibatch is cut, and however seldom the sampler follows."""
    cls = ALGORITHMS[kind]
    generations = max(2, cls.min_generations)
    after: dict[tuple[float, int | None], Tensor] = {}
    for sync, micro in itertools.product((2, math.inf), (None, 1)):
        schedule = Schedule(batch_size=4, num_generations=generations, minibatch_size=2, sync_every_updates=sync)
        run = training(schedule, kind, micro)
        list(run.train(8))
        after[sync, micro] = torch.cat([p.detach().flatten() for p in run.policy.parameters()])
    for sync in (2, math.inf):
        torch.testing.assert_close(after[sync, None], after[sync, 1], rtol=0, atol=1e-9)
    assert not torch.equal(after[2, None], after[math.inf, None])
