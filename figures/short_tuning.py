"""Cheap tuning, for arms whose runs cost much: short runs, a few rates, and one more where the best is at an end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sims.experiments.experiment import Experiment

from .committed import Point, Tuned

Scores = Callable[[Mapping[Any, Experiment]], dict[Any, float]]


@dataclass(frozen=True)
class Short:
    """Tune by runs of fewer updates, and by the score over the run, so that a ceiling does not choose.

    Grids are geometric and of one setting. An arm whose best value is at an end tries the one beyond, so often as
    `widen` says: the rule is the same for every arm, the number of points is not."""

    updates: int
    evaluations: int
    widen: int = 1


def tune(
    candidates: Mapping[str, Callable[[Point], Experiment]],
    grids: Mapping[str, Sequence[Point]],
    runs: int,
    short: Short,
    scores_of: Scores,
) -> list[Tuned]:
    """The best point of each arm. candidates: the tuning experiment of an arm at a point; scores_of: the mean score
    over the run of experiments by key, -inf where there is none."""
    points: dict[str, list[Point]] = {name: list(grids[name]) for name in candidates}
    scores: dict[Any, float] = {}
    best: dict[str, int] = {}
    for _ in range(1 + short.widen):
        missing = {
            (name, i): candidates[name](point).replace(updates=short.updates, evaluations=short.evaluations)
            for name, tried in points.items()
            for i, point in enumerate(tried)
            if (name, i) not in scores
        }
        scores |= scores_of(missing)
        best = {name: max(range(len(tried)), key=lambda i: scores[name, i]) for name, tried in points.items()}
        wider = {name: beyond(tried, best[name]) for name, tried in points.items()}
        points = {name: [*tried, further] if (further := wider[name]) else tried for name, tried in points.items()}
    tuned = []
    for name, tried in points.items():
        done = [point for i, point in enumerate(tried) if (name, i) in scores]
        tuned.append(Tuned(name, done, [scores[name, i] for i in range(len(done))], runs, best[name]))
    return tuned


def beyond(points: Sequence[Point], chosen: int) -> Point | None:
    """The point as far beyond an end of a geometric grid of one setting as its neighbour is before it, if that end is
    what was chosen; else None."""
    (name,) = points[0]
    tried, taken = sorted(point[name] for point in points), points[chosen][name]
    if taken not in (tried[0], tried[-1]):
        return None
    before = tried[1] if taken == tried[0] else tried[-2]
    return {name: float(f"{taken * taken / before:.3g}")}
