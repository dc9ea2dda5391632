"""One sentence a claim, from the states of its rows: what came out, where, and in which rows it came out otherwise.

Nothing is averaged: rows are counted and named. Which effect a row measures stands beside it in the claim's section.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from .reading import SETTINGS, Row
from .states import rank

FEW, SHORT = 2, 90  # as many rows of a state, and letters, are named; more rows, or longer names, are counted
MANY, KINDS = 12, 5  # of more rows than so many it is said what their answer depends on, where that is so many kinds
OPEN = {"inconclusive", "no test"}

UNANIMOUS = {
    "supported": "Yes",
    "opposite": "No, the opposite",
    "too small": "No effect that matters",
    "inconclusive": "Undecided",
    "no test": "No test",
    "theorem": "Settled by proof",
}


def answer(rows: Sequence[Row]) -> tuple[str, str]:
    """A word or two, and the rest of the sentence."""
    states = counts(rows)
    settings = join([name for name in SETTINGS if any(row.setting == name for row in rows)])
    if len(states) == 1:
        (state,) = states
        many = "its one row" if len(rows) == 1 else f"all {len(rows)} rows"
        return UNANIMOUS.get(state, "Other"), f"{state} in {many} ({settings or 'no known setting'})."
    decided = set(states) - OPEN
    if not decided:
        head = "Undecided"
    elif decided <= {"supported", "theorem"}:
        head = "Yes, where decided"
    elif "supported" in decided or "theorem" in decided:
        head = "It depends"
    else:
        head = "Not as claimed"
    if by_kind := _by_kind(rows):
        return head, by_kind
    ordered = sorted(states, key=rank)
    parts = [_said(state, [row for row in rows if row.state == state], rows) for state in ordered]
    return head, "; ".join(parts) + "."


def counts(rows: Sequence[Row]) -> dict[str, int]:
    """How many rows are in each state; the commonest first, and in the order of the table where as many are."""
    found = Counter(row.state for row in rows)
    return dict(sorted(found.items(), key=lambda item: (-item[1], rank(item[0]))))


def join(words: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _said(state: str, rows: Sequence[Row], of: Sequence[Row]) -> str:
    names = join([f"“{row.part}” ({row.setting})" for row in rows])
    if len(rows) > FEW or len(names) > SHORT:
        (setting, *others), several = {row.setting for row in rows}, len({row.setting for row in of}) > 1
        return f"{state} in {len(rows)} of {len(of)} rows" + (f" (all {setting})" if several and not others else "")
    return f"{state} for {names}"


def kind(row: Row) -> str:
    """What a row asks of its arm: of the part "dpo: s = 10, each tuned", "s = 10"; "" where its part names no arm."""
    return row.part.partition(": ")[2].partition(", ")[0]


def without_arm(part: str, measure: str) -> str:
    """What a row measures, without the name of the arm, if its part has it too: "dpo: score", of "dpo: s = 10"."""
    arm, colon, rest = measure.partition(": ")
    return rest if colon and arm in re.split(", |: ", part) else measure


def _by_kind(rows: Sequence[Row]) -> str:
    """Of many rows that ask few things: what each of these came to; "" of others."""
    kinds = dict.fromkeys(kind(row) for row in rows if kind(row))
    named = [row for row in rows if kind(row)]
    if not (len(rows) > MANY and 2 <= len(kinds) <= KINDS and len(named) > 0.8 * len(rows)):
        return ""
    asked = {row.part.partition(": ")[0].rpartition(", ")[2] for row in named}  # "reference", of "losers" and "winners"
    of = f"{asked.pop()}: " if len(asked) == 1 else ""
    parts = []
    for name in kinds:
        found = counts([row for row in named if kind(row) == name and row.state not in OPEN])
        if found:
            parts.append(f"{of}{name}: {join([f'{n} {state}' for state, n in found.items()])}")
    rest = [row for row in rows if row.state not in OPEN and not kind(row)]
    parts += [_said(state, [row for row in rest if row.state == state], rows) for state in counts(rest)]
    undecided = sum(row.state in OPEN for row in rows)
    return "; ".join(parts) + f". Inconclusive or no test: {undecided} of {len(rows)} rows."
