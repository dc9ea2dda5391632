"""What a figure is: experiments, a drawing and verdicts, in one module of `figures/gallery`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from matplotlib.figure import Figure as MatplotlibFigure

from sims.experiments.experiment import Experiment
from sims.experiments.store import Record

from .claims import Verdict
from .entries import Entry, entries
from .lab import Lab

Records = Mapping[str, Record]


@dataclass(frozen=True)
class Figure:
    """One figure. Its module holds it under the name FIGURE.

    name: of the files and of the command line. title: what a reader of the report sees. claims: ids of those it judges.
    collect(lab) gets every record it needs, tuning included; draw(records), verdicts(records) and caption(records),
    which says what is drawn, over how many runs, and which optimum, are pure. arms(scale): the experiments on a
    language model at a scale of `figures.arms.language_model`; None where there are none, and the figure has no scale.
    """

    name: str
    title: str
    tags: tuple[str, ...]
    claims: tuple[str, ...]
    collect: Callable[[Lab], Records]
    draw: Callable[[Records], MatplotlibFigure]
    verdicts: Callable[[Records], list[Verdict]]
    caption: Callable[[Records], str]
    arms: Callable[[str], Mapping[str, Experiment]] | None = None


def load(entry: Entry) -> Figure:
    """The figure of an entry, its module imported."""
    figure: Figure = importlib.import_module(f"{__package__}.gallery.{entry.module}").FIGURE
    return figure


def all_figures() -> dict[str, Figure]:
    """Every figure of the gallery by name, in the order of their modules' names."""
    return {name: load(entry) for name, entry in entries().items()}
