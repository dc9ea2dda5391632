"""Curves of one result, or of several in one figure: means over runs with their bands, and the exact optimum."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.mathtext import MathTextParser
from matplotlib.text import Text

from sims.core.spec import SpecError
from sims.statistics.intervals import band

from .measures import Optimum
from .record_arrays import RecordArrays
from .record_schema import unit_of
from .whole import written_whole

LABELS = {"score": "score (0: reference, 1: largest reward)", "kl_policy_ref": "KL(policy ‖ reference), nats"}
LINES = {"largest reward": ":"}  # of optima; any other is dashed


# While a figure is saved: ids that do not change from one run to the next, and text as text.
SAVED: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "onoff"}


def save(figure: Figure, path: Path) -> None:
    """Write a figure whole; equal figures give equal bytes."""
    undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix.lower(), {})
    with rc_context(SAVED), written_whole(path) as new:
        figure.savefig(new, metadata=undated)


def draw(result: RecordArrays, names: Sequence[str], figure: Figure | None, label: str | None) -> Figure:
    """A panel for each array, in a new figure or in one that this function made. See `Result.plot`."""
    for name in names:
        if result.axes.get(name) != ("run", "evaluation"):
            known = ", ".join(name for name, axes in result.axes.items() if axes == ("run", "evaluation"))
            raise SpecError("names", name, f"must be among the arrays over runs and evaluations: {known}")
    first = figure is None
    if figure is not None and not isinstance(figure, Figure):
        raise SpecError("figure", figure, "must be a figure that `plot` returned")
    figure = figure or _empty(result, names)
    if len(figure.axes) != len(names):
        raise SpecError("figure", figure, f"must have {len(names)} panels, one for each of {', '.join(names)}")
    experiment = result.experiment
    label = experiment.algorithm.kind if label is None or label == "" else str(label)
    if any(unicodedata.category(x) in ("Cc", "Cs") and x != "\n" for x in label):
        raise SpecError("label", label, "must be text, without control characters and halves of characters")
    x = result.updates if _by_updates(result) else result.samples
    for axes, name in zip(figure.axes, names, strict=True):
        _curve(axes, x, result.arrays[name].astype(float), label)
        for optimum in result.optima:
            _line(axes, optimum, name)
        _legend(axes)
    if first:
        runs = f"{experiment.runs} run{'s' if experiment.runs > 1 else ''}"
        title = figure.suptitle(f"{experiment.algorithm.kind} on {experiment.environment.kind}, {runs}")
    else:
        title = figure.suptitle(f"{experiment.environment.kind}")
    _as_it_stands(title)
    return figure


def _legend(axes: Axes) -> None:
    """A legend of all that has a label, also of one that begins with `_`, which matplotlib would leave out."""
    handles, labels = axes.get_legend_handles_labels()
    for line in axes.get_lines():
        name = str(line.get_label())
        if name.startswith("_") and not re.fullmatch(r"_child\d+|_nolegend_", name):  # no name, and a wish
            handles.append(line)
            labels.append(name)
    places = {id(artist): i for i, artist in enumerate(axes.get_children())}
    order = sorted(range(len(handles)), key=lambda i: places.get(id(handles[i]), i))
    legend = axes.legend([handles[i] for i in order], ["x"] * len(order), frameon=False, fontsize=8)
    for text, i in zip(legend.get_texts(), order, strict=True):
        text.set_text(labels[i])
        _as_it_stands(text)


def _as_it_stands(text: Text) -> None:
    """Have a text drawn letter by letter where it is no mathematics that can be drawn."""
    try:
        MathTextParser("path").parse(text.get_text())
    except ValueError:
        text.set_parse_math(False)


def _by_updates(result: RecordArrays) -> bool:
    """Whether updates are the x axis: a pool is drawn once, so that its number of samples is constant."""
    return result.experiment.schedule.source == "pool"


def _empty(result: RecordArrays, names: Sequence[str]) -> Figure:
    """Panels with their labels. Jupyter's inline backend shows open figures and also the value of a cell: the figure is
    closed there, so as not to appear twice."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(names), figsize=(4.5 * len(names), 3.8), layout="constrained", squeeze=False)
    if "inline" in plt.get_backend():
        plt.close(figure)
    for axes, name in zip(panels.flat, names, strict=True):
        unit = f", {unit_of(name)}" if unit_of(name) else ""
        axes.set_xlabel("updates" if _by_updates(result) else "samples drawn")
        axes.set_ylabel(LABELS.get(name, f"{name}{unit}"))
        _as_it_stands(axes.yaxis.label)
        axes.grid(alpha=0.25)
    return figure


def _curve(axes: Axes, x: np.ndarray, runs: np.ndarray, label: str) -> None:
    """Mean and band, where every run is finite. runs: (runs, evaluations)."""
    known = np.isfinite(runs).all(0)
    x, runs = x[known], runs[:, known]
    if len(runs) == 1:
        axes.plot(x, runs[0], label=label)
        return
    mean, low, high = band(runs)
    (line,) = axes.plot(x, mean, label=label)
    axes.fill_between(x, low, high, alpha=0.2, linewidth=0, color=line.get_color())


def _line(axes: Axes, optimum: Optimum, name: str) -> None:
    """The optimum's value as a horizontal line, once per figure. The largest reward's KL and entropy, those of always
    giving one response, are left out: they would stretch the y axis."""
    value = getattr(optimum, "reward" if name == "gold" else name, np.nan)
    far = optimum.label in LINES and name not in ("reward", "gold", "score")
    drawn = [line.get_label() for line in axes.get_lines()]
    if not far and np.isfinite(value) and optimum.label not in drawn:
        axes.axhline(value, color="black", linewidth=1, linestyle=LINES.get(optimum.label, "--"), label=optimum.label)
