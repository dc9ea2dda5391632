"""python -m docs.verdicts: docs/site/verdicts.md, what every row came to when it was first tested, what it comes to
now, and what was changed in between and why; from the histories in `figures/claims.toml` and the committed records."""

from __future__ import annotations

import datetime
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from figures.again import fragile
from figures.catalogue import Row, catalogue
from figures.claims import RULE, Verdict
from figures.entries import entries
from figures.figure import call, load
from figures.reading import committed_records
from sims.core.spec import SpecError
from sims.experiments.whole import written_whole
from sims.statistics.verdicts import survive

from .planted_bugs import table
from .repository import ROOT

PAGE = ROOT / "docs" / "site" / "verdicts.md"
TEXT = """# Verdicts, before and after

What every row came to when it was first tested, what it comes to now, and what was changed in between: its estimand, a
gate, a grid, a number of runs. It is made by `python -m docs.verdicts` from the histories in `figures/claims.toml` and
the committed records, without a run.

{rule}

{counts}

## Where rows went, by the state before

By the first state that a row's history names, where it names one for all its settings. *Refuted* was a word of an older
rule, which meant both *too small* and *opposite*.

{moves}

## Fragile rows, and why

Each was tested once more, with other seeds, with other rounding or by another tuning, and came out otherwise: an end of
an interval lies so near to a margin that as good a sample puts it on the other side, or a gate closed. Under *found*
stand the state before and the interval, under *came out otherwise* what the other tests came to.

{fragile}

## No test, and what would open it

{closed}

{claims}
"""
STATES = ("supported", "opposite", "too small", "inconclusive", "no test", "theorem")
BEFORE = re.compile(r"; before[:,] (.*)$")  # what was known before the runs is no state of before
SAID = re.compile(r"\b(supported|opposite|too small|inconclusive|no test|refuted|theorem)\b")


def rows() -> tuple[list[Verdict], list[str]]:
    """Every row by the committed records, as it stands after it was tested again; and the figures of which a record is
    of other settings than today's."""
    found, missing = [], []
    for entry in entries().values():
        figure = load(entry)
        try:
            records = committed_records(figure)
        except SpecError:
            missing.append(entry.name)
        else:
            found += [fragile(row) for row in call(figure, "verdicts", records)]
    return found, missing


def page(found: Sequence[Verdict], missing: Sequence[str] = ()) -> str:
    """Markdown. found: every row. missing: figures whose rows are not among them."""
    states = Counter(row.verdict for row in found)
    p_values = [row.p for row in found if row.p is not None]
    by_row: dict[tuple[str, str], list[Verdict]] = {}
    for row in found:
        by_row.setdefault((row.id, row.part), []).append(row)
    moved = Counter(pair for known in known_rows() for pair in moves(known, by_row.get(_name(known), [])))
    ids = dict.fromkeys(row.id for row in found)
    untested = [id for id in ids if all(row.verdict == "no test" for row in found if row.id == id)]
    without = f" Without records of today's settings, and left out: {', '.join(missing)}." if missing else ""
    all_rows = f", and all rows of {', '.join(sorted(untested))}" if untested else ""
    fragile = sum(row.why.startswith("fragile") for row in found)
    counts = (
        f"{len(found)} rows: {', '.join(f'{states[state]} {state}' for state in STATES if states[state])}. Of "
        f"{len(p_values)} rows with a p-value {int(survive(p_values).sum())} survive Benjamini and Hochberg's "
        f"correction at a false discovery rate of 5 %. {fragile} rows came out otherwise on other seeds, "
        f"with other rounding or by another tuning, and are *inconclusive* for that reason. *No test* is "
        f"{100 * states['no test'] / len(found):.0f} % of the rows{all_rows}.{without}"
    )
    return TEXT.format(
        rule=textwrap.fill(" ".join(RULE), 120),
        counts=textwrap.fill(counts, 120),
        moves=moves_table(moved),
        fragile=table(("row", "claimed", "found", "came out otherwise", "why"), _fragile(found)),
        closed=table(("claim", "part", "setting", "closed gate"), _closed(found)),
        claims="\n\n".join(_claims(by_row)),
    )


def known_rows() -> list[Row]:
    """Of the catalogue."""
    return [row for entry in catalogue().values() for row in entry.rows]


def _name(row: Row) -> tuple[str, str]:
    return row.claim.id, row.claim.part


