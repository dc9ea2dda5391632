"""A command that is run, and disturbed on its way: at one of its changes of files (`tests.disturbances`), or after a
time.

Each command is forked from a process that has loaded its libraries, so that what disturbs it falls into its work.
"""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import tqdm

import figures.__main__
import llm.__main__
import sims
import sims.__main__
from sims.experiments import runner
from sims.experiments.command import run_command
from tests import launched
from tests.disturbances import Disturbance, Watch, disturb, state


def _with_workers(program: Callable[[list[str]], int], words: list[str]) -> int:
    """A program whose records are given to workers, however little they cost. None of these wait for another command:
    they would not be those of a fork."""
    sys.modules["__main__"] = figures.__main__  # which a worker does not load, as it would this one with all libraries
    runner.SMALL = 0.0
    try:
        return program(words)
    finally:
        while runner._hired:
            runner._hired.popitem()[1].end()


def _sweep(words: list[str]) -> int:
    """What a user's script does: a sweep of stacks on two workers, into a folder."""
    base = sims.Experiment("sweep", sims.BanditR1(), sims.Table(), sims.RLOO(), updates=20, runs=4)
    sweep = [base.replace(schedule=sims.Schedule(batch_size=size)) for size in (4, 8, 16)]
    return run_command(lambda: len(sims.run_experiments(sweep, words[0], jobs=2)) - len(sweep))


MAIN: dict[str, Callable[[list[str]], int]] = {
    "figures": functools.partial(_with_workers, figures.__main__.main),
    "llm": llm.__main__.main,
    "sims": sims.__main__.main,
    "sweep": functools.partial(_with_workers, _sweep),
    "two": launched.main,
}


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


def _wait_for_group(group: int) -> None:
    """Wait until all processes of a command have ended: those that outlived it end by themselves, or this hangs."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            while entry.name.isdigit() and os.getpgid(int(entry.name)) == group and state(int(entry.name)) != "Z":
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
        else:
            disturb(Watch(str(folder), count, disturbance), count.with_suffix(".disturbance"))
        return MAIN[words[0]](words[1:])

    launched.leave(prepared, line.split())
