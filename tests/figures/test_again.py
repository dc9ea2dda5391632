"""Rows that are tested again: what flips is fragile, and what is no longer the same record is not taken for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from figures.again import fragile, keep, name_of
from figures.catalogue import claim
from figures.claims import Verdict, row_of
from figures.retest import LAST_BIT, SECOND, _reseeded, moved, within
from sims.core.algorithms.contrastive import DPO
from sims.environments import BanditOverlap
from sims.experiments.experiment import Experiment
from sims.experiments.record_file import spec_hash
from sims.experiments.store import Record
from sims.policies import Table
from sims.statistics.intervals import Interval


def row(low: float = 0.1, hashes: tuple[str, ...] = ("a", "b")) -> Verdict:
    tested = claim("C06", "near and far")
    return row_of(tested, "mlp", Interval(low + 0.1, low, low + 0.2, 0.95, 50, ""), "reference_shift", hashes, "None.")


def entry(state: str, *records: str) -> dict[str, object]:
    return {"records": list(records), "other seeds": {"state": state, "said": f"{state}, and so on"}}


def test_a_row_that_flips_is_fragile_and_one_that_does_not_says_what_it_came_to(tmp_path: Path) -> None:
    keep("reference_shift", {name_of(row()): entry("supported", "a", "b")}, tmp_path)
    same = fragile(row(), tmp_path)
    assert same.verdict == "supported" and same.why.endswith("with other seeds supported, and so on")
    keep("reference_shift", {name_of(row()): entry("too small", "a", "b")}, tmp_path)
    flipped = fragile(row(), tmp_path)
    assert flipped.verdict == "inconclusive" and flipped.why.startswith("fragile: supported, but too small with other")
    other = fragile(row(hashes=("a", "c")), tmp_path)
    assert other == row(hashes=("a", "c"))


def test_a_state_by_another_claim_does_not_count(tmp_path: Path) -> None:
    keep("reference_shift", {name_of(row()): {**entry("opposite", "a", "b"), "claimed": "within ±0.05"}}, tmp_path)
    assert fragile(row(), tmp_path) == row()
    keep("reference_shift", {name_of(row()): {**entry("opposite", "a", "b"), "claimed": row().claimed}}, tmp_path)
    assert fragile(row(), tmp_path).verdict == "inconclusive"


def test_what_other_figures_came_to_stays(tmp_path: Path) -> None:
    keep("reference_shift", {name_of(row()): entry("too small", "a", "b")}, tmp_path)
    keep("audit", {"audit: x": entry("supported")}, tmp_path)
    assert fragile(row(), tmp_path).verdict == "inconclusive"
    keep("reference_shift", {}, tmp_path)
    assert fragile(row(), tmp_path) == row()


def test_the_cheapest_rows_are_run_and_shared_records_are_paid_once() -> None:
    rows = [row(hashes=("a", "b")), row(hashes=("b",)), row(hashes=("c",))]
    rows = [Verdict(**{**vars(r), "part": str(i)}) for i, r in enumerate(rows)]
    chosen, spent = within(rows, {"a": 2.0, "b": 3.0, "c": 9.0}, 6.0)
    assert chosen == {name_of(rows[0]), name_of(rows[1])} and spent == 5.0


def test_only_arms_that_a_row_rests_on_get_other_seeds() -> None:
    other = Experiment("other", BanditOverlap(), Table(), DPO(), seed=3)
    tested = {spec_hash(other.to_json())}
    assert _reseeded(tested, other).seed == 3 + SECOND
    assert _reseeded(tested, other.replace(runs=7)) == other.replace(runs=7)


def test_numbers_move_by_the_last_bit_of_float32_and_no_others() -> None:
    arrays = {"gold": np.array([[0.5, -2.0, 0.0]]), "updates": np.array([3])}
    found = moved({"x": Record({}, arrays, {})})["x"].arrays
    change = np.abs(found["gold"] - arrays["gold"])
    assert (change[0, :2] > 0).all() and (change <= 2.0 * LAST_BIT).all()
    assert (found["updates"] == arrays["updates"]).all()