def first_said(row: Row) -> str:
    """What a row came to at first, in the words of its history; "" where nothing was tested before."""
    for change in row.history:
        if found := BEFORE.search(change.change):
            return found[1]
    return ""


def moves(row: Row, now: Sequence[Verdict]) -> list[tuple[str, str]]:
    """(state before, state now) of each setting, where the history says one state for all."""
    states = set(SAID.findall(first_said(row)))
    return [(state, verdict.verdict) for state in states for verdict in now] if len(states) == 1 else []


def moves_table(moved: Mapping[tuple[str, str], int]) -> str:
    """A row for each state before, a column for each state now."""
    old = [state for state in (*STATES, "refuted") if any(before == state for before, _ in moved)]
    lines = [(before, *(str(moved.get((before, now), "")) for now in STATES)) for before in old]
    return table(("before \\ now", *STATES), lines)


def _closed(found: Iterable[Verdict]) -> list[tuple[str, ...]]:
    return [(row.id, _md(row.part), row.setting, _md(row.why)) for row in found if row.verdict == "no test"]


def _fragile(found: Iterable[Verdict]) -> list[tuple[str, ...]]:
    return [
        (
            f"**{row.id}** {_md(row.part)} ({row.setting})",
            _md(row.wanted),
            _md(f"{_before(row)}, {row.effect:+.3f} [{row.low:+.3f}, {row.high:+.3f}]"),
            _md(row.why.partition("; ")[2] or row.why),
            _reason_of(row),
        )
        for row in found
        if row.why.startswith("fragile")
    ]


def _before(row: Verdict) -> str:
    """The state that a fragile row had before it was tested again."""
    return row.why.removeprefix("fragile: ").partition(", but ")[0]


def _reason_of(row: Verdict) -> str:
    """How near an end of its interval is to a margin, or that a gate closed."""
    if "but no test" in row.why:
        return "a gate closed"
    assert row.low is not None and row.high is not None
    distance = min(abs(abs(end) - row.margin) for end in (row.low, row.high))
    return f"an end lies {distance / (row.high - row.low):.0%} of the interval's width from a margin"


def _claims(by_row: Mapping[tuple[str, str], Sequence[Verdict]]) -> Iterable[str]:
    for entry in catalogue().values():
        lines = [
            (
                _md(row.claim.part),
                "<br>".join(map(_now, by_row.get(_name(row), []))) or "–",
                _md(first_said(row)) or "–",
            )
            for row in entry.rows
        ]
        if lines:
            rows = table(("part", "now", "at first"), lines)
            yield f"## {entry.id}\n\n{_md(entry.text)}\n\n{rows}\n\n" + "\n".join(changed(entry.rows))


def changed(rows: Sequence[Row]) -> Iterable[str]:
    """A line for each change, once, with the parts that it is of, or is not of if these are fewer."""
    parts: dict[tuple[datetime.date, str], list[str]] = {}
    for row in rows:
        for change in row.history:
            parts.setdefault((change.date, _reason(change.change)), []).append(row.claim.part)
    for (date, text), of in sorted(parts.items(), key=lambda item: item[0][0]):
        others = [row.claim.part for row in rows if row.claim.part not in of]
        named = f"all but {'; '.join(others)}" if len(others) < len(of) else "; ".join(of)
        yield f"- {date:%d %b}: {_md(text)}{f' ({_md(named)})' if others else ''}"


def _reason(change: str) -> str:
    """A change without what was before it."""
    return BEFORE.sub("", change).rstrip("; ")


def _now(row: Verdict) -> str:
    """State, effect and interval; the gates that are closed, else how many are open."""
    closed = [gate.name for gate in row.gates if not gate.open]
    gates = f"closed: {', '.join(closed)}" if closed else f"{len(row.gates)} gates open"
    if row.verdict == "theorem":
        gates = ""
    ends = "" if row.low is None else f" {row.effect:+.3f} [{row.low:+.3f}, {row.high:+.3f}] {_md(row.unit)}"
    said = f" ({row.why.partition(';')[0]})" if row.why.startswith("fragile") else ""
    return f"{row.setting}: **{row.verdict}**{said}{ends}{f'; {gates}' if gates else ''}"


def _md(text: str) -> str:
    return re.sub(r"([*_`|<>\[\]$])", r"\\\1", " ".join(text.split()))


def main() -> None:
    """Write the page."""
    with written_whole(PAGE) as new:
        new.write_text(page(*rows()), encoding="utf-8")


if __name__ == "__main__":
    main()
