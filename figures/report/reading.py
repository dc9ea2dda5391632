"""What the report is made from: rows of claims.json, and the files of figures. None of it is trusted.

A row may be older or newer than this code: fields that came later are read where they are there, and others are
ignored. A number that is none, or a file that is no figure's, is refused in one line (`SpecError`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figures.entries import entries
from figures.tables import read_json, read_tables
from sims.core.spec import SpecError

SETTINGS = ("bandit", "mlp", "token", "lm")
LARGEST = 1e300  # in size, of a finite number: differences of two are numbers too
WANTED = {"name": str, "title": str, "caption": str, "tuned": list}  # of a figure's file
LATER = {"details": dict, "claims": list, "spec_hashes": list, "where_from": dict, "compared": list, "words": list}


@dataclass(frozen=True)
class Row:
    """A row of claims.json: `figures.claims.Verdict`, and what later versions add to it.

    computed: "live", "committed" or "stale", what its records are. agrees: whether live records agree with committed
    ones. low, high: NaN for a theorem, which has no interval. why: the reason of the state. gates: (name, open,
    why) of each. p: of the boundary that the state turns on; survives: whether the row survives the correction for many
    rows. history: (date, change) of each line; None where the catalogue's is to be shown.
    """

    id: str
    part: str
    setting: str
    state: str
    claim: str
    measure: str
    unit: str
    claimed: str
    effect: float
    low: float
    high: float
    margin: float
    runs: int
    note: str
    figure: str
    command: str
    spec_hashes: tuple[str, ...]
    computed: str = ""
    agrees: bool | None = None
    why: str = ""
    p: float | None = None
    survives: bool | None = None
    gates: tuple[tuple[str, bool, str], ...] = ()
    history: tuple[tuple[str, str], ...] | None = None

    @property
    def zone(self) -> tuple[float, float] | None:
        """Between what the claim puts the effect, as `claimed` says it; None if it says nothing."""
        margin = self.margin
        if not math.isfinite(margin):
            return None
        zones = {">": (margin, math.inf), "<": (-math.inf, -margin), "w": (-margin, margin), "≤": (-math.inf, margin)}
        return zones.get(self.claimed[:1])

    @property
    def has_interval(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def wanted(self) -> str:
        """What the interval is held against, with the unit."""
        return f"{self.claimed or format(self.margin, 'g')} {self.unit}"


def read_rows(path: Path) -> list[Row]:
    """The rows of a claims.json; none where there is no such file."""
    return [_row(table, f"{path.name}, row {i}") for i, table in enumerate(read_tables(path))]


def read_figures(folder: Path) -> list[dict[str, Any]]:
    """What figures of the gallery left in a folder, by name; other files there are not looked at."""
    return [_figure(path) for name in entries() if (path := folder / f"{name}.json").exists()]


def _figure(path: Path) -> dict[str, Any]:
    found = read_json(path)
    for name, kind in (WANTED | LATER).items():
        value = found.get(name, None if name in WANTED else kind()) if isinstance(found, dict) else found
        if not isinstance(value, kind) or (kind is str and not _is_text(value)):
            raise SpecError(f"{path.name}: {name}", value, f"must be {_NAMES[kind]}; draw the figure again")
    if found["name"] != path.stem:
        raise SpecError(f"{path.name}: name", found["name"], "must be that of its file")
    return dict(found)


def _row(table: Mapping[str, Any], where: str) -> Row:
    def read(name: str, kind: Callable[[Any], Any], default: Any = None) -> Any:
        value = table.get(name, default)
        try:
            found = kind(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise SpecError(f"{where}: {name}", value, f"must be {_NAMES[kind]}") from error
        if (kind is str and not _is_text(found)) or (kind is float and LARGEST < abs(found) < math.inf):
            raise SpecError(f"{where}: {name}", value, f"must be {_NAMES[kind]}")
        return found

    words = ("id", "part", "setting", "claim", "measure", "unit", "claimed", "note", "figure", "command")
    numbers = ("effect", "margin")
    history = table.get("history")
    return Row(
        **{name: read(name, str, "") for name in words},
        **{name: read(name, float) for name in numbers},
        low=math.nan if table.get("low") is None else read("low", float),
        high=math.nan if table.get("high") is None else read("high", float),
        state=read("verdict", str, ""),
        runs=read("runs", int),
        spec_hashes=tuple(map(str, read("spec_hashes", list, []))),
        computed=read("computed", str, ""),
        agrees=None if table.get("agrees") is None else bool(table["agrees"]),
        why=read("why", str, ""),
        p=None if table.get("p") is None else read("p", float),
        survives=None if table.get("survives") is None else bool(table["survives"]),
        gates=tuple(map(_gate, read("gates", list, []))),
        history=tuple(map(_change, history)) if isinstance(history, Iterable) and history else None,
    )


_NAMES: Mapping[Any, str] = {
    str: "text",
    float: "a number",
    int: "a whole number",
    list: "a list",
    dict: "an object",
}


def _is_text(value: str) -> bool:
    """Whether a page can hold it: no half of a character."""
    return value == value.encode("utf-8", "replace").decode("utf-8")


def _gate(gate: Any) -> tuple[str, bool, str]:
    """From a table {name, open, why}, or a word alone: then it is one that closed."""
    if isinstance(gate, dict):
        return str(gate.get("name", "")), bool(gate.get("open")), str(gate.get("why", ""))
    return str(gate), False, ""


def _change(line: Any) -> tuple[str, str]:
    if isinstance(line, dict):
        return str(line.get("date", "")), str(line.get("change", ""))
    return "", str(line)
