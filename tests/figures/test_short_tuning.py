"""Tuning by short runs: which rates are tried, how often, and which is taken."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest

from figures.lab import apply
from figures.short_tuning import Short, beyond, tune
from sims.core.algorithms.policy_gradient import RLOO
from sims.environments import BanditR1
from sims.experiments.experiment import Experiment
from sims.policies import Table

ARM = Experiment("arm", BanditR1(), Table(), RLOO(), updates=100, evaluations=10)
GRID = [{"learning_rate": rate} for rate in (0.1, 0.3, 1.0)]


@pytest.mark.parametrize(
    ("best_at", "widen", "tried", "taken"),
    [
        (0.3, 2, [0.1, 0.3, 1.0], 0.3),  # inside: nothing beyond is tried
        (3.33, 1, [0.1, 0.3, 1.0, 3.33], 3.33),
        (11.1, 1, [0.1, 0.3, 1.0, 3.33], 3.33),  # still at the end; it may be tried once
        (11.1, 3, [0.1, 0.3, 1.0, 3.33, 11.1, 37.0], 11.1),  # inside at last
        (0.01, 1, [0.1, 0.3, 1.0, 0.0333], 0.0333),
    ],
)
def test_the_grid_grows_where_the_best_rate_is_at_its_end(
    best_at: float, widen: int, tried: list[float], taken: float
) -> None:
    ran: list[Experiment] = []

    def scores_of(runs: Mapping[Any, Experiment]) -> dict[Any, float]:
        ran.extend(runs.values())
        return {key: -abs(math.log(e.optimiser.learning_rate / best_at)) for key, e in runs.items()}

    (tuned,) = tune({"a": lambda point: apply(ARM, point)}, {"a": GRID}, 2, Short(50, 5, widen), scores_of)
    assert [point["learning_rate"] for point in tuned.points] == pytest.approx(tried)
    assert tuned.points[tuned.chosen]["learning_rate"] == pytest.approx(taken)
    assert len(tuned.scores) == len(tried) == len(ran) and tuned.runs == 2
    assert {(e.updates, e.evaluations) for e in ran} == {(50, 5)}


def test_what_has_no_score_is_not_taken() -> None:
    scores = {0.1: -math.inf, 0.3: 0.2, 1.0: 0.1}
    (tuned,) = tune(
        {"a": lambda point: apply(ARM, point)},
        {"a": GRID},
        1,
        Short(50, 5, 0),
        lambda runs: {key: scores[e.optimiser.learning_rate] for key, e in runs.items()},
    )
    assert tuned.chosen == 1


def test_beyond_is_a_step_of_the_grid_further() -> None:
    assert beyond(GRID, 1) is None
    assert beyond(GRID, 2) == {"learning_rate": pytest.approx(1 / 0.3, rel=1e-2)}
    assert beyond([{"beta": 2.0}, {"beta": 1.0}], 1) == {"beta": 0.5}
