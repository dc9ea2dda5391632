"""Scores by the distance from the reference: falls from a peak, levels that runs reach, exact frontiers, and fits."""

from __future__ import annotations

import numpy as np
import pytest

from figures.arms.over_kl import EDGES, fall, frontier, gao_fit, reached
from figures.arms.over_updates import TREE, longer_row
from figures.arms.proxies import lowest
from sims.experiments.store import Record


def test_a_fall_is_from_the_peak_of_the_other_half_of_the_runs() -> None:
    """Even runs peak at the first point and odd ones at the second, so that each is read where the others peak."""
    even, odd = [0.9, 0.5, 0.0], [0.1, 0.8, 0.0]
    assert fall(np.array([even, odd, even, odd])) == pytest.approx([0.5, 0.1, 0.5, 0.1])
    assert fall(np.array([[0.2, 0.3, 0.7]] * 2)) == pytest.approx([-0.4, -0.4])  # one that goes on rising


def test_a_level_counts_that_nine_runs_in_ten_have_evaluations_on_either_side_of() -> None:
    """Half of the runs come to an edge, all but one in twenty to an earlier one."""
    near, far = EDGES[4] * 1.01, EDGES[9] * 1.01
    ends = np.array([0.01] + [near] * 9 + [far] * 10)
    kl = np.stack([np.zeros(20), np.full(20, 0.01), ends], axis=1)
    arrays = {"kl_policy_ref": kl, "gold": np.zeros((20, 3)), "updates": np.arange(3)}
    fixed = {"reference_reward": np.zeros(20), "best_reward": np.ones(20), "diverged_at": np.full(20, -1)}
    assert reached([Record({}, {**arrays, **fixed}, {})]) == slice(0, 5)


def test_a_frontier_is_of_what_it_aims_at_and_scored_by_both() -> None:
    """Two responses, the second is what gold wants and the first what the learned reward wants: at a small β all mass
    is where the learned reward wants it, its score 1, and gold's is as far below the reference's."""
    arrays = {
        "logp_ref": np.log([[[0.5, 0.5]]]),
        "rewards": np.array([[0.0, 1.0]]),
        "learned_rewards": np.array([[[1.0, 0.0]]]),
    }
    aimed = frontier(Record({}, arrays, {}), "learned_rewards", "rl")
    assert aimed.proxy[-1] == pytest.approx(1.0, abs=1e-9) and aimed.gold[-1] == pytest.approx(-1.0, abs=1e-9)
    assert (np.diff(aimed.proxy) > 0).all() and aimed.kl[-1] == pytest.approx(np.log(2), abs=1e-9)
    wanted = frontier(Record({}, arrays, {}), "rewards", "best of n")
    assert wanted.gold[0] == pytest.approx(0.5)  # of two draws the best is missed a quarter of the time


@pytest.mark.parametrize("family", ["rl", "best of n"])
def test_a_curve_of_the_fitted_form_is_fitted_exactly(family: str) -> None:
    kl = np.geomspace(0.1, 20.0, 12)
    d = np.sqrt(kl)
    gold = d * (0.7 - 0.2 * (np.log(d) if family == "rl" else d))
    found = gao_fit(kl, gold, family)
    assert (found.alpha, found.beta) == pytest.approx((0.7, 0.2)) and found.error < 1e-12
    assert found.curve(d) == pytest.approx(gold)


def test_no_run_is_below_the_lowest_score() -> None:
    """Of two problems the worst response is at −1 and at −9: their mean is no bound."""
    rewards = np.array([[[0.0, 1.0]], [[-4.0, 1.0]]])
    arrays = {"rewards": rewards, "reference_reward": np.full(2, 0.5), "best_reward": np.ones(2)}
    assert lowest(Record({}, arrays, {})) == pytest.approx(-9.0)


@pytest.mark.parametrize(("at_the_longest", "method"), [(0.8, "Gaffke"), (0.0, "Student and bootstrap-t")])
def test_where_responses_are_as_long_as_can_be_the_interval_is_bounded(at_the_longest: float, method: str) -> None:
    def record(mean: float, share: float) -> Record:
        ends = mean + 0.1 * np.random.default_rng(0).normal(size=100)
        ends[: round(100 * share)] = TREE.max_length
        arrays = {"length": np.stack([np.full(100, 2.0), ends], axis=1), "gold": np.zeros((100, 2))}
        fixed = {"reference_reward": np.zeros(100), "best_reward": np.ones(100), "diverged_at": np.full(100, -1)}
        return Record({}, {**arrays, **fixed, "updates": np.arange(2)}, {})

    arms = {"length/dpo/biased": record(3.0, at_the_longest), "length/dpo/unbiased": record(2.0, at_the_longest / 2)}
    assert f"runs, {method})" in longer_row(arms, "dpo", "gold_and_proxy").why
