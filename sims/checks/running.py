"""Try every property on a loss, and keep the simplest batch that breaks each."""

from __future__ import annotations

import functools
import inspect
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sims.core.algorithms import Algorithm
from sims.core.spec import SpecError

from .claims import Claim, make_claim
from .families import FAMILIES, Draw, Family, draw_inputs, take
from .on_options import option, variants
from .on_tokens import REDUCTIONS
from .plain import result_of
from .property import Property
from .registry import PROPERTIES
from .report import Outcome, Report
from .trials import EXACT, Subject, Trial, Violation, first_line, verify


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
    for name in only or ():
        if name not in PROPERTIES:
            raise SpecError("only", name, f"must be among {', '.join(PROPERTIES)}")
    return [found for name, found in PROPERTIES.items() if only is None or name in only]


def excuse(outcomes: Sequence[Outcome], reasons: Mapping[str, str]) -> list[Outcome]:
    """Failures that were expected, with their reasons; SpecError for a property that there is not."""
    for name in reasons:
        if name not in PROPERTIES:
            raise SpecError("expected_failures", name, f"must be among {', '.join(PROPERTIES)}")
    return [replace(o, expected=reasons[o.tested.name]) if o.tested.name in reasons else o for o in outcomes]


def make_subject(
    function: Callable[..., Any],
    family: str,
    claim: str | Algorithm | None,
    reduction: str | None,
    options: Mapping[str, Any],
    tolerance: float = EXACT,
) -> Subject:
    """The loss with all that is known of it, after one ordinary batch has been through it."""
    if family not in FAMILIES:
        raise SpecError("family", family, f"must be one of {', '.join(FAMILIES)}")
    if reduction not in (None, *REDUCTIONS):
        raise SpecError("reduction", reduction, f"must be one of {', '.join(REDUCTIONS)}")
    if not callable(function):
        raise SpecError("function", function, "must be a function")
    if not 0 < tolerance < 1:
        raise SpecError("tolerance", tolerance, "must be float > 0 and < 1")
    known = FAMILIES[family]
    check_signature(function, known, options)
    made: Claim | None = None if claim is None else make_claim(claim, known, {**defaults(function, known), **options})
    subject = Subject(function, known, dict(options), made, reduction, tolerance=tolerance)
    check_one_batch(subject)
    return replace(subject, weighs=weighs(subject))


def name_of(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)


def defaults(function: Callable[..., Any], family: Family) -> dict[str, Any]:
    """The default values of the hyper-parameters."""
    from .on_options import hyper_parameters

    found = hyper_parameters(function, len(family.arguments))
    return {name: p.default for name, p in found.items() if p.default is not inspect.Parameter.empty}


def check_signature(function: Callable[..., Any], family: Family, options: Mapping[str, Any]) -> None:
    """Raise SpecError for a function that cannot be called as the family calls it."""
    signature = inspect.signature(function)
    try:
        signature.bind(*family.arguments, **options)
    except TypeError as error:
        expected = (
            f"{', '.join(family.arguments)}, then hyper-parameters by name ({', '.join(options) or 'none given'})"
        )
        raise SpecError(
            name_of(function), f"{name_of(function)}{signature}", f"{error}; the {family.name} family passes {expected}"
        ) from None


def check_one_batch(subject: Subject) -> None:
    """Raise SpecError for a function that no property can be tried on."""
    name, family = name_of(subject.function), subject.family
    random_number = random.Random(0).randint
    x = draw_inputs(family, random_number, rows=(3, 3), length=(2, 2), full=True)
    try:
        with torch.enable_grad():
            x |= {key: x[key].requires_grad_() for key in family.trained}
            result = result_of(subject.function, x, dict(subject.options))
    except Exception as error:  # whatever a user's function raises
        raise SpecError(name, f"{type(error).__name__}: {first_line(error)}", "must not raise on a batch") from None
    if not isinstance(result, Tensor):
        raise SpecError(name, type(result).__name__, "must return a tensor, or a tuple whose first item is one")
    if not result.is_floating_point():
        raise SpecError(name, str(result.dtype), "must return a tensor of floating-point numbers")
    rows = len(x[family.rows[0]])
    sizes = {"B": rows, "N": rows, "K": x["rewards"].shape[-1] if "rewards" in x else 0}
    allowed = {axes: tuple(sizes[axis] for axis in axes) for axes in family.results}
    if tuple(result.shape) not in allowed.values():
        shapes = ", ".join(f"({', '.join(axes)})" for axes in family.results)
        raise SpecError(name, tuple(result.shape), f"must return the mean loss or one per row: a shape of {shapes}")
    if not result.requires_grad:
        raise SpecError(name, "no gradient", f"must be differentiable by {' or '.join(family.trained)}")


def weighs(subject: Subject) -> str:
    """Whether parts of a batch add up to the whole if weighed by their rows, or by their tokens: what a few partitions
    say; rows if they say nothing."""
    if "mask" not in subject.family.axes:
        return "rows"
    draw = random.Random(1).randint
    batches = [draw_inputs(subject.family, draw, rows=(2, 2), length=(3, 3), ragged=True) for _ in range(4)]

    def fits(candidate: Subject) -> bool:
        for x in batches:
            parts = [take(subject.family, x, [row]) for row in (0, 1)]
            weights = [candidate.weight(part) for part in parts]
            mean = sum(w * float(candidate.loss(part).detach()) for w, part in zip(weights, parts, strict=True))
            if not abs(mean / sum(weights) - float(candidate.loss(x).detach())) < subject.tolerance:
                return False
        return True

    try:
        return next((w for w in ("rows", "tokens") if fits(replace(subject, weighs=w))), "rows")
    except Exception:  # whatever a user's function raises; the properties will say so
        return "rows"


def run_property(subject: Subject, found: Property, seed: int) -> Outcome:
    """Passed, failed with the simplest counterexample, or not applicable."""
    reason = found.why_not(subject)
    if reason:
        return Outcome(found, "not applicable", reason)
    if not found.some:
        violation = simplest(partial(found.trial, subject), subject, found.examples, seed)
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
