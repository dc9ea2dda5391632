"""The door of the command line: python -m sims check my_module:my_loss --family pair --claim dpo --beta 0.1"""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import json
import operator
import sys
from collections.abc import Callable, Sequence
from typing import Any

from sims.core.spec import SpecError
from sims.experiments.command import FOREIGN
from sims.experiments.options import OptionParser, whole

from .claims import claims_of
from .families import FAMILIES, Family
from .on_tokens import REDUCTIONS
from .registry import PROPERTIES
from .running import check_loss
from .trials import EXACT, first_line

EPILOG = """hyper-parameters of the function follow by name: --beta 0.1 --label-smoothing 0.1

families and what their functions take:
{families}

examples:
  python -m sims check my_module:my_loss --family pair --claim dpo --beta 0.1
  python -m sims check my_module:my_loss --family group --claim "grpo(ddof=0)" --epsilon 0.2 --json
"""


def run(arguments: Sequence[str]) -> int:
    """Exit status: 0 if every property holds, 1 if one fails. SpecError for a loss that cannot be checked."""
    options, rest = _parser().parse_known_args(list(arguments))
    if options.properties:
        print(table())
        return 0
    if options.function is None:
        raise SpecError("function", None, "must be module:function, such as my_module:my_loss")
    with contextlib.redirect_stdout(sys.stderr):  # what a module or its loss prints is no part of the report
        report = check_loss(
            find_function(options.function),
            options.family,
            options.claim,
            reduction=options.reduction,
            expected_failures=dict(_reason(text) for text in options.expect),
            only=options.only,
            seed=options.seed,
            tolerance=options.tolerance,
            **hyper_parameters(rest),
        )
    print(json.dumps(report.to_json(), indent=2, ensure_ascii=False) if options.json else report)
    return 0 if report.ok else 1


def _parser() -> OptionParser:
    families = "\n".join(map(_described, FAMILIES.values()))
    parser = OptionParser(
        "python -m sims check",
        description="Try to break a loss: a plain function of torch tensors.",
        epilog=EPILOG.format(families=families),
    )
    parser.add_argument("function", nargs="?", help="module:function, importable from here")
    parser.add_argument("--family", default="pair", help=f"{', '.join(FAMILIES)} (default pair)")
    parser.add_argument("--claim", help="what the loss is said to be: dpo, or grpo(ddof=0)")
    parser.add_argument("--reduction", help=f"over tokens, if it is to be checked: {', '.join(REDUCTIONS)}")
    parser.add_argument(
        "--expect",
        action="append",
        default=[],
        metavar="PROPERTY=REASON",
        help="a property that is expected to fail, and why; may be repeated",
    )
    parser.add_argument("--only", nargs="+", metavar="PROPERTY", help="try these properties alone")
    parser.add_argument("--seed", type=whole, default=0, help="of the batches (default 0)")
    parser.add_argument(
        "--tolerance", type=float, default=EXACT, help="of equalities; 1e-5 for a loss that computes in float32"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--properties", action="store_true", help="print the table of properties and exit")
    return parser


def _described(family: Family) -> str:
    told = (family.signature, family.of, f"such as {family.like}", f"claims: {', '.join(claims_of(family))}")
    return f"  {family.name:13}" + ("\n" + 15 * " ").join(told)


def _reason(text: str) -> tuple[str, str]:
    name, equals, reason = text.partition("=")
    if not equals or not reason:
        raise SpecError("expect", text, "must be PROPERTY=REASON")
    return name, reason


def table() -> str:
    """All properties, in Markdown."""
    lines = ["| property | what must hold | families | rows | seen to fail on |", "| --- | --- | --- | --- | --- |"]
    for found in PROPERTIES.values():
        families = "all" if len(found.families) == len(FAMILIES) else ", ".join(found.families)
        rows = ", ".join(map(str, found.rows)) or "–"
        lines.append(f"| {found.name} | {found.statement} | {families} | {rows} | {found.seen_to_fail} |")
    return "\n".join(lines)


def find_function(path: str) -> Callable[..., Any]:
    """The function module:name, or module:class.name; SpecError for one that is not there."""
    module, colon, name = path.partition(":")
    if not colon or not module or not name or module.endswith(".py"):
        raise SpecError("function", path, "must be module:function, such as my_module:my_loss, without .py")
    try:
        found = importlib.import_module(module)
    except FOREIGN as error:
        told = f"{type(error).__name__}: {first_line(error)}"
        raise SpecError("function", path, f"{module} cannot be imported: {told}") from None
    try:
        return operator.attrgetter(name)(found)  # type: ignore[no-any-return]
    except AttributeError:
        functions = [key for key, value in vars(found).items() if getattr(value, "__module__", "") == module]
        told = f"{module} has no {name}; it has {', '.join(functions) or 'no functions'}"
        raise SpecError("function", path, told) from None


def hyper_parameters(arguments: Sequence[str]) -> dict[str, Any]:
    """`--beta 0.1 --label-smoothing=0.1` as Python values; a word that is no literal is a text."""
    found: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if not name.startswith("--"):
            raise SpecError("arguments", name, "must be an option: hyper-parameters are given by name, --beta 0.1")
        if not equals:
            if not rest:
                raise SpecError(name, "", "must have a value")
            value = rest.pop(0)
        key = name[2:].replace("-", "_")
        if key in inspect.signature(check_loss).parameters:
            raise SpecError(name, value, "is a name that check_loss has itself: wrap the function")
        try:
            found[key] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            found[key] = value
    return found
