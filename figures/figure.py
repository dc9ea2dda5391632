"""What a figure is: experiments, a drawing and verdicts, in one module of `figures/gallery`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from matplotlib.figure import Figure as MatplotlibFigure

from sims.experiments.experiment import Experiment
from sims.experiments.store import Record

from . import gallery
from .claims import Verdict
from .lab import Lab

Records = Mapping[str, Record]


@dataclass(frozen=True)
class Figure:
    """One figure. Its module holds it under the name FIGURE.

    name: of the files and of the command line. title: what a reader of the report sees. claims: ids of those it judges.
    collect(lab) gets every record it needs, tuning included; draw(records), verdicts(records) and caption(records),
    which says what is drawn, over how many runs, and which optimum, are pure. arms(scale): the experiments on a
    language model at a scale of `figures.arms.language_model`; None where there are none, and the figure has no scale.
    live: arms that are run whenever the figure is drawn, though all are committed: one shows that the code still gives
    its record."""

    name: str
    title: str
    tags: tuple[str, ...]
    claims: tuple[str, ...]
    collect: Callable[[Lab], Records]
    draw: Callable[[Records], MatplotlibFigure]
    verdicts: Callable[[Records], list[Verdict]]
    caption: Callable[[Records], str]
    arms: Callable[[str], Mapping[str, Experiment]] | None = None
    live: tuple[str, ...] = ()


def all_figures() -> dict[str, Figure]:
    """Every figure of the gallery by name, in the order of their modules' names."""
    found = {}
    for module in sorted(pkgutil.iter_modules(gallery.__path__), key=lambda m: m.name):
        figure: Figure = importlib.import_module(f"{gallery.__name__}.{module.name}").FIGURE
        found[figure.name] = figure
    return found
