"""A folder as `python -m figures` leaves it, with a few rows in every state and three small figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure as MatplotlibFigure

from figures.committed import Tuned
from figures.figure import Figure
from figures.lab import Lab
from figures.report import page
from sims.experiments.store import Store

ROW: Mapping[str, Any] = {
    "id": "C27",
    "part": "a part",
    "setting": "bandit",
    "verdict": "supported",
    "effect": 0.4,
    "low": 0.3,
    "high": 0.5,
    "margin": 0.05,
    "runs": 50,
    "spec_hashes": ["0123456789ab"],
    "figure": "audit",
    "command": "python -m figures audit",
    "note": "One network alone.",
    "claim": "A negative gradient speeds learning.",
    "measure": "contrastive − Best-of-N, paired by run",
    "unit": "score",
    "claimed": "> 0.05",
}


FIGURES = ("audit", "kl_dynamics", "phase_map")  # the last tests no row


def row(**changes: Any) -> dict[str, Any]:
    return {**ROW, **changes}


POLICY = "On-policy sampling matters."
ROWS = [
    row(),
    row(part="another part", setting="token", verdict="opposite", effect=-0.1, low=-0.2, high=-0.06),
    row(id="C25", part="R1", verdict="opposite", effect=-0.2, low=-0.3, high=-0.1, claim=POLICY),
    row(id="C25", part="R2", verdict="too small", effect=0.01, low=-0.01, high=0.02, claim=POLICY),
    row(id="C26", part="a batch", setting="lm", verdict="inconclusive", effect=0.06, low=0, high=0.1, computed="live"),
    row(id="C01", verdict="theorem", effect=1e-17, low=None, high=None, margin=1e-6, claimed="error ≤ 1e-06"),
    row(
        id="C50",
        part="a critic",
        setting="mlp",
        verdict="no test",
        p=0.25,
        gates=[{"name": "room", "open": False, "why": "both arms are at the ceiling"}],
        history=[{"date": "2026-01-02", "change": "a shorter budget"}],
        figure="kl_dynamics",
    ),
]  # fmt: skip


def drawing() -> MatplotlibFigure:
    """A line with a clipped band: what gets ids in an SVG."""
    fig = MatplotlibFigure(figsize=(8, 3))
    axes = fig.subplots(1, 2)
    for one in axes:
        one.plot([0, 1, 2], [0.0, 0.5, 0.4])
        one.fill_between([0, 1, 2], [0, 0.4, 0.3], [0.1, 0.6, 0.5], alpha=0.2)
        one.set_xlabel("updates with a name")
    return fig


def figure(name: str, title: str = "Does it draw?") -> Figure:
    """One that is only ever saved."""

    def never(records: object) -> Any:
        raise AssertionError("is not asked")

    return Figure(name, title, (), (), collect=never, draw=never, verdicts=never, caption=never)


def lay(folder: Path, rows: list[dict[str, Any]] = ROWS, caption: str = "A caption. And more.") -> Path:
    """Fill a folder and write its report; returns the page."""
    folder.mkdir(exist_ok=True)
    lab = Lab(Store(folder), where_from={"0123456789ab": "live"})
    points = [{"learning_rate": rate} for rate in (0.1, 0.3, 1.0)]
    lab.tuned.append(Tuned("an arm", points, [0.1, 0.2, 0.3], 4, 2))
    for name in FIGURES:
        page.save_figure(figure(name), drawing(), caption, lab, folder, {"code": "c"})
    (folder / "claims.json").write_text(json.dumps(rows))
    page.write(folder)
    return folder / "report.html"
