"""From experiments to records: what is on disk is read, the rest is stacked, run in worker processes, and written."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import queue
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from .experiment import Experiment, stack_key
from .store import DamagedRecord, Record, Store, sources_digest

MOST_RUNS = 256  # runs in one stack: beyond, the tensors of an update leave the cache


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
    """Digest of the code that an experiment runs through."""
    modules = {type(part).__module__ for part in (experiment.environment, experiment.policy, experiment.algorithm)}
    return sources_digest(sorted({*modules, experiment.environment.executor.partition(":")[0]}))


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
    missing = [e for e in unique.values() if force or find(e, store) is None]
    tasks = [_Task(store, stack, force) for stack in stacks(missing)]
    report = _Report(progress, len(unique), len(unique) - len(missing), tasks)
    report.show()
    if jobs == 1 or len(tasks) < 2:
        for task in tasks:
            _run(task, report.advance)
            report.finish(task)
    else:
        _run_in_processes(tasks, jobs, report)
    records = {path: store.load(e.name, e.to_json()) for path, e in unique.items()}
    found = [records[store.path(e.name, e.to_json())] for e in experiments]
    assert all(record is not None for record in found)
    return found  # type: ignore[return-value]


def stacks(experiments: Sequence[Experiment]) -> list[list[Experiment]]:
    """Experiments that can run as one, at most MOST_RUNS runs together; costly stacks first."""
    groups: dict[str, list[Experiment]] = {}
    for experiment in experiments:
        groups.setdefault(stack_key(experiment), []).append(experiment)
    found: list[list[Experiment]] = []
    for group in groups.values():
        found.append([])
        for experiment in group:
            if found[-1] and sum(e.runs for e in found[-1]) + experiment.runs > MOST_RUNS:
                found.append([])
            found[-1].append(experiment)
    return sorted(found, key=lambda stack: -_work(stack))


def _work(stack: Sequence[Experiment]) -> int:
    return sum(e.runs * e.updates for e in stack)


@dataclass(frozen=True)
class _Task:
    """One stack, as it travels to another process."""

    store: Store
    experiments: list[Experiment]
    force: bool


def _run(task: _Task, advance: Callable[[str, int], None]) -> None:
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
        module, _, function = missing[0].environment.executor.partition(":")
        runs, start = sum(e.runs for e in missing), time.perf_counter()
        execute = getattr(importlib.import_module(module), function)
        arrays = execute(missing, lambda updates: advance(missing[0].name, runs * updates))
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
        self.running: dict[str, int] = {}

    def show(self) -> None:
        """Tell the caller where things stand."""
        work = min(self.work, self.finished + sum(self.running.values()))
        names = ", ".join(self.running)
        self.tell(Progress(self.asked, self.cached, self.done, work, self.work, names))

    def advance(self, name: str, work: int) -> None:
        """So many run-updates of a stack are done."""
        self.running[name] = work
        self.show()

    def finish(self, task: _Task) -> None:
        """A stack is written."""
        self.running.pop(task.experiments[0].name, None)
        self.finished += _work(task.experiments)
        self.done += len(task.experiments)
        self.show()


def _run_in_processes(tasks: Sequence[_Task], jobs: int, report: _Report) -> None:
    # Started afresh, not forked: a fork would copy threads and locks in an unknown state.
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, _worker_environment():
        messages = manager.Queue()
        with ProcessPoolExecutor(min(jobs, len(tasks)), mp_context=context) as pool:
            waiting = {pool.submit(_run_and_tell, task, messages): task for task in tasks}
            try:
                while waiting:
                    done, _ = wait(waiting, timeout=0.2, return_when="FIRST_COMPLETED")
                    _drain(messages, report)
                    for future in done:
                        future.result()
                        report.finish(waiting.pop(future))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _run_and_tell(task: _Task, messages: Any) -> None:
    _run(task, lambda name, work: messages.put((name, work)))


def _drain(messages: Any, report: _Report) -> None:
    latest: dict[str, int] = {}
    try:
        while True:
            name, work = messages.get_nowait()
            latest[name] = work
    except queue.Empty:
        for name, work in latest.items():
            report.advance(name, work)


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
