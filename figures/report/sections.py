"""What the page shows of each claim, each figure and each tuned arm: plain values, which `page.html` lays out.

Nothing here is markup: the template escapes every text, whatever it holds.
"""

from __future__ import annotations

import itertools
import math
import re
import textwrap
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from figures.catalogue import Entry, catalogue

from .answers import answer, counts, join, without_arm
from .forest import Axis, Mark, axis, mark
from .reading import SETTINGS, Row
from .states import NOT_TESTED, State, rank, state_of

Said = TypeVar("Said", bound=Hashable)
NEW_SENTENCE = r"(?<=[.!?]) (?=[^\sa-z0-9])(?!(?:It|Its|They|Their|This|That|These|Those|Both|Here|There|But|And|So)\b)"
BRIEF = 110  # letters of a change in the list of all of them


@dataclass(frozen=True)
class Line:
    """A row in its claim's forest plot. measure: empty where the line above measures the same."""

    row: Row
    state: State
    mark: Mark
    measure: str


@dataclass(frozen=True)
class Plot:
    """The rows of a claim that share a unit, on one axis, by the words in which each set of them was claimed; "" where
    these are the claim's own."""

    unit: str
    axis: Axis
    groups: Sequence[tuple[str, Sequence[Line]]]

    @property
    def cut(self) -> bool:
        """Whether an interval goes on beyond the axis."""
        return any(any(line.mark.beyond) for _, lines in self.groups for line in lines)


@dataclass(frozen=True)
class Section:
    """A claim. anchor: its address in the page. cells: (state, rows in it) by setting. plots: none where nothing tests
    it here, and then command says what would; "" if nothing does yet. notes, gates, history: with the rows they hold
    for, where these are not all. closest: the row whose state hangs by least."""

    anchor: str
    id: str
    text: str
    source: str
    test: str
    refuted_if: str
    against: str
    head: str
    answer: str
    cells: Mapping[str, Sequence[tuple[State, int]]]
    plots: Sequence[Plot]
    notes: Sequence[tuple[str, str]]
    gates: Sequence[tuple[tuple[str, bool, str], str]]
    history: Sequence[tuple[str, str]]
    closest: str
    figures: Sequence[str]
    commands: Sequence[str]
    rows: Sequence[Row]

    @property
    def found(self) -> str:
        """State and setting of every row, for the filter: 'supported@bandit …'."""
        pairs = {f"{state_of(row.state).css}@{row.setting if row.setting in SETTINGS else ''}" for row in self.rows}
        return " ".join(sorted(pairs)) or f"{NOT_TESTED.css}@"

    @property
    def contested(self) -> int:
        """In how many states its rows are, for sorting."""
        return len({row.state for row in self.rows})

    @property
    def largest(self) -> float:
        """The largest finite effect of its rows in margins, for sorting."""
        sizes = (abs(row.effect) / row.margin for row in self.rows if row.margin > 0)
        return round(max((size for size in sizes if math.isfinite(size)), default=0.0), 3)


def sections(rows: Sequence[Row]) -> list[Section]:
    """Every claim of the catalogue in its order, then those that only rows name."""
    entries = dict(catalogue())
    for row in rows:
        entries.setdefault(row.id, Entry(row.id, row.claim, "", "", "", "", ()))
    anchors = _anchors(entries)
    return [_section(entry, [row for row in rows if row.id == id], anchors[id]) for id, entry in entries.items()]


def _section(entry: Entry, rows: Sequence[Row], anchor: str) -> Section:
    rows = sorted(rows, key=lambda row: (_place(row.setting), row.part))
    head, said = answer(rows) if rows else ("", "")
    drawn_elsewhere = sorted({f"python -m figures {row.figure}" for row in entry.rows})
    rows = _by_measure(rows)
    return Section(
        anchor=anchor,
        id=entry.id,
        text=entry.text,
        source=entry.source,
        test=entry.test,
        refuted_if=entry.refuted_if,
        against=entry.against,
        head=head,
        answer=said,
        cells={setting: _cell([row for row in rows if row.setting == setting]) for setting in SETTINGS},
        plots=_plots(rows, entry.text),
        notes=_notes(rows),
        gates=_shared(rows, lambda row: row.gates),
        history=_shared(rows, lambda row: _history(entry, row)),
        closest=_closest(rows),
        figures=_distinct(row.figure for row in rows),
        commands=_distinct(row.command for row in rows) if rows else drawn_elsewhere,
        rows=rows,
    )


