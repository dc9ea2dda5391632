"""Waiting for other processes without a limit by the clock, which a busy machine would reach."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any


def end_of(processes: Sequence[subprocess.Popen[Any]]) -> list[int]:
    """Exit codes of all of them. One that fails ends the others, which may be waiting for it."""
    try:
        while any(process.poll() is None for process in processes):
            if any(process.returncode for process in processes):
                break
            time.sleep(0.01)
    finally:
        for process in processes:
            process.kill()
    return [process.wait() for process in processes]


def wait_until(true: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    """Return as soon as something is true; AssertionError if the process ends before."""
    while not true():
        assert process.poll() is None, f"it ended before, with exit code {process.returncode}"
        time.sleep(0.005)


def forked(count: int, work: Callable[[], int | None]) -> int:
    """`work` in so many processes, ranks 0 to count − 1, which fork from this one: its imports take longer than their
    work. Returns the exit code of a rank; of rank 0, which waits for the others, that of one that failed."""
    children = []
    for rank in range(1, count):
        children.append(os.fork())
        if children[-1] == 0:
            os.environ["RANK"] = str(rank)
            return work() or 0
    os.environ["RANK"] = "0"
    codes = [work() or 0, *(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)]
    return next((code for code in codes if code), 0)
