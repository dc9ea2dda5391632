"""Waiting for other processes without a limit by the clock, which a busy machine would reach."""

from __future__ import annotations

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
