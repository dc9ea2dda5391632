"""TRL 1.16 through `sims.checks`: what the tool finds by itself, of what our comparisons with TRL know.

The losses are those of the matrix of libraries, made by TRL's own constructors (`figures/libraries/trl.py`).
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from figures.libraries.run import checked
from figures.libraries.trl import library
from sims.checks import PROPERTIES, Report

PATHS = {path.name: path for path in library().paths}


def report(loss: str, only: list[str]) -> Report:
    """Of these properties alone: a call of TRL's takes a hundred times as long as its arithmetic."""
    path = PATHS[loss]
    return checked(replace(path, left_out={**path.left_out, **{n: "slow" for n in PROPERTIES if n not in only}}))


@pytest.mark.parametrize(
    ("loss", "tried", "found"),
    [
        ("DPO", ["duplicated", "direction", "step_0", "population_gradient"], []),
        ("SLiC", ["direction", "population_gradient"], []),
        ("cDPO", ["options", "population_gradient"], ["options", "population_gradient"]),  # smoothing does nothing
        ("robust DPO", ["options", "population_gradient"], []),
        ("IPO", ["step_0", "population_gradient"], ["population_gradient"]),  # averages over tokens
        # Whatever the width of the log-probs, TRL computes odds in float32; near probability 1 they are NaN.
        ("ORPO", ["float32", "probability_near_1", "extreme_log_probs"], ["probability_near_1"]),
        ("GRPO", ["direction", "equal_rewards", "population_gradient"], []),
        ("Dr. GRPO", ["direction", "population_gradient"], ["population_gradient"]),  # its name alone: still divides
        ("Dr. GRPO, not scaled", ["population_gradient"], []),
    ],
)
def test_what_is_known_is_found_and_nothing_else(loss: str, tried: list[str], found: list[str]) -> None:
    told = report(loss, tried)
    assert [outcome.tested.name for outcome in told.failures] == found, str(told)


def test_the_counterexample_names_the_option_that_is_not_read() -> None:
    violation = report("cDPO", ["options"])["options"].violation
    assert violation is not None and "label_smoothing" in violation.trial.equation
