"""What records took, by hand."""

import re
from pathlib import Path

import numpy as np
import pytest

from figures.committed import Committed, Kept, Tuned
from figures.entries import entries
from figures.plan import choose_live
from figures.recorded_costs import cost
from sims.experiments.record_file import Record

ROOT = Path(__file__).parents[2]


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


def test_pages_say_how_many_rows_a_budget_computes() -> None:
    """Within five in a hundred: figures that come move all of them a little."""
    committed = {name: Committed(name) for name in entries()}
    costs = {name: found.core_seconds() for name, found in committed.items()}
    rows = {name: found.rows for name, found in committed.items()}
    behind = [(name, row) for name, its in rows.items() for row in its]

    def computed(minutes: float) -> float:
        live = choose_live(costs, 60 * minutes, rows)
        return 100 * sum(row & costs[name].keys() <= live for name, row in behind) / len(behind)

    plan = (ROOT / "docs/site/how-to/plan-a-large-sweep.md").read_text(encoding="utf-8")
    minutes, shares = (re.findall(r"[\d.]+", line) for line in re.findall(r"^\| (?:core-m|rows comp).*", plan, re.M))
    said = list(zip(minutes, shares, strict=True))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    said += re.findall(r"BUDGET=(\d+)` (?:computes )?(\d+) %", readme)
    assert len(said) == 12 and "computes half of the verdicts anew, in some two core-minutes" in readme
    found = {budget: computed(float(budget)) for budget in {"2", *minutes}}
    assert [(budget, share) for budget, share in (*said, ("2", "51")) if abs(found[budget] - float(share)) > 5] == []
