"""A launcher that is killed, by whatever signal: its processes end, also those that wait in a library."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llm.distributed import launcher
from sims.experiments.command import keeping, run_command

LAUNCHER = """
import os, subprocess, sys
command = [sys.executable, "-m", "tests.llm.distributed.test_launcher", sys.argv[2]]
if sys.argv[1] == "shell":  # as with torchrun --no-python script.sh; the second command keeps the shell there
    command = ["sh", "-c", '"$@"; true', "sh", *command]
subprocess.Popen(command, env=os.environ | {"TORCHELASTIC_RUN_ID": "a run"}).wait()
"""


def work() -> int:
    """A process that goes on for ever; with "hangs" no SIGTERM reaches it."""
    if "hangs" in sys.argv:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        launcher._GRACE = 0.1
    launcher._LOOKED_AT = 0.05
    launcher.end_with_launcher()
    print("ready", flush=True)
    while True:
        time.sleep(0.05)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("process", ["works", "hangs"])
@pytest.mark.parametrize("between", ["nothing", "shell"])
def test_processes_end_with_their_launcher(between: str, process: str, how: signal.Signals) -> None:
    given = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", LAUNCHER, between, process]
    parent = subprocess.Popen(command, env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert parent.stdout is not None and parent.stdout.readline() == "ready\n"
    parent.send_signal(how)
    assert parent.wait() == -how
    said = parent.stdout.read()  # to the end, which comes when the process has ended: a test that hangs here has failed
    assert "the launcher of this process has ended" in said
    assert ("stopped by SIGTERM; a checkpoint is kept" in said) == (process == "works")


def test_without_a_launcher_nobody_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setattr(launcher.threading, "Thread", None)
    launcher.end_with_launcher()


def test_who_was_adopted_before_it_looked_has_lost_its_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the system's first process is the launcher, as in a container."""
    for command, adopted in ((b"/sbin/init\0", True), (b"/usr/bin/python3\0/usr/bin/torchrun\0", False)):
        monkeypatch.setattr(Path, "read_bytes", lambda path, command=command: command)
        assert launcher._adopted(1) == adopted and not launcher._adopted(7)


def test_where_nothing_is_known_of_other_processes_the_parent_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a system without /proc."""

    def absent(path: Path) -> bytes:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_bytes", absent)
    assert launcher._line_of(os.getpid()) == [(os.getpid(), os.getppid())]


def test_an_adopted_process_is_ended_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parent does not change any more."""

    class Ended(Exception):
        pass

    def leave(status: int) -> None:
        raise Ended(status)

    def wait(seconds: float) -> None:
        assert seconds == launcher._GRACE, "it goes on"

    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(launcher, "_adopted", lambda parent: True)
    monkeypatch.setattr(launcher.time, "sleep", wait)
    monkeypatch.setattr(launcher.os, "kill", lambda *arguments: asked.append(arguments))
    monkeypatch.setattr(launcher.os, "_exit", leave)
    with pytest.raises(Ended, match="143"):
        launcher._watch([(os.getpid(), os.getppid())])
    assert asked == [(os.getpid(), signal.SIGTERM)]


if __name__ == "__main__":

    def kept() -> int:
        with keeping("a checkpoint is kept"):
            return work()

    sys.exit(run_command(kept))
