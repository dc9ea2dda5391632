"""Two processes of one command of `llm`, as torchrun starts them, but forked: their imports take longer than their
work. Where one fails the other is ended; where this launcher is killed they end themselves."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

import llm.__main__

PROCESSES = 2
GRACE = 5.0  # seconds; 30 with torchrun


def main(words: list[str]) -> int:
    """Exit status 0 where both end so, else 1."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(PROCESSES)}
    os.environ["TORCHELASTIC_RUN_ID"] = "two"
    running = [_start(rank, words) for rank in range(PROCESSES)]
    process, status = os.wait()
    running.remove(process)
    failed = status != 0
    if failed:
        _end(running)
    return int(failed or any(os.waitpid(other, 0)[1] for other in running))


def _end(running: list[int]) -> None:
    """Have the others end, by SIGKILL those that wait in a library for the one that is gone."""
    for other in running:
        os.kill(other, signal.SIGTERM)
    due = time.monotonic() + GRACE
    while running and time.monotonic() < due:
        running[:] = [other for other in running if os.waitpid(other, os.WNOHANG)[0] == 0]
        time.sleep(0.01)
    for other in running:
        os.kill(other, signal.SIGKILL)


def _start(rank: int, words: list[str]) -> int:
    process = os.fork()
    if process == 0:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        leave(llm.__main__.main, words)
    return process


def leave(program: Callable[[list[str]], int], words: Sequence[str]) -> NoReturn:
    """Run a program, and end the process; only ever in a fork, which must not run on into its parent's code."""
    status = 99
    try:
        status = program(list(words))
    except SystemExit as stop:
        status = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
        finally:
            os._exit(status)
