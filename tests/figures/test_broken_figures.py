"""A figure that is wrong is named in a line: what its functions raise or return, and rows that no catalogue has."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import pytest
from matplotlib.figure import Figure as MatplotlibFigure

from figures.catalogue import CatalogueError, check_row, claim
from figures.claims import Verdict, row_of
from figures.figure import RETURNS, Figure, call
from sims.core.spec import SpecError
from sims.statistics.intervals import Interval

TESTED = claim("C06", "near and far")


def a_row(**changes: str) -> Verdict:
    row = row_of(TESTED, "bandit", Interval(0.0, -0.1, 0.1, 0.95, 20, "exact"), "reference_shift", ["0" * 12], "")
    return dataclasses.replace(row, **changes)


def figure(**functions: Callable[..., Any]) -> Figure:
    """One that is right, but for some of its functions."""
    right = {
        "collect": lambda lab: {},
        "draw": lambda records: MatplotlibFigure(),
        "verdicts": lambda records: [a_row()],
        "caption": lambda records: "What is drawn.",
        "details": lambda records: {"A heading": ["A line."]},
    }
    return Figure("mine", "Mine", (), ("C06",), **right | functions)


def test_a_right_one_passes() -> None:
    assert all(call(figure(), name, None) is not None for name in RETURNS)


@pytest.mark.parametrize("name", RETURNS)
def test_what_a_function_raises_says_whose_it_is(name: str) -> None:
    def broken(argument: object) -> object:
        raise KeyError("dpo")

    with pytest.raises(KeyError, match="dpo") as caught:
        call(figure(**{name: broken}), name, None)
    assert caught.value.__notes__ == [f"in `{name}` of the figure mine (figures/gallery)"]


@pytest.mark.parametrize("name", RETURNS)
def test_a_function_that_returns_nothing_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match=re.escape(f"mine.{name} = None: must return {RETURNS[name][1]}")):
        call(figure(**{name: lambda argument: None}), name, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"setting": "banana"}, "C06, near and far: setting = 'banana': must be one of "),
        ({"figure": "another"}, "C06, near and far: figure = 'another': must be reference_shift, as claims.toml says"),
        ({"part": "nearer"}, "C06: part = 'nearer': must be a "),
        ({"id": "C006"}, "claim = 'C006': must be in claims.toml; did you mean C06?"),
    ],
)
def test_a_row_that_the_catalogue_does_not_have_is_refused(changes: dict[str, str], message: str) -> None:
    with pytest.raises(CatalogueError) as caught:
        call(figure(verdicts=lambda records: [a_row(**changes)]), "verdicts", None)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_every_row_of_the_catalogue_passes() -> None:
    check_row("C06", "near and far", "bandit", "reference_shift")
