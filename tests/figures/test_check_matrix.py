"""The matrix of libraries and properties: its records are complete, and every red cell says what it means."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from docs import other_libraries
from figures.checked import finding_of, findings, records, rows
from sims.checks import PROPERTIES
from sims.checks.claims import ALGORITHMS
from sims.core.spec import SpecError

TABLE = rows(records())


def test_every_red_cell_says_what_it_means() -> None:
    told = findings()
    used = {finding_of(row, name, told) for row in TABLE for name in row.failures}
    recorded = {"", *(row.library for row in TABLE)}
    assert used == {one for one in told if one.library in recorded}  # none is left of a cell that is green by now


def test_our_own_losses_are_all_in_the_first_rows() -> None:
    kinds = [kind for kinds in ALGORITHMS.values() for kind in kinds]
    assert [row.loss for row in TABLE[: len(kinds)]] == kinds and TABLE[0].library == "onoff"


@pytest.mark.parametrize("record", records(), ids=lambda record: f"{record['library']} {record['version']}")
def test_a_record_has_every_property_of_its_families(record: dict) -> None:
    for loss in record["losses"]:
        assert loss["properties"].keys() == {n for n, p in PROPERTIES.items() if loss["family"] in p.families}, loss
    assert record["torch"] and record["date"] and record["version"]


def test_at_least_four_other_libraries_were_executed() -> None:
    assert len({row.library for row in TABLE if not row.why_not} - {"onoff"}) >= 4


def test_the_page_leads_from_every_red_cell_to_its_numbers() -> None:
    page = other_libraries.page()
    reds = [(row, name) for row in TABLE for name in row.failures]
    for row, name in reds:
        assert page.count(f'href="#{other_libraries.anchor(row, name)}"') == 1
        assert page.count(f'id="{other_libraries.anchor(row, name)}"') == 1
    assert page.count('class="failed"') == len(reds)


def test_a_record_of_another_schema_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"schema": 99}))
    with pytest.raises(SpecError, match=r"a\.json = 99: must have schema 1"):
        records(tmp_path)
