"""One sentence a claim, from the states of its rows: what came out, where, and in which rows it came out otherwise.

Nothing is averaged: rows are counted and named. Which effect a row measures stands beside it in the claim's section.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from .reading import SETTINGS, Row
from .states import rank

FEW, SHORT = 2, 110  # as many rows of a state, and letters, are named; more rows, or longer names, are counted

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
    decided = set(states) - {"inconclusive", "no test"}
    if not decided:
        head = "Undecided"
    elif decided <= {"supported", "theorem"}:
        head = "Yes, where decided"
    elif "supported" in decided or "theorem" in decided:
        head = "It depends"
    else:
        head = "Not as claimed"
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
