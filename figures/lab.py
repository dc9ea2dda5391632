"""Where figures get their records: computed, or read from the repository; and how arms are tuned fairly."""

from __future__ import annotations

import functools
import itertools
import math
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from sims.experiments.code_digest import sources_digest
from sims.experiments.experiment import Experiment
from sims.experiments.measures import deployed_scores, fall, final_scores, mean_scores, part_scores
from sims.experiments.memory import check_size
from sims.experiments.record_file import Arrays, Record
from sims.experiments.runner import Progress, Runner, find_or_run, sources_of
from sims.experiments.store import Store, record_key, spec_hash

from . import committed
from .committed import Committed, Kept, Point, Tuned, tuning_key
from .short_tuning import Short, tune

TUNING_SEED, FINAL_SEED = 1_000_003, 1_000_004  # tuning runs draw from these seeds; test runs never do
FINAL_RUNS = 12
AGREEMENT = 0.02  # of an arm's mean final score, computed here and committed: about half an interval of 50 runs

Measure = Literal["end", "run", "best", "first", "second", "parts", "deployed", "seen", "fall"]

_one_at_a_time = threading.Lock()  # computations without runs are done here, one beside the workers


def best_probability(record: Record) -> np.ndarray:
    """(runs,): final probability of the best response, mean over prompts."""
    return record.arrays["best_mass_final"]


def mean_of_parts(record: Record) -> np.ndarray:
    """(runs,): final score, mean of the two parts of gold."""
    return np.asarray((part_scores(record, "first")[:, -1] + part_scores(record, "second")[:, -1]) / 2)


MEASURES: dict[Measure, Callable[[Record], np.ndarray]] = {
    "end": final_scores,
    "run": mean_scores,
    "best": best_probability,
    "first": lambda record: part_scores(record, "first")[:, -1],
    "second": lambda record: part_scores(record, "second")[:, -1],
    "parts": mean_of_parts,
    "deployed": lambda record: deployed_scores(record)[:, 1:].mean(1),
    "fall": fall,
    "seen": lambda record: record.arrays["reward"][:, -1] - record.arrays["reward"][:, 0],  # the learner's own reward
}


@dataclass(frozen=True)
class Compared:
    """An arm that was computed though it is committed: whether to the same bits, and else how far its mean final score
    is away; where a record has no score, its largest relative difference."""

    arm: str
    hash: str
    same_bits: bool
    difference: float
    agrees: bool


