"""The recipe of `sims/core/algorithms/base.py`, followed: an algorithm is one dataclass, and its population weights.

In a process of its own, so that the algorithm is not there for the other tests.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
ADDED = '''
from dataclasses import dataclass

import numpy as np

from sims.core.algorithms.base import present
from sims.core.algorithms.likelihood import LikelihoodAlgorithm
from sims.exact.population import population
from sims.exact.quantities import best_of_n


@dataclass(frozen=True)
class WorstOfN(LikelihoodAlgorithm, kind="worst_of_n"):
    """Avoid the worst of each prompt's K responses: L = +l(argmin_k r_k)."""

    min_generations = 2
    negative_gradient = True
    source = "this test"

    def targets(self, batch, state):
        rewards = batch.need("rewards").masked_fill(~present(batch), float("inf"))
        worst = rewards == rewards.amin(-1, keepdim=True)
        return {"weight": worst.to(rewards.dtype), "scale": -worst.to(rewards.dtype)}, state


@population("worst_of_n")
def worst_of_n_weights(algorithm, problem):
    return best_of_n(np.log(problem.shared_distribution), -problem.rewards, problem.generations) / problem.prompts
'''
RUN = """
import sys

import numpy as np
import pytest

import sims.__main__
from sims.core.algorithms import algorithm_table, find_algorithm

assert "| worst_of_n | Avoid the worst" in algorithm_table()
assert find_algorithm("worst_of_n") is WorstOfN
assert sims.__main__.main(["--algorithm", "worst-of-n", "--updates", "2", "--evaluations", "1", "--runs", "2",
                           "--results", sys.argv[1]]) == 0
tests = ["tests/core/algorithms/test_every_algorithm.py", "tests/core/algorithms/test_every_algorithm_by_hand.py"]
sys.exit(pytest.main([*tests, "-q", "-k", "worst_of_n", "-p", "no:cacheprovider"]))
"""


def run(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = folder / "added.py"
    path.write_text(script)
    return subprocess.run([sys.executable, str(path), str(folder)], cwd=ROOT, capture_output=True, text=True)


def test_an_added_algorithm_is_found_and_proven_without_being_told(tmp_path: Path) -> None:
    done = run(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{ADDED}{RUN}", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout or "." in done.stdout


def test_an_added_algorithm_that_is_wrong_is_caught(tmp_path: Path) -> None:
    wrong = ADDED.replace("-worst.to(", "worst.to(")
    done = run(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{wrong}{RUN}", tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "worst_of_n" in done.stdout
