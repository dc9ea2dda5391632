"""Command-line options made from specs: one per field, with its type, default, limits and help text."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field
from itertools import zip_longest
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin

from sims.core.spec import LARGEST, Spec, SpecError, describe, find_kind, nearest, type_name

from .command import REFUSED, short, tell
from .config_file import as_arguments, check_names, read_config

S = TypeVar("S", bound=Spec)
_NOT_GIVEN = object()


class OptionParser(argparse.ArgumentParser):
    """An argument parser with one-line errors that suggest the nearest option. Exit status 2.

    reads_config: with an option --config, whose file's options come before those of the command line. elsewhere: names
    of other programs' options, with _ between words, and a line on what stands for each here.
    """

    def __init__(
        self, prog: str, reads_config: bool = False, elsewhere: Mapping[str, str] | None = None, **arguments: Any
    ) -> None:
        arguments.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(prog, allow_abbrev=False, **arguments)
        self.reads_config = reads_config
        own = {} if reads_config else {"config": "options of this command are given on the command line alone"}
        self.elsewhere = own | dict(elsewhere or {})
        if reads_config:
            self.add_argument(
                "--config",
                metavar="FILE",
                help="YAML with one `option: value` a line; the command line goes before it, and every run writes one",
            )

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = [_with_dashes(word) for word in (sys.argv[1:] if args is None else args)]
        self._check_once(words)
        if "--config" in self._option_string_actions and (file := _value_of("--config", words)) is not None:
            words = [*as_arguments(read_config(Path(file)), self._actions, words), *words]
        return super().parse_known_args(words, namespace)

    def _check_once(self, words: Sequence[str]) -> None:
        """Refuse an option that is given twice, of which argparse would silently take the last."""
        seen: dict[str, str] = {}
        for word in words:
            name = word.partition("=")[0]
            action = self._option_string_actions.get(name) if name.startswith("--") else None
            if action is None or isinstance(action, argparse._AppendAction):
                continue
            if action.dest in seen and not (action.nargs == 0 and seen[action.dest] == name):
                both = name if seen[action.dest] == name else f"{seen[action.dest]} and {name}"
                self.error(f"argument {name}: must be given once, not twice ({both}): which one counts is unknown")
            seen[action.dest] = name

    def error(self, message: str) -> NoReturn:
        tell(f"error: {message}")
        sys.exit(REFUSED)

    def _get_value(self, action: argparse.Action, text: str) -> Any:
        try:
            return super()._get_value(action, text)
        except argparse.ArgumentError as error:
            if isinstance(error.__cause__ or error.__context__, argparse.ArgumentTypeError):
                raise
            kind = getattr(action.type, "__name__", "value")
            raise argparse.ArgumentError(action, f"invalid {kind}: {short(repr(text))}") from None

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            rule = f"must be one of {', '.join(choices)}{nearest(str(value), choices)}"
            raise argparse.ArgumentError(action, f"{short(repr(value))}: {rule}")

    def parse_strictly(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse all arguments; an unknown one is an error that suggests the nearest option."""
        words = [_with_dashes(word) for word in arguments]
        if "--config" in self._option_string_actions and (file := _value_of("--config", words)) is not None:
            check_names(Path(file), read_config(Path(file)), self._actions, self.elsewhere)  # before their values
        found, rest = self.parse_known_args(words)
        if rest:
            unknown = rest[0].partition("=")[0]
            known = [option for action in self._actions for option in action.option_strings]
            there = self.elsewhere.get(unknown.lstrip("-").replace("-", "_"))
            hint = f": {there}" if there else nearest(unknown, known) or "; --help lists the options"
            self.error(f"{short(unknown)}: no such option with these choices{hint}")
        return found


def _with_dashes(word: str) -> str:
    """--learning_rate=1e-5 → --learning-rate=1e-5, as TRL's and transformers' users write it."""
    name, equals, value = word.partition("=")
    return (name.replace("_", "-") if name.startswith("--") else name) + equals + value


def _value_of(option: str, words: Sequence[str]) -> str | None:
    """The last value that is given to an option, None where there is none."""
    found = None
    for word, following in zip_longest(words, words[1:]):
        if word == option and following is not None:
            found = following
        elif word.startswith(f"{option}="):
            found = word.partition("=")[2]
    return found


