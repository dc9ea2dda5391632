"""A figure's committed records are read under its own names, and what is not there is refused instead of computed."""

from __future__ import annotations

import dataclasses

import pytest

from figures.figure import all_figures
from figures.gallery import toy_to_lm
from figures.reading import committed_records
from sims.core.spec import SpecError


def test_every_arm_is_read_with_its_tuning() -> None:
    records = committed_records(toy_to_lm.FIGURE)
    assert {key.split("/")[0] for key in records} == {"toy", "lm"}
    assert all(r.source == "committed" and "tuning" in r.provenance for r in records.values())


def test_a_record_says_by_what_it_was_tuned() -> None:
    said = {"peaks_and_data": {"run"}, "sample_reuse": {"end"}, "two_tasks": {"first", "second", "parts"}}
    for figure, by in said.items():
        records = committed_records(all_figures()[figure])
        assert {r.provenance["tuning"]["by"] for r in records.values() if "tuning" in r.provenance} == by


def test_what_is_not_committed_is_refused() -> None:
    with pytest.raises(SpecError, match=r"must be tuned in figures/records/no_such_figure\.npz"):
        committed_records(dataclasses.replace(toy_to_lm.FIGURE, name="no_such_figure"))


@pytest.mark.parametrize("name", [name for name, figure in all_figures().items() if figure.claims])
def test_a_figure_finds_every_record_that_it_asks_for(name: str) -> None:
    """A setting that is added to an environment, and stands in its JSON, gives all of its records another name."""
    assert {record.source for record in committed_records(all_figures()[name]).values()} == {"committed"}
