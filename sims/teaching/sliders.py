"""Notebook 5's sliders: β, the sync period, and how far the reward lies from the reference, answered from small runs
that were trained beforehand, as one stack for each sync period."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from sims.core.algorithms.contrastive import DPO
from sims.core.loop.optimise import Optimiser
from sims.core.schedule import Schedule
from sims.environments.bandit import BanditOverlap
from sims.experiments.experiment import Experiment
from sims.experiments.results import Result
from sims.experiments.runner import compute
from sims.experiments.store import Record
from sims.policies.table import Table
from sims.statistics import band

from . import BLACK, BLUE, VERMILION

Setting = tuple[float, float, float]  # β, updates between syncs, overlap
LABEL_TEMPERATURE = 0.25  # noisy enough that DPO has an optimum at each β: π_ref·exp(r/(β·temperature))/Z


def train_grid(
    betas: Sequence[float], syncs: Sequence[float], overlaps: Sequence[float], runs: int, updates: int
) -> dict[Setting, Result]:
    """DPO's runs at every setting: `BanditOverlap`, labels by Bradley–Terry at `LABEL_TEMPERATURE`, learning rate 0.1.

    >>> grid = sims.teaching.sliders.train_grid([0.1, 1.0], [1, np.inf], [0.5], runs=2, updates=20)
    >>> sorted(grid)
    [(0.1, 1, 0.5), (0.1, inf, 0.5), (1.0, 1, 0.5), (1.0, inf, 0.5)]
    """
    found = {}
    for sync in syncs:
        settings = [(beta, sync, overlap) for beta in betas for overlap in overlaps]
        stack = [_experiment(*setting, runs, updates) for setting in settings]
        for setting, experiment, arrays in zip(settings, stack, compute(stack), strict=True):
            found[setting] = Result(experiment, Record(experiment.to_json(), arrays, provenance={}))
    return found


def _experiment(beta: float, sync: float, overlap: float, runs: int, updates: int) -> Experiment:
    return Experiment(
        name="sliders",
        environment=BanditOverlap(overlap=overlap, label_temperature=LABEL_TEMPERATURE),
        policy=Table(),
        algorithm=DPO(beta=beta),
        schedule=Schedule(sync_every_updates=sync),
        optimiser=Optimiser(learning_rate=0.1),
        updates=updates,
        evaluations=12,
        runs=runs,
    )


class Board:
    """A picture of one setting of a grid, drawn again and again onto the same axes, which makes an answer quick.

    >>> board = sims.teaching.sliders.Board(sims.teaching.sliders.train_grid([0.1], [1], [0.5], runs=2, updates=20))
    >>> board.draw(0.1, 1, 0.5)[:4]
    b'\\x89PNG'
    """

    def __init__(self, grid: dict[Setting, Result]) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.grid, first = grid, next(iter(grid.values()))
        figure = Figure(figsize=(10.5, 3.9), dpi=90)
        self.canvas = FigureCanvasAgg(figure)  # no window, and nothing that pyplot would show twice
        self.left, self.right = figure.subplots(1, 2)
        figure.subplots_adjust(left=0.07, right=0.98, bottom=0.14, top=0.8, wspace=0.18)
        self.left.set(xlabel="response", ylabel="probability (log scale)", yscale="log", ylim=(1e-4, 1.5))
        self.left.set_xlim(0, first.rewards.shape[-1] - 1)
        self.left.axvline(
            int(first.rewards[0].argmax()), color=BLUE, linestyle=":", linewidth=1.2, label="best response"
        )
        self.right.set(xlabel="updates", ylabel="score (1: the best response)", ylim=(-0.08, 1.08))
        self.right.set_xlim(0, first.updates[-1])
        moving: dict[str, Any] = {"animated": True}
        self.reference = self.left.fill_between([0, 1], 1e-4, 1.0, color="0.8", label="reference", **moving)
        self.bands = [p.fill_between([0, 1], 0.1, 1.0, color=VERMILION, alpha=0.25, linewidth=0, **moving)
                      for p in (self.left, self.right)]  # fmt: skip
        runs = f"DPO, {len(first.reward)} runs, 95 %"
        (self.policy,) = self.left.plot([], [], "--", color=VERMILION, label=runs, **moving)
        (self.optimum,) = self.left.plot([], [], "-", color=BLACK, linewidth=1, label="π*, exact", **moving)
        (self.score,) = self.right.plot([], [], "--o", color=VERMILION, markersize=3, label=runs, **moving)
        (self.best,) = self.right.plot([], [], "-", color=BLACK, linewidth=1, label="π*, exact", **moving)
        self.title = figure.text(0.5, 0.95, "", ha="center", fontsize=11, **moving)
        for panel, columns in ((self.left, 4), (self.right, 2)):
            panel.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, frameon=False)
        self.canvas.draw()
        self.empty = self.canvas.copy_from_bbox(figure.bbox)

    def draw(self, beta: float, sync: float, overlap: float) -> bytes:
        """The picture of a setting, as PNG. KeyError for one that is not in the grid."""
        from PIL import Image

        result = self.grid[beta, sync, overlap]
        optimum, actions = result.optimum, np.arange(result.rewards.shape[-1])
        assert optimum is not None and optimum.logp is not None
        mean, low, high = band(np.exp(result.logp_final[:, 0].astype(float)))
        self.policy.set_data(actions, mean)
        self.optimum.set_data(actions, np.exp(optimum.logp[0, 0]))
        self.reference.set_verts([_outline(actions, np.full(len(actions), 1e-9), np.exp(result.logp_ref[0, 0]))])
        self.bands[0].set_verts([_outline(actions, np.maximum(low, 1e-9), high)])
        mean, low, high = band(result.score)
        self.score.set_data(result.updates, mean)
        self.bands[1].set_verts([_outline(result.updates, low, high)])
        self.best.set_data([0, result.updates[-1]], [optimum.score] * 2)
        self.title.set_text(
            f"β = {beta:g},  sync every {spoken(sync)},  {overlap:g} of the reference's mass in the reward's bump"
        )
        self.canvas.restore_region(self.empty)
        for panel, parts in (
            (self.left, (self.reference, self.bands[0], self.optimum, self.policy)),
            (self.right, (self.bands[1], self.best, self.score, self.title)),
        ):
            for part in parts:
                panel.draw_artist(part)
        picture = io.BytesIO()
        Image.fromarray(np.asarray(self.canvas.buffer_rgba())[..., :3]).save(picture, format="png", compress_level=3)
        return picture.getvalue()


def _outline(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The corners of the area between two curves: (2n, 2)."""
    return np.concatenate([np.stack([x, low], -1), np.stack([x, high], -1)[::-1]])


