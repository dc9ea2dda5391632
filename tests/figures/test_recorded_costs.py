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
    assert found == pytest.approx((1.5, 10 * 6.0 / 60, 0.0))
    assert cost("another", tmp_path) is None


def test_a_record_and_a_tuning_that_two_figures_share_cost_once(tmp_path: Path) -> None:
    """30 + 60 core-seconds and one tuning of 15 runs of 6; and a figure with one of the records and 50 more."""
    kept, again = Kept(), Kept()
    kept.records = {"a": record("a", 5, seconds=30.0), "b": record("b", 10, seconds=60.0)}
    again.records = {"b": kept.records["b"], "c": record("c", 15, seconds=90.0)}
    kept.used, again.used = ({key: {"gold"} for key in each.records} for each in (kept, again))
    kept.tunings = again.tunings = {"t": [Tuned("a", [{}, {}, {}], [0.0, 0.0, 0.0], 5, 0)]}
    kept.write("one", tmp_path)
    again.write("other", tmp_path)
    counted = set[str]()
    assert cost("one", tmp_path, counted) == pytest.approx((1.5, 1.5, 0.0))
    assert cost("other", tmp_path, counted) == pytest.approx((1.5, 0.0, 0.0))
    assert cost("other", tmp_path) == pytest.approx((2.5, 1.5, 0.0))


def test_of_a_figure_with_toys_and_language_models_these_have_their_share(tmp_path: Path) -> None:
    """90 of 120 core-seconds of tested records, and as large a share of 15 tuning runs of 12 core-seconds each."""
    kept = Kept()
    spec = {"name": "b", "runs": 5, "policy": {"kind": "language_model"}}
    model = Record(spec, {"gold": np.zeros((5, 2))}, {"seconds": 90.0})
    kept.records, kept.used = {"a": record("a", 5, seconds=30.0), "b": model}, {"a": {"gold"}, "b": {"gold"}}
    kept.tunings = {"t": [Tuned("a", [{}, {}, {}], [0.0, 0.0, 0.0], 5, 0)]}
    kept.write("figure", tmp_path)
    assert cost("figure", tmp_path) == pytest.approx((2.0, 3.0, 0.75 * 5.0))


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
