"""Tasks for engines that say something, fail or die, in a module whose import takes no time: not even torch."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path


def fail(name: str, tell: Callable[[object], None]) -> object:
    return {}[name]


def talk(heard: str, tell: Callable[[object], None]) -> str:
    while not Path(heard).exists():
        tell(0.5)
        time.sleep(0.05)
    return "said"


def die_once(marker: str, tell: Callable[[object], None]) -> str:
    """Its process is killed the first time, as by a system that is short of memory."""
    if not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    tell("alive")
    return "done"


def die(argument: str, tell: Callable[[object], None]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def work(argument: str, tell: Callable[[object], None]) -> None:
    """Says who works, and goes on without end."""
    tell(os.getpid())
    while True:
        pass
