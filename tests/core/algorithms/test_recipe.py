"""The recipe of `sims/core/algorithms/base.py`, followed: an algorithm is one dataclass, its population weights, and a
value derived by hand. Broken on purpose, it is refused in a line that teaches, or a test fails.

In a process of its own, so that the algorithm is not there for the other tests.
"""

import re

import pytest

from tests.processes import run_script

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
BY_HAND = """
import sys

sys.path.insert(0, "tests/core/algorithms")
from test_every_algorithm_by_hand import BY_HAND, ByHand  # under the name by which pytest imports it

BY_HAND["worst_of_n"] = [ByHand(-3.0)]  # the log-prob of b, which earned less
"""
RUN = """
import sys

import numpy as np
import pytest

import sims.__main__
from sims.core.algorithms import algorithm_table, find_algorithm

assert "| worst_of_n | Avoid the worst" in algorithm_table()
assert find_algorithm("worst_of_n") is WorstOfN


def train(algorithm):
    options = "--updates 2 --evaluations 1 --runs 2 --batch-size 4 --results".split()
    return sims.__main__.main(["--algorithm", algorithm, *options, sys.argv[1]])


assert train("worst-of-n") == 0
assert train("worst-of-n-shape") == 2
tests = ["tests/core/algorithms/test_every_algorithm.py", "tests/core/algorithms/test_every_algorithm_by_hand.py"]
sys.exit(pytest.main([*tests, "-q", "-k", "worst_of_n", "-p", "no:cacheprovider"]))
"""
WRONG = {
    "turned": [("-worst.to(", "worst.to(")],
    "both_signs": [("-worst.to(", "worst.to("), ("    return best_of_n(", "    return -best_of_n(")],
    "nan": [("-worst.to(rewards.dtype)", "0.0 * worst.to(rewards.dtype) / 0.0")],
    "shape": [('return {"weight"', 'return {"shape": worst, "weight"')],
    "no_value": [],
    "no_weights": [('@population("worst_of_n")', "")],
    "silent": [("negative_gradient = True", "negative_gradient = False")],
}
SHAPED = """

    def loss(self, outputs, batch, targets):
        return targets["share"] * self.response_loss(outputs, batch)


@population"""


def broken(name: str) -> str:
    code = ADDED.replace("@population", SHAPED, 1) if name == "shape" else ADDED
    for old, new in WRONG[name]:
        assert old in code
        code = code.replace(old, new)
    return code.replace("worst_of_n", f"worst_of_n_{name}").replace("WorstOfN", f"WorstOfN_{name}")


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The recipe, and every wrong one: each is tried, and the tests of all algorithms are run."""
    folder = tmp_path_factory.mktemp("recipe")
    code = ADDED + "".join(broken(name) for name in WRONG) + BY_HAND
    code += "".join(f"BY_HAND['worst_of_n_{name}'] = BY_HAND['worst_of_n']\n" for name in WRONG if name != "no_value")
    (folder / "added.py").write_text(f"{code}\n{RUN}")
    return run_script(folder / "added.py", str(folder))[1]


def test_an_added_algorithm_is_found_and_proven_without_being_told(printed: str) -> None:
    assert "[100%]" in printed, printed
    assert not re.search(r"^(FAILED|ERROR) .*\bworst_of_n\b", printed, re.MULTILINE), printed


def test_every_way_of_being_wrong_fails_a_test(printed: str) -> None:
    """A sign that is turned in loss and oracle alike, among them: the exact gradients agree, and are both wrong."""
    found: dict[str, set[str]] = {}
    for test, name in re.findall(r"^FAILED \S*?::(\w+)\[worst_of_n_(\w+)", printed, re.MULTILINE):
        found.setdefault(name, set()).add(test)
    assert set(found) == set(WRONG), printed
    assert "test_expected_gradient_is_the_population_gradient" in found["turned"]
    assert found["both_signs"] >= {"test_what_is_better_becomes_likelier", "test_loss_is_the_value_derived_by_hand"}
    assert "test_expected_gradient_is_the_population_gradient" not in found["both_signs"]
    assert found["no_value"] == {"test_loss_is_the_value_derived_by_hand"}
    assert "has no value derived by hand: add to BY_HAND" in printed
    assert found["no_weights"] == {"test_has_population_weights"}
    assert found["silent"] == {"test_says_whether_it_pushes_down"}


def test_a_loss_of_the_wrong_shape_is_refused_in_a_line_that_teaches(printed: str) -> None:
    line = "error: WorstOfN_shape.loss: shape = (2, 4, 2): must be (2, 4), each prompt's part of the loss"
    assert line in printed.splitlines(), printed
