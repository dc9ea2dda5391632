"""The door of pytest: one test for each property that applies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from sims.core.algorithms import Algorithm

from .report import explain
from .running import chosen, excuse, run_property
from .subject import make_subject
from .trials import EXACT, Subject


def parametrize_with_checks(
    function: Callable[..., Any],
    family: str = "pair",
    claim: str | Algorithm | None = None,
    *,
    reduction: str | None = None,
    expected_failures: Mapping[str, str] | None = None,
    seed: int = 0,
    tolerance: float = EXACT,
    **hyper_parameters: Any,
) -> Any:
    """A decorator of a test that takes `check` and calls it: pytest runs it once per property, named by it.

        @parametrize_with_checks(my_loss, family="pair", claim="dpo", beta=0.1)
        def test_my_loss(check):
            check()

    Arguments are those of `check_loss`. A property of `expected_failures` is marked as one that must fail, with its
    reason. Properties that do not apply are no tests. Needs pytest.

    >>> mark = sims.checks.parametrize_with_checks(sims.checks.as_function(sims.DPO()), family="pair", claim="dpo")
    >>> [parameter.id for parameter in mark.args[1]][:3]
    ['shape', 'repeatable', 'permutation']
    """
    import pytest

    subject = make_subject(function, family, claim, reduction, hyper_parameters, tolerance)
    reasons = dict(expected_failures or {})
    excuse([], reasons)
    parameters = [
        pytest.param(
            partial(run_check, subject, found.name, seed),
            id=found.name,
            marks=[pytest.mark.xfail(reason=reasons[found.name], strict=True)] if found.name in reasons else [],
        )
        for found in chosen(None)
        if not found.why_not(subject)
    ]
    return pytest.mark.parametrize("check", parameters)


def run_check(subject: Subject, name: str, seed: int) -> None:
    """AssertionError with the counterexample if the property fails."""
    (found,) = chosen([name])
    outcome = run_property(subject, found, seed)
    if outcome.status == "failed":
        raise AssertionError(explain(subject, outcome))
