"""Processes that a launcher such as torchrun started end with it. Where it is killed they would train on with nobody to
end them, or wait for hours for the store that it held."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

from sims.experiments.command import tell

_LAUNCHED = "TORCHELASTIC_RUN_ID"  # set by torchrun, and by what is built on it
_LOOKED_AT, _GRACE = 1.0, 10.0  # seconds: between two looks, and until a process that does not end by itself is ended


def end_with_launcher() -> None:
    """Watch from now on, where a launcher started this process: when it is gone, this process is ended as by SIGTERM;
    where it waits in a library, which no signal reaches, it is left at once."""
    if _LAUNCHED in os.environ:
        threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent and not _adopted(parent):
        time.sleep(_LOOKED_AT)
    tell("the launcher of this process has ended")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE)
    os._exit(128 + signal.SIGTERM)


def _adopted(parent: int) -> bool:
    """Whether a parent is the system's first process, which adopts who has lost theirs, and no launcher, which it is in
    many a container."""
    try:
        return parent == 1 and b"python" not in Path("/proc/1/cmdline").read_bytes()
    except OSError:  # a system without /proc: nothing is known
        return False
