"""The page of the site on other libraries: the matrix of losses and properties, and each red cell in numbers."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from figures.checked import Cell, Finding, Row, finding_of, findings, records, rows
from sims.checks import PROPERTIES

MARKS = {"passed": "·", "failed": "×", "not applicable": "", "not run": ""}
HEAD = """# Other libraries

`sims.checks` on the losses of other libraries, each executed by an interpreter in which it is installed; this package's
own are the first rows. It is a search for counterexamples, and no proof but for the population gradient.

× is a batch on which a property does not hold, and leads to its numbers; · is a property that held on every batch;
an empty cell does not apply, or could not be run. A red cell is no verdict on a library. Three kinds are told apart:
**wrong** (a default use computes something else than it says), **differs** (the library means something else by the
name) and **at an edge** (only unusual numbers show it). One cause may make several cells red.

"""
RECORDED = """
## How it was recorded

{lines}

Only the loss is on the path, from log-probs and rewards to the number that is differentiated; for TRL's DPO, GRPO and
RLOO also the trainer's constructor. Tokenisation, models, optimisers and several processes are not. `python -m
figures.libraries.run NAME` records a library again; `figures/libraries/__init__.py` says how it is installed.
"""


def page() -> str:
    """Markdown, with the matrix as HTML."""
    found, told = records(), findings()
    table = rows(found)
    lines = [
        f"- {r['library']} {r['version']} {r['revision'][:12]}".rstrip()
        + f": PyTorch {r['torch']}, {r['date']}; {len(r['losses'])} losses"
        + "".join(f"; not run: {name} ({why})" for name, why in r["unable"].items())
        for r in found
    ]
    return HEAD + matrix(table) + reds(table, told) + RECORDED.format(lines="\n".join(lines))


def matrix(table: Sequence[Row]) -> str:
    """One HTML table; every × is a link."""
    head = "".join(f"<th><span>{name.replace('_', ' ')}</span></th>" for name in PROPERTIES)
    lines = [f'<div class="matrix"><table><thead><tr><th></th>{head}</tr></thead><tbody>']
    above = None
    for row in table:
        if (row.library, row.version) != above:
            above = (row.library, row.version)
            lines.append(f'<tr><th colspan="{len(PROPERTIES) + 1}">{row.library} {row.version}</th></tr>')
        cells = "".join(_cell(row, name, row.cell(name)) for name in PROPERTIES)
        lines.append(
            f'<tr><td title="{html.escape(row.source or row.why_not)}">{html.escape(row.loss)}</td>{cells}</tr>'
        )
    return "\n".join([*lines, "</tbody></table></div>", ""])


def _cell(row: Row, name: str, cell: Cell) -> str:
    mark = MARKS[cell.status]
    if cell.status == "failed":
        mark = f'<a href="#{anchor(row, name)}">{mark}</a>'
    kind = cell.status.replace(" ", "-")
    return f'<td class="{kind}" title="{html.escape(f"{row.loss}, {name}: {cell.reason or cell.status}")}">{mark}</td>'


def anchor(row: Row, name: str) -> str:
    """The address of a red cell."""
    return re.sub(r"[^a-z0-9]+", "-", f"{row.library} {row.loss} {name}".lower().replace("+", "-plus")).strip("-")


def reds(table: Sequence[Row], told: Sequence[Finding]) -> str:
    """Every red cell, by library and what it means."""
    lines: list[str] = []
    for library in dict.fromkeys(row.library for row in table):
        groups: dict[Finding, list[tuple[Row, str]]] = {}
        for row in (row for row in table if row.library == library):
            for name in row.failures:
                groups.setdefault(finding_of(row, name, told), []).append((row, name))
        lines += ["", f"## {library}", "", *([] if groups else ["No red cell.", ""])]
        for finding, cells in groups.items():
            lines += [f"**{finding.kind.capitalize()}.** {finding.note} [{finding.about}]({finding.link})", ""]
            for row, name in cells:
                text = row.cell(name).counterexample
                lines.append(f'- <span id="{anchor(row, name)}"></span>{row.loss}, {name}: `{text}`{_batch(row, name)}')
            lines.append("")
    return "\n".join(lines)


def _batch(row: Row, name: str) -> str:
    """The batch in numbers, without what its relation does not name."""
    failure = row.cells[name].failure or {}
    said = [
        f"{key}: " + (", ".join(f"{n} = {x}" for n, x in value.items()) if isinstance(value, dict) else str(value))
        for key, value in failure["batch"].items()
        if key != "expected"
    ]
    return "".join(f"\n  <br>`{text}`" for text in said)