def whole(text: str) -> int:
    """The type of a command-line option that is a count or an index."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{short(repr(text))}: must be int") from None
    if abs(value) > LARGEST:
        raise argparse.ArgumentTypeError(f"{short(text)}: must be int, at most {LARGEST}")
    return value


def kind_name(text: str) -> str:
    """Best-of-N → best_of_n"""
    return text.strip().lower().replace("-", "_")


def option_name(field_name: str) -> str:
    """sync_every_updates → --sync-every-updates"""
    return "--" + field_name.replace("_", "-")


def add_options(
    parser: argparse.ArgumentParser,
    cls: type[Spec],
    title: str,
    skip: Iterable[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """An option for each field of a spec, in a group of its own. defaults: shown instead of the fields' own."""
    group = parser.add_argument_group(title)
    hints, skipped = cls.hints(), set(skip)
    for field in dataclasses.fields(cls):
        if field.name in skipped or field.metadata.get("help") is None:
            continue
        hint = hints[field.name]
        value = (defaults or {}).get(field.name, field.default)
        default = "" if value is MISSING else f", default {show(value)}"
        text = f"{field.metadata['help']} ({describe(field, hint)}{default})".replace("%", "%%")
        name = option_name(field.name)
        metavar = type_name(hint).split(" ")[0].upper() if get_origin(hint) is not Literal else "NAME"
        if field.metadata.get("repeated"):
            text = text.replace("tuple of str", "text; may be repeated")
            group.add_argument(name, action="append", default=argparse.SUPPRESS, metavar="TEXT", help=text)
        elif hint is bool:
            group.add_argument(name, action=argparse.BooleanOptionalAction, default=_NOT_GIVEN, help=text)
        else:
            group.add_argument(name, default=_NOT_GIVEN, metavar=metavar, help=text)


def given(options: argparse.Namespace, cls: type[Spec], skip: Iterable[str] = ()) -> dict[str, Any]:
    """The values of a spec's fields that were given, converted to their types. SpecError for invalid ones."""
    hints, skipped = cls.hints(), set(skip)
    found = {}
    for field in dataclasses.fields(cls):
        value = getattr(options, field.name, _NOT_GIVEN)
        if field.name not in skipped and value is not _NOT_GIVEN:
            found[field.name] = convert(value, field, hints[field.name]) if isinstance(value, str) else value
            if isinstance(value, list):  # of an option that may be repeated
                found[field.name] = tuple(value)
    return found


def convert(text: str, field: Field[Any], hint: Any) -> Any:
    """A value of a field from its text: '0.1', 'none', 'inf', '64,64'."""
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    for option in sorted(options, key=lambda each: each is not type(None)):  # 'none' is no text
        try:
            return _convert_to(text, option)
        except SpecError:
            raise
        except ValueError:
            continue
    choices = [choice for option in options if get_origin(option) is Literal for choice in get_args(option)]
    raise SpecError(field.name, text, f"must be {describe(field, hint)}{nearest(text, choices)}")


def _convert_to(text: str, hint: Any) -> Any:
    if hint is type(None):
        if text.lower() != "none":
            raise ValueError(text)
        return None
    if get_origin(hint) is Literal:
        choice = text.replace("-", "_")
        if choice not in get_args(hint):
            raise ValueError(text)
        return choice
    if get_origin(hint) is tuple:
        return tuple(_convert_to(part, get_args(hint)[0]) for part in text.split(","))
    if hint in (int, float, str):
        return hint(text)
    if hint is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if isinstance(hint, type) and issubclass(hint, Spec):
        return _spec_of(text, hint)
    raise ValueError(text)


def _spec_of(text: str, base: type[S]) -> S:
    """dpo:beta=0.1:pairing=all → DPO(beta=0.1, pairing="all"); within it the parts of a tuple are parted by /."""
    kind, *settings = text.split(":")
    cls = find_kind(kind_name(kind), base, base.__name__.lower())
    fields, found = {field.name: field for field in dataclasses.fields(cls)}, {}
    for each in settings:
        name, equals, value = each.partition("=")
        name = name.strip().replace("-", "_")
        if name not in fields:
            raise SpecError(name, value, f"{cls.kind} has no such field; it has {', '.join(fields)}")
        if not equals:
            raise SpecError(name, "", f"must be given as {cls.kind}:{name}=VALUE")
        if name in found:
            raise SpecError(name, value, f"must be given once, not twice, of {cls.kind}")
        found[name] = convert(value.replace("/", ","), fields[name], cls.hints()[name])
    return cls(**found)


def show(value: Any) -> str:
    """A value as one would type it."""
    if isinstance(value, tuple):
        return ",".join(map(show, value)) or "none"
    if isinstance(value, Spec):
        return _text_of(value)
    if isinstance(value, float) and not math.isinf(value):
        return f"{value:g}"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _text_of(spec: Spec) -> str:
    """The inverse of `_spec_of`, to the last digit: DPO(beta=0.1, pairing="all") → dpo:pairing=all"""
    words = [spec.kind]
    for field in dataclasses.fields(spec):
        if (value := getattr(spec, field.name)) != field.default:
            text = repr(value) if isinstance(value, float) else show(value).replace(",", "/")
            words.append(f"{field.name}={text}")
    return ":".join(words)


def from_options(options: argparse.Namespace, cls: type[S], fixed: Mapping[str, Any] | None = None) -> S:
    """A spec from the options that were given, and fields fixed by the caller. SpecError for one that must be given."""
    fixed = dict(fixed or {})
    found = given(options, cls, skip=fixed) | fixed
    for field in dataclasses.fields(cls):
        if field.default is MISSING and field.name not in found:
            raise SpecError(field.name, None, f"must be given: {field.metadata['help']}")
    return cls(**found)
