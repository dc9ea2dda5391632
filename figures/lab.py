"""Where figures get their records: from disk, from the repository, or from a run; and how arms are tuned fairly."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sims.experiments.code_digest import sources_digest
from sims.experiments.experiment import Experiment
from sims.experiments.measures import final_scores
from sims.experiments.runner import Progress, obtain
from sims.experiments.store import Arrays, CommittedRecord, Record, Store

from . import committed
from .committed import Point, Tuned

TUNING_SEED, FINAL_SEED = 1_000_003, 1_000_004  # tuning runs draw from these seeds; judged runs never do
FINAL_RUNS = 12


@dataclass(frozen=True)
class Again:
    """An arm that was run though it is committed: its mean final score then and now. Equal but for the processor."""

    arm: str
    committed: float
    now: float


@dataclass
class Lab:
    """What a figure asks for records.

    quick: shrunken runs, for looking at the machinery; no verdict follows from them. full: compute even what is
    committed. runs: overrides the runs of judged arms. keep: commit what was judged (see `committed`). live: names of
    arms that are run even where they are committed, and drawn from that run. Filled while working: tuned, every choice
    made by tuning; hashes of the judged records; stale, those whose twins disagree; again, what live arms came to.
    """

    store: Store
    jobs: int = 1
    quick: bool = False
    full: bool = False
    force: bool = False
    runs: int | None = None
    keep: bool = False
    progress: Callable[[Progress], None] = lambda progress: None
    scale: str = "tiny"
    live: Sequence[str] = ()
    tuned: list[Tuned] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    again: list[Again] = field(default_factory=list)

    def records(self, arms: Mapping[str, Experiment]) -> dict[str, Record]:
        """The record of each arm."""
        arms = self.sized(arms)
        found = self._obtain(arms)
        if self.keep and not self.quick:
            self._keep(arms, found)
        self.hashes += [record.hash for record in found.values()]
        return found

    def tuned_records(
        self,
        arms: Mapping[str, Experiment],
        grids: Mapping[str, Sequence[Point]],
        tuning_runs: int = 10,
        finalists: int = 0,
    ) -> dict[str, Record]:
        """Tune each arm on the tuning seeds, then run it with its best settings on its own seed.

        grids: the points that each arm tries, as many for every arm: a comparison of unequal budgets is refused. The
        point with the largest mean final score is taken; with finalists, so many of each arm's best are first run
        again, FINAL_RUNS times on another seed, and these runs alone decide: of many points with a few runs each, the
        one that looks best was lucky. What is committed was tuned before it was: its grid and scores are read, and
        nothing is run.
        """
        if len({len(grids[name]) for name in arms}) > 1:
            raise ValueError(f"grids of unequal size: { ({name: len(grids[name]) for name in arms}) }")
        if self.quick:
            return self.records({name: apply(arm, grids[name][len(grids[name]) // 2]) for name, arm in arms.items()})
        candidates = {
            name: [
                apply(arm, point).replace(name=f"{arm.name}-tuning", seed=TUNING_SEED, runs=tuning_runs)
                for point in grids[name]
            ]
            for name, arm in arms.items()
        }
        tuned = self._kept_tuning(arms, candidates, finalists) or self._tune(grids, candidates, finalists)
        self.tuned += tuned
        if self.keep:
            committed.keep_tuning(candidates, tuned)
        return self.records({t.arm: apply(arms[t.arm], t.points[t.chosen]) for t in tuned})

    def exact(
        self, name: str, spec: Mapping[str, Any], compute: Callable[[], Arrays], modules: Sequence[str]
    ) -> Record:
        """The record of a computation without runs. spec: all that it depends on, shrunken by the caller if `quick`.

        modules: where its code starts; if that, or what it imports, changes, it is computed again.
        """
        sources = sources_digest(modules, packages=("sims", "llm", "figures"))
        record = self.store.get_or_run(
            f"{name}-quick" if self.quick else name, spec, compute, sources, force=self.force
        )
        self.hashes.append(record.hash)
        return record

    def sized(self, arms: Mapping[str, Experiment]) -> Mapping[str, Experiment]:
        """The arms with as many runs and updates as are asked for."""
        if self.quick:
            return {name: committed.shrink(arm) for name, arm in arms.items()}
        if self.runs is not None:
            return {name: arm.replace(runs=self.runs) for name, arm in arms.items()}
        return arms

    def _kept_tuning(
        self, arms: Mapping[str, Experiment], candidates: Mapping[str, Sequence[Experiment]], finalists: int
    ) -> list[Tuned] | None:
        """How the arms were tuned when they were committed; None unless every arm it chose lies there as a record."""
        found = None if self.full else committed.load_tuning(candidates)
        if found is None or any(len(t.finals) != min(finalists, len(t.points)) for t in found):
            return None
        chosen = self.sized({t.arm: apply(arms[t.arm], t.points[t.chosen]) for t in found})
        return found if all(committed.load(arm) is not None for arm in chosen.values()) else None

    def _tune(
        self, grids: Mapping[str, Sequence[Point]], candidates: Mapping[str, Sequence[Experiment]], finalists: int
    ) -> list[Tuned]:
        """Run every candidate, and the best of them again; take the best of the last that were run."""
        scores = self._mean_scores({(name, i): e for name, tried in candidates.items() for i, e in enumerate(tried)})
        best = {name: sorted(range(len(tried)), key=lambda i: -scores[name, i]) for name, tried in candidates.items()}
        last = self._mean_scores(
            {
                (name, i): candidates[name][i].replace(seed=FINAL_SEED, runs=FINAL_RUNS)
                for name, order in best.items()
                for i in order[:finalists]
            }
        )
        tuned = []
        for name, tried in candidates.items():
            every = [scores[name, i] for i in range(len(tried))]
            finals = [(i, last[name, i]) for i in best[name][:finalists]]
            chosen = max(finals, key=lambda final: final[1])[0] if finals else best[name][0]
            runs = FINAL_RUNS if finals else 0
            tuned.append(Tuned(name, list(grids[name]), every, tried[0].runs, chosen, finals, runs))
        return tuned

    def _mean_scores(self, runs: Mapping[Any, Experiment]) -> dict[Any, float]:
        """Mean final score of each; what gives none is behind all that do."""
        means = {key: float(final_scores(record).mean()) for key, record in self._obtain(runs).items()}
        return {key: -math.inf if math.isnan(mean) else mean for key, mean in means.items()}

    def _obtain(self, arms: Mapping[Any, Experiment]) -> dict[Any, Record]:
        """Committed records where there are any, noted as stale if their twins no longer agree; the rest is run."""
        kept: dict[Any, CommittedRecord] = {}
        if not self.full and not self.quick:
            kept = {name: there for name, arm in arms.items() if (there := committed.load(arm)) is not None}
        wanted = {name: arm for name, arm in arms.items() if name not in kept or name in self.live}
        twins = [committed.shrink(arms[name]) for name in kept]
        found = obtain([*wanted.values(), *twins], self.store, self.jobs, self.force, self.progress)
        for held, twin in zip(kept.values(), found[len(wanted) :], strict=True):
            if not committed.agree(held.twin, twin):
                self.stale.append(held.record.hash)
        records = {name: held.record for name, held in kept.items()}
        for name, record in zip(wanted, found, strict=False):
            if name in records:
                before, now = (float(final_scores(x).mean()) for x in (records[name], record))
                self.again.append(Again(str(name), before, now))
            records[name] = record
        return {name: records[name] for name in arms}

    def _keep(self, arms: Mapping[str, Experiment], records: Mapping[str, Record]) -> None:
        twins = obtain([committed.shrink(arm) for arm in arms.values()], self.store, self.jobs, False, self.progress)
        for (name, arm), twin in zip(arms.items(), twins, strict=True):
            committed.keep(arm, records[name], twin)


def product(**values: Sequence[float]) -> list[Point]:
    """Every combination of the values of several fields: product(learning_rate=(0.1, 0.3), beta=(0.1, 1.0))."""
    return [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]


def apply(arm: Experiment, point: Point) -> Experiment:
    """The arm with a grid point's settings, each a field of its optimiser or of its algorithm."""
    for name, value in point.items():
        part = "optimiser" if name in arm.optimiser.hints() else "algorithm"
        arm = arm.replace(**{part: getattr(arm, part).replace(**{name: value})})
    return arm
