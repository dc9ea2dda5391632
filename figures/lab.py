"""Where figures get their records: from disk, from the repository, or from a run; and how arms are tuned fairly."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sims.core.experiment import Experiment
from sims.core.obtain import Progress, obtain
from sims.core.store import Record, Store, load_committed

from .measures import final_scores

TUNING_SEED = 1_000_003  # tuning runs draw from this seed; judged runs never do
Point = Mapping[str, float]
COMMITTED = Path(__file__).parent / "records"


@dataclass(frozen=True)
class Tuned:
    """How one arm's settings were chosen: every point of the grid with its mean score, and the point taken."""

    arm: str
    points: list[Point]
    scores: list[float]
    runs: int
    chosen: int


@dataclass
class Lab:
    """What a figure asks for records.

    quick: shrunken runs, for looking at the machinery; no verdict follows from them. full: compute even what is
    committed. runs: overrides the runs of judged arms. tuned: the record of every choice made by tuning.
    """

    store: Store
    jobs: int = 1
    quick: bool = False
    full: bool = False
    force: bool = False
    runs: int | None = None
    progress: Callable[[Progress], None] = lambda progress: None
    tuned: list[Tuned] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)

    def records(self, arms: Mapping[str, Experiment]) -> dict[str, Record]:
        """The record of each arm."""
        if self.quick:
            arms = {name: shrink(arm) for name, arm in arms.items()}
        elif self.runs is not None:
            arms = {name: arm.replace(runs=self.runs) for name, arm in arms.items()}
        found = self._obtain(arms)
        self.hashes += [record.hash for record in found.values()]
        return found

    def tuned_records(
        self, arms: Mapping[str, Experiment], grids: Mapping[str, Sequence[Point]], tuning_runs: int = 10
    ) -> dict[str, Record]:
        """Tune each arm on the tuning seed, then run it with its best settings on its own seed.

        grids: the points that each arm tries, as many for every arm: a comparison of unequal budgets is refused. The
        point with the largest mean final score is taken.
        """
        if len({len(grids[name]) for name in arms}) > 1:
            raise ValueError(f"grids of unequal size: { ({name: len(grids[name]) for name in arms}) }")
        if self.quick:
            return self.records({name: apply(arm, grids[name][len(grids[name]) // 2]) for name, arm in arms.items()})
        candidates = {
            (name, i): apply(arm, point).replace(name=f"{arm.name}-tuning", seed=TUNING_SEED, runs=tuning_runs)
            for name, arm in arms.items()
            for i, point in enumerate(grids[name])
        }
        records = self._obtain(candidates)
        chosen = {}
        for name, arm in arms.items():
            points = list(grids[name])
            scores = [float(final_scores(records[name, i]).mean()) for i in range(len(points))]
            best = int(np.argmax(scores))
            self.tuned.append(Tuned(name, points, scores, candidates[name, best].runs, best))
            chosen[name] = apply(arm, points[best])
        return self.records(chosen)

    def _obtain(self, arms: Mapping[object, Experiment]) -> dict:
        committed = {} if self.full or self.quick else self._committed(arms)
        wanted = {name: arm for name, arm in arms.items() if name not in committed}
        found = obtain(list(wanted.values()), self.store, self.jobs, self.force, self.progress)
        return committed | dict(zip(wanted, found, strict=True))

    def _committed(self, arms: Mapping[object, Experiment]) -> dict[object, Record]:
        found = {name: load_committed(COMMITTED, arm.name, arm.to_json()) for name, arm in arms.items()}
        return {name: record.record for name, record in found.items() if record is not None}


def product(**values: Sequence[float]) -> list[Point]:
    """Every combination of the values of several fields: product(learning_rate=(0.1, 0.3), beta=(0.1, 1.0))."""
    return [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]


def apply(arm: Experiment, point: Point) -> Experiment:
    """The arm with a grid point's settings, each a field of its optimiser or of its algorithm."""
    for name, value in point.items():
        part = "optimiser" if name in arm.optimiser.hints() else "algorithm"
        arm = arm.replace(**{part: getattr(arm, part).replace(**{name: value})})
    return arm


def shrink(arm: Experiment) -> Experiment:
    """A run of the same kind that takes no time: 4 runs, and a fraction of the updates."""
    turn = arm.schedule.updates_per_batch
    updates = max(turn, min(arm.updates // 10, 20) // turn * turn)
    return arm.replace(name=f"{arm.name}-quick", runs=4, updates=updates, evaluations=min(arm.evaluations, updates, 5))


def tuning_json(tuned: Sequence[Tuned]) -> str:
    """The whole grid of every tuned arm, for the report's data file."""
    return json.dumps([t.__dict__ for t in tuned], indent=1)
