"""What losses of other libraries came to in `sims.checks`: the records of `figures/records/checks` as a table."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sims.core.spec import SpecError

RECORDS = Path(__file__).parent / "records" / "checks"
SCHEMA = 1


@dataclass(frozen=True)
class Cell:
    """What came of one property of one loss. status: passed, failed, not applicable or not run.

    reason: why it does not apply. failure: relation, got, expected, equation, batch and rows of the bug table.
    """

    status: str
    reason: str = ""
    failure: Mapping[str, Any] | None = None

    @property
    def counterexample(self) -> str:
        """In a line of numbers."""
        if self.failure is None:
            return ""
        found = self.failure
        expected = found["expected"] if found["expected"] != "None" else ""
        return f"{found['relation']}: got {found['got']}" + (f", expected {expected}" if expected else "")


@dataclass(frozen=True)
class Row:
    """One loss of a library at a version. why_not: if it could not be run."""

    library: str
    version: str
    loss: str
    source: str
    family: str
    claim: str
    cells: Mapping[str, Cell]
    why_not: str = ""

    def cell(self, name: str) -> Cell:
        if self.why_not:
            return Cell("not run", self.why_not)
        return self.cells.get(name, Cell("not applicable", f"is not about the family {self.family}"))

    @property
    def failures(self) -> list[str]:
        return [name for name, cell in self.cells.items() if cell.status == "failed"]


def records(folder: Path | None = None) -> list[dict[str, Any]]:
    """All records, our own first, then by library and version. SpecError for one that is of another schema."""
    found = []
    for path in sorted((folder or RECORDS).glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record.get("schema") != SCHEMA:
            raise SpecError(path.name, record.get("schema"), f"must have schema {SCHEMA}: record it again")
        found.append(record)
    return sorted(
        found, key=lambda record: (record["library"] != "onoff", record["library"].lower(), record["version"])
    )


def rows(found: Sequence[Mapping[str, Any]]) -> list[Row]:
    """A row per loss; then those that could not be run."""
    made = []
    for record in found:
        library, version = record["library"], record["version"]
        for loss in record["losses"]:
            cells = {name: _cell(outcome) for name, outcome in loss["properties"].items()}
            claim = loss["claim"] or ""
            made.append(Row(library, version, loss["name"], loss["source"], loss["family"], claim, cells))
        for name, why in record["unable"].items():
            made.append(Row(library, version, name, "", "", "", {}, why))
    return made


def _cell(outcome: Mapping[str, Any]) -> Cell:
    failed = outcome["status"] == "failed"
    return Cell(outcome["status"], outcome.get("reason", ""), outcome if failed else None)


@dataclass(frozen=True)
class Finding:
    """What red cells mean in use: of a library ("" for any), some losses and properties (none for all losses)."""

    note: str
    kind: str
    link: str
    about: str
    properties: tuple[str, ...]
    library: str = ""
    losses: tuple[str, ...] = ()

    def holds(self, row: Row, name: str) -> bool:
        return (
            name in self.properties
            and self.library in ("", row.library)
            and (not self.losses or row.loss in self.losses)
        )


def findings(path: Path | None = None) -> list[Finding]:
    """All of findings.toml, in its order."""
    text = (path or Path(__file__).parent / "libraries" / "findings.toml").read_text(encoding="utf-8")
    found = []
    for table in tomllib.loads(text)["finding"]:
        values: dict[str, Any] = {name: tuple(x) if isinstance(x, list) else x for name, x in table.items()}
        found.append(Finding(**values))
    return found


def finding_of(row: Row, name: str, found: Sequence[Finding]) -> Finding:
    """The first that is about a red cell; SpecError if there is none."""
    for finding in found:
        if finding.holds(row, name):
            return finding
    raise SpecError("findings.toml", f"{row.library} {row.loss}, {name}", "must say what every red cell means")
