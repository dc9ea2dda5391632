"""Which evaluation is the best: by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from llm.training.best import Best


@pytest.mark.parametrize(
    ("metric", "greater", "values", "best"),
    [
        ("eval_reward", None, [9.0, 1.0, 2.0, 2.0, 1.5], 2),  # the first of equals; not that before the first update
        ("eval_loss", None, [0.0, 3.0, 2.0, 2.0, 2.5], 2),
        ("eval_length", False, [0.0, 3.0, 1.0, 1.0, 4.0], 2),
        ("eval_reward", None, [0.0, math.nan, -math.inf, -3.0, math.nan], 3),
        ("eval_reward", None, [0.0, math.nan, math.nan], None),
    ],
)
def test_the_first_of_the_best(
    metric: str, greater: bool | None, values: list[float], best: int | None, tmp_path: Path
) -> None:
    found = Best(metric, greater, tmp_path)
    for update, value in enumerate(values):
        found.see({"update": update, metric: value})
    assert found.update == best