def spoken(sync: float) -> str:
    """A sync period in words.

    >>> sims.teaching.sliders.spoken(1), sims.teaching.sliders.spoken(np.inf)
    ('update', '∞ updates')
    """
    return "update" if sync == 1 else f"{'∞' if np.isinf(sync) else f'{sync:g}'} updates"


def sliders(board: Board) -> Any:
    """Three sliders above the board's picture, for Jupyter to show; None where ipywidgets is missing."""
    try:
        import ipywidgets
    except ImportError:
        return None
    axes = [sorted({setting[axis] for setting in board.grid}) for axis in range(3)]
    axes[2] = axes[2][::-1]  # from near to far
    controls = []
    for name, values in zip(("β", "sync every", "overlap"), axes, strict=True):
        options = [("∞" if np.isinf(value) else f"{value:g}", value) for value in values]
        start = values[len(values) // 2 - 1]
        controls.append(ipywidgets.SelectionSlider(description=name, options=options, value=start))
    image = ipywidgets.Image(format="png", value=board.draw(*(control.value for control in controls)))

    def answer(change: Any) -> None:
        image.value = board.draw(*(control.value for control in controls))

    for control in controls:
        control.observe(answer, names="value")
    return ipywidgets.VBox([ipywidgets.HBox(controls), image])
