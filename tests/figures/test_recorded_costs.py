"""What records took, by hand."""

from pathlib import Path

import numpy as np
import pytest

from figures.committed import Kept, Tuned
from figures.recorded_costs import cost
from sims.experiments.record_file import Record


def record(name: str, runs: int, **took: float) -> Record:
    return Record({"name": name, "runs": runs}, {"gold": np.zeros((runs, 2))}, took)


def test_core_minutes_of_records_and_of_tuning(tmp_path: Path) -> None:
    """Two records of 30 and 60 core-seconds, 15 runs: 6 a run. Tuning: 3 points of 2 runs, and 4 runs of 1 finalist.
    The twin of a record is no part of it."""
    kept = Kept()
    kept.records = {"a": record("a", 5, seconds=30.0), "b": record("b", 10, seconds=99.0, core_seconds=60.0)}
    kept.used = {"a": {"gold"}, "b": {"gold"}}
    kept.twins = {"a": ("a-quick", record("a-quick", 4, seconds=600.0))}
    kept.tunings = {"t": [Tuned("a", [{}, {}, {}], [0.0, 0.0, 0.0], 2, 0, [(0, 0.0)], 4)]}
    kept.write("figure", tmp_path)
    found = cost("figure", tmp_path)
    assert found == pytest.approx((1.5, 10 * 6.0 / 60))
    assert cost("another", tmp_path) is None
