"""One attempt to break a loss: inputs in numbers, and relations between Python expressions of them.

A relation is text that we evaluate, and that a counterexample prints to be evaluated without us: there is one
statement of what was expected, and none beside it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from sims.experiments.command import FOREIGN

from . import plain
from .families import Family, Inputs

Sign = Literal["=", "is finite", "<", ">", "<=", ">=", "in", "raises, or has some", "!="]
EXACT = 1e-9


@dataclass(frozen=True)
class Relation:
    """`got sign expected`. tolerance: of =, relative to the largest expected entry and 1, or to that entry alone."""

    got: str
    expected: str = ""
    sign: Sign = "="
    tolerance: float = EXACT
    relative: bool = False

    def __str__(self) -> str:
        return f"{self.got} {self.sign} {self.expected}".rstrip()


@dataclass(frozen=True)
class Trial:
    """named: batches and tensors by the names that the relations use. equation: where the expected value is from."""

    named: Mapping[str, Inputs | Tensor]
    relations: tuple[Relation, ...]
    equation: str = ""
    uses: tuple[Callable[..., Any], ...] = field(default=())  # functions of `plain` beside loss and slope


@dataclass(frozen=True)
class Subject:
    """The loss under test. weighs: what a part of a batch weighs by in the whole's mean, its rows or its tokens.

    tolerance: of equalities that are EXACT in float64; larger for a loss that computes in fewer digits. returned: the
    type of what it returns for a batch of float64.
    """

    function: Callable[..., Any]
    family: Family
    options: Mapping[str, Any]
    claim: Any = None  # a `claims.Claim`
    reduction: str | None = None
    weighs: str = "rows"
    tolerance: float = EXACT
    returned: torch.dtype = torch.float64

    def loss(self, inputs: Inputs, **changed: Any) -> Tensor:
        """The mean loss of a batch."""
        return plain.result_of(self.function, inputs, {**self.options, **changed}).mean()

    def slope(self, inputs: Inputs, name: str, **changed: Any) -> Tensor:
        """The gradient of the mean loss by an argument."""
        return plain.slope_of(lambda batch: self.loss(batch, **changed), inputs, name)

    def weight(self, inputs: Inputs) -> int:
        """What a batch weighs when it is joined with others."""
        return int(inputs["mask"].sum()) if self.weighs == "tokens" else len(inputs[self.family.rows[0]])

    def namespace(self, trial: Trial) -> dict[str, Any]:
        """The names that a relation may use."""
        return {
            "torch": torch,
            "loss": self.loss,
            "slope": self.slope,
            "shape": lambda inputs: tuple(plain.result_of(self.function, inputs, dict(self.options)).shape),
            **{use.__name__: use for use in trial.uses},
            **trial.named,
        }


@dataclass(eq=False)
class Violation(Exception):
    """A relation that does not hold. got, expected: its two sides as numbers, or what was raised."""

    trial: Trial
    relation: Relation
    got: Any
    expected: Any


def verify(subject: Subject, trial: Trial) -> None:
    """Raise Violation for the first relation that does not hold."""
    names = subject.namespace(trial)
    for relation in trial.relations:
        if relation.tolerance == EXACT:
            relation = replace(relation, tolerance=subject.tolerance)
        expected: Any = None
        try:
            if relation.expected:
                expected = evaluate(relation.expected, names)
            got = evaluate(relation.got, names)
        except FOREIGN as error:
            if relation.sign == "raises, or has some":
                continue
            raise Violation(trial, relation, f"{type(error).__name__}: {first_line(error)}", expected) from None
        if not holds(relation, got, expected):
            raise Violation(trial, relation, got, expected)


_COMPILED: dict[str, Any] = {}


def evaluate(expression: str, names: dict[str, Any]) -> Any:
    """The value of one of our own expressions, without gradient."""
    if expression not in _COMPILED:
        _COMPILED[expression] = compile(expression, "<relation>", "eval")
    value = eval(_COMPILED[expression], names)
    return value.detach() if isinstance(value, Tensor) else value


def holds(relation: Relation, got: Any, expected: Any) -> bool:
    """Whether a relation holds of these two values."""
    if relation.sign == "in":
        return got in expected
    value = torch.as_tensor(got, dtype=torch.float64)
    if relation.sign == "is finite":
        return bool(value.isfinite().all())
    if relation.sign == "raises, or has some":
        return bool(value.isfinite().all() and (value != 0).any())
    other = torch.as_tensor(expected, dtype=torch.float64)
    if relation.sign == "=":
        if value.shape != other.shape and value.dim() and other.dim():
            return False
        if not other.numel():
            return True
        largest = float(other.abs().max())
        limit = relation.tolerance * (largest if relation.relative else 1.0 + largest)
        return bool(((value - other).abs() <= limit).all())
    compare = {"<": torch.lt, ">": torch.gt, "<=": torch.le, ">=": torch.ge, "!=": torch.ne}[relation.sign]
    return bool(compare(value, other).all() if relation.sign != "!=" else compare(value, other).any())


def name_of(function: Callable[..., Any]) -> str:
    """A function's name, or that of an object's class."""
    return getattr(function, "__name__", type(function).__name__)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, which may be one that raises."""
    try:
        return (str(error).strip().splitlines() or [""])[0]
    except Exception:
        return "its message cannot be read"


def source_of(function: Callable[..., Any]) -> str:
    """A function of `plain`, as it stands."""
    return inspect.getsource(function)
