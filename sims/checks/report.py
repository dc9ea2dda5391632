"""What came of a check, for people and as JSON, and a counterexample as a script of plain torch."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .bugs import BUGS
from .plain import result_of, slope_of
from .property import Property
from .trials import Subject, Violation, name_of, source_of


@dataclass(frozen=True)
class Outcome:
    """What came of one property. reason: why it does not apply. expected: why it was expected to fail."""

    tested: Property
    status: Literal["passed", "failed", "not applicable"]
    reason: str = ""
    violation: Violation | None = None
    expected: str = ""

    @property
    def ok(self) -> bool:
        """Whether it is as expected: one that was expected to fail, and holds, is not."""
        return (self.status == "failed") == bool(self.expected) or self.status == "not applicable"


@dataclass(frozen=True)
class Report:
    """What came of all properties. str(report) says it in full; `report.failures` are what is not as expected."""

    subject: Subject
    outcomes: tuple[Outcome, ...]
    seed: int = 0

    @property
    def ok(self) -> bool:
        return not self.failures

    @property
    def failures(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if not outcome.ok]

    def __getitem__(self, name: str) -> Outcome:
        return next(outcome for outcome in self.outcomes if outcome.tested.name == name)

    def __repr__(self) -> str:
        return f"Report({self.headline()})"

    def headline(self) -> str:
        """One line."""
        counts = {status: 0 for status in ("passed", "failed", "not applicable")}
        for outcome in self.outcomes:
            counts[outcome.status] += 1
        expected = sum(bool(outcome.expected) and outcome.status == "failed" for outcome in self.outcomes)
        claim = f", claimed to be {self.subject.claim}" if self.subject.claim is not None else ""
        told = ", ".join(f"{count} {status}" for status, count in counts.items())
        return f"{name_of(self.subject.function)}, {self.subject.family.name}{claim}: {told}" + (
            f" ({expected} of them expected)" if expected else ""
        )

    def hints(self) -> list[str]:
        """What may explain many failures at once."""
        returned, tolerance = self.subject.returned, self.subject.tolerance
        if not self.failures or returned == torch.float64 or tolerance > torch.finfo(returned).eps:
            return []
        enough = 100 * torch.finfo(returned).eps
        return [
            f"  It returns {returned} for a batch of torch.float64, which cannot be equal to {tolerance:g}: "
            f"try a tolerance of {enough:.0e}."
        ]

    def __str__(self) -> str:
        parts = [self.headline(), *self.hints(), ""]
        for outcome in self.outcomes:
            if outcome.status == "passed":
                note = "  although it was expected to fail: " + outcome.expected if outcome.expected else ""
                parts.append(f"  {'passed' if outcome.ok else 'PASSED':8}{outcome.tested.name}{note}")
            elif outcome.status == "failed":
                note = f"  as expected: {outcome.expected}" if outcome.expected else f"  {outcome.tested.statement}"
                parts.append(f"  {'failed' if outcome.ok else 'FAILED':8}{outcome.tested.name}{note}")
        elsewhere = [o for o in self.outcomes if self.subject.family.name not in o.tested.families]
        here = [o for o in self.outcomes if o.status == "not applicable" and o not in elsewhere]
        parts += [f"  {'–':8}{outcome.tested.name}: {outcome.reason}" for outcome in here]
        if elsewhere:
            names = ", ".join(outcome.tested.name for outcome in elsewhere)
            parts += textwrap.wrap(
                f"of other families: {names}", 110, initial_indent="  –       ", subsequent_indent=" " * 10
            )
        for outcome in self.failures:
            if outcome.violation is not None:
                parts += ["", explain(self.subject, outcome)]
        return "\n".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Plain values, of all properties."""
        return {
            "function": name_of(self.subject.function),
            "family": self.subject.family.name,
            "claim": None if self.subject.claim is None else str(self.subject.claim),
            "options": {name: repr(value) for name, value in self.subject.options.items()},
            "seed": self.seed,
            "ok": self.ok,
            "properties": [_outcome_json(self.subject, outcome) for outcome in self.outcomes],
        }


def _outcome_json(subject: Subject, outcome: Outcome) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": outcome.tested.name,
        "statement": outcome.tested.statement,
        "status": outcome.status,
        "reason": outcome.reason or outcome.expected,
    }
    if outcome.violation is not None:
        violation = outcome.violation
        found |= {
            "relation": str(violation.relation),
            "got": number(violation.got),
            "expected": number(violation.expected),
            "equation": violation.trial.equation,
            "batch": {name: _plain(value) for name, value in violation.trial.named.items()},
            "rows": [{"row": row, **BUGS[row]._asdict()} for row in outcome.tested.rows_of(subject)],
            "snippet": snippet(subject, violation),
        }
    return found


def _plain(value: Any) -> Any:
    return {name: number(x) for name, x in value.items()} if isinstance(value, Mapping) else number(value)


