"""Other processes: started without importing everything again, and waited for without a limit by the clock, which a
busy machine would reach."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

# To import torch, transformers and the commands takes seconds of CPU. One process of each test session does it once,
# has no threads, and forks those that tests ask for.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["pytest", "llm.commands.train", "llm.distributed.sharded", "peft"])


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


class Fork:
    """A function in a process of its own, on one thread and in a session of its own. Its exit code is what the function
    returns. `environment` is set before it; the function must be found by its name."""

    def __init__(
        self, function: Callable[..., int | None], *arguments: object, environment: Mapping[str, str] | None = None
    ) -> None:
        self._printed = tempfile.NamedTemporaryFile()  # noqa: SIM115 - removed with this object
        given = (self._printed.name, function, arguments, dict(environment or {}))
        self.process = _FORKS.Process(target=_run, args=given, daemon=True)
        self.process.start()
        assert self.process.pid is not None
        self.pid = self.process.pid

    def printed(self) -> str:
        """What it wrote to standard output and standard error."""
        return Path(self._printed.name).read_text(errors="replace")

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self) -> int | None:
        self.process.join()
        return self.process.exitcode

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


def _run(
    printed: str, function: Callable[..., int | None], arguments: Sequence[object], environment: Mapping[str, str]
) -> None:
    import torch

    os.setsid()
    os.environ.update(environment)
    file = os.open(printed, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    torch.set_num_threads(1)
    raise SystemExit(function(*arguments))


def run_script(path: Path, *arguments: str) -> tuple[int | None, str]:
    """Exit code of a script, and what it printed: a process that has nothing of ours but the libraries."""
    fork = Fork(_script, str(path), arguments)
    return fork.wait(), fork.printed()


def _script(path: str, arguments: Sequence[str]) -> None:
    os.chdir(ROOT)
    sys.argv = [path, *arguments]
    runpy.run_path(path, run_name="__main__")


def wait_until(true: Callable[[], bool], process: subprocess.Popen[Any] | Fork) -> None:
    """Return as soon as something is true; AssertionError if the process ends before."""
    while not true():
        printed = process.printed() if isinstance(process, Fork) else ""
        assert process.poll() is None, f"it ended before, with exit code {process.poll()}\n{printed}"
        time.sleep(0.005)


def forked(count: int, work: Callable[..., int | None], *arguments: object) -> int:
    """`work` in so many processes, ranks 0 to count − 1, which fork from this one: its imports take longer than their
    work. Returns the exit code of a rank; of rank 0, which waits for the others, that of one that failed."""
    children = []
    for rank in range(1, count):
        children.append(os.fork())
        if children[-1] == 0:
            os.environ["RANK"] = str(rank)
            return work(*arguments) or 0
    os.environ["RANK"] = "0"
    codes = [work(*arguments) or 0, *(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)]
    return next((code for code in codes if code), 0)
