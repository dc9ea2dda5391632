"""Try every property on a loss, and keep the simplest batch that breaks each."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from sims.core.algorithms import Algorithm
from sims.core.spec import SpecError

from .families import Draw
from .on_options import option, variants
from .property import Property
from .registry import PROPERTIES
from .report import Outcome, Report
from .subject import make_subject
from .trials import EXACT, Subject, Trial, Violation, verify


def check_loss(
    function: Callable[..., Any],
    family: str = "pair",
    claim: str | Algorithm | None = None,
    *,
    reduction: str | None = None,
    expected_failures: Mapping[str, str] | None = None,
    only: Sequence[str] | None = None,
    seed: int = 0,
    tolerance: float = EXACT,
    **hyper_parameters: Any,
) -> Report:
    """Try to break a loss: every property of its family, and what it is claimed to be.

    family: what the function takes, see `sims.checks.FAMILIES`: pair, unpaired, group, token, actor_critic, likelihood.
    claim: what it is said to be: "dpo", "grpo(ddof=0)" or sims.DPO(beta=0.1); numbers that are not given are the
        hyper-parameters of the same name. None: only what holds of every loss of the family.
    reduction: over tokens, if it is to be checked: sequence_mean, token_mean or sequence_sum.
    expected_failures: property → reason why it may fail; a property that holds all the same is a failure.
    only: the names of the properties to try. seed: of the batches. hyper_parameters: passed to the function by name.
    tolerance: of equalities, relative to the largest entry and 1: 1e-5 for a loss that computes in float32 what it is
        given in float64.

    Returns a report; `report.ok` is False if a property failed. It is evidence, not proof, but for the population
    gradient, which is exact on its space. SpecError, in one line, for a function that cannot be checked: that raises on
    an ordinary batch, returns something else than a loss, or has no gradient.

    >>> from torch.nn.functional import logsigmoid
    >>> def loss(chosen, rejected, ref_chosen, ref_rejected, beta):
    ...     return -logsigmoid(beta * (chosen - rejected - ref_chosen + ref_rejected)).sum()
    >>> report = sims.checks.check_loss(loss, "pair", claim="dpo", beta=0.1)
    >>> report.ok, [outcome.tested.name for outcome in report.failures]
    (False, ['micro_batches', 'ranks', 'duplicated', 'step_0'])
    """
    subject = make_subject(function, family, claim, reduction, hyper_parameters, tolerance)
    outcomes = [run_property(subject, found, seed) for found in chosen(only)]
    return Report(subject, tuple(excuse(outcomes, expected_failures or {})), seed)


def chosen(only: Sequence[str] | None) -> list[Property]:
    """Properties by their names; SpecError for one that there is not."""
    if only is not None and (isinstance(only, str) or not only):
        raise SpecError("only", only, "must be a list of at least one property")
    for name in only or ():
        if name not in PROPERTIES:
            raise SpecError("only", name, f"must be among {', '.join(PROPERTIES)}")
    return [found for name, found in PROPERTIES.items() if only is None or name in only]


def excuse(outcomes: Sequence[Outcome], reasons: Mapping[str, str]) -> list[Outcome]:
    """Failures that were expected, with their reasons; SpecError for a property that there is not, or no reason."""
    for name, reason in reasons.items():
        if name not in PROPERTIES:
            raise SpecError("expected_failures", name, f"must be among {', '.join(PROPERTIES)}")
        if not reason:
            raise SpecError("expected_failures", name, "must have a reason")
    return [replace(o, expected=reasons[o.tested.name]) if o.tested.name in reasons else o for o in outcomes]


def run_property(subject: Subject, found: Property, seed: int, simplify: bool = True) -> Outcome:
    """Passed, failed with the simplest counterexample, or not applicable. simplify: False for the evenly drawn batches
    alone, in a tenth of the time."""
    reason = found.why_not(subject)
    if reason:
        return Outcome(found, "not applicable", reason)
    if not found.some:
        search = simplest if simplify else evenly
        violation = search(partial(found.trial, subject), subject, found.examples, seed)
        return Outcome(found, "passed") if violation is None else Outcome(found, "failed", violation=violation)
    for name in variants(subject):
        violation = none_holds(partial(option, subject, name=name), subject, found.examples, seed)
        if violation is not None:
            return Outcome(found, "failed", violation=violation)
    return Outcome(found, "passed")


def simplest(make: Callable[[Draw], Trial], subject: Subject, examples: int, seed: int) -> Violation | None:
    """The simplest counterexample that is found, None if none is.

    So many batches are drawn evenly, which is cheap, then a few by hypothesis, which prefers small and extreme ones; as
    many as it takes it, if there is something to simplify.
    """
    first = evenly(make, subject, examples, seed)
    return simplified(make, subject, 10 if first is None else 200, seed) or first


def evenly(make: Callable[[Draw], Trial], subject: Subject, examples: int, seed: int) -> Violation | None:
    """The first counterexample among evenly drawn batches."""
    draw = random.Random(seed).randint
    for _ in range(examples):
        try:
            verify(subject, make(draw))
        except Violation as violation:
            return violation
    return None


def simplified(make: Callable[[Draw], Trial], subject: Subject, examples: int, seed: int) -> Violation | None:
    """What hypothesis finds and simplifies."""
    import hypothesis
    from hypothesis import HealthCheck, Phase, Verbosity
    from hypothesis import strategies as st

    last: list[Violation] = []
    integers = functools.cache(st.integers)

    @st.composite
    def trials(draw: Any) -> Trial:
        return make(lambda low, high: draw(integers(low, high)))

    def attempt(trial: Trial) -> None:
        try:
            verify(subject, trial)
        except Violation as violation:
            last.append(violation)
            raise

    settings = hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        print_blob=False,
        verbosity=Verbosity.quiet,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    try:
        hypothesis.seed(seed)(settings(hypothesis.given(trials())(attempt)))()
    except Violation:
        return last[-1]
    except hypothesis.errors.Flaky:  # a loss that is not repeatable
        return last[-1]
    return None


def none_holds(make: Callable[[Draw], Trial], subject: Subject, examples: int, seed: int) -> Violation | None:
    """None if one of the trials holds or all of them raise, else a trial that does not."""
    generator = random.Random(seed)
    last: Violation | None = None
    for _ in range(examples):
        try:
            verify(subject, make(generator.randint))
            return None
        except Violation as violation:
            if not isinstance(violation.got, str):  # refused
                last = violation
    return last
