"""What a figure is: experiments, a drawing and verdicts, in one module of `figures/gallery`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure as MatplotlibFigure

from sims.core.spec import SpecError
from sims.experiments.experiment import Experiment
from sims.experiments.store import Record

from .catalogue import check_row
from .claims import Verdict
from .entries import Entry, entries
from .lab import Lab

Records = Mapping[str, Record]
RETURNS: dict[str, tuple[type, str]] = {
    "collect": (Mapping, "records by name"),
    "draw": (MatplotlibFigure, "a figure of matplotlib"),
    "caption": (str, "a text"),
    "details": (Mapping, "lists of lines by heading"),
    "verdicts": (list, "a list of rows, as `row_of` makes them"),
}


@dataclass(frozen=True)
class Figure:
    """One figure. Its module holds it under the name FIGURE.

    name: of the files and of the command line. title: what a reader of the report sees. claims: ids of those it tests.
    collect(lab) gets every record it needs, tuning included; draw(records), verdicts(records) and caption(records),
    which says what is drawn, over how many runs, and which optimum, are pure. arms(scale): the experiments on a
    language model at a scale of `figures.arms.language_model`; None where there are none, and the figure has no scale.
    details(records): what the report folds away below the picture, as headings with lines each; None for nothing.
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
    details: Callable[[Records], Mapping[str, list[str]]] | None = None


def call(figure: Figure, name: str, *arguments: Any) -> Any:
    """What a function of a figure's module returns. Its errors get a note that says whose they are; SpecError for what
    is not of the kind that `Figure` promises."""
    try:
        found: Any = getattr(figure, name)(*arguments)
    except Exception as error:
        error.add_note(f"in `{name}` of the figure {figure.name} (figures/gallery)")
        raise
    kind, wanted = RETURNS[name]
    if not isinstance(found, kind):
        raise SpecError(f"{figure.name}.{name}", found, f"must return {wanted}")
    for row in found if isinstance(found, list) else ():
        check_row(row.id, row.part, row.setting, row.figure)
    return found


def load(entry: Entry) -> Figure:
    """The figure of an entry, its module imported."""
    figure: Figure = importlib.import_module(f"{__package__}.gallery.{entry.module}").FIGURE
    return figure


def all_figures() -> dict[str, Figure]:
    """Every figure of the gallery by name, in the order of their modules' names."""
    return {name: load(entry) for name, entry in entries().items()}
