"""Options in a file: YAML with one option per line, as trl's command line has it.

    algorithm: dpo
    learning_rate: 1e-6
    report_to: [tensorboard]

A key is an option's name without the dashes in front, with - or _ between its words. The command line goes before the
file.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sims.core.spec import SpecError, nearest

from .foreign_text import parse_yaml


def read_config(file: Path) -> dict[str, Any]:
    """The options in a file, by name with _ between words. SpecError, in one line, for what is no such file."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise SpecError("config", str(file), f"cannot be read: {error}") from error
    try:
        found = parse_yaml(text, _name)
    except (ValueError, RecursionError) as error:
        raise SpecError("config", str(file), f"must be YAML: {error}") from error
    if not isinstance(found, dict):
        raise SpecError("config", str(file), "must have lines of `option: value`")
    return {_name(str(name)): value for name, value in found.items()}


def _name(key: str) -> str:
    return key.lstrip("-").replace("-", "_")


def as_arguments(values: Mapping[str, Any], actions: Sequence[argparse.Action], typed: Sequence[str] = ()) -> list[str]:
    """The options that a parser has, as they would be typed. Others are left out: `check_names`. typed: the words of
    the command line, whose options are left out too: to one that may be repeated they would be added."""
    given = {word.partition("=")[0] for word in typed}
    offered = [action for action in actions if action.option_strings and given.isdisjoint(action.option_strings)]
    by_name = {action.dest: action for action in offered}
    return [word for name, value in values.items() if name in by_name for word in _typed(by_name[name], name, value)]


def check_names(
    file: Path, values: Mapping[str, Any], actions: Sequence[argparse.Action], elsewhere: Mapping[str, str]
) -> None:
    """SpecError for names that are no options, each with what stands for it where another program has it, or the
    nearest that is one."""
    known = [action.dest for action in actions if action.option_strings and action.dest not in ("help", "config")]
    unknown = [name for name in values if name not in known]
    hints = [f": {elsewhere[name]}" if name in elsewhere else nearest(name, known) for name in unknown]
    if len(unknown) == 1:
        raise SpecError("config", str(file), f"{unknown[0]}: no such option with these choices{hints[0]}")
    if unknown:
        listed = "; ".join(
            f"{name} ({hint.lstrip(':; ')})" if hint else name for name, hint in zip(unknown, hints, strict=True)
        )
        raise SpecError("config", str(file), f"no such options with these choices: {listed}")


def config_text(values: Mapping[str, Any], header: str) -> str:
    """A file that `read_config` reads."""
    import yaml

    text: str = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
    return f"# {header}\n{text}"


def _typed(action: argparse.Action, name: str, value: Any) -> Iterator[str]:
    option = action.option_strings[0]
    if action.nargs == 0:  # a switch
        if value is None:
            return
        if not isinstance(value, bool):
            raise SpecError(name, value, "must be true or false")
        if value or len(action.option_strings) > 1:
            yield option if value else action.option_strings[-1]
    elif isinstance(value, dict):
        raise SpecError(name, value, "must be one value, or a list: options are not nested")
    elif isinstance(value, list) and any(isinstance(x, list | dict) for x in value):
        raise SpecError(name, value, "must be one value, or a list of values: options are not nested")
    elif isinstance(value, list):
        several = isinstance(action, argparse._AppendAction)
        yield from (f"{option}={_text(x)}" for x in (value if several else [",".join(map(_text, value))]))
    elif not (value is None and action.default in (None, argparse.SUPPRESS)):
        yield f"{option}={_text(value)}"


def _text(value: Any) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
