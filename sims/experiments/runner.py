"""From experiments to records: what is on disk is read, the rest is stacked, run in worker processes, and written."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import multiprocessing
import os
import queue
import signal
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any

from sims.core.spec import Spec

from .code_digest import sources_digest
from .experiment import Experiment, stack_key
from .store import Arrays, DamagedRecord, Record, Store


@dataclass(frozen=True)
class Progress:
    """How far a call of `obtain` is: records asked for, found on disk, done now; and run-updates done of how many."""

    asked: int
    cached: int
    done: int
    work_done: int
    work: int
    running: str


def find(experiment: Experiment, store: Store) -> Record | None:
    """The finished record of an experiment, if the sources that made it are today's. A damaged one is named."""
    try:
        return store.load(experiment.name, experiment.to_json(), sources_of(experiment))
    except DamagedRecord as damage:
        warnings.warn(f"{damage}; computing it again", stacklevel=2)
        return None


def sources_of(experiment: Experiment) -> str:
    """Digest of the code that an experiment runs through; of classes defined elsewhere, of their own source."""
    parts = (experiment.environment, experiment.policy, experiment.algorithm)
    # A class defined elsewhere may extend one of ours, whose code it then runs through too.
    classes = [cls for part in parts for cls in type(part).__mro__ if issubclass(cls, Spec)]
    ours = [cls.__module__ for cls in classes if cls.__module__.partition(".")[0] in ("sims", "llm")]
    digest = sources_digest(sorted({*ours, experiment.environment.executor.partition(":")[0]}))
    foreign = [inspect.getsource(cls) for cls in classes if cls.__module__ not in ours]
    return hashlib.sha256("".join([digest, *foreign]).encode()).hexdigest() if foreign else digest


