"""Rows that are tested again: what flips is fragile, and what is no longer the same record is not taken for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from figures.__main__ import parser
from figures.again import fragile, keep, name_of
from figures.catalogue import claim
from figures.claims import Verdict, row_of
from figures.figure import Figure
from figures.lab import FINAL_SEED, TUNING_SEED, Lab
from figures.retest import LAST_BIT, SECOND, _reseeded, moved, retest, within
from sims.core.algorithms.contrastive import DPO
from sims.core.algorithms.policy_gradient import RLOO
from sims.environments import BanditOverlap, BanditR1
from sims.experiments.experiment import Experiment
from sims.experiments.measures import final_scores
from sims.experiments.record_file import spec_hash
from sims.experiments.store import Record, Store
from sims.policies import Table
from sims.statistics.intervals import Interval, mean_interval


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


def test_the_file_is_parsed_once_for_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep("reference_shift", {name_of(row()): entry("supported", "a", "b")}, tmp_path)
    fragile(row(), tmp_path)
    monkeypatch.setattr("figures.again.json.loads", lambda text: pytest.fail("parsed again"))
    assert fragile(row(), tmp_path).why.endswith("and so on")


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


def test_what_the_same_row_came_to_by_another_change_stays(tmp_path: Path) -> None:
    keep("reference_shift", {name_of(row()): entry("too small", "a", "b")}, tmp_path)
    rounded = {"records": ["a", "b"], "other rounding": {"state": "supported", "said": "the same"}}
    keep("reference_shift", {name_of(row()): {**rounded, "claimed": row().claimed}}, tmp_path)
    assert "too small with other seeds" in fragile(row(), tmp_path).why
    for other in ({"claimed": "within ±0.05"}, {"records": ["a", "c"], "claimed": row().claimed}):
        keep("reference_shift", {name_of(row()): entry("too small", "a", "b")}, tmp_path)
        keep("reference_shift", {name_of(row()): {**rounded, **other}}, tmp_path)
        keep("reference_shift", {name_of(row()): {**rounded, "claimed": row().claimed}}, tmp_path)
        assert fragile(row(), tmp_path).verdict == "supported"


ARMS = {
    name: Experiment(f"again-{name}", BanditR1(), Table(), RLOO(), updates=4, evaluations=2, runs=12, seed=seed)
    for seed, name in enumerate(("tuned", "other"))
}


def of_two_arms(records: Mapping[str, Record]) -> list[Verdict]:
    """A row of both arms, and one of that which is not tuned."""
    parts = {"rloo: R1 against R2": ("tuned", "other"), "best_of_n: R1 against R2": ("other",)}
    return [
        row_of(
            claim("C25", part),
            "bandit",
            mean_interval(sum(final_scores(records[name]) for name in arms)),
            "online_offline",
            [records[name].hash for name in arms],
            "n.",
        )
        for part, arms in parts.items()
    ]


def test_another_tuning_has_seeds_of_its_own_and_tests_on_those_that_are_published(tmp_path: Path) -> None:
    grid = {"tuned": [{"learning_rate": 0.1}, {"learning_rate": 0.3}]}

    def collect(lab: Lab) -> Mapping[str, Record]:
        tuned = lab.tuned_records({"tuned": ARMS["tuned"]}, grid, tuning_runs=2, finalists=1)
        return tuned | lab.records({"other": ARMS["other"]})

    small = Figure(
        "online_offline",
        title="t",
        tags=(),
        claims=("C25",),
        collect=collect,
        draw=lambda r: plt.figure(),
        verdicts=of_two_arms,
        caption=lambda r: "",
    )
    options = parser().parse_args(["x", "--again", "0", "--retune", "--jobs", "1", "--results", str(tmp_path)])
    lines = list(retest([small], options, tmp_path))
    assert ["another tuning" in line for line in lines] == [True, False]
    specs = [s for s in Store(tmp_path).specs().values() if s["name"].startswith("again-tuned")]
    tuning = {s["seed"] for s in specs if s["name"] == "again-tuned-tuning"}
    assert tuning == {seed + shift for seed in (TUNING_SEED, FINAL_SEED) for shift in (0, SECOND)}
    tested = {s["seed"] for s in specs if s["name"] == "again-tuned"}
    assert tested == {ARMS["tuned"].seed, ARMS["tuned"].seed + SECOND}  # the latter as tuned at first, for other seeds


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
