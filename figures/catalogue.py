"""The catalogue of claims: `claims.toml`, read, checked, looked up by the figures, and printed as a table.

A row is named by the id of its claim and its part; a figure says `claim("C25", "R1 against R2")` and gets what was said
before the runs. Nothing here needs torch.
"""

from __future__ import annotations

import datetime
import functools
import itertools
import string
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from sims.core.spec import nearest

from .tables import read_tables

CATALOGUE = Path(__file__).with_name("claims.toml")
Setting = Literal["bandit", "mlp", "token", "lm"]
Kind = Literal["effect", "none", "at most", "theorem"]
NOT_TESTED = "not tested yet"


class CatalogueError(ValueError):
    """What is wrong with a catalogue or a look-up in it, in one line."""


@dataclass(frozen=True)
class Claim:
    """A claim as it stands before its runs: one scalar effect, its sign, and a margin that would matter.

    kind: "effect" if the claim is that there is one, "none" if it is that there is none, "at most" if it is that it is
    not above the margin, as a loss, "theorem" for an identity or a proof, whose margin is the largest error allowed on
    random instances. unit: of effect and margin. part: a few words that tell apart several effects of one claim.
    """

    id: str
    part: str
    text: str
    effect: str
    margin: float
    sign: int = 1
    kind: Kind = "effect"
    unit: str = "score"

    @property
    def claimed(self) -> str:
        """Where the claim puts its effect: '> 0.05', '< −0.05', 'within ±0.05', '≤ 0.05' or 'error ≤ 1e-06'."""
        if self.kind == "theorem":
            return f"error ≤ {self.margin:g}"
        if self.kind == "none":
            return f"within ±{self.margin:g}"
        if self.kind == "at most":
            return f"≤ {self.margin:g}"
        return f"> {self.margin:g}" if self.sign > 0 else f"< −{self.margin:g}"


@dataclass(frozen=True)
class Change:
    """One line of a row's history."""

    date: datetime.date
    change: str


@dataclass(frozen=True)
class Row:
    """What is tested of a claim, by which figure and in which settings; each setting is a row of claims.json."""

    claim: Claim
    figure: str
    settings: tuple[Setting, ...]
    history: tuple[Change, ...]


@dataclass(frozen=True)
class Entry:
    """A claim of the catalogue. refuted_if or against: what would refute it, or which claims it contradicts."""

    id: str
    text: str
    source: str
    test: str
    refuted_if: str
    against: str
    rows: tuple[Row, ...]


