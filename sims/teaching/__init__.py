"""What the notebooks share: how they speak, draw, keep their numbers, and check answers.

checking        an exercise: a student's function against the exact layer, and what is wrong with it
enumeration     the gradient that an algorithm's own code gives on average, by summing over every batch
exercises_NN    the exercises of notebook NN

`QUICK` is read once from the environment variable ONOFF_QUICK: where it is 1, a notebook takes fewer runs and updates.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

QUICK = os.environ.get("ONOFF_QUICK") == "1"
NUMBERS = "application/vnd.onoff.numbers+json"  # the media type of an output of `keep`

# Okabe and Ito's colours, which people with any of the common colour blindnesses can tell apart; a line has a style of
# its own too, for print without colours.
BLUE, ORANGE, GREEN, PURPLE, VERMILION, BLACK = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#000000"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, BLACK)
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))


def say(text: str) -> None:
    """Show a text as Markdown, so that numbers in the prose are those that were computed; plain outside Jupyter.

    >>> sims.teaching.say(f"Of the reference's mass, {sims.BanditR1().overlap_mass():.1%} lies within the bump.")
    Of the reference's mass, 4.6% lies within the bump.
    """
    _show({"text/markdown": text, "text/plain": text})


def keep(tolerance: float = 1e-8, sized: bool = False, **numbers: float) -> None:
    """Keep key numbers with the notebook, where a test compares them with those of its own run. Shows nothing.

    tolerance: the largest absolute difference that another processor may make: rounding for what is exact, a few
    standard errors for what was sampled. sized: whether they depend on the number of runs or updates, so that a run
    in quick mode has other ones.
    """
    kept = {"tolerance": tolerance, "sized": sized, "numbers": {name: float(x) for name, x in numbers.items()}}
    _show({NUMBERS: kept, "text/plain": ""})


def _show(data: dict[str, Any]) -> None:
    try:
        from IPython import get_ipython
    except ImportError:
        shell = None
    else:
        shell = get_ipython()
    if shell is None:
        if data["text/plain"]:
            print(data["text/plain"])
        return
    from IPython.display import display

    display(data, raw=True)


def style() -> None:
    """One look for all pictures of a notebook: colours and line styles in step, a light grid, no box."""
    import matplotlib.pyplot as plt
    from cycler import cycler

    plt.rcParams.update(
        {
            "axes.prop_cycle": cycler(color=COLOURS) + cycler(linestyle=LINES),
            "axes.grid": True,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlesize": 11,
            "figure.dpi": 100,
            "font.size": 10,
            "grid.alpha": 0.25,
            "legend.frameon": False,
            "lines.linewidth": 1.8,
        }
    )


@contextmanager
def picture(columns: int = 1, width: float = 5.0, height: float = 3.6) -> Iterator[tuple[Figure, list[Axes]]]:
    """A row of panels, shown where the `with` block ends. Yields the figure and its axes.

    >>> with sims.teaching.picture(columns=2) as (figure, (left, right)):
    ...     line = left.plot([0, 1])
    """
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, columns, figsize=(width * columns, height), layout="constrained", squeeze=False)
    yield figure, list(panels.flat)
    if "inline" in plt.get_backend():
        plt.show()
    plt.close(figure)


def curve(axes: Axes, x: Any, runs: Any, label: str, **style: Any) -> None:
    """Mean over runs with its 95 % band. x: (evaluations,); runs: (runs, evaluations)."""
    from sims.statistics import band

    mean, low, high = band(runs)
    (line,) = axes.plot(x, mean, label=label, **style)
    axes.fill_between(x, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.locator_params(axis="x", nbins=6)  # more numbers of five digits run into each other