def _by_measure(rows: Sequence[Row]) -> list[Row]:
    """Of each setting those that measure the same together, so that what they measure is said once; of these first what
    is decided."""
    first: dict[tuple[str, str], int] = {}
    for row in rows:
        first.setdefault((row.setting, without_arm(row.part, row.measure)), len(first))
    return sorted(rows, key=lambda row: (first[row.setting, without_arm(row.part, row.measure)], rank(row.state)))


def _cell(rows: Sequence[Row]) -> list[tuple[State, int]]:
    found = counts(rows)
    return [(state_of(word), found[word]) for word in sorted(found, key=rank)]


def _plots(rows: Sequence[Row], text: str) -> list[Plot]:
    """text: the claim's own words; the rows that were claimed in these come first, and need no heading."""
    plots = []
    for unit in _distinct(row.unit for row in rows):
        shared = [row for row in rows if row.unit == unit]
        line = axis(shared)
        groups = []
        for claim in sorted(_distinct(row.claim for row in shared), key=lambda claim: claim != text):
            above, lines = None, []
            for row in (row for row in shared if row.claim == claim):
                measured = without_arm(row.part, row.measure)
                lines.append(Line(row, state_of(row.state), mark(row, line), "" if measured == above else measured))
                above = measured
            groups.append(("" if claim == text else claim, lines))
        plots.append(Plot(unit, line, groups))
    return plots


def _closest(rows: Sequence[Row]) -> str:
    """Which decided row's interval ends nearest to the margin that its state turns on, relative to the margin."""
    found = [(gap / row.margin, gap, row) for row in rows if row.margin > 0 and (gap := _gap(row)) is not None]
    if not found:
        return ""
    _, gap, row = min(found, key=lambda item: item[0])
    return f"“{row.part}” ({row.setting}): {row.state}, with its interval's end {gap:.2g} {row.unit} from the margin"


def _gap(row: Row) -> float | None:
    """How far the interval's nearer end is from the margin that a decided row's state turns on; None if undecided."""
    if not row.has_interval or row.zone is None:
        return None
    low, high = row.zone
    outside = max(row.low - high, low - row.high)
    mirrored = min(row.low + high, -low - row.high)  # in the zone on the other side of 0
    gaps = {
        "supported": min(row.low - low, high - row.high),
        "opposite": outside if low < 0 < high else mirrored,
        "too small": outside,
    }
    return max(gaps[row.state], 0.0) if row.state in gaps else None


@dataclass(frozen=True)
class Change:
    """A line of a claim's history. of: the rows that it is of; "" for all."""

    date: str
    section: Section
    text: str
    of: str


def changes(found: Iterable[Section]) -> list[tuple[str, list[Change]]]:
    """What changed since a row was first catalogued, by date, the newest first; in short: claims have it whole."""
    lines = []
    for section in found:
        for line, of in section.history:
            date, _, text = line.partition(": ")
            if re.fullmatch(r"\d{4}-\d\d-\d\d", date) and text != "first catalogued":
                lines.append(Change(date, section, textwrap.shorten(text, BRIEF, placeholder=" …"), of))
    lines.sort(key=lambda change: change.date, reverse=True)
    return [(date, list(of)) for date, of in itertools.groupby(lines, key=lambda change: change.date)]


def _history(entry: Entry, row: Row) -> list[str]:
    changes = row.history
    if changes is None:
        found = next((known for known in entry.rows if known.claim.part == row.part), None)
        changes = tuple((str(change.date), change.change) for change in found.history) if found else ()
    return [f"{date}: {change}" if date else change for date, change in changes if change]


