"""What a figure is: experiments, a drawing and verdicts, in one module of `figures/gallery`."""

from __future__ import annotations

import importlib
import math
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure as MatplotlibFigure

from sims.core.spec import SpecError
from sims.experiments.experiment import Experiment
from sims.experiments.store import Record

from .catalogue import CatalogueError, check_row
from .claims import Verdict
from .entries import Entry, entries
from .lab import Lab

Records = Mapping[str, Record]
SAID = (SpecError, CatalogueError, OSError, MemoryError)  # errors that are told in a line as they are
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
    """What a function of a figure's module returns. SpecError for what is not of the kind that `Figure` promises, for
    a row that is no number, and for what one of its pure functions raises. What `collect` raises may be the runner's,
    and gets a note that says whose it is."""
    kind, wanted = RETURNS[name]
    try:
        found: Any = getattr(figure, name)(*arguments)
    except Exception as error:
        error.add_note(f"in `{name}` of the figure {figure.name} (figures/gallery)")
        if name == "collect" or isinstance(error, SAID):
            raise
        raise SpecError(f"{figure.name}.{name}", error, f"must return {wanted}; raised {_where(error)}") from error
    if not isinstance(found, kind):
        raise SpecError(f"{figure.name}.{name}", found, f"must return {wanted}")
    for row in found if isinstance(found, list) else ():
        check_row(row.id, row.part, row.setting, row.figure)
        numbers = [x for x in (row.effect, row.low, row.high) if x is not None]
        if not all(map(math.isfinite, numbers)):
            raise SpecError(
                f"{figure.name}.{name}", numbers, f"must be finite, of {row.id}, {row.part} ({row.setting})"
            )
    return found


def _where(error: Exception) -> str:
    """File and line of a figure's module, and of what it called, at which an error was raised."""
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is `call`
    return "at " + ", in ".join(dict.fromkeys(f"{Path(x.filename).name}:{x.lineno}" for x in (frames[0], frames[-1])))


def load(entry: Entry) -> Figure:
    """The figure of an entry, its module imported."""
    figure: Figure = importlib.import_module(f"{__package__}.gallery.{entry.module}").FIGURE
    return figure


def all_figures() -> dict[str, Figure]:
    """Every figure of the gallery by name, in the order of their modules' names."""
    return {name: load(entry) for name, entry in entries().items()}
