"""The table of a result, for a terminal and for Jupyter."""

from __future__ import annotations

import html
from dataclasses import dataclass

import numpy as np

from sims.statistics.intervals import mean_interval

from .record_arrays import RecordArrays

# Arrays of a record that the table shows, in this order, and their labels.
ROWS = {
    "reward": "reward",
    "gold": "gold reward",
    "score": "score",
    "kl_policy_ref": "KL(π‖π_ref), nats",
    "entropy": "entropy, nats",
    "length": "length, tokens",
    "distance": "distance, tokens",
    "finished": "finished",
}


@dataclass(frozen=True)
class Summary:
    """Rows of text under a header, and a note. `str` aligns the columns; Jupyter shows an HTML table."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str

    def __str__(self) -> str:
        widths = [max(len(cell) for cell in column) for column in zip(self.header, *self.rows, strict=True)]
        lines = [
            "   ".join([cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))])
            for cells in (self.header, *self.rows)
        ]
        return "\n".join([*lines, "", self.note])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        def row(cells: tuple[str, ...], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

        head, body = row(self.header, "th"), "".join(row(cells, "td") for cells in self.rows)
        return f"<table><thead>{head}</thead><tbody>{body}</tbody></table><p>{html.escape(self.note)}</p>"


def summarise(result: RecordArrays) -> Summary:
    """Mean over runs at the start and at the end, the end's 95 % interval, and the optima; unknown numbers are left
    empty, and runs without any are left out."""
    arrays, best = result.arrays, result.optima
    rows = []
    for name, label in ROWS.items():
        if name not in arrays or (name == "gold" and np.array_equal(arrays["gold"], arrays["reward"], equal_nan=True)):
            continue
        start, end = (x[np.isfinite(x)] for x in (arrays[name][:, 0].astype(float), arrays[name][:, -1].astype(float)))
        if not len(end):
            continue
        interval = mean_interval(end) if len(end) > 1 else None
        span = f"[{interval.low:.4f}, {interval.high:.4f}]" if interval else "one run: none"
        targets = (getattr(optimum, "reward" if name == "gold" else name, np.nan) for optimum in best)
        first = start.mean() if len(start) else np.nan  # a fit that diverged leaves a run without numbers at the start
        rows.append((label, _number(first), _number(end.mean()), span, *map(_number, targets)))
    header = ("", "start", "end", "95 % interval", *(optimum.label for optimum in best))
    return Summary(header, tuple(rows), _note(result))


def _number(x: float) -> str:
    return "" if np.isnan(x) else f"{x:.4f}"


def _note(result: RecordArrays) -> str:
    experiment = result.experiment
    runs = f"{experiment.runs} run{'s' if experiment.runs > 1 else ''}"
    done = f"{runs}, {experiment.updates} updates, {int(result.samples[-1])} samples per run"
    return f"{done}, {result.diverged} diverged{' (score 0)' if result.optima else ''}, record {result.record.hash}"
