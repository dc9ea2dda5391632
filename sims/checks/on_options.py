"""Every hyper-parameter does something, or is refused."""

from __future__ import annotations

import inspect
from typing import Any, Literal, get_args, get_origin

from .families import Draw, draw_inputs
from .property import EVERY, Property
from .trials import Relation, Subject, Trial


def options_of(subject: Subject) -> dict[str, Any]:
    """The hyper-parameters by name: as they were given, else the function's defaults."""
    found = {}
    for name, parameter in hyper_parameters(subject.function, len(subject.family.arguments)).items():
        if name in subject.options:
            found[name] = subject.options[name]
        elif parameter.default is not inspect.Parameter.empty:
            found[name] = parameter.default
    return {**found, **subject.options}


def hyper_parameters(function: Any, arguments: int) -> dict[str, inspect.Parameter]:
    """The named parameters of a function after its first so many."""
    parameters = list(inspect.signature(function).parameters.values())
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {p.name: p for p in parameters[arguments:] if p.kind not in variadic}


def other_values(subject: Subject, name: str, value: Any) -> list[Any]:
    """What an option may be instead, by its type; nothing is known of a text without an annotation of its choices."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1]
    if isinstance(value, float):
        return [1.7 * value, 0.5 * value] if value else [0.3]
    if value is None:
        return [0.3]
    try:
        hint = inspect.signature(subject.function, eval_str=True).parameters[name].annotation
    except (KeyError, NameError):
        return []
    return [other for other in get_args(hint) if other != value] if get_origin(hint) is Literal else []


def variants(subject: Subject) -> list[str]:
    """The options of which other values are known."""
    return [name for name, value in options_of(subject).items() if other_values(subject, name, value)]


def option(subject: Subject, draw: Draw, name: str) -> Trial:
    x = draw_inputs(subject.family, draw, rows=(2, 4))
    if "old_logps" in x:  # far enough for the widest clip range
        x["old_logps"] = x["old_logps"] + draw(-1, 1) * 3.0
    now = options_of(subject)[name]
    values = other_values(subject, name, now)
    value = values[draw(0, len(values) - 1)]

    def everything(changed: str) -> str:
        slopes = ", ".join(f"slope(x, '{trained}'{changed}).flatten()" for trained in subject.family.trained)
        return f"torch.cat([loss(x{changed}).flatten(), {slopes}])"

    relation = Relation(everything(f", {name}={value!r}"), everything(""), "!=")
    equation = f"{name} = {value!r} in place of {now!r}"
    return Trial({"x": x}, (relation,), equation)


def has_options(subject: Subject) -> str:
    return "" if variants(subject) else "there is no hyper-parameter of which another value is known"


def any_option(subject: Subject, draw: Draw) -> Trial:
    names = variants(subject)
    return option(subject, draw, names[draw(0, len(names) - 1)])


PROPERTIES = (
    Property(
        "options",
        (20,),
        "Every hyper-parameter changes the loss or its gradient on some batch, or is refused.",
        EVERY,
        any_option,
        "label smoothing that is never read",
        needs=has_options,
        some=True,
        examples=40,
    ),
)
