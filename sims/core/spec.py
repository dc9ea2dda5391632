"""Validated settings.

Every hyper-parameter of the package is a field of a frozen dataclass made here, so that one declaration gives the
default, the range, the help of the command line, the JSON of a record and the error message.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass
from types import UnionType
from typing import Any, ClassVar, Literal, Self, TypeVar, Union, get_args, get_origin, get_type_hints

NAME = re.compile(r"[A-Za-z0-9_-]+")  # of a record, and of an array in one
LARGEST = 2**63 - 1  # no count or seed is larger, and libraries take no larger one

_BOUNDS = {
    "above": (lambda x, b: x > b, ">"),
    "at_least": (lambda x, b: x >= b, ">="),
    "below": (lambda x, b: x < b, "<"),
    "at_most": (lambda x, b: x <= b, "<="),
}


def _is_tensor(value: Any) -> bool:
    # Not imported: options are read, and errors told, without torch, which takes seconds to load.
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


class SpecError(ValueError):
    """An invalid setting: one line that names the field, the value and what would be valid.

    >>> sims.DPO(beta=-1.0)
    Traceback (most recent call last):
    sims.core.spec.SpecError: beta = -1.0: must be float > 0
    """

    def __init__(self, field: str, value: object, valid: str) -> None:
        super().__init__(field, value, valid)
        self.field, self.value, self.valid = field, value, valid

    def __str__(self) -> str:
        shown = " ".join(line.strip() for line in repr(self.value).splitlines())  # an array's has several
        return f"{self.field} = {shown}: {self.valid}"


def undefined(owner: object, member: str, meaning: str) -> SpecError:
    """The error of a method or property that every subclass must define. meaning: what it returns."""
    return SpecError(f"{type(owner).__name__}.{member}", None, f"must be defined: {meaning}")


def setting(default: Any = MISSING, help: str | None = "", **limits: Any) -> Any:
    """Declare a field with its help text and limits; with help=None it is not a command-line option.

    limits: any of `above`, `at_least`, `below`, `at_most` (numbers), `infinite=True` for a float that may be infinite,
    and `per_run=True` for one that may also be given as an array over runs. A field annotated `Literal[...]` is limited
    to these choices. `omit_default=True` keeps a field out of JSON while it has its default: a field that is added
    later then changes no older spec's JSON and hash. `repeated=True`: the option of a tuple is given once for each
    item, not with commas, which items may have.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Annealed(sims.DPO):
    ...     decay: float = sims.setting(0.9, "factor on beta per batch", above=0, at_most=1)
    >>> Annealed(decay=2.0)
    Traceback (most recent call last):
    sims.core.spec.SpecError: decay = 2.0: must be float > 0 and <= 1
    """
    unknown = set(limits) - set(_BOUNDS) - {"per_run", "infinite", "omit_default", "repeated"}
    if unknown:
        raise TypeError(f"setting() knows no limit {sorted(unknown)}")
    return dataclasses.field(default=default, metadata={"help": help, **limits})


def describe(field: Field[Any], hint: Any) -> str:
    """What a field accepts, in words: 'float > 0', 'one of mean, sum'."""
    bounds = [f"{sign} {field.metadata[key]:g}" for key, (_, sign) in _BOUNDS.items() if key in field.metadata]
    return f"{type_name(hint)} {' and '.join(bounds)}".rstrip()


def matches(value: object, hint: Any) -> bool:
    """Whether `value` is of the annotated type; an int is a float, a bool is neither."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return any(matches(value, option) for option in get_args(hint))
    if origin is Literal:
        return isinstance(value, str) and value in get_args(hint)  # an array would compare with each
    if origin is tuple:
        element = get_args(hint)[0]
        return isinstance(value, tuple) and all(matches(item, element) for item in value)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is type(None):
        return value is None
    return isinstance(value, hint)


def matches_int(hint: Any) -> bool:
    """Whether the annotation allows an int, so that one is not converted to float."""
    return any(option is int or get_origin(option) is Literal for option in (hint, *get_args(hint)))


def type_name(hint: Any) -> str:
    """A type in words: 'float', 'int or none', 'tuple of int'."""
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(type_name(option) for option in get_args(hint))
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(get_args(hint))
    if get_origin(hint) is tuple:
        return f"tuple of {type_name(get_args(hint)[0])}"
    return "none" if hint is type(None) else hint.__name__


_KINDS: dict[str, type[Spec]] = {}
S = TypeVar("S", bound="Spec")


@functools.cache  # resolving them takes longer than checking the settings
def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls)


