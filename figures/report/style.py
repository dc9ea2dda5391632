"""One look for all figures: a colour per algorithm, a line style per degree of on-policyness, bands for intervals."""

from __future__ import annotations

import colorsys
import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from sims.statistics.intervals import band, student_interval

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType  # younger than the oldest matplotlib that the figures run with

if "inline" not in os.environ.get("MPLBACKEND", ""):  # Jupyter says so: it shows what is drawn
    matplotlib.use("Agg")

# Okabe and Ito's palette, which people with any of the common colour blindnesses can tell apart, one hue a family;
# members of a family differ in lightness, and always in a direct label or marker too.
BLUE, SKY, GREEN, ORANGE, VERMILION, PURPLE, YELLOW, BLACK = (
    "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#F0E442", "#000000",
)  # fmt: skip

COLOURS = {
    "reinforce": BLUE,
    "rloo": SKY,
    "ppo": "#004466",
    "grpo": "#8A7B00",
    "dr_grpo": "#D9C81E",
    "dpo": VERMILION,
    "ipo": PURPLE,
    "kto": "#8C3A00",
    "best_of_n": GREEN,
    "pref_ft": "#7A5195",
    "rwr": ORANGE,
    # Best-of-N with a negative gradient, by what it pushes down and how
    "negative_worst": "#4C72B0",
    "negative_mean": "#C51B7D",
    "negative_sum": BLACK,
    "negative_complement": "#9AA0A6",
}
# Beside the colour, which is never alone.
MARKERS = {
    "reinforce": "h",
    "rloo": "o",
    "ppo": "s",
    "grpo": "p",
    "dr_grpo": "H",
    "dpo": "D",
    "ipo": "v",
    "kto": "*",
    "best_of_n": "^",
    "pref_ft": "P",
    "rwr": "X",
    "negative_worst": "<",
    "negative_mean": ">",
    "negative_sum": "d",
    "negative_complement": "8",
}
LineStyle = Literal["-", "--", "-.", ":", ""]
MARKED = 6  # points of a curve that bear its marker
ONLINE: LineStyle = "-"
OFFLINE: LineStyle = "--"

RC: dict[RcKeyType, Any] = {
    "figure.dpi": 120,
    "savefig.dpi": 160,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titley": 1.0,  # else each layout measures all of a panel's ticks once more, to see whether some are on top
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}


def colour(algorithm: str) -> str:
    """The algorithm's colour; one that has none of its own gets one that never changes, from its name."""
    if algorithm in COLOURS:
        return COLOURS[algorithm]
    hue = int(hashlib.sha256(algorithm.encode()).hexdigest(), 16) % 360 / 360
    return matplotlib.colors.to_hex(colorsys.hls_to_rgb(hue, 0.4, 0.6))


def marker(algorithm: str) -> str:
    """The algorithm's marker; of one that has none of its own a circle."""
    return MARKERS.get(algorithm, "o")


def key(algorithm: str, label: str = "", **style: Any) -> Line2D:
    """The algorithm's entry in a legend."""
    drawn: dict[str, Any] = {"linewidth": 2.0, "marker": marker(algorithm), "markersize": 5, **style}
    return Line2D([], [], color=colour(algorithm), label=label or algorithm, **drawn)


def curve(axes: Axes, x: np.ndarray, runs: np.ndarray, algorithm: str, line: str = ONLINE, label: str = "") -> None:
    """Mean over runs with its 95 % band (Student's), and the algorithm's marker on some of the points.

    x: (points,); runs: (runs, points). A bootstrap's band spikes where all runs but one are alike.
    """
    mean, low, high = band(runs, resamples=None)
    every = max(1, len(x) // MARKED)
    start = list(MARKERS).index(algorithm) % every if algorithm in MARKERS else 0  # beside each other on one curve
    style: dict[str, Any] = {"marker": marker(algorithm), "markevery": (start, every), "ms": 4.5}
    face = colour(algorithm) if line == ONLINE else "white"
    axes.plot(x, mean, line, color=colour(algorithm), label=label or None, linewidth=1.8, mfc=face, **style)
    axes.fill_between(x, low, high, color=colour(algorithm), alpha=0.18, linewidth=0)


def symlog(axes: Axes, threshold: float = 1.0) -> None:
    """A y axis that is linear within ±threshold and logarithmic beyond, with ticks that say how far."""
    axes.set_yscale("symlog", linthresh=threshold)
    low, high = axes.get_ylim()
    steps = [0.5, *(digit * 10.0**power for power in range(6) for digit in (1, 2, 5))]
    ticks = [sign * threshold * step for step in steps for sign in (-1, 1)]
    axes.set_yticks([0.0, *(tick for tick in ticks if low <= tick <= high)])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())


def points(axes: Axes, x: np.ndarray, arms: Sequence[np.ndarray], algorithm: str, filled: bool = True) -> np.ndarray:
    """Mean over runs with its 95 % interval (Student's), one point an arm; returns the means. arms: (runs,) each.

    Student's alone, because a bootstrap of runs that are nearly all at the ceiling says nothing by saying everything.
    """
    found = [student_interval(arm) for arm in arms]
    mean, low, high = (np.array([getattr(i, end) for i in found]) for end in ("estimate", "low", "high"))
    face = colour(algorithm) if filled else "white"
    spread = [mean - low, high - mean]
    axes.errorbar(x, mean, spread, fmt=marker(algorithm), ms=4.5, color=colour(algorithm), mfc=face, elinewidth=1.4)
    return mean


def side_by_side(axes: Axes, arms: Mapping[str, Sequence[np.ndarray]], apart: float = 0.05) -> None:
    """`points` of several algorithms at 0, 1, …, joined by lines; `apart`, where they would cover one another."""
    for i, (algorithm, each) in enumerate(arms.items()):
        at = np.arange(len(each)) + apart * (i - (len(arms) - 1) / 2)
        axes.plot(at, points(axes, at, each, algorithm), color=colour(algorithm), linewidth=1.6)


def bound(axes: Axes, y: float, text: str, x: float = 0.99) -> None:
    """A line that cannot be beaten, labelled with which one it is."""
    axes.axhline(y, color=BLACK, linewidth=1, linestyle=":")
    above: dict[str, Any] = {"xytext": (0, 2.5), "textcoords": "offset points"}  # of the markers that are on the line
    axes.annotate(text, (x, y), xycoords=axes.get_yaxis_transform(), ha="right", va="bottom", fontsize=8, **above)
