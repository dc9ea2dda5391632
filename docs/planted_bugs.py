"""The page of the site on the bugs that the tests plant: which property finds each, and what gets away, and why."""

from __future__ import annotations

from collections.abc import Iterable

from sims.checks.bugs import BUGS
from tests.checks.planted import GETS_AWAY, NOT_A_LOSS, PLANTED

PAGE = """# Planted bugs

What `sims.checks` finds, and what it does not: {found} small wrong losses, each with the property that the tests
require to find it. A row is one of [the bug table](bugs.md); a bug without one was written to see which kinds get away.
Each is a few lines of `tests/checks/planted.py`.

{table}

## What gets away

Without a claim, nothing says which loss is meant: what is another loss's right form passes. With one, only what lies
beyond all batches that are tried.

{away}

## Rows that no loss can show

{others}
"""


def page() -> str:
    """Markdown."""
    found = [bug for bug in PLANTED if bug.found_by]
    told = ((words(b.name), b.check["family"], ", ".join(map(str, b.rows)), where(b.rows), b.found_by) for b in found)
    return PAGE.format(
        found=len(found),
        table=table(("bug", "family", "row", "where it shipped", "found by"), told),
        away=table(("bug", "why"), ((words(name), why) for name, why in GETS_AWAY.items())),
        others=table(
            ("row", "bug", "why"),
            ((str(row), BUGS[row].bug.replace("|", "\\|"), why) for row, why in NOT_A_LOSS.items()),
        ),
    )


def words(name: str) -> str:
    return name.replace("_", " ")


def where(rows: Iterable[int]) -> str:
    return "; ".join(BUGS[row].where for row in rows)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
