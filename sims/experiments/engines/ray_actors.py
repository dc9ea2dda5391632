"""The engine `ray`: actors of a Ray cluster, each at one core."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sims.core.spec import SpecError

from . import TaskDied, Tell
from .processes import answer, worker_environment

LOOK_EVERY = 0.5  # seconds between two questions to an actor how far it is
STARTS = 10  # of Ray on this machine
ROOT = Path(__file__).resolve().parents[3]  # where this package lies: on every node, under the same path


@dataclass
class _Running:
    function: Callable[[Any, Tell], Any]
    argument: Any
    actor: Any
    answer: Any  # what will be returned
    tries: int = 1
    said: Any = None  # the answer to a question how far it is
    asked: float = 0.0


class RayActors:
    """Up to `jobs` actors, with one task each. options: those of `ray.init`, such as address=auto for a cluster that
    runs (the variable RAY_ADDRESS says so too); without an address a Ray of `jobs` cores starts on this machine.

    Actors end with the process that made them; their stacks in hand are then lost, and nothing that is finished.
    """

    def __init__(self, jobs: int, folder: Path | None = None, **options: Any) -> None:
        ray: Any = importlib.import_module("ray")
        self._ray, self._jobs, self._running = ray, jobs, dict[int, _Running]()
        if not ray.is_initialized():
            here = not options.get("address") and not os.environ.get("RAY_ADDRESS")
            own = {"num_cpus": jobs, "include_dashboard": False} if here else {}
            quiet = {"log_to_driver": False, "logging_level": "error", "configure_logging": False}
            try:
                _start(ray, {**own, **quiet, **options, "runtime_env": {"env_vars": _environment()}})
            except (ValueError, TypeError, RuntimeError, ConnectionError) as error:
                raise SpecError("engine_option", options, " ".join(str(error).split())) from error
        # Two at a time: the task, and the question how far it is.
        self._actor = ray.remote(num_cpus=1, max_concurrency=2)(_Actor)
        self._idle: list[Any] = []

    @property
    def free(self) -> int:
        return self._jobs - len(self._running)

    def start(self, number: int, function: Callable[[Any, Tell], Any], argument: Any) -> None:
        actor = self._idle.pop() if self._idle else self._actor.remote()
        self._running[number] = _Running(function, argument, actor, actor.run.remote(function, argument))

    def events(self, timeout: float) -> Iterator[tuple[int, bool, Any]]:
        """See `Engine`."""
        waiting = {running.answer: number for number, running in self._running.items()}
        if not waiting:
            time.sleep(timeout)
            return
        ready, _ = self._ray.wait(list(waiting), num_returns=len(waiting), timeout=timeout)
        for done in ready:
            number = waiting[done]
            running = self._running[number]
            try:
                what, content = self._ray.get(done)
            except self._ray.exceptions.RayActorError as error:
                self._again(running, error)
                continue
            if what == "failed":
                raise content
            self._idle.append(self._running.pop(number).actor)
            yield number, True, content
        for number, running in list(self._running.items()):
            yield from ((number, False, message) for message in self._heard(running))

    def _heard(self, running: _Running) -> Iterator[Any]:
        """What a task has said since it was last asked; asks again."""
        if running.said is not None and self._ray.wait([running.said], timeout=0)[0]:
            try:
                yield from self._ray.get(running.said)
            except self._ray.exceptions.RayActorError:
                return  # the next look at its answer sees it
            finally:
                running.said = None
        if running.said is None and time.monotonic() - running.asked > LOOK_EVERY:
            running.asked, running.said = time.monotonic(), running.actor.said.remote()

    def _again(self, running: _Running, error: Exception) -> None:
        if running.tries == 2:
            raise TaskDied(f"an actor died twice on one task: {' '.join(str(error).split())}") from error
        running.tries, running.said = running.tries + 1, None
        running.actor = self._actor.remote()
        running.answer = running.actor.run.remote(running.function, running.argument)

    def end(self) -> None:
        for actor in (*self._idle, *(running.actor for running in self._running.values())):
            self._ray.kill(actor)
        self._idle, self._running = [], {}


def _start(ray: Any, options: dict[str, Any]) -> None:
    """`ray.init`. Ray gives its processes 30 s to start, which no setting of its own changes: a busy machine needs
    more, and is asked again."""
    for left in reversed(range(STARTS)):
        try:
            ray.init(**options)
            return
        except Exception as error:
            if not left or "timed out during startup" not in str(error):
                raise
            ray.shutdown()


class _Actor:
    """A worker of Ray: one task at a time, and the last message of it to whoever asks."""

    def __init__(self) -> None:
        self._said: list[Any] = []

    def run(self, function: Callable[[Any, Tell], Any], argument: Any) -> tuple[str, Any]:
        self._said = []

        def tell(message: Any) -> None:
            self._said = [message]

        return answer(function, argument, tell)

    def said(self) -> list[Any]:
        said, self._said = self._said, []
        return said


def _environment() -> dict[str, str]:
    """Of every worker: one thread, and this package where it is used straight from its tree."""
    with worker_environment() as threads:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        return {**threads, "PYTHONPATH": path}
