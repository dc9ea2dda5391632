"""A process of several that is killed: the others end in a line that says so, and how to go on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from llm.distributed.spread import joined
from sims.experiments.command import FAILED, keeping, run_command
from tests.processes import forked


def work() -> int:
    """Two processes that add up; the second is killed in between."""
    import torch

    def sums() -> int:
        with keeping("a checkpoint is kept"), joined(2) as ranks:
            ranks.sum([torch.ones(3)])
            if not ranks.first:
                os.kill(os.getpid(), signal.SIGKILL)
            ranks.sum([torch.ones(3)])
        return 0

    return run_command(sums)


def test_the_others_end_in_a_line_that_says_so() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    given = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.llm.distributed.test_a_lost_process"]
    done = subprocess.run(
        command, env=os.environ | given, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False
    )
    assert done.returncode == FAILED, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: another process of this run has ended")
    assert done.stderr.endswith("; a checkpoint is kept\n") and "Traceback" not in done.stderr


if __name__ == "__main__":
    sys.exit(forked(2, work))
