"""A figure's words apart from its picture: text of the page takes a quarter of the bytes that its pixels take, is sharp
at any size, and is found by the browser's search.

Each text is set in the width that it has in the picture, whatever font the reader's machine has. Formulas, and text
that is outlined or cut off at the edge of its axes, stay in the picture.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure as MatplotlibFigure

from sims.core.spec import SpecError


@dataclass(frozen=True)
class Words:
    """Text that starts at (x, y), the left end of its base line, in pixels from the upper left; it is turned by `angle`
    degrees against the clock. size: of the font, and width: of the text, in pixels."""

    x: int
    y: int
    width: int
    text: str
    size: float
    angle: int = 0
    colour: str = "#000000"
    bold: bool = False
    italic: bool = False


KINDS = (int, int, int, str, float, int, str, bool, bool)  # of the fields, in their order
DEFAULTS = [field.default for field in fields(Words)]
NEEDED = 5  # fields without a default


class Lettered(NamedTuple):
    """A figure's pixels, (height, width, 3), without its words; these words in the order of their drawing; and its
    pixels with them."""

    bare: np.ndarray
    words: list[Words]
    whole: np.ndarray


class _Lettering(RendererAgg):
    """Draws all but text, of which it keeps what would be drawn, and that as words."""

    def __init__(self, width: float, height: float, dpi: float) -> None:
        super().__init__(width, height, dpi)
        self.words: list[Words] = []
        self.left_out: list[tuple[Any, ...]] = []

    def draw_text(
        self, gc: Any, x: float, y: float, s: str, prop: Any, angle: float, ismath: Any = False, mtext: Any = None
    ) -> None:
        if ismath or gc.get_clip_rectangle() is not None:
            super().draw_text(gc, x, y, s, prop, angle, ismath, mtext)
            return
        self.left_out.append((gc, x, y, s, prop, angle, ismath, mtext))
        width, _, _ = self.get_text_width_height_descent(s, prop, ismath=False)
        seen = gc.get_alpha() * np.array(gc.get_rgb()[:3]) + 1 - gc.get_alpha()  # on white paper
        weight = prop.get_weight()
        self.words.append(
            Words(
                x=round(x),
                y=round(y),
                width=round(width),
                text=s,
                size=round(self.points_to_pixels(prop.get_size_in_points()), 1),
                angle=round(angle),
                colour=to_hex(seen),
                bold=weight >= 600 if isinstance(weight, int) else weight in ("bold", "semibold", "heavy"),
                italic=prop.get_style() != "normal",
            )
        )


def lettered(fig: MatplotlibFigure, dpi: float) -> Lettered:
    """The figure without its words and with them, drawn once: words come last, over all else, as in the report."""
    before = fig.dpi
    fig.set_dpi(dpi)
    try:
        width, height = map(float, fig.bbox.size)
        renderer = _Lettering(width, height, dpi)
        fig.draw(renderer)
    finally:
        fig.set_dpi(before)
    bare = _on_paper(renderer)
    for text in renderer.left_out:
        RendererAgg.draw_text(renderer, *text)
    return Lettered(bare, renderer.words, _on_paper(renderer))


def _on_paper(renderer: RendererAgg) -> np.ndarray:
    """What was drawn, on white: (height, width, 3)."""
    drawn = np.asarray(renderer.buffer_rgba())
    if (drawn[..., 3] == 255).all():  # on a figure's own white paper, as nearly always: nothing is left to blend
        return drawn[..., :3].copy()
    rgba = drawn.astype(np.float32)
    alpha = rgba[..., 3:] / 255
    return np.rint(rgba[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


def kept(words: Iterable[Words]) -> list[list[Any]]:
    """For a JSON file: each field's value, in the order of the fields, without those at the end that are defaults."""
    found = []
    for each in words:
        values = list(asdict(each).values())
        while len(values) > NEEDED and values[-1] == DEFAULTS[len(values) - 1]:
            values.pop()
        found.append(values)
    return found


def read_words(lines: Iterable[Sequence[Any]], where: str) -> list[Words]:
    """What `kept` has kept; a value that is none of its field's is refused."""
    found = []
    for line in lines:
        try:
            values = [kind(value) for kind, value in zip(KINDS, line, strict=False)]
            words = Words(*values)
            to_hex(words.colour)
        except (TypeError, ValueError) as error:
            raise SpecError(f"{where}: words", line, "must be x, y, width, text and size; draw it again") from error
        found.append(words)
    return found


def alike(words: Iterable[Words]) -> list[tuple[Words, list[Words]]]:
    """Neighbours of one size, colour and face, with the first of them."""
    groups = itertools.groupby(words, key=lambda each: (each.size, each.colour, each.bold, each.italic))
    listed = (list(group) for _, group in groups)
    return [(group[0], group) for group in listed]