def _notes(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """What rows do not show: each sentence once, what is said of most rows first."""
    said = {row: _sentences(row.note) for row in rows}
    found = _shared(rows, said.__getitem__)
    return sorted(found, key=lambda note: -sum(note[0] in sentences for sentences in said.values()))


def _sentences(text: str) -> list[str]:
    """Its sentences; one that begins with a word for what was said stays with the one before it."""
    return [sentence for sentence in re.split(NEW_SENTENCE, text) if sentence]


def _shared(rows: Sequence[Row], of: Callable[[Row], Iterable[Said]]) -> list[tuple[Said, str]]:
    """Each thing once, with the rows that it is said of; "" where it is said of all."""
    said: dict[Said, list[str]] = {}
    for row in rows:
        for thing in of(row):
            said.setdefault(thing, []).append(f"{row.part} ({row.setting})")
    return [(thing, "" if len(names) == len(rows) else "; ".join(names)) for thing, names in said.items()]


def _anchors(ids: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for id in ids:
        plain = re.sub(r"[^A-Za-z0-9]+", "-", id).strip("-") or "claim"
        numbered = (plain if n == 1 else f"{plain}-{n}" for n in itertools.count(1))
        found[id] = next(anchor for anchor in numbered if anchor not in found.values())
    return found


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _place(setting: str) -> int:
    return SETTINGS.index(setting) if setting in SETTINGS else len(SETTINGS)


# Figures


def described(title: str, figure: str, rows: Sequence[Row]) -> str:
    """A figure's alternative text: its title, and what the rows that it tests came to, which stand above it."""
    found = counts([row for row in rows if row.figure == figure])
    came = join([f"{count} {state}" for state, count in found.items()])
    return f"Chart: {title} " + (f"Of the rows above, {came}." if came else "No claim is tested by it.")


def remarks(figure: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """What is to be said of a figure's records, and warnings: of records that are stale or disagree."""
    said, warnings = [], []
    sources = list(figure.get("where_from", {}).values())
    if sources:
        known = ("live", "committed", "stale")
        said.append(f"Records: {', '.join(f'{sources.count(s)} {s}' for s in known if s in sources)}.")
    compared = figure.get("compared", [])
    if compared:
        same = sum(bool(arm.get("same_bits")) for arm in compared)
        said.append(f"Of {len(compared)} computed here that are committed too, {same} have the same bits.")
    warnings += [
        f"{arm['arm']} disagrees with its committed record {arm['hash']} by {arm['difference']:.3f}."
        for arm in compared
        if not arm.get("agrees", True)
    ]
    stale = [hash for hash, source in figure.get("where_from", {}).items() if source == "stale"]
    if stale:
        warnings.append(f"Stale records: {', '.join(stale)}; their twins disagree. Try --full.")
    return said, warnings


@dataclass(frozen=True)
class Arm:
    """How an arm was tuned, in a line. at_edge: fields of which an end of the grid was taken; more may lie beyond."""

    name: str
    taken: str
    score: float
    runs: str
    grid: str
    at_edge: str


def tuned(figure: Mapping[str, Any]) -> dict[str, list[Arm]]:
    """Every tuned arm of a figure, by the grid and the runs by which it was tuned. All scores of its grid stand in the
    figure's own file."""
    found: dict[str, list[Arm]] = {}
    for arm in map(_arm, figure["tuned"]):
        found.setdefault(f"{arm.grid}; {arm.runs} runs a point", []).append(arm)
    return found


def _arm(table: Mapping[str, Any]) -> Arm:
    points, chosen = table["points"], table["points"][table["chosen"]]
    values = {name: sorted({float(point[name]) for point in points if name in point}) for name in chosen}
    spans = [
        f"{name} {v[0]:g}" + (f" … {v[-1]:g} ({len(v)} values)" if len(v) > 1 else "") for name, v in values.items()
    ]
    edges = [name for name, v in values.items() if len(v) > 2 and float(chosen[name]) in (v[0], v[-1])]
    finals = {int(i): float(score) for i, score in table.get("finals", [])}
    last = f", then {table['final_runs']} for the best {len(finals)}," if finals else ""
    return Arm(
        name=str(table["arm"]),
        taken=", ".join(f"{name} {value:g}" for name, value in chosen.items()),
        score=finals.get(table["chosen"], float(table["scores"][table["chosen"]])),
        runs=f"{table['runs']}{last}",
        grid=f"{len(points)} points: {'; '.join(spans)}",
        at_edge=", ".join(edges),
    )