def number(value: Any) -> str:
    """A value in few digits."""
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, list):
        return f"[{', '.join(number(item) for item in value)}]"
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def explain(subject: Subject, outcome: Outcome) -> str:
    """A failure: the batch, what came out, what was expected and why, where it shipped before, and the script."""
    violation, found = outcome.violation, outcome.tested
    assert violation is not None
    lines = [f"{found.name}: {found.statement}"]
    for name, value in violation.trial.named.items():
        if isinstance(value, Mapping):
            lines.append(f"  {name}")
            width = max(len(key) for key in value) + 2
            lines += [f"    {key:{width}}{number(x)}" for key, x in value.items()]
        elif name != "expected":
            lines.append(f"  {name:12}{number(value)}")
    relation = violation.relation
    lines.append(f"  {'got':12}{relation.got} = {number(violation.got)}")
    if relation.expected:
        sign = "" if relation.sign == "=" else f"{relation.sign} "
        lines.append(f"  {'expected':12}{sign}{relation.expected} = {number(violation.expected)}")
    else:
        lines.append(f"  {'expected':12}{relation.sign}")
    if violation.trial.equation:
        lines.append(f"  {'because':12}{violation.trial.equation}")
    for row in found.rows_of(subject):
        lines.append(f"  {f'row {row}':12}{BUGS[row].bug}: {BUGS[row].where}")
    lines += ["  to see it without this tool:", textwrap.indent(snippet(subject, violation), "    ")]
    return "\n".join(lines)


def snippet(subject: Subject, violation: Violation) -> str:
    """A script of plain torch that computes both sides, and fails."""
    function, relation = subject.function, violation.relation
    module, name = getattr(function, "__module__", "__main__"), name_of(function)
    importable = (
        name.isidentifier() and module != "__main__" and "<locals>" not in getattr(function, "__qualname__", "<")
    )
    source = f"from {module} import {name} as function" if importable else f"function = {name}  # the loss under test"
    text = f"{relation.got} {relation.expected}"
    uses: list[Callable[..., Any]] = [result_of, *([slope_of] if "slope(" in text else []), *violation.trial.uses]
    sources = "\n\n".join(source_of(use) for use in uses)
    constants = [f"{key} = {value!r}" for key, value in _constants().items() if key in sources]
    options = ", ".join(f"{key!r}: {value!r}" for key, value in subject.options.items())
    lines = [
        "import itertools" if "itertools" in sources else "",
        "from collections.abc import Callable",
        "from typing import Any",
        "",
        "import torch",
        "from torch import Tensor, inf, nan",
        "",
        source,
        f"options = {{{options}}}",
        *constants,
        "",
        sources,
        "def loss(inputs, **changed):",
        "    return result_of(function, inputs, {**options, **changed}).mean()",
        "",
    ]
    if "slope(" in text:
        lines += [
            "def slope(inputs, name, **changed):",
            "    return slope_of(lambda batch: loss(batch, **changed), inputs, name)",
            "",
        ]
    if "shape(" in text:
        lines += ["def shape(inputs):", "    return tuple(result_of(function, inputs, options).shape)", ""]
    for key, value in violation.trial.named.items():
        lines.append(f"{key} = {_literal(value)}")
    lines += [f"got = {relation.got}", "print('got', got)"]
    if relation.expected:
        if relation.expected != "expected":
            lines.append(f"expected = {relation.expected}")
        lines.append(f"print('expected: {relation.sign}', expected)")
    return "\n".join([*lines, *_assertion(violation)]).lstrip()


def _constants() -> dict[str, Any]:
    from . import plain

    return {name: getattr(plain, name) for name in ("TOKENS", "MASK")}


def _literal(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name!r}: {_literal(x)}" for name, x in value.items()) + "}"
    if value.dtype == torch.bool:
        return f"torch.tensor({value.tolist()})"
    return f"torch.tensor({value.tolist()}, dtype={value.dtype})"


def _assertion(violation: Violation) -> list[str]:
    relation = violation.relation
    if relation.sign == "in":
        return ["assert got in expected"]
    lines = ["got = torch.as_tensor(got, dtype=torch.float64)"]
    if relation.sign == "is finite":
        return [*lines, "assert got.isfinite().all()"]
    if relation.sign == "raises, or has some":
        return [*lines, "assert got.isfinite().all() and (got != 0).any()"]
    lines.append("expected = torch.as_tensor(expected, dtype=torch.float64)")
    if relation.sign == "=":
        scale = "expected.abs().max()" if relation.relative else "(1 + expected.abs().max())"
        return [*lines, f"assert ((got - expected).abs() <= {relation.tolerance!r} * {scale}).all()"]
    return [*lines, f"assert (got {relation.sign} expected).{'any' if relation.sign == '!=' else 'all'}()"]