@dataclass(frozen=True)
class Spec:
    """A frozen set of settings, validated when created. Subclasses extend `check` for rules over several fields.

    `class DPO(Algorithm, kind="dpo")` registers a name under which JSON and the command line find the class.
    """

    kind: ClassVar[str] = ""

    def __init_subclass__(cls, kind: str = "", **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        cls.kind = kind
        if kind:
            known = _KINDS.get(kind, cls)
            if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
                raise TypeError(f"kind {kind!r} is taken by {known.__module__}.{known.__qualname__}")
            _KINDS[kind] = cls

    def __post_init__(self) -> None:
        for name, left in vars(type(self)).items():
            if isinstance(left, Field):
                raise SpecError(
                    f"{type(self).__name__}.{name}", "setting", "needs @dataclass(frozen=True) on its class"
                )
        hints = self.hints()
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.metadata.get("per_run") and _is_tensor(value):
                continue  # stacked from values that were checked one by one
            self._check_field(field, value, hints[field.name])
            if type(value) is int and not matches_int(hints[field.name]):
                object.__setattr__(self, field.name, float(value))  # 1 and 1.0 are the same setting, with the same JSON
        self.check()

    def _check_field(self, field: Field[Any], value: Any, hint: Any) -> None:
        if not matches(value, hint):
            raise SpecError(field.name, value, f"must be {describe(field, hint)}")
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            holds = all(test(value, field.metadata[key]) for key, (test, _) in _BOUNDS.items() if key in field.metadata)
            if isinstance(value, int) and abs(value) > LARGEST:
                raise SpecError(field.name, value, f"must be {describe(field, hint)}, and at most {LARGEST}")
            if not holds or math.isnan(value):
                raise SpecError(field.name, value, f"must be {describe(field, hint)}")
            if math.isinf(value) and not field.metadata.get("infinite"):
                raise SpecError(field.name, value, f"must be finite: {describe(field, hint)}")
        if isinstance(value, tuple):
            if not all(math.isfinite(x) for x in value if isinstance(x, float)):
                raise SpecError(field.name, value, f"must be finite: {describe(field, hint)}")
            if any(abs(x) > LARGEST for x in value if isinstance(x, int)):
                raise SpecError(field.name, value, f"must be {describe(field, hint)}, and at most {LARGEST} each")

    def check(self) -> None:
        """Rules that tie several fields together; raises SpecError."""

    @classmethod
    def hints(cls) -> dict[str, Any]:
        """The resolved type of each field."""
        return _hints(cls)  # type: ignore[arg-type]

    @classmethod
    def names(cls) -> list[str]:
        """The names of the fields."""
        return [field.name for field in dataclasses.fields(cls)]

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, checked again; an unknown name raises SpecError."""
        names = ", ".join(self.names())
        for name, value in changes.items():
            if name not in self.names():
                raise SpecError(name, value, f"{type(self).__name__} has no such field; it has {names}")
        return dataclasses.replace(self, **changes)

    def per_run_fields(self) -> list[str]:
        """Names of the float fields that may be stacked over runs."""
        return [f.name for f in dataclasses.fields(self) if f.metadata.get("per_run")]


def nearest(name: str, known: Iterable[str]) -> str:
    """ "; did you mean that?" with the known name that is most like an unknown one; nothing if none is."""
    by_lower = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name[:100].lower(), by_lower, n=1)
    return f"; did you mean {by_lower[near[0]]}?" if near else ""


def kinds_of(base: type[S]) -> dict[str, type[S]]:
    """The registered specs that are subclasses of `base`, by kind, in the order in which they were defined."""
    return {kind: cls for kind, cls in _KINDS.items() if issubclass(cls, base)}


def find_kind(kind: str, base: type[S], field: str = "kind") -> type[S]:
    """The class registered as `kind` below `base`; SpecError names the nearest known kind."""
    known = kinds_of(base)
    if kind not in known:
        raise SpecError(field, kind, f"must be one of {', '.join(known)}{nearest(kind, known)}")
    return known[kind]


def to_json(value: Any) -> Any:
    """A spec as plain JSON values; a nested spec carries its registered kind."""
    if isinstance(value, Spec):
        fields = {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value) if not _omitted(value, f)}
        return {"kind": value.kind, **fields}
    if isinstance(value, tuple):
        return [to_json(item) for item in value]
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value


def _omitted(spec: Spec, field: Field[Any]) -> bool:
    return bool(field.metadata.get("omit_default")) and getattr(spec, field.name) == field.default


def from_json(value: Any, hint: Any = Any) -> Any:
    """The inverse of `to_json`; an unknown kind or field raises SpecError."""
    if isinstance(value, Mapping) and "kind" in value:
        cls = find_kind(str(value["kind"]), Spec)
        hints = cls.hints()
        changes = {name: item for name, item in value.items() if name != "kind"}
        for name, item in changes.items():
            if name not in cls.names():
                raise SpecError(name, item, f"{value['kind']} has no such field; it has {', '.join(cls.names())}")
        return cls(**{name: from_json(item, hints[name]) for name, item in changes.items()})
    if isinstance(value, list):
        return tuple(from_json(item) for item in value)
    if value in ("inf", "-inf") and not matches("", hint):
        return math.inf if value == "inf" else -math.inf
    return value
