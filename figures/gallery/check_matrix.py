"""Which losses of which libraries have which properties, by `sims.checks`; this package's own stand in the first rows.

Nothing is run here: each library left a record when its own interpreter executed it (`figures/libraries`).
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.patches import Patch

from figures.checked import Row, finding_of, findings, records, rows
from figures.claims import Verdict
from figures.figure import Figure, Records
from figures.lab import Lab
from figures.report.style import BLACK, RC, SKY, VERMILION
from sims.checks import PROPERTIES

STATUSES = ("passed", "failed", "not applicable", "not run")
COLOURS = (SKY, VERMILION, "#F2F2F2", "#BDBDBD")


def collect(lab: Lab) -> Records:
    """No record of a run: those of the checks are read where they are drawn."""
    return {}


def draw(_: Records) -> MatplotlibFigure:
    """A row per loss, a column per property; red where it fails, with an ×."""
    table = rows(records())
    names = [name for name in PROPERTIES if any(row.cell(name).status in ("passed", "failed") for row in table)]
    grid = np.array([[STATUSES.index(row.cell(name).status) for name in names] for row in table])
    with plt.rc_context({**RC, "axes.grid": False, "axes.spines.left": False, "axes.spines.bottom": False}):
        fig, axes = plt.subplots(figsize=(14, 2.6 + 0.21 * len(table)), layout="constrained")
        axes.pcolormesh(grid, cmap=ListedColormap(COLOURS), vmin=-0.5, vmax=3.5, edgecolors="white", linewidth=0.8)
        for i, j in zip(*np.nonzero(grid == STATUSES.index("failed")), strict=True):
            axes.text(j + 0.5, i + 0.5, "×", ha="center", va="center", fontsize=9, color="white")
        axes.set_yticks(np.arange(len(table)) + 0.5, [row.loss for row in table], fontsize=8)
        axes.set_xticks(np.arange(len(names)) + 0.5, [name.replace("_", " ") for name in names], fontsize=8)
        axes.tick_params(length=0, labeltop=True, labelbottom=False)
        plt.setp(axes.get_xticklabels(), rotation=55, ha="left", rotation_mode="anchor")
        axes.invert_yaxis()
        _libraries(axes, table)
        handles = [Patch(color=colour, label=status) for colour, status in zip(COLOURS, STATUSES, strict=True)]
        fig.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=9)
    return fig


def _libraries(axes: plt.Axes, table: list[Row]) -> None:
    """A line above each library's rows, and its name and version beside them."""
    starts = [i for i, row in enumerate(table) if i == 0 or row.library != table[i - 1].library]
    for start, end in zip(starts, [*starts[1:], len(table)], strict=True):
        axes.axhline(start, color=BLACK, linewidth=0.8)
        text = f"{table[start].library}\n{table[start].version}"
        beside = axes.get_yaxis_transform()
        axes.text(1.01, 0.5 * (start + end), text, transform=beside, va="center", fontsize=9)


def caption(_: Records) -> str:
    """How many losses of how many libraries, and what a red cell is and is not."""
    found = records()
    table = [row for row in rows(found) if not row.why_not]
    red = sum(len(row.failures) for row in table)
    ours = sum(len(row.failures) for row in table if row.library == "onoff")
    dates = sorted(record["date"] for record in found)
    return (
        f"{len(table)} losses of {len(found)} libraries, executed from {dates[0]} to {dates[-1]}; {red} cells are red, "
        f"{ours} of them this package's own. A red cell is a batch on which the property does not hold: each "
        "is listed below with its numbers and what it means in use, which may be little; the documentation's page on "
        "other libraries has the batches too. Grey: the property is of another family or of a claim that is not made, "
        "or the loss could not be run."
    )


def details(_: Records) -> dict[str, list[str]]:
    """What each red cell means, and its numbers, by library."""
    told, found = findings(), dict[str, list[str]]()
    for row in rows(records()):
        for name in row.failures:
            finding = finding_of(row, name, told)
            line = f"{row.loss}, {name} ({finding.kind}): {finding.note} {row.cell(name).counterexample}"
            found.setdefault(f"The red cells of {row.library} {row.version}", []).append(line)
    return found


def verdicts(_: Records) -> list[Verdict]:
    """None: it checks losses, and tests no claim."""
    return []


FIGURE = Figure(
    name="check_matrix",
    title="Which losses of other libraries have which properties?",
    tags=("checks",),
    claims=(),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
    details=details,
)
