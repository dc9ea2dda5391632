"""What disturbs a command at one of its changes of files: it is killed, its disk is full or not to be written to, a
folder is gone.

A moment is one at which a process of the command opens a file to write, makes, renames or removes something, all of its
processes counted together, from 0. Workers that it starts afresh know nothing of the process that is disturbed: they
find what to do in the environment. Only the standard library is loaded here, as each of them does so.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pickle
import shutil
import signal
import sys
import threading
import time
from dataclasses import dataclass
from errno import ENOSPC, EROFS
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

WRITES = ("open", "os.mkdir", "os.rename")  # what a full disk refuses
CHANGES = (*WRITES, "os.remove", "os.rmdir")
Killed = Literal["all", "parent", "worker"]
KILLED: tuple[Killed, ...] = get_args(Killed)
GIVEN = "TESTS_DISTURBANCE"  # names a file with a `Watch`
ROOT = Path(__file__).parents[1]


class Disturbance(Protocol):
    """What happens at a moment, before the change. It is pickled on its way to workers."""

    def __call__(self, now: int, event: str, path: str) -> None: ...


@dataclass(frozen=True)
class KilledAt:
    """The command is killed at a moment, or a worker that it has then: see `kill`."""

    moment: int
    killed: Killed = "all"
    which: int = 0
    note: Path | None = None

    def __call__(self, now: int, event: str, path: str) -> None:
        if now == self.moment:
            kill(os.getpgrp(), self.killed, self.which, self.note, wait=False)


@dataclass(frozen=True)
class FullFrom:
    """The disk is full from a moment on."""

    moment: int

    def __call__(self, now: int, event: str, path: str) -> None:
        if now >= self.moment and event in WRITES:
            raise OSError(ENOSPC, os.strerror(ENOSPC), path)


@dataclass(frozen=True)
class ReadOnlyFrom:
    """Nothing may be changed from a moment on, as where a file system with errors is mounted again."""

    moment: int

    def __call__(self, now: int, event: str, path: str) -> None:
        if now >= self.moment:
            raise OSError(EROFS, os.strerror(EROFS), path)


@dataclass(frozen=True)
class RemovedAt:
    """Somebody removes what a name stands for in the command's folder, `*` all that is there, at a moment."""

    moment: int
    name: str

    def __call__(self, now: int, event: str, path: str) -> None:
        if now == self.moment:
            remove(Path(), self.name)


@dataclass(frozen=True)
class InWorkers:
    """A disturbance of the workers alone, as where their disk is another."""

    of: Disturbance

    def __call__(self, now: int, event: str, path: str) -> None:
        if os.getpid() != os.getpgrp():
            self.of(now, event, path)


def remove(folder: Path, name: str) -> None:
    """Remove what a name stands for in a folder; `*`: all."""
    for path in folder.iterdir() if name == "*" else [folder / name]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def kill(command: int, killed: Killed = "all", which: int = 0, note: Path | None = None, wait: bool = True) -> None:
    """Kill a command with its workers, it alone, or one of its workers. which: of these, counted round; note: a file
    that is made where a worker was killed. wait: until there is one, or the command has ended."""
    if killed == "worker":
        while not (there := workers_of(command)) and wait and state(command) != "Z":
            time.sleep(0.005)
        if there:
            if note is not None:
                note.touch()
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.kill(there[which % len(there)], signal.SIGKILL)
    elif killed == "all" and os.getpgid(command) == command:
        os.killpg(command, signal.SIGKILL)
    else:
        os.kill(command, signal.SIGKILL)


def state(process: int) -> str:
    """Its state, as in proc(5): Z for one that has ended."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


def workers_of(process: int) -> list[int]:
    """The worker processes that a process has: spawned ones, or its own forks."""
    found, own = [], Path(f"/proc/{process}/cmdline").read_bytes()
    for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
        with contextlib.suppress(OSError):  # it has ended
            command = Path(f"/proc/{child}/cmdline").read_bytes()
            if state(int(child)) != "Z" and (b"spawn_main" in command or command == own):
                found.append(int(child))
    return found


@dataclass(frozen=True)
class Watch:
    """Which changes are counted, in which file, and what happens then. home: the folder of the command."""

    home: str
    count: Path
    disturbance: Disturbance | None

    def start(self) -> None:
        """Watch this process from now on, and its forks."""
        counter, own = os.open(self.count, os.O_RDWR), threading.local()

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            if event not in CHANGES or getattr(own, "busy", False) or not self._within(event, arguments):
                return
            own.busy = True  # what a disturbance changes itself does not count
            try:
                now = _next(counter)
                if self.disturbance is not None:
                    self.disturbance(now, event, os.fsdecode(arguments[0]))
            finally:
                own.busy = False

        sys.addaudithook(watch)

    def _within(self, event: str, arguments: tuple[Any, ...]) -> bool:
        """Whether an event changes something in the folder."""
        path = arguments[0]
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return False
        text = os.fsdecode(path)
        return not os.path.isabs(text) or text.startswith(self.home)


_counting = threading.Lock()  # a lock of a file is one of the whole process


def _next(counter: int) -> int:
    """The number of this change among those of all processes."""
    with _counting:
        fcntl.lockf(counter, fcntl.LOCK_EX)
        try:
            now = int(os.pread(counter, 20, 0) or 0)
            os.pwrite(counter, str(now + 1).encode(), 0)
            return now
        finally:
            fcntl.lockf(counter, fcntl.LOCK_UN)


def disturb(watch: Watch, given: Path) -> None:
    """Watch this process, its forks, and the workers that it starts afresh. given: a file that these read."""
    given.write_bytes(pickle.dumps(watch))
    path = [str(ROOT / "tests/in_workers"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    os.environ |= {GIVEN: str(given), "PYTHONPATH": os.pathsep.join(filter(None, path))}
    watch.start()


def disturb_worker() -> None:
    """Watch a worker, from its start."""
    pickle.loads(Path(os.environ[GIVEN]).read_bytes()).start()
