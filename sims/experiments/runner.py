"""From experiments to records: what is on disk is read, the rest is stacked, run in worker processes, and written.

One queue for all who ask. `Runner.records` may be called from several threads, one a figure: what they ask for is run
together, arms of several figures in one stack, and each goes on as soon as its own records are there.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sims.core.spec import Spec

from .code_digest import sources_digest
from .costs import Costs
from .engines import Engine, hire
from .experiment import Experiment, stack_key
from .record_schema import check
from .store import Arrays, Record, Store, Wanted, record_key

SMALL = 3.0  # predicted core-seconds that are run at once here: to start workers takes as long
LEAST_STACK = 256  # runs that a stack keeps when it is split so that all workers have something to do


@dataclass(frozen=True)
class Progress:
    """How far a runner is: records asked for, found on disk, done now; and work done of how much, in predicted
    core-seconds."""

    asked: int
    cached: int
    done: int
    work_done: float
    work: float
    running: str


def sources_of(experiment: Experiment) -> str:
    """Digest of the code that an experiment runs through; of classes defined elsewhere, of their own source."""
    parts = (experiment.environment, experiment.policy, experiment.algorithm)
    # A class defined elsewhere may extend one of ours, whose code it then runs through too.
    classes = [cls for part in parts for cls in type(part).__mro__ if issubclass(cls, Spec)]
    ours = [cls.__module__ for cls in classes if cls.__module__.partition(".")[0] in ("sims", "llm")]
    digest = sources_digest(sorted({*ours, experiment.environment.executor.partition(":")[0]}))
    foreign = [inspect.getsource(cls) for cls in classes if cls.__module__ not in ours]
    return hashlib.sha256("".join([digest, *foreign]).encode()).hexdigest() if foreign else digest


def find_or_run(
    experiments: Sequence[Experiment],
    store: Store,
    jobs: int = 1,
    force: bool = False,
    progress: Callable[[Progress], None] = lambda progress: None,
    engine: str = "processes",
    engine_options: Mapping[str, str] | None = None,
) -> list[Record]:
    """The records of experiments, in their order; those that are missing are run first.

    jobs: stacks at a time, each at one thread; 1 runs here. engine: where they run (`sims.experiments.engines`), with
    options of its own. force: run all again. Stopping at any moment loses the
    stacks that are running and nothing that is finished. Two callers never compute the same record at once: the second
    waits for it.
    """
    runner = Runner(store, jobs, force, progress, engine, engine_options)
    asked = runner.ask(experiments)
    runner.serve(asked.ready.is_set)
    return runner.answer(asked)


@dataclass(eq=False)
class _Wanted:
    """An experiment that is to be run, or has been. urgency: the smaller, the sooner."""

    key: str
    experiment: Experiment
    spec: dict[str, Any]
    sources: str
    stack_key: str
    cost: float
    urgency: float


@dataclass(frozen=True, eq=False)
class Asked:
    """A call of `Runner.ask`: the records that are there, and the keys of those that are not yet."""

    keys: list[str]
    specs: dict[str, dict[str, Any]]
    missing: set[str]
    found: dict[str, Record] = field(default_factory=dict)
    ready: threading.Event = field(default_factory=threading.Event)

    def take(self, found: Mapping[str, Record]) -> None:
        """Of some records, those that are still missing."""
        self.found.update({key: found[key] for key in self.missing & found.keys()})
        self.missing.difference_update(found)
        if not self.missing:
            self.ready.set()


@dataclass(frozen=True, eq=False)
class _Stack:
    number: int
    wanted: list[_Wanted]

    @property
    def cost(self) -> float:
        return sum(w.cost for w in self.wanted)

    @property
    def urgency(self) -> float:
        return min(w.urgency for w in self.wanted)


class Runner:
    """Finds, runs and saves records for all who ask.

    The thread that calls `serve` runs them, or hands them to workers; the others wait in `records`.
    """

    def __init__(
        self,
        store: Store,
        jobs: int = 1,
        force: bool = False,
        progress: Callable[[Progress], None] = lambda progress: None,
        engine: str = "processes",
        engine_options: Mapping[str, str] | None = None,
    ) -> None:
        self.store, self.jobs, self.force, self.progress = store, jobs, force, progress
        self.engine, self.engine_options = engine, engine_options or {}
        self.costs = Costs(store.root / "costs.json")
        self._lock = threading.RLock()
        self._pending: dict[str, _Wanted] = {}
        self._underway: set[str] = set()  # keys that are being run
        self._ours: set[str] = set()  # keys that were run by this runner, and are not forced to run again
        self._asked: list[Asked] = []
        self._stacks: list[_Stack] | None = None  # of what is pending; None: to be made anew
        self._running: dict[int, tuple[_Stack, float]] = {}  # with the share that is done
        self._numbers = 0
        self._expected: dict[object, dict[str, float]] = {}  # cost of what somebody will ask for, by its key
        self._done = self._cached = 0
        self._seconds_done = 0.0
        self._failure: BaseException | None = None

    def records(self, experiments: Sequence[Experiment], urgency: float = 0.0) -> list[Record]:
        """The records of experiments, in their order; waits until they are there."""
        asked = self.ask(experiments, urgency)
        asked.ready.wait()
        return self.answer(asked)

    def ask(self, experiments: Sequence[Experiment], urgency: float = 0.0) -> Asked:
        """Queue what is missing. urgency: the smaller, the sooner it is run."""
        named = [(e, e.to_json()) for e in experiments]
        keys = [record_key(e.name, spec) for e, spec in named]
        unique = dict(zip(keys, named, strict=True))
        asked = Asked(keys, {key: spec for key, (_, spec) in unique.items()}, set(unique))
        with self._lock:
            for expected in self._expected.values():
                for key in expected.keys() & unique.keys():
                    del expected[key]
            self._asked.append(asked)  # from now on it gets what is finished
            if self._failure is not None:
                asked.ready.set()
        for key, (experiment, spec) in unique.items():
            self._find_or_queue(asked, key, experiment, spec, urgency)
        with self._lock:
            asked.take({})
            self._show()
        return asked

    def answer(self, asked: Asked) -> list[Record]:
        """The records of a call of `ask` that is ready. Raises what stopped the runner, if something did."""
        if asked.missing:
            raise self._failure or RuntimeError("the records are not there yet")
        records = {key: Record(asked.specs[key], r.arrays, r.provenance) for key, r in asked.found.items()}
        return [records[key] for key in asked.keys]

    def _find_or_queue(
        self, asked: Asked, key: str, experiment: Experiment, spec: dict[str, Any], urgency: float
    ) -> None:
        with self._lock:
            if key in self._pending:
                self._pending[key].urgency = min(urgency, self._pending[key].urgency)
            if key in self._pending or key in self._underway or key in asked.found:
                return
            run_before = key in self._ours
        sources = sources_of(experiment)
        record = self.store.load_key(key, sources) if run_before or not self.force else None
        with self._lock:
            if record is not None:
                self._cached += key in asked.missing and not run_before
                asked.take({key: record})
            elif not (key in self._pending or key in self._underway or key in asked.found):
                cost = self.costs.predict(spec)
                self._pending[key] = _Wanted(key, experiment, spec, sources, stack_key(experiment), cost, urgency)
                self._stacks = None

    # Work still to be asked for

    def expect(self, who: object, specs: Mapping[str, Mapping[str, Any]]) -> None:
        """Somebody will ask for these, by their keys, later, as when what was asked first is there: count them as work
        to be done, once however many will ask, until they are asked for or `who` expects others."""
        with self._lock:
            self._expected[who] = {key: self.costs.predict(spec) for key, spec in specs.items()}

    # Running

    def serve(self, finished: Callable[[], bool]) -> None:
        """Run what is asked for until `finished`. Whatever stops it stops those who wait, and the workers."""
        engine: Engine | None = None
        try:
            while not finished():
                with self._lock:
                    self._form_stacks()
                    waiting = bool(self._stacks)
                    # By what the last stack took, where nothing was known when they were asked for.
                    predicted = 0.0 if engine else sum(self.costs.predict(w.spec) for w in self._pending.values())
                if self.engine == "processes":
                    here = self.jobs == 1 or (engine is None and (predicted < SMALL or len(self._stacks or ()) < 2))
                else:
                    here = engine is None and predicted < SMALL
                if waiting and here:
                    self._run_here(self._next())
                elif waiting or self._running:
                    engine = engine or self._hire()
                    self._hand_out(engine)
                else:
                    time.sleep(0.02)  # those who ask are thinking
            if engine is not None and self.engine == "processes":
                _hired[self.engine, self.jobs] = engine
            elif engine is not None:
                engine.end()
        except BaseException as error:
            if engine is not None:
                engine.end()
            self.stop(error)
            raise
        finally:
            self.costs.save()

    def _run_here(self, stack: _Stack) -> None:
        name, cores = _run(self._task(stack), lambda share: self._advance(stack.number, share))
        self._finish(stack, name, cores, adopt=False)

    def _hire(self) -> Engine:
        waiting = _hired.pop((self.engine, self.jobs), None)
        return waiting or hire(self.engine, self.jobs, self.store.root / ".engine", self.engine_options)

    def _hand_out(self, engine: Engine) -> None:
        while engine.free and self._stacks:
            stack = self._next()
            engine.start(stack.number, _run, self._task(stack))
        for number, done, content in engine.events(0.05):
            if done:
                name, cores = content
                self._finish(self._running[number][0], name, cores, adopt=True)
            else:
                self._advance(number, content)

    def _task(self, stack: _Stack) -> _Task:
        return _Task(
            Store(self.store.root.absolute()), [(w.experiment, w.spec, w.sources) for w in stack.wanted], self.force
        )

    def _form_stacks(self) -> None:
        if self._stacks is None:
            self._stacks = []
            for wanted in stacked(list(self._pending.values()), self.jobs):
                self._numbers += 1
                self._stacks.append(_Stack(self._numbers, wanted))

    def _next(self) -> _Stack:
        """The stack to run now: one of the workers takes the costliest, so that none is left for the end; the others
        finish one who asks after the other, the most urgent first."""
        with self._lock:
            self._form_stacks()  # another thread may have asked for more since they were formed
            assert self._stacks
            costliest = max(self._stacks, key=lambda s: s.cost)
            busy_with_large = any(s.cost >= costliest.cost for s, _ in self._running.values())
            most_urgent = min(self._stacks, key=lambda s: (s.urgency, -s.cost))
            alone = self.jobs == 1 or not self._running
            stack = most_urgent if alone or busy_with_large else costliest
            self._stacks.remove(stack)
            for wanted in stack.wanted:
                del self._pending[wanted.key]
                self._underway.add(wanted.key)
            self._running[stack.number] = (stack, 0.0)
            self._show()
            return stack

    def _advance(self, number: int, share: float) -> None:
        with self._lock:
            if number in self._running:
                self._running[number] = (self._running[number][0], share)
                self._show()

    def _finish(self, stack: _Stack, file: str | None, cores: Mapping[str, float], adopt: bool) -> None:
        """A stack is written, or was found done by another process. cores: core-seconds of what was run now."""
        if file is not None and adopt:
            self.store.adopt(file)
        found: dict[str, Record] = {}
        for wanted in stack.wanted:
            record = self.store.load_key(wanted.key, wanted.sources)
            if record is None:
                raise FileNotFoundError(f"{self.store.root}: record {wanted.key} was removed while it was in use")
            found[wanted.key] = record
            if wanted.key in cores:
                self.costs.learn(wanted.spec, cores[wanted.key])
        with self._lock:
            del self._running[stack.number]
            self._seconds_done += stack.cost
            self._done += len(stack.wanted)
            self._underway -= found.keys()
            self._ours |= found.keys()
            for asked in self._asked:
                asked.take(found)
            self._asked = [asked for asked in self._asked if asked.missing]
            self._show()

    def stop(self, error: BaseException) -> None:
        """End the waiting of all who ask, now and later: with this error."""
        with self._lock:
            self._failure = error
            for asked in self._asked:
                asked.ready.set()

    def _show(self) -> None:
        """Tell where things stand. The caller holds the lock."""
        running = sum(stack.cost * share for stack, share in self._running.values())
        work = self._seconds_done + sum(stack.cost for stack, _ in self._running.values())
        work += sum(w.cost for w in self._pending.values())
        work += sum({key: cost for costs in self._expected.values() for key, cost in costs.items()}.values())
        names = ", ".join(sorted({stack.wanted[0].experiment.name for stack, _ in self._running.values()}))
        asked = self._cached + self._done + len(self._pending) + len(self._underway)
        self.progress(Progress(asked, self._cached, self._done, self._seconds_done + running, work, names))


def stacks(experiments: Sequence[Experiment]) -> list[list[Experiment]]:
    """Experiments that can run as one, at most their policy's `largest_stack` of runs together, `larger_stacks` times
    that on a GPU."""
    wanted = [
        _Wanted(str(i), e, {}, "", stack_key(e), float(e.runs * e.updates), 0.0) for i, e in enumerate(experiments)
    ]
    return [[w.experiment for w in stack] for stack in stacked(wanted, 1)]


def stacked(wanted: Sequence[_Wanted], jobs: int) -> list[list[_Wanted]]:
    """`stacks`, costly ones first; with several jobs split further, so that all have something to do to the end."""
    groups: dict[str, list[_Wanted]] = {}
    for w in sorted(wanted, key=lambda w: w.urgency):
        groups.setdefault(w.stack_key, []).append(w)
    share = sum(w.cost for w in wanted) / (2 * jobs)
    found: list[list[_Wanted]] = []
    for group in groups.values():
        largest = group[0].experiment.policy.largest_stack * group[0].experiment.computation.larger_stacks
        runs = sum(w.experiment.runs for w in group)
        parts = math.ceil(runs / largest)
        if jobs > 1 and share > 0:
            parts = max(parts, min(round(sum(w.cost for w in group) / share), runs // LEAST_STACK))
        size = min(largest, math.ceil(runs / max(parts, 1)))
        found.append([])
        for w in group:
            if found[-1] and sum(other.experiment.runs for other in found[-1]) + w.experiment.runs > size:
                found.append([])
            found[-1].append(w)
    return sorted(found, key=lambda stack: -sum(w.cost for w in stack))


@dataclass(frozen=True)
class _Task:
    """One stack, as it travels to another process: experiments with their specs as JSON and digests of sources."""

    store: Store
    experiments: list[tuple[Experiment, dict[str, Any], str]]
    force: bool


def compute(stack: Sequence[Experiment], progress: Callable[[int], None] = lambda updates: None) -> list[Arrays]:
    """The arrays of each experiment of a stack, computed here and written nowhere. progress: see `EnvironmentSpec`.
    Raises SpecError for arrays that are not as `record_schema` says."""
    module, _, function = stack[0].environment.executor.partition(":")
    found: list[Arrays] = getattr(importlib.import_module(module), function)(stack, progress)
    for experiment, arrays in zip(stack, found, strict=True):
        check(arrays, experiment.runs, experiment.evaluations + 1)
    return found


def _run(task: _Task, tell: Callable[[float], None]) -> tuple[str | None, dict[str, float]]:
    """Run what is still missing of a stack, and write it: the file, and the core-seconds of each record.

    tell: which share of it is done.
    """
    experiments = {record_key(e.name, spec): e for e, spec, _ in task.experiments}

    def run(missing: Sequence[Wanted]) -> list[Arrays]:
        stack = [experiments[w.key] for w in missing]
        return compute(stack, lambda done: tell(done / stack[0].updates))

    wanted = [Wanted(e.name, spec, sources, e.runs) for e, spec, sources in task.experiments]
    return task.store.complete(wanted, run, force=task.force)


_hired: dict[tuple[str, int], Engine] = {}  # worker processes stay for the next call, since to start them takes seconds