@dataclass
class Lab:
    """What a figure asks for records.

    quick: shrunken runs, for looking at the machinery; no verdict follows from them. full: compute and tune
    everything, though it be committed. runs: overrides the runs of tested arms. kept: where to note what is to be
    committed, if anything. kept_before: what is committed. live: keys of committed records that are computed all the
    same. runner: a queue shared with other figures; without one, records are run as they are asked for. urgency: the
    smaller, the sooner that queue serves this figure. change: what is changed on every tested arm. device: where arms
    are tuned and tested, but language models, which find their own; what is committed was computed on a CPU.
    tuning_shift: added to the seeds of all runs that choose settings; what is committed was tuned without.
    Filled while working: tuned, every choice made by tuning; where each tested record is from, by its hash; compared,
    what live arms came to beside their committed records.
    """

    store: Store
    jobs: int = 1
    quick: bool = False
    full: bool = False
    force: bool = False
    runs: int | None = None
    progress: Callable[[Progress], None] = lambda progress: None
    scale: str = "tiny"
    kept_before: Committed | None = None
    kept: Kept | None = None
    live: Collection[str] = ()
    runner: Runner | None = None
    urgency: float = 0.0
    change: Callable[[Experiment], Experiment] | None = None
    device: str = "cpu"
    tuning_shift: int = 0
    tuned: list[Tuned] = field(default_factory=list)
    where_from: dict[str, str] = field(default_factory=dict)
    compared: list[Compared] = field(default_factory=list)

    @property
    def hashes(self) -> list[str]:
        """Of the tested records."""
        return list(self.where_from)

    @property
    def stale(self) -> list[str]:
        """Hashes of committed records that today's code no longer gives."""
        return [record for record, source in self.where_from.items() if source == "stale"]

    def records(
        self, arms: Mapping[str, Experiment], same_bits: Mapping[str, Record] = MappingProxyType({})
    ) -> dict[str, Record]:
        """The record of each arm. same_bits: by the name of an arm that is to have the very numbers of another, the
        other's record: the two are computed together, or both read, as two processors differ in the last bits."""
        return self._tested(self.sized(self._on_device(arms)), same_bits)

    def tuned_records(
        self,
        arms: Mapping[str, Experiment],
        grids: Mapping[str, Sequence[Point]],
        tuning_runs: int = 10,
        finalists: int = 0,
        runs: Mapping[str, int] | None = None,
        by: Measure = "end",
        short: Short | None = None,
        tuning_seed: int = TUNING_SEED,
        tolerance: float = 0.0,
    ) -> dict[str, Record]:
        """Tune each arm on the tuning seeds, then run it with its best settings on its own seed; its record's
        provenance says how, under "tuning".

        grids: the points that each arm tries, as many for every arm: a comparison of unequal budgets is refused. The
        point with the largest mean final score is taken; with finalists, so many of each arm's best are first run
        again, FINAL_RUNS times on another seed, and these runs alone decide: of many points with a few runs each, the
        one that looks best was lucky. A tuning that is committed is read, and nothing is run. runs: test runs of arms
        that take another number than their own; tuning is the same. by: what is to be large, where that is
        not the score at the end: what arms are tested by. short: tune by shorter runs, and by the score over the run;
        it goes with neither `by` nor finalists. tuning_seed: of the runs that choose; a figure that tunes on several
        of them sees how far its verdicts hang on the choice. tolerance: points within so much of the best mean count
        as equal, and of these the first in the grid is taken: where a score saturates, as in a learning rate, the best
        of a plateau would be a matter of luck, and as likely its end as its start.
        """
        if short is not None and (by != "end" or finalists):
            raise ValueError(f"short is by the score over the run: not with by={by!r}, finalists={finalists}")
        if tolerance and (short is not None or finalists):
            raise ValueError(f"tolerance goes with neither short nor finalists: tolerance={tolerance}")
        if len({len(grids[name]) for name in arms}) > 1:
            raise ValueError(f"grids of unequal size: { ({name: len(grids[name]) for name in arms}) }")
        if self.quick:
            return self.records({name: apply(arm, grids[name][len(grids[name]) // 2]) for name, arm in arms.items()})
        tuning_seed, final_seed = tuning_seed + self.tuning_shift, FINAL_SEED + self.tuning_shift
        how: dict[str, float] = {"seed": tuning_seed, "final_seed": final_seed, "final_runs": FINAL_RUNS}
        if by != "end":
            how[by] = 1
        if short is not None:
            how |= {"updates": short.updates, "evaluations": short.evaluations, "widen": short.widen}
        if tolerance:
            how["tolerance"] = tolerance
        key = tuning_key(arms, grids, runs=tuning_runs, finalists=finalists, **how)
        tuned = None if self.full or self.kept_before is None else self.kept_before.tuning(key)
        if tuned is None:
            tuned = self._tune(
                self._on_device(arms), grids, tuning_runs, finalists, MEASURES[by], short, tuning_seed, tolerance
            )
        self.tuned += tuned
        if self.kept is not None:
            self.kept.tunings[key] = tuned
        best = {t.arm: apply(arms[t.arm], t.points[t.chosen]) for t in tuned}
        more = {name: arm.replace(runs=(runs or {}).get(name, arm.runs)) for name, arm in best.items()}
        found = self.records(more)
        return {t.arm: _as_tuned(found[t.arm], t, best[t.arm], by, short) for t in tuned}

    def exact(
        self, name: str, spec: Mapping[str, Any], compute: Callable[[], Arrays], modules: Sequence[str]
    ) -> Record:
        """The record of a computation without runs. spec: all that it depends on, shrunken by the caller if `quick`.

        modules: where its code starts, as `sources_digest` wants it; if that, or what it rests on, changes, it is
        computed again. "module:function" leaves out what only draws or judges.
        """
        sources = sources_digest(modules, packages=("sims", "llm", "figures"))
        name = f"{name}-quick" if self.quick else name
        key, before = record_key(name, spec), self._committed(name, spec)
        if before is not None and key not in self.live and self.kept_before.proven(key, sources):  # type: ignore[union-attr]
            record = before
        else:
            with _one_at_a_time:
                record = self.store.get_or_run(name, spec, compute, sources, force=self.force)
        return self._note(name, key, record, before)

    def _on_device(self, arms: Mapping[str, Experiment]) -> Mapping[str, Experiment]:
        def there(arm: Experiment) -> Experiment:
            return arm.replace(computation=arm.computation.replace(device=self.device))

        if self.device == "cpu":
            return arms
        return {name: arm if arm.environment.text else there(arm) for name, arm in arms.items()}

    def sized(self, arms: Mapping[str, Experiment]) -> Mapping[str, Experiment]:
        """The arms with as many runs and updates as are asked for."""
        if self.change is not None:
            arms = {name: self.change(arm) for name, arm in arms.items()}
        if self.quick:
            return {name: committed.shrink(arm) for name, arm in arms.items()}
        if self.runs is not None:
            arms = {name: arm.replace(runs=self.runs) for name, arm in arms.items()}
        if self.runs is not None or self.change is not None:
            for arm in arms.values():
                check_size(arm)
        return arms

    def _tested(
        self, arms: Mapping[str, Experiment], same_bits: Mapping[str, Record] = MappingProxyType({})
    ) -> dict[str, Record]:
        """Computed, or committed and proven; what is committed is stale if its twin disagrees.

        Of the arms of one kind the first one's twin is run, for it goes through the code of all; theirs, if it
        disagrees. What is to be kept is proven arm by arm.
        """
        keys = {name: record_key(arm.name, arm.to_json()) for name, arm in arms.items()}
        before = {name: self._committed(arm.name, arm.to_json()) for name, arm in arms.items()}
        live = {n: self._is_live(keys[n], arm) for n, arm in arms.items()}
        live |= {n: same_bits[n].source == "live" for n in arms.keys() & same_bits.keys()}
        drawn = {n for n in arms if before[n] and not live[n]}
        doubted = {n for n in drawn if not self.kept_before.proven(keys[n], sources_of(arms[n]))}  # type: ignore[union-attr]
        twinned = list(arms) if self.kept is not None else one_of_each_kind({n: arms[n] for n in arms if n in doubted})
        wanted = [arms[n] for n in arms if n not in drawn] + [committed.shrink(arms[n]) for n in twinned]
        found = iter(self._find_or_run(wanted))
        records = {name: next(found) for name in arms if name not in drawn}
        twins = {name: next(found) for name in twinned}
        wrong = {committed.kind(arms[n]) for n in doubted & twins.keys() if not self._gives(arms[n], twins[n])}
        more = [n for n in arms if n in doubted - twins.keys() and committed.kind(arms[n]) in wrong]
        if more:
            twins.update(zip(more, self._find_or_run([committed.shrink(arms[n]) for n in more]), strict=True))
        tested = {}
        for name, arm in arms.items():
            record = before[name] if name in drawn else records[name]
            assert record is not None
            if name in drawn and name in twins and not self._gives(arm, twins[name]):
                record = Record(record.spec, record.arrays, record.provenance, "stale")
            if self.kept is not None:
                self._keep(keys[name], arm, record, twins[name])
            tested[name] = self._note(name, keys[name], record, None if name in drawn else before[name])
        return tested

    def _gives(self, arm: Experiment, twin: Record) -> bool:
        """Whether an arm's twin, run by this code, gives what it gave when the arm was committed."""
        before = self.kept_before.twin(arm)  # type: ignore[union-attr]
        return before is not None and committed.agree(before, twin)

    def _committed(self, name: str, spec: Mapping[str, Any]) -> Record | None:
        if self.quick or self.kept_before is None:
            return None  # a shrunken arm may be there as a twin, which holds less than is drawn
        return self.kept_before.record(name, spec)

    def _is_live(self, key: str, arm: Experiment) -> bool:
        """Whether an arm that is committed is computed, or was."""
        if self.full or key in self.live:
            return True
        return not self.force and self.store.load_key(key, sources_of(arm)) is not None

    def _keep(self, key: str, arm: Experiment, record: Record, twin: Record) -> None:
        """Put a record into the file with its twin; a stale one with the twin that it had, which says that it is."""
        assert self.kept is not None
        small = committed.shrink(arm)
        kept = self.kept_before.twin(arm) if record.source == "stale" else twin  # type: ignore[union-attr]
        if kept is not None:
            self.kept.twins[key] = (record_key(small.name, small.to_json()), kept)
        if record.source == "committed":
            self.kept.agreed[key] = [sources_of(arm)]

    def _note(self, name: str, key: str, record: Record, before: Record | None) -> Record:
        """Remember where a tested record is from, and how it compares with the committed one."""
        self.where_from[record.hash] = record.source
        if before is not None and record.source == "live" and record.hash not in {c.hash for c in self.compared}:
            self.compared.append(compare(name, record, before))
        return record if self.kept is None else self.kept.watch(key, record)

    def _tune(
        self,
        arms: Mapping[str, Experiment],
        grids: Mapping[str, Sequence[Point]],
        tuning_runs: int,
        finalists: int,
        measure: Callable[[Record], np.ndarray],
        short: Short | None = None,
        tuning_seed: int = TUNING_SEED,
        tolerance: float = 0.0,
    ) -> list[Tuned]:
        """Run every candidate, and the best of them again; take the best of the last that were run, or without
        finalists the first within `tolerance` of it."""

        def candidate(arm: Experiment, point: Point) -> Experiment:
            return apply(arm, point).replace(name=f"{arm.name}-tuning", seed=tuning_seed, runs=tuning_runs)

        if short is not None:
            made = {name: functools.partial(candidate, arm) for name, arm in arms.items()}
            return tune(made, grids, tuning_runs, short, lambda runs: self._means(runs, mean_scores))
        candidates = {name: [candidate(arm, point) for point in grids[name]] for name, arm in arms.items()}
        last = {"seed": FINAL_SEED + self.tuning_shift, "runs": FINAL_RUNS}
        last_runs = [e.replace(**last) for c in candidates.values() for e in c[:finalists]]
        self._expect([*last_runs, *self.sized(arms).values()])
        tried_once = {(name, i): e for name, tried in candidates.items() for i, e in enumerate(tried)}
        first = self._means(tried_once, measure)
        best = {name: sorted(range(len(tried)), key=lambda i: -first[name, i]) for name, tried in candidates.items()}
        self._expect(list(self.sized(arms).values()))
        again = {(name, i): candidates[name][i].replace(**last) for name in best for i in best[name][:finalists]}
        final = self._means(again, measure)
        self._expect([])
        tuned = []
        for name, tried in candidates.items():
            every = [first[name, i] for i in range(len(tried))]
            finals = [(i, final[name, i]) for i in best[name][:finalists]]
            within = next(i for i, score in enumerate(every) if score >= every[best[name][0]] - tolerance)
            chosen = max(finals, key=lambda f: f[1])[0] if finals else within
            runs = FINAL_RUNS if finals else 0
            tuned.append(Tuned(name, list(grids[name]), every, tried[0].runs, chosen, finals, runs))
        return tuned

    def _expect(self, later: Sequence[Experiment]) -> None:
        """Tell the queue what this figure will still ask for."""
        if self.runner is not None:
            named = [(e.name, e.to_json()) for e in later]
            self.runner.expect(id(self), {record_key(name, spec): spec for name, spec in named})

    def _means(self, runs: Mapping[Any, Experiment], measure: Callable[[Record], np.ndarray]) -> dict[Any, float]:
        """Mean score of each, at the end or over the run; what gives none is behind all that do."""
        records = dict(zip(runs, self._find_or_run(list(runs.values())), strict=True))
        means = {key: float(measure(record).mean()) for key, record in records.items()}
        return {key: -math.inf if math.isnan(mean) else mean for key, mean in means.items()}

    def _find_or_run(self, arms: Sequence[Experiment]) -> list[Record]:
        if self.runner is not None:
            return self.runner.records(arms, self.urgency)
        return find_or_run(arms, self.store, self.jobs, self.force, self.progress)


def one_of_each_kind(arms: Mapping[str, Experiment]) -> list[str]:
    """The first name of every kind."""
    first: dict[str, str] = {}
    for name, arm in arms.items():
        first.setdefault(committed.kind(arm), name)
    return list(first.values())


def compare(arm: str, live: Record, before: Record) -> Compared:
    """A record that was computed beside the committed one. They agree if their mean final scores are AGREEMENT apart
    at most; without a score, if all means over runs are (`means_apart`), and without runs, if all numbers are equal to
    a relative `committed.TOLERANCE`."""
    if all(name in live.arrays and _same_bits(live.arrays[name], before.arrays[name]) for name in before.arrays):
        return Compared(arm, live.hash, True, 0.0, True)
    try:
        difference = abs(float(final_scores(live).mean()) - float(final_scores(before).mean()))
    except KeyError:
        if "runs" not in live.spec:
            return Compared(arm, live.hash, False, math.nan, committed.agree(before, live))
        difference = means_apart(live, before)
    return Compared(arm, live.hash, False, difference, difference <= AGREEMENT)


def means_apart(live: Record, before: Record) -> float:
    """The largest difference between two records' means over runs, of any number that a record has for each run, in
    units of its array's largest mean where that is above 1: one run may go another way on another processor. Log-probs
    are compared as probabilities."""
    apart = [0.0]
    for name, old in before.arrays.items():
        if old.dtype.kind != "f" or not old.shape or len(old) != before.spec["runs"]:
            continue
        if name not in live.arrays or live.arrays[name].shape != old.shape:
            return math.inf
        both = [x.astype(float) for x in (live.arrays[name], old)]
        if name.startswith("logp"):
            both = [np.exp(x) for x in both]
        now, then = (x.mean(0) for x in both)
        gone = np.isnan(now) != np.isnan(then)
        scale = max(1.0, float(np.nanmax(np.abs(then), initial=0.0)))
        apart.append(math.inf if gone.any() else float(np.nanmax(np.abs(now - then), initial=0.0)) / scale)
    return max(apart)


def _as_tuned(record: Record, tuned: Tuned, arm: Experiment, by: Measure, short: Short | None) -> Record:
    """The record, its provenance saying how its settings were chosen: "by" what, and what they scored then, "mean" over
    so many "runs" as the best "among" so many points, on the arm "of" these settings, where its runs were as long."""
    by = "run" if short is not None else by
    how = {"arm": tuned.arm, "points": tuned.points, "scores": tuned.scores, "chosen": tuned.chosen, "by": by}
    if short is None or (short.updates, short.evaluations) == (arm.updates, arm.evaluations):
        finals = dict(tuned.finals)
        runs, among = (tuned.final_runs, len(finals)) if finals else (tuned.runs, len(tuned.points))
        mean = finals.get(tuned.chosen, tuned.scores[tuned.chosen])
        how |= {"mean": mean, "runs": runs, "among": among, "of": settings(arm.to_json())}
    return Record(record.spec, record.arrays, {**record.provenance, "tuning": how}, record.source)


def settings(spec: Mapping[str, Any]) -> str:
    """The hash of all of an arm's spec but what its noise is drawn from, how often, and on what it is computed."""
    return spec_hash({name: value for name, value in spec.items() if name not in ("seed", "runs", "computation")})


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a, b, equal_nan=a.dtype.kind in "fc" and b.dtype.kind in "fc")


def product(**values: Sequence[float]) -> list[Point]:
    """Every combination of the values of several fields: product(learning_rate=(0.1, 0.3), beta=(0.1, 1.0))."""
    return [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]


def apply(arm: Experiment, point: Point) -> Experiment:
    """The arm with a grid point's settings, each a field of its optimiser or of its algorithm; "dpo.beta" is one of the
    loss of that kind in a mixture."""
    for name, value in point.items():
        kind, dot, own = name.partition(".")
        if dot:
            mixture: Any = arm.algorithm
            losses = tuple(x.replace(**{own: value}) if x.kind == kind else x for x in mixture.losses)
            arm = arm.replace(algorithm=mixture.replace(losses=losses))
            continue
        part = "optimiser" if name in arm.optimiser.hints() else "algorithm"
        arm = arm.replace(**{part: getattr(arm, part).replace(**{name: value})})
    return arm