@functools.cache
def catalogue(path: Path = CATALOGUE) -> Mapping[str, Entry]:
    """Every claim by its id. CatalogueError says in a line which claim or row is wrong, and what would be right."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise CatalogueError(f"{path.name}: is not TOML: {error}") from error
    found: dict[str, Entry] = {}
    for table in tables.get("claim", []):
        entry = _entry(table)
        if entry.id in found:
            raise CatalogueError(f"{entry.id}: stands twice: must be one [[claim]] with all its rows")
        found[entry.id] = entry
    return found


def row(id: str, part: str, path: Path = CATALOGUE) -> Row:
    """A row by the id of its claim and its part; CatalogueError names the parts that there are."""
    claims = catalogue(path)
    if id not in claims:
        raise CatalogueError(f"claim = {id!r}: must be in {path.name}{nearest(id, claims)}")
    rows = {found.claim.part: found for found in claims[id].rows}
    if part not in rows:
        parts = ", ".join(map(repr, rows)) or NOT_TESTED
        raise CatalogueError(f"{id}: part = {part!r}: must be a [[claim.row]] of it in {path.name}: {parts}")
    return rows[part]


def check_row(id: str, part: str, setting: str, figure: str) -> None:
    """CatalogueError, in a line, for a row of claims.json that the catalogue does not have."""
    known = row(id, part)
    if setting not in known.settings:
        raise CatalogueError(f"{id}, {part}: setting = {setting!r}: must be one of {', '.join(known.settings)}")
    if figure != known.figure:
        raise CatalogueError(f"{id}, {part}: figure = {figure!r}: must be {known.figure}, as {CATALOGUE.name} says")


def claim(id: str, part: str, **measured: str) -> Claim:
    """What `claims.toml` says of a row. measured: words for the braces in its effect, read off the records."""
    found = row(id, part).claim
    braces = {name for _, name, _, _ in string.Formatter().parse(found.effect) if name}
    if braces != set(measured):
        given, wanted = (", ".join(sorted(names)) or "none" for names in (measured, braces))
        raise CatalogueError(f"{id}, {part}: words given for {given}: must be for the braces in its effect: {wanted}")
    return replace(found, effect=found.effect.format(**measured))


def table(claims_json: Path | None = None) -> str:
    """The catalogue for a terminal: id, text, states by setting where claims.json has them, and figure."""
    tested = read_tables(claims_json, ("id", "part", "setting", "verdict")) if claims_json else []
    states = {(r["id"], r["part"], r["setting"]): r["verdict"] for r in tested}
    lines = []
    for entry in catalogue().values():
        lines.append(f"{entry.id:8}{entry.text}")
        for found in entry.rows:
            said = [(s, states.get((entry.id, found.claim.part, s), "no verdict here")) for s in found.settings]
            verdicts = ", ".join(f"{setting}: {state}" for setting, state in said)
            lines.append(
                f"{'':8}  {found.figure:24}{found.claim.part} [{found.claim.claimed} {found.claim.unit}] {verdicts}"
            )
        if not entry.rows:
            lines.append(f"{'':8}  {NOT_TESTED}")
    return "\n".join(lines)


def _entry(table: dict[str, Any]) -> Entry:
    where = str(table.get("id", "a [[claim]] without an id"))
    wanted = {"id", "text", "source", "test"}
    _check_fields(where, table, wanted, optional={"refuted_if", "against", "row"})
    if ("refuted_if" in table) == ("against" in table):
        raise CatalogueError(f"{where}: must have either refuted_if or against")
    rows: dict[str, Row] = {}
    for given in itertools.chain.from_iterable(map(_each, table.get("row", []))):
        found = _row(table, given)
        if found.claim.part in rows:
            raise CatalogueError(f"{where}: part = {found.claim.part!r}: stands twice: parts tell rows apart")
        rows[found.claim.part] = found
    said = {name: str(table.get(name, "")) for name in (f.name for f in fields(Entry)) if name != "rows"}
    return Entry(**said, rows=tuple(rows.values()))


def _each(given: dict[str, Any]) -> list[dict[str, Any]]:
    """A row, or one for each word of its list `each`, which stands in its part and effect in place of EACH."""
    words = given.get("each", [""])
    plain = {name: value for name, value in given.items() if name != "each"}
    said = ("part", "effect")
    return [plain | {name: plain[name].replace("EACH", word) for name in said if name in plain} for word in words]


def _row(table: dict[str, Any], given: dict[str, Any]) -> Row:
    where = f"{table['id']}, {given.get('part', 'a row without a part')}"
    effect = given.get("kind") not in ("none", "at most", "theorem")
    wanted = {"part", "figure", "settings", "effect", "kind", "margin", "unit", "history"} | (
        {"sign"} if effect else set()
    )
    _check_fields(where, given, wanted, optional={"text"})
    if given["kind"] not in get_args(Kind):
        raise CatalogueError(f"{where}: kind = {given['kind']!r}: must be one of {', '.join(get_args(Kind))}")
    if effect and given["sign"] not in (1, -1):
        raise CatalogueError(f"{where}: sign = {given['sign']!r}: must be +1 or -1")
    margin = given["margin"]
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not 0 < margin < float("inf"):
        raise CatalogueError(f"{where}: margin = {margin!r}: must be a number above 0")
    for setting in given["settings"] or [None]:
        if setting not in get_args(Setting):
            raise CatalogueError(f"{where}: settings: {setting!r}: must be of {', '.join(get_args(Setting))}")
    said = {name: given[name] for name in ("part", "effect", "margin", "kind", "unit")}
    claim = Claim(id=table["id"], text=given.get("text", table["text"]), sign=given.get("sign", 1), **said)
    return Row(claim, given["figure"], tuple(given["settings"]), _history(where, given["history"]))


def _history(where: str, lines: list[dict[str, Any]]) -> tuple[Change, ...]:
    if not lines:
        raise CatalogueError(f"{where}: history: must have a line, {{ date = 2026-01-31, change = ... }}")
    for line in lines:
        _check_fields(f"{where}, history", line, {"date", "change"})
    changes = tuple(Change(line["date"], line["change"]) for line in lines)
    if [c.date for c in changes] != sorted(c.date for c in changes):
        raise CatalogueError(f"{where}: history: must have the newest line last")
    return changes


def _check_fields(where: str, table: dict[str, Any], wanted: set[str], optional: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    for name in sorted(wanted - table.keys()):
        raise CatalogueError(f"{where}: {name}: is missing: must have {', '.join(sorted(wanted))}")
    for name in sorted(table.keys() - wanted - optional):
        raise CatalogueError(f"{where}: {name}: is not a field: must be of {', '.join(sorted(wanted | optional))}")
