"""ROC curve, its area, and the area's interval, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from figures.arms.monitors import (
    above_chance,
    at_nats,
    falls_at,
    has_grown,
    lost,
    over_updates,
    resolved,
    roc,
    warned,
)
from sims.core.spec import to_json
from sims.environments import Drifting
from sims.experiments.store import Record


def test_the_area_is_the_share_of_pairs_in_the_right_order():
    """6 of 9 pairs and a tie: 6.5 / 9."""
    wrong, right = np.array([3.0, 2.0, 0.5]), np.array([1.0, 2.0, 0.0])
    rates, area = roc(wrong, right)
    assert area == pytest.approx(6.5 / 9)
    assert rates[0] == (0.0, 0.0) and rates[-1] == (1.0, 1.0)
    assert (1 / 3, 2 / 3) in rates  # of the threshold 2
    assert above_chance(wrong, right).estimate == pytest.approx(6.5 / 9 - 0.5)


def test_runs_in_another_order_have_another_interval_and_the_same_area():
    """Pairing counts: where a run that is high in one arm is high in the other, the area varies less."""
    noise = np.random.default_rng(0).standard_normal(40)
    wrong, right = noise + 0.5, noise
    paired, shuffled = above_chance(wrong, right), above_chance(wrong, right[::-1])
    assert paired.estimate == pytest.approx(shuffled.estimate)
    assert paired.high - paired.low < 0.7 * (shuffled.high - shuffled.low)


def test_its_interval_covers():
    """200 repetitions of 40 runs at a true area of Φ(0.5): fewer than 170 hold it with chance 1e-7 at 95 %."""
    rng, hits = np.random.default_rng(1), 0
    for _ in range(200):
        shared, own, other = rng.standard_normal((3, 40)) / np.sqrt([[2.0], [2.0], [2.0]])
        found = above_chance(shared + own + 0.5 * np.sqrt(2.0), shared + other)
        hits += found.low <= 0.19146 <= found.high
    assert hits >= 170


def run(**arrays: list[float]) -> Record:
    """One run of four weeks with an evaluation each, whose score is its gold reward."""
    ends = {"reference_reward": np.zeros(1), "best_reward": np.ones(1), "diverged_at": np.array([-1])}
    made = {name: np.array([values]) for name, values in arrays.items()}
    return Record({"environment": to_json(Drifting(cycles=4))}, {**ends, "updates": np.arange(5), **made}, {})


RISEN = [0.0, 0.3, 0.6, 0.45, 0.2]  # a tenth below its best so far at evaluation 3, and never below its start


@pytest.mark.parametrize(
    ("entropy", "share"),
    [
        ([1.0, 0.9, 0.4, 0.4, 0.4], 0.6),  # lost a week before the fall
        ([1.0, 0.9, 0.7, 0.1, 0.1], 0.3),  # what is lost with the fall itself is no warning
    ],
)
def test_a_warning_is_a_week_older_than_the_fall_from_the_best_so_far(entropy: list[float], share: float) -> None:
    found = run(gold=RISEN, entropy=entropy)
    assert falls_at(found).tolist() == [3]
    assert lost(found) == pytest.approx([share]) and warned(found).tolist() == [float(share > 0.5)]


def test_who_never_falls_may_be_warned_up_to_a_week_before_the_end() -> None:
    found = run(gold=[0.0, 0.1, 0.2, 0.3, 0.25], entropy=[1.0, 0.9, 0.8, 0.7, 0.1])
    assert falls_at(found).tolist() == [5] and lost(found) == pytest.approx([0.3])


def test_longer_and_better_are_both_needed() -> None:
    for length, reward, alarm in ((140.0, 1.0, 1.0), (140.0, -1.0, 0.0), (120.0, 1.0, 0.0)):
        found = run(length=[100.0, 100.0, 100.0, 100.0, length], reward=[0.0, 0.0, 0.0, 0.0, reward])
        assert has_grown(found).tolist() == [alarm]


def test_an_exploit_is_read_off_between_the_evaluations_around_a_nat() -> None:
    """The KL is 1 a quarter of the way from 0.5 to 2.5."""
    found = run(kl_policy_ref=[0.0, 0.5, 2.5, 3.0, 4.0], exploit=[0.0, 0.1, 0.5, 0.6, 0.9])
    assert at_nats(found) == pytest.approx([0.2])
    assert at_nats(run(kl_policy_ref=[0.0, 0.1, 0.2, 0.3, 0.4], exploit=[0.0, 0.1, 0.5, 0.6, 0.9])).tolist() == [0.9]


@pytest.mark.parametrize(
    ("kl", "open_"),
    [
        ([0.0, 0.4, 0.8, 1.2, 1.6], True),  # from 0.8 to 1.2
        ([0.0, 1.24, 1.3, 1.3, 1.3], False),  # in the first update
        ([0.0, 0.83, 1.42, 1.5, 1.5], False),  # from 0.83 to 1.42
        ([0.0, 0.2, 0.3, 0.4, 0.5], False),  # never
    ],
)
def test_an_arm_that_leaps_over_a_nat_is_not_compared_there(kl: list[float], open_: bool) -> None:
    walks = run(kl_policy_ref=[0.0, 0.5, 0.9, 1.1, 1.2])
    assert resolved({"one": walks}).open
    assert resolved({"one": walks, "other": run(kl_policy_ref=kl)}).open == open_


def test_an_exploit_over_the_updates_is_the_mean_without_the_start() -> None:
    assert over_updates(run(exploit=[9.0, 0.1, 0.2, 0.3, 0.4])) == pytest.approx([0.25])
