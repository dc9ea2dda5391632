"""What a function must be before a property is tried on it, and what is learnt of it from a few batches.

Whatever cannot be checked is refused in one line.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sims.core.algorithms import Algorithm
from sims.core.spec import SpecError
from sims.experiments.command import FOREIGN

from .claims import Claim, make_claim
from .families import FAMILIES, Family, draw_inputs, take
from .on_options import hyper_parameters
from .on_tokens import REDUCTIONS
from .plain import result_of
from .trials import EXACT, Subject, first_line, name_of


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
    returned = check_one_batch(subject)
    return replace(subject, weighs=weighs(subject), returned=returned)


def defaults(function: Callable[..., Any], family: Family) -> dict[str, Any]:
    """The default values of the hyper-parameters."""
    found = hyper_parameters(function, len(family.arguments))
    return {name: p.default for name, p in found.items() if p.default is not inspect.Parameter.empty}


def check_signature(function: Callable[..., Any], family: Family, options: Mapping[str, Any]) -> None:
    """Raise SpecError for a function that cannot be called as the family calls it."""
    name = name_of(function)
    try:
        signature = inspect.signature(function)
    except ValueError:  # of what is written in C
        raise SpecError(name, function, "has no signature: wrap it in a Python function") from None
    expected = f"the {family.name} family passes {', '.join(family.arguments)}"
    try:
        signature.bind(*family.arguments, **options)
    except TypeError as error:
        given = f"then hyper-parameters by name ({', '.join(options) or 'none were given'})"
        raise SpecError(name, f"{name}{signature}", f"{error}; {expected}, {given}") from None
    called = tuple(signature.parameters)[: len(family.arguments)]
    if called != family.arguments and set(called) == set(family.arguments):
        raise SpecError(name, f"{name}{signature}", f"has its arguments in another order; {expected}")


def check_one_batch(subject: Subject) -> torch.dtype:
    """The type of what is returned for a batch of float64; SpecError for what no property can be tried on."""
    name, family = name_of(subject.function), subject.family
    x = draw_inputs(family, random.Random(0).randint, rows=(3, 3), length=(2, 2), full=True)
    try:
        with torch.enable_grad():
            x |= {key: x[key].requires_grad_() for key in family.trained}
            result = result_of(subject.function, x, dict(subject.options))
    except FOREIGN as error:
        told = f"{type(error).__name__}: {first_line(error)}"
        given = "".join(f", {key}={value!r}" for key, value in subject.options.items())
        raise SpecError(name, told, f"must not raise on a batch of torch.float64 on the CPU{given}") from None
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
    try:
        torch.autograd.grad(result.mean(), [x[key] for key in family.trained], allow_unused=True)
    except RuntimeError as error:
        raise SpecError(name, f"RuntimeError: {first_line(error)}", "must leave backward() to its caller") from None
    return result.dtype


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
    except FOREIGN:  # the properties will say so
        return "rows"
