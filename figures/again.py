"""Rows tested again: on other seeds, tuned on other seeds, and on records whose last bits are changed. A state that
flips is *fragile*.

`python -m figures NAME --again MINUTES` runs the tested arms with a second set of seeds, tuned as they are, and tests
every row on them that could be tested, and once more on the published records with each number moved by up to the last
bit of float32. With `--retune` every arm is tuned on other seeds too, and tested on its own with what they choose. What
came out is kept in figures/records/again.json, and holds for a row for as long as its records are those that it was
tested by, and its claim the one that its states are by.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sims.statistics.verdicts import Outcome, stands

from .claims import Verdict, write_text
from .committed import FOLDER

FILE = "again.json"
SEEDS, ROUNDING, TUNING = "other seeds", "other rounding", "another tuning"
CHANGES = (SEEDS, ROUNDING, TUNING)


def fragile(row: Verdict, folder: Path = FOLDER) -> Verdict:
    """The row as it stands after it was tested again, if its records are those that were."""
    found = _read(folder).get(name_of(row))
    if found is None or found["records"] != row.spec_hashes or row.verdict in ("no test", "theorem"):
        return row
    if found.get("claimed", row.claimed) != row.claimed:
        return row  # its states were those of another claim, such as of none in place of at most
    again = {change: found[change]["state"] for change in CHANGES if change in found}
    after = stands(Outcome(row.verdict, row.why, row.gates), again)  # type: ignore[arg-type]
    said = "; ".join(f"with {change} {found[change]['said']}" for change in again)
    return dataclasses.replace(row, verdict=after.state, why=f"{after.why}; {said}")


def keep(figure: str, found: Mapping[str, Any], folder: Path = FOLDER) -> None:
    """Write what rows of a figure came to, in place of what was there of that figure; what the same row came to by a
    change that was not made this time stays."""
    before = _read(folder)
    others = {name: entry for name, entry in before.items() if not name.startswith(f"{figure}: ")}
    mine = {name: {**_same_row(before.get(name, {}), entry), **entry} for name, entry in found.items()}
    merged = dict(sorted({**others, **mine}.items()))
    write_text(folder / FILE, json.dumps(merged, indent=1, ensure_ascii=False) + "\n")


def name_of(row: Verdict) -> str:
    """By which a row is found again."""
    return f"{row.figure}: {row.id}, {row.part} ({row.setting})"


def _same_row(before: Mapping[str, Any], now: Mapping[str, Any]) -> Mapping[str, Any]:
    """An entry, if it is of the same records and the same claim, or older than the note of it; else nothing."""
    claimed = now.get("claimed")
    same = before.get("records") == now["records"] and before.get("claimed", claimed) == claimed
    return before if same else {}


def _read(folder: Path) -> Mapping[str, Any]:
    path = folder / FILE
    return _parsed(path.read_text(encoding="utf-8")) if path.exists() else {}


@functools.lru_cache(maxsize=1)  # each of some 500 rows asks
def _parsed(text: str) -> Mapping[str, Any]:
    found: dict[str, Any] = json.loads(text)
    return found