def obtain(
    experiments: Sequence[Experiment],
    store: Store,
    jobs: int = 1,
    force: bool = False,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> list[Record]:
    """The records of experiments, in their order; those that are missing are run first.

    jobs: worker processes, each at one thread; 1 runs here. force: run all again. Stopping at any moment loses what is
    running and nothing that is finished. Two callers never compute the same record at once: the second waits for it.
    """
    unique = {store.path(e.name, e.to_json()): e for e in experiments}
    found = {} if force else {path: record for path, e in unique.items() if (record := find(e, store))}
    missing = [e for path, e in unique.items() if path not in found]
    tasks = [_Task(number, store, stack, force) for number, stack in enumerate(stacks(missing))]
    report = _Report(progress, len(unique), len(unique) - len(missing), tasks)
    report.show()
    alone = jobs == 1 or len(tasks) < 2
    with closing(_done_here(tasks, report) if alone else _done_in_processes(tasks, jobs, report)) as done:
        for task in done:
            report.finish(task)
            found |= {store.path(e.name, e.to_json()): _read(e, store) for e in task.experiments}
    return [found[store.path(e.name, e.to_json())] for e in experiments]


def _read(experiment: Experiment, store: Store) -> Record:
    """A record that was there a moment ago; under its lock if somebody is replacing it just now."""
    name, spec = experiment.name, experiment.to_json()
    record = store.load(name, spec)
    if record is None:
        with store.lock(name, spec):
            record = store.load(name, spec)
    if record is None:
        raise FileNotFoundError(f"{store.path(name, spec)}: removed while it was in use")
    return record


def stacks(experiments: Sequence[Experiment]) -> list[list[Experiment]]:
    """Experiments that can run as one, at most their policy's `largest_stack` of runs together; costly stacks first."""
    groups: dict[str, list[Experiment]] = {}
    for experiment in experiments:
        groups.setdefault(stack_key(experiment), []).append(experiment)
    found: list[list[Experiment]] = []
    for group in groups.values():
        found.append([])
        for experiment in group:
            if found[-1] and sum(e.runs for e in found[-1]) + experiment.runs > experiment.policy.largest_stack:
                found.append([])
            found[-1].append(experiment)
    return sorted(found, key=lambda stack: -_work(stack))


def _work(stack: Sequence[Experiment]) -> int:
    return sum(e.runs * e.updates for e in stack)


@dataclass(frozen=True)
class _Task:
    """One stack, as it travels to another process."""

    number: int
    store: Store
    experiments: list[Experiment]
    force: bool


def compute(stack: Sequence[Experiment], progress: Callable[[int], None] = lambda updates: None) -> list[Arrays]:
    """The arrays of each experiment of a stack, computed here and written nowhere. progress: see `EnvironmentSpec`."""
    module, _, function = stack[0].environment.executor.partition(":")
    return getattr(importlib.import_module(module), function)(stack, progress)  # type: ignore[no-any-return]


def _run(task: _Task, advance: Callable[[int, int], None]) -> None:
    """Run what is still missing of a stack, under the locks of its records, and write it."""
    store = task.store
    # One order for all, so that two processes never wait for each other.
    experiments = sorted(task.experiments, key=lambda e: store.path(e.name, e.to_json()))
    with ExitStack() as locks:
        for experiment in experiments:
            locks.enter_context(store.lock(experiment.name, experiment.to_json()))
        missing = experiments if task.force else [e for e in experiments if find(e, store) is None]
        if not missing:
            return
        runs, start = sum(e.runs for e in missing), time.perf_counter()
        arrays = compute(missing, lambda updates: advance(task.number, runs * updates))
        seconds = time.perf_counter() - start
        for experiment, found in zip(missing, arrays, strict=True):
            share = seconds * experiment.runs / runs
            spec = experiment.to_json()
            store.save(experiment.name, spec, found, seconds=share, sources=sources_of(experiment))


class _Report:
    """Adds up what the stacks say of themselves."""

    def __init__(self, tell: Callable[[Progress], None], asked: int, cached: int, tasks: Sequence[_Task]) -> None:
        self.tell, self.asked, self.cached = tell, asked, cached
        self.work = sum(_work(task.experiments) for task in tasks)
        self.finished = self.done = 0
        self.ended: set[int] = set()
        self.names = {task.number: task.experiments[0].name for task in tasks}
        self.running: dict[int, int] = {}

    def show(self) -> None:
        """Tell the caller where things stand."""
        work = min(self.work, self.finished + sum(self.running.values()))
        names = ", ".join(sorted({self.names[number] for number in self.running}))
        self.tell(Progress(self.asked, self.cached, self.done, work, self.work, names))

    def advance(self, number: int, work: int) -> None:
        """So many run-updates of a stack are done."""
        self.running[number] = work
        self.show()

    def finish(self, task: _Task) -> None:
        """A stack is written."""
        self.running.pop(task.number, None)
        self.ended.add(task.number)
        self.finished += _work(task.experiments)
        self.done += len(task.experiments)
        self.show()


def _done_here(tasks: Sequence[_Task], report: _Report) -> Generator[_Task]:
    for task in tasks:
        _run(task, report.advance)
        yield task


class _Workers:
    """Worker processes, which stay for the next call: to start them takes as long as to make a small figure."""

    def __init__(self, jobs: int) -> None:
        # Started afresh, not forked: a fork would copy threads and locks in an unknown state.
        context = multiprocessing.get_context("spawn")
        with _worker_environment():
            self.manager = context.Manager()
            self.messages = self.manager.Queue()
            # A Ctrl-C reaches the workers too; they leave it to this process, which ends them.
            self.pool = ProcessPoolExecutor(jobs, context, signal.signal, (signal.SIGINT, signal.SIG_IGN))
            self.pool.submit(int)  # with the first task all of them start, and take over the environment

    def end(self) -> None:
        """Stop everything at once, whatever is running."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        for child in multiprocessing.active_children():
            child.terminate()


_workers: dict[int, _Workers] = {}  # by the number of processes


def _done_in_processes(tasks: Sequence[_Task], jobs: int, report: _Report) -> Generator[_Task]:
    """Every task as soon as it is done: what the caller then does with it, it does while the others run."""
    workers = _workers.pop(jobs, None) or _Workers(jobs)
    waiting = {workers.pool.submit(_run_and_tell, task, workers.messages): task for task in tasks}
    try:
        while waiting:
            done, _ = wait(waiting, timeout=0.2, return_when="FIRST_COMPLETED")
            _drain(workers.messages, report)
            for future in done:
                future.result()
                yield waiting.pop(future)
    except BaseException:
        workers.end()
        raise
    _workers[jobs] = workers


def _run_and_tell(task: _Task, messages: Any) -> None:
    _run(task, lambda number, work: messages.put((number, work)))


def _drain(messages: Any, report: _Report) -> None:
    latest: dict[int, int] = {}
    try:
        while True:
            number, work = messages.get_nowait()
            latest[number] = work
    except queue.Empty:
        for number, work in latest.items():
            if number not in report.ended:
                report.advance(number, work)


@contextmanager
def _worker_environment() -> Iterator[None]:
    """Worker processes start with one thread, which must stand in the environment before they import torch."""
    ours = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    before = {name: os.environ[name] for name in ours if name in os.environ}
    os.environ |= ours
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name)
        os.environ |= before
