"""A command that is disturbed at one of its changes of files, or after a time: it is killed, its disk is full or not to
be written to, a folder is gone.

Each command is forked from a process that has loaded its libraries, so that what disturbs it falls into its work. A
moment is one at which it opens a file to write, makes, renames or removes something; moments are counted from 0.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from errno import ENOSPC, EROFS
from pathlib import Path
from typing import Any, Literal, get_args

import tqdm

import figures.__main__
import llm.__main__
import sims.__main__
from sims.experiments import runner
from tests import launched


def _figures(words: list[str]) -> int:
    """Figures whose records are given to workers, however little they cost. None of these wait for another command:
    they would not be those of a fork."""
    runner.SMALL = 0.0
    try:
        return figures.__main__.main(words)
    finally:
        while runner._hired:
            runner._hired.popitem()[1].end()


MAIN: dict[str, Callable[[list[str]], int]] = {
    "figures": _figures,
    "llm": llm.__main__.main,
    "sims": sims.__main__.main,
    "two": launched.main,
}
WRITES = ("open", "os.mkdir", "os.rename")  # what a full disk refuses
CHANGES = (*WRITES, "os.remove", "os.rmdir")
Killed = Literal["all", "parent", "worker"]
KILLED: tuple[Killed, ...] = get_args(Killed)

Disturbance = Callable[[int, str, str], None]
"""What happens at a moment, before the change: its number, the event, the path."""


def killed_at(moment: int, killed: Killed = "all", which: int = 0, note: Path | None = None) -> Disturbance:
    """The command is killed at a moment, or a worker that it has then: see `kill`."""

    def disturb(now: int, event: str, path: str) -> None:
        if now == moment:
            kill(os.getpgrp(), killed, which, note, wait=False)

    return disturb


def full_from(moment: int) -> Disturbance:
    """The disk is full from a moment on."""

    def disturb(now: int, event: str, path: str) -> None:
        if now >= moment and event in WRITES:
            raise OSError(ENOSPC, os.strerror(ENOSPC), path)

    return disturb


def read_only_from(moment: int) -> Disturbance:
    """Nothing may be changed from a moment on, as where a file system with errors is mounted again."""

    def disturb(now: int, event: str, path: str) -> None:
        if now >= moment:
            raise OSError(EROFS, os.strerror(EROFS), path)

    return disturb


def removed_at(moment: int, name: str) -> Disturbance:
    """Somebody removes what a name stands for in the command's folder, `*` all that is there, at a moment."""

    def disturb(now: int, event: str, path: str) -> None:
        if now == moment:
            remove(Path(), name)

    return disturb


def remove(folder: Path, name: str) -> None:
    """Remove what a name stands for in a folder; `*`: all."""
    for path in folder.iterdir() if name == "*" else [folder / name]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def run(
    line: str,
    folder: Path,
    disturbance: Disturbance | None = None,
    after: float | None = None,
    then: Callable[[int], None] | None = None,
    largest: int | None = None,
) -> tuple[int, str, int]:
    """(exit status, −9 for a killed one; standard output and error; moments counted) of a command in a folder.

    after: seconds from its start, when `then` is called with its process. largest: bytes that a file may have.
    """
    log, count = folder.parent / "log", folder.parent / "count"
    count.write_text("0")
    with log.open("w") as file:
        # A pipe, where a file could not hold what is said.
        read, write = os.pipe() if largest is not None else (None, file.fileno())
        child = os.fork()
        if child == 0:
            _child(line, folder, write, count, disturbance, largest)
        if read is not None:
            os.close(write)
            with os.fdopen(read, errors="replace") as said:
                file.write(said.read())
    if after is not None and then is not None:
        time.sleep(after)
        then(child)
    _, ended = os.waitpid(child, 0)
    _wait_for_group(child)
    return os.waitstatus_to_exitcode(ended), log.read_text(errors="replace"), int(count.read_text() or 0)


def kill(child: int, killed: Killed = "all", which: int = 0, note: Path | None = None, wait: bool = True) -> None:
    """Kill a command with its workers, it alone, or one of its workers. which: of these, counted round; note: a file
    that is made where a worker was killed. wait: until there is one, or the command has ended."""
    if killed == "worker":
        while not (there := workers_of(child)) and wait and _state(child) != "Z":
            time.sleep(0.005)
        if there:
            if note is not None:
                note.touch()
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.kill(there[which % len(there)], signal.SIGKILL)
    elif killed == "all" and os.getpgid(child) == child:
        os.killpg(child, signal.SIGKILL)
    else:
        os.kill(child, signal.SIGKILL)


def _state(process: int) -> str:
    """Its state, as in proc(5): Z for one that has ended."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


def workers_of(process: int) -> list[int]:
    """The worker processes that a process has: spawned ones, or its own forks."""
    found, own = [], Path(f"/proc/{process}/cmdline").read_bytes()
    for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
        with contextlib.suppress(OSError):  # it has ended
            command = Path(f"/proc/{child}/cmdline").read_bytes()
            if _state(int(child)) != "Z" and (b"spawn_main" in command or command == own):
                found.append(int(child))
    return found


def _wait_for_group(group: int) -> None:
    """Wait until all processes of a command have ended: those that outlived it end by themselves, or this hangs."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            while entry.name.isdigit() and os.getpgid(int(entry.name)) == group and _state(int(entry.name)) != "Z":
                time.sleep(0.01)


def start(line: str, folder: Path, log: Path) -> int:
    """The process of a command in a folder, to be waited for; what it says goes to a file."""
    count = log.with_suffix(".count")
    count.write_text("0")
    with log.open("w") as file:
        child = os.fork()
        if child == 0:
            _child(line, folder, file.fileno(), count, None, None)
    return child


def _child(
    line: str, folder: Path, log: int, count: Path, disturbance: Disturbance | None, largest: int | None
) -> None:
    """Run a command and end the process; only ever in a fork."""

    def prepared(words: list[str]) -> int:
        os.setpgid(0, 0)
        os.chdir(folder)
        tqdm.tqdm.set_lock(threading.RLock())  # that of the parent is shared: a fork that was killed may hold it
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
        if largest is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
        counter = os.open(count, os.O_RDWR)
        seen, busy = 0, False
        home = str(folder)

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal seen, busy
            if largest is not None or busy or event not in CHANGES or not _within(event, arguments, home):
                return
            now, seen = seen, seen + 1
            if seen > int(os.pread(counter, 20, 0) or 0):  # of several processes, the one with the most
                os.pwrite(counter, str(seen).encode(), 0)
            if disturbance is None:
                return
            busy = True  # what a disturbance changes itself does not count
            try:
                disturbance(now, event, os.fsdecode(arguments[0]))
            finally:
                busy = False

        sys.addaudithook(watch)
        return MAIN[words[0]](words[1:])

    launched.leave(prepared, line.split())


def _within(event: str, arguments: tuple[Any, ...], home: str) -> bool:
    """Whether an event changes something in the folder."""
    path = arguments[0]
    if not isinstance(path, str | bytes | os.PathLike):
        return False
    if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        return False
    text = os.fsdecode(path)
    return not os.path.isabs(text) or text.startswith(home)
