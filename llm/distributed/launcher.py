"""Processes that a launcher such as torchrun started end with it. Where it is killed they would train on with nobody to
end them, or wait for hours for the store that it held."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from sims.experiments.command import tell

_LAUNCHED = "TORCHELASTIC_RUN_ID"  # set by torchrun, and by what is built on it
_LOOKED_AT, _GRACE = 1.0, 10.0  # seconds: between two looks, and until a process that does not end by itself is ended


def end_with_launcher() -> None:
    """Watch from now on, where a launcher started this process: when it is gone, this process is ended as by SIGTERM;
    where it waits in a library, which no signal reaches, it is left at once. A launcher's own parent may go: that of
    one that was started in the background has."""
    if _LAUNCHED in os.environ:
        threading.Thread(target=_watch, args=(_line_of(os.getpid()),), daemon=True).start()


def _watch(line: Sequence[tuple[int, int]]) -> None:
    """line: see `_line_of`."""
    while all(_parent_of(process) == parent and not _adopted(parent) for process, parent in line):
        time.sleep(_LOOKED_AT)
    tell("the launcher of this process has ended")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE)
    os._exit(128 + signal.SIGTERM)


def _line_of(process: int) -> list[tuple[int, int]]:
    """(process, its parent) from this process up to its launcher, the first that the launcher did not start: a shell
    may stand between. Only the first where more is not known."""
    line = [(process, _parent_of(process))]
    while _LAUNCHED.encode() in _environment_of(parent := line[-1][1]) and parent > 1:
        line.append((parent, _parent_of(parent)))
    return line


def _parent_of(process: int) -> int:
    """The process that started a process or has adopted it; 0 where that is not known, or it has ended."""
    if process == os.getpid():
        return os.getppid()
    try:  # proc(5): number (name, which may hold anything) state parent
        return int(Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def _environment_of(process: int) -> list[bytes]:
    """The names of the variables with which a process was started; none where they are not known."""
    try:
        variables = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    except OSError:  # another user's, or a system without /proc
        return []
    return [variable.partition(b"=")[0] for variable in variables]


def _adopted(parent: int) -> bool:
    """Whether a parent is the system's first process, which adopts who has lost theirs, and no launcher, which it is in
    many a container."""
    try:
        return parent == 1 and b"python" not in Path("/proc/1/cmdline").read_bytes()
    except OSError:  # a system without /proc: nothing is known
        return False
