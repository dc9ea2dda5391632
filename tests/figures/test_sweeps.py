"""What sweeps share: grids are equal, schedules are what they say, effects are computed by hand."""

import math

import numpy as np
import pytest

from figures.arms.sweeps import (
    CLIP_RANGES,
    POINTS,
    at_the_edge,
    batch_schedule,
    best_arm,
    crossfit_best,
    equal_grid,
    largest,
)
from figures.lab import apply
from sims.core.algorithms import find_algorithm
from sims.core.schedule import Schedule
from sims.environments import BanditR1
from sims.experiments.executor import execute
from sims.experiments.experiment import Experiment
from sims.experiments.store import Record
from sims.policies import Table
from sims.statistics.intervals import paired_effect


def arm(name: str, schedule: Schedule) -> Experiment:
    return Experiment("arm", BanditR1(), Table(), find_algorithm(name)(), schedule, updates=128)


FRESH, STALE, OFFLINE = batch_schedule(16), batch_schedule(64), batch_schedule(math.inf)
REUSED = Schedule(batch_size=16, num_generations=4, epochs=2)


@pytest.mark.parametrize("schedule", [FRESH, STALE, OFFLINE, REUSED])
@pytest.mark.parametrize("name", ["rloo", "ppo", "best_of_n", "rwr", "dpo", "ipo", "pref_ft"])
def test_every_algorithm_tries_as_many_points_over_the_same_learning_rates(name: str, schedule: Schedule) -> None:
    points = equal_grid(arm(name, schedule))
    rates = [point["learning_rate"] for point in points]
    assert len({tuple(point.items()) for point in points}) == POINTS == 16
    assert (min(rates), max(rates)) == (0.003, 10.0)
    fields = set().union(*points) - {"learning_rate"}
    clipped = set() if schedule is FRESH else {"epsilon"}
    assert fields == {"ppo": clipped, "rwr": {"beta"}, "dpo": {"beta"}, "ipo": {"beta"}}.get(name, set())


@pytest.mark.parametrize(("schedule", "same"), [(FRESH, True), (STALE, False), (OFFLINE, False), (REUSED, False)])
def test_a_clip_range_does_nothing_where_every_update_has_fresh_samples(schedule: Schedule, same: bool) -> None:
    """Why PPO's grid has learning rates alone there."""
    tried = [
        apply(arm("ppo", schedule), {"learning_rate": 0.3, "epsilon": epsilon}).replace(
            updates=32, evaluations=1, runs=3
        )
        for epsilon in CLIP_RANGES
    ]
    low, high = execute(tried)
    assert np.array_equal(low["logp_final"], high["logp_final"]) == same


@pytest.mark.parametrize("name", ["rloo", "best_of_n", "rwr", "dpo", "ipo"])
def test_a_batch_is_a_sync_period(name: str) -> None:
    renewed = Schedule(batch_size=4, num_generations=4, sync_every_updates=4)
    arms = [
        Experiment("arm", BanditR1(), Table(), find_algorithm(name)(), schedule, updates=12, evaluations=3, runs=3)
        for schedule in (batch_schedule(64), renewed)
    ]
    (at_once,), (bit_by_bit,) = execute(arms[:1]), execute(arms[1:])
    assert np.array_equal(at_once["logp_final"], bit_by_bit["logp_final"])
    assert at_once["staleness"].tolist() == bit_by_bit["staleness"].tolist()


def test_the_ends_of_the_batch_axis() -> None:
    assert batch_schedule(16).sync_period == 1
    assert batch_schedule(1024).sync_period == 64
    assert batch_schedule(math.inf).sync_period == math.inf


def test_the_largest_of_several_effects() -> None:
    base, spread = np.full(20, 0.5), 0.1 * np.tile([1, -1], 10)
    found = largest([paired_effect(base + 0.2, base), paired_effect(base + 0.15, base + spread)])
    assert found.estimate == found.low == pytest.approx(0.2)
    assert found.high == pytest.approx(max(0.2, paired_effect(base + 0.15, base + spread).high))


def test_arms_at_the_edge_of_what_was_tried_are_counted() -> None:
    records = {str(rate): Record({"optimiser": {"learning_rate": rate}}, {}, {}) for rate in (10.0, 0.3, 0.003)}
    assert at_the_edge(records).startswith("1 of the 3 arms took the largest learning rate tried, 10,")


def test_the_best_arm() -> None:
    assert best_arm({"a": np.array([0.0, 1.0]), "b": np.array([0.7, 0.7])}) == "b"


def test_the_best_is_chosen_where_it_is_not_scored() -> None:
    #                  even odd even odd
    arms = np.array([[0.9, 0.1, 0.9, 0.1], [0.2, 0.8, 0.2, 0.8]])
    # Even runs prefer the first arm, odd runs the second: each half is scored at the other's choice.
    assert crossfit_best(arms).tolist() == [0.2, 0.1, 0.2, 0.1]
