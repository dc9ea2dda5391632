"""Worker processes that stay for the next task, end with their parent, and whose death costs only what they held."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from . import TaskDied, Tell


class Processes:
    """The engine `processes`: `jobs` worker processes of this machine, each at one thread."""

    def __init__(self, jobs: int, folder: Path | None = None) -> None:
        self._idle: list[_Worker] = []
        self._busy: dict[Connection, _Worker] = {}
        self._idle += [_Worker() for _ in range(jobs)]

    @property
    def free(self) -> int:
        """How many wait for a task."""
        return len(self._idle)

    @property
    def processes(self) -> set[int | None]:
        """Their process ids."""
        return {worker.process.pid for worker in (*self._idle, *self._busy.values())}

    def start(self, number: int, function: Callable[[Any, Tell], Any], argument: Any) -> None:
        """Give a task to a worker that waits."""
        worker = self._idle.pop()
        worker.task, worker.tries = (number, function, argument), 1
        self._send(worker)

    def _send(self, worker: _Worker) -> None:
        assert worker.task is not None
        # One that died while it waited shows it at the next look at its connection.
        with suppress(BrokenPipeError, ConnectionResetError):
            worker.connection.send(worker.task[1:])
        self._busy[worker.connection] = worker

    def events(self, timeout: float) -> Iterator[tuple[int, bool, Any]]:
        """See `Engine`."""
        for connection in wait(list(self._busy), timeout):
            assert isinstance(connection, Connection)
            worker = self._busy[connection]
            assert worker.task is not None
            number = worker.task[0]
            try:
                what, content = connection.recv()
            except (EOFError, ConnectionResetError):
                self._replace(worker)
                continue
            if what == "failed":
                raise content
            if what == "done":
                del self._busy[connection]
                worker.task = None
                self._idle.append(worker)
            yield number, what == "done", content

    def _replace(self, worker: _Worker) -> None:
        del self._busy[worker.connection]
        worker.process.join()
        if worker.tries == 2:
            raise TaskDied(f"a worker process died twice on one task (exit code {worker.process.exitcode})")
        again = _Worker()
        again.task, again.tries = worker.task, worker.tries + 1
        self._send(again)

    def end(self) -> None:
        """Stop everything at once, whatever is running."""
        for worker in (*self._idle, *self._busy.values()):
            worker.process.kill()
            worker.process.join()
        self._idle, self._busy = [], {}


class _Worker:
    def __init__(self) -> None:
        # Started afresh, not forked: a fork would copy threads and locks in an unknown state.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        with worker_environment():
            self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
            self.process.start()
        theirs.close()
        self.task: tuple[int, Callable[[Any, Tell], Any], Any] | None = None
        self.tries = 0


def _serve(connection: Connection) -> None:
    """What a worker does: one task after another, until its parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C reaches workers too; they leave it to their parent
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        while True:
            function, argument = connection.recv()
            connection.send(answer(function, argument, lambda message: connection.send(("said", message))))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass


def answer(function: Callable[[Any, Tell], Any], argument: Any, tell: Tell) -> tuple[str, Any]:
    """What a worker of any engine answers: "done" and what the task returned, or "failed" and what it raised."""
    try:
        return "done", function(argument, tell)
    except Exception as error:
        return "failed", _sendable(error)


def _sendable(error: Exception) -> Exception:
    """An exception that survives the way to another process, with its traceback as a note."""
    told = "".join(traceback.format_exception(error))
    try:
        error = pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(f"in a worker process:\n{told}")
    return error


def _end_with_parent() -> None:
    """Wait for the parent's end, however it comes: the system then closes a pipe that the parent holds."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def worker_environment() -> Iterator[dict[str, str]]:
    """Worker processes start with one thread, which must stand in the environment before they import torch."""
    ours = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    before = {name: os.environ[name] for name in ours if name in os.environ}
    os.environ |= ours
    try:
        yield ours
    finally:
        for name in ours:
            os.environ.pop(name)
        os.environ |= before
