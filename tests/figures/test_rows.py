"""Rows after their tests: what is tested of them together, where their records are from, and how they are drawn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from figures.catalogue import claim
from figures.claims import Verdict, row_of, write_claims
from figures.drawing import where_from
from figures.lab import Compared, Lab
from figures.report.effects import panel_of
from sims.experiments.store import Store
from sims.statistics.gates import Gate
from sims.statistics.intervals import Interval

TESTED = claim("C06", "near and far")


def row(effect: float, reach: float, figure: str, gates: tuple[Gate, ...] = ()) -> Verdict:
    found = Interval(effect, effect - reach, effect + reach, 0.95, 50, "")
    return row_of(TESTED, "mlp", found, figure, ["a", "b"], "None.", gates)


def test_what_is_no_test_has_no_p_and_is_not_of_the_family() -> None:
    closed = row(0.5, 0.1, "audit", (Gate("room", False, "there is none"),))
    assert closed.verdict == "no test" and closed.p is None
    assert row(0.5, 0.1, "audit", (Gate("room", True, "there is"),)).p is not None


@pytest.mark.parametrize(
    ("runs", "method", "gates", "says"),
    [
        (50, "Gaffke", (), True),
        (50, "Gaffke and Student, Bonferroni", (), True),
        (100, "Gaffke", (), False),
        (50, "Student and bootstrap-t", (), False),
        (50, "Gaffke", (Gate("runs at a bound", True, "none is"),), False),
    ],
)
def test_a_row_of_few_runs_at_a_bound_says_so(runs: int, method: str, gates: tuple[Gate, ...], says: bool) -> None:
    found = row_of(TESTED, "mlp", Interval(0.5, 0.4, 0.6, 0.95, runs, method), "audit", ["a"], "None.", gates)
    assert ("100 are asked for" in found.note) == says and found.note.startswith("None.") and found.note.endswith(".")


def test_all_rows_of_the_folder_are_one_family(tmp_path: Path) -> None:
    """Alone a row of p = 0.04 survives; beside one of p = 0.9 its rank asks for 0.025."""
    write_claims([row(0.5, 0.1, "audit")], tmp_path)
    alone = json.loads((tmp_path / "claims.json").read_text())
    alone[0]["p"] = 0.04  # of an older run
    (tmp_path / "claims.json").write_text(json.dumps(alone))
    weak = row(TESTED.margin * 1.01, 0.1, "reference_shift")
    assert weak.p is not None and weak.p > 0.5
    write_claims([weak], tmp_path)
    assert [r["survives"] for r in json.loads((tmp_path / "claims.json").read_text())] == [False, False]


@pytest.mark.parametrize(
    ("sources", "compared", "said"),
    [
        ({"a": "live", "b": "live"}, (), ("live", None)),
        ({"a": "live", "b": "committed"}, (True,), ("committed", True)),
        ({"a": "stale", "b": "committed"}, (True, False), ("stale", False)),
    ],
)
def test_a_row_is_as_old_as_the_oldest_of_its_records(
    sources: dict[str, str], compared: tuple[bool, ...], said: tuple[str, bool | None], tmp_path: Path
) -> None:
    lab = Lab(Store(tmp_path))
    lab.where_from.update(sources)
    lab.compared += [Compared("arm", name, False, 0.0, agrees) for name, agrees in zip("ab", compared, strict=False)]
    lab.compared.append(Compared("arm", "of another row", False, 9.0, False))
    found = where_from(row(0.5, 0.1, "audit"), lab)
    assert (found.computed, found.agrees) == said


def test_an_effect_is_drawn_in_margins_between_its_own_ends() -> None:
    skewed = Interval(0.5, 0.4, 0.9, 0.95, 50, "")
    found = panel_of([row_of(TESTED, "mlp", skewed, "audit", ["a"], "None.")], 3.0)
    assert found is not None
    (panel,) = found.axes
    point = next(line for line in panel.lines if len(line.get_xdata()) == 1)
    assert point.get_xdata() == pytest.approx([0.5 / TESTED.margin])
    (segment,) = panel.collections[0].get_segments()  # type: ignore[attr-defined]
    assert np.asarray(segment)[:, 0] == pytest.approx([0.4 / TESTED.margin, 0.9 / TESTED.margin])
