"""A figure that is wrong is named in a line: what its functions raise or return, and rows that no catalogue has."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure as MatplotlibFigure

from figures.catalogue import CatalogueError, check_row, claim
from figures.claims import Verdict, row_of, theorem_of
from figures.figure import RETURNS, Figure, call
from sims.core.spec import SpecError
from sims.experiments.command import in_a_line
from sims.statistics.intervals import Interval, mean_interval

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

    with pytest.raises(KeyError if name == "collect" else SpecError) as caught:  # what it calls to run may be at fault
        call(figure(**{name: broken}), name, None)
    line = broken.__code__.co_firstlineno + 1
    if name == "collect":
        assert caught.value.__notes__ == [f"in `{name}` of the figure mine (figures/gallery)"]
    else:
        assert in_a_line(caught.value) == (
            f"mine.{name} = KeyError('dpo'): must return {RETURNS[name][1]}; raised at test_broken_figures.py:{line}"
        )


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


@pytest.mark.parametrize("name", ["effect", "low", "high"])
def test_a_row_that_is_no_number_is_refused(name: str) -> None:
    row = dataclasses.replace(a_row(), **{name: float("nan")})
    with pytest.raises(SpecError, match=r"mine.verdicts = .*nan.*: must be finite, of C06, near and far \(bandit\)"):
        call(figure(verdicts=lambda records: [row]), "verdicts", None)


def test_an_interval_of_nan_is_told_with_the_line_that_asked_for_it() -> None:
    def verdicts(records: object) -> list[Verdict]:
        return [row_of(TESTED, "bandit", mean_interval(np.full(20, np.nan)), "reference_shift", ["0" * 12], "")]

    with pytest.raises(SpecError) as caught:
        call(figure(verdicts=verdicts), "verdicts", None)
    line = verdicts.__code__.co_firstlineno + 1
    assert f"raised at test_broken_figures.py:{line}, in " in in_a_line(caught.value)


def test_the_error_of_a_proof_that_is_nan_is_not_passed_over() -> None:
    proof = dataclasses.replace(TESTED, kind="theorem")
    assert math.isnan(theorem_of(proof, "bandit", [0.0, math.nan], "reference_shift", [], "").effect)


def test_every_row_of_the_catalogue_passes() -> None:
    check_row("C06", "near and far", "bandit", "reference_shift")
