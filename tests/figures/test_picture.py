"""Pictures of the report have few colours, and none of another hue than what was drawn."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.figure import Figure as MatplotlibFigure
from PIL import Image

from figures.report.picture import ALIKE, EDGE, few_colours, picture, small
from figures.report.style import COLOURS


def drawn(*hues: str) -> MatplotlibFigure:
    """A line and a band of each hue, with much text, whose edges are grey."""
    fig = MatplotlibFigure(figsize=(8, 4))
    axes = fig.subplots()
    for i, hue in enumerate(hues):
        axes.plot([0, 1, 2], [i, i + 0.5, i], color=hue, linewidth=1.8)
        axes.fill_between([0, 1, 2], [i, i + 0.3, i - 0.2], [i, i + 0.7, i + 0.2], color=hue, alpha=0.18, linewidth=0)
        axes.text(0.1, i, "which of them is it, and how far is it from the others? " * 2, fontsize=7)
    return fig


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_lines_and_bands_keep_their_colours_and_nothing_becomes_another_hue() -> None:
    buffer = io.BytesIO()
    drawn(*COLOURS.values()).savefig(buffer, format="png", dpi=100)
    before, after = pixels(buffer.getvalue()), pixels(small(buffer.getvalue()))
    for name, hue in COLOURS.items():
        rgb = [int(hue[i : i + 2], 16) for i in (1, 3, 5)]
        of_the_line = (before == rgb).all(-1)
        assert of_the_line.sum() > 100, name
        assert np.abs(after[of_the_line] - rgb).max() <= ALIKE, name
    assert np.sqrt(((after - before) ** 2).sum(-1)).max() <= EDGE
    assert len(np.unique(after.reshape(-1, 3), axis=0)) < 256 < len(np.unique(before.reshape(-1, 3), axis=0))


def test_a_picture_of_more_colours_than_a_palette_holds_is_still_one() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    assert few_colours(Image.fromarray(noise)).mode == "P"
    assert len(few_colours(Image.fromarray(noise)).getcolors() or ()) <= 256


@pytest.mark.parametrize("hues", [("#0072B2",), tuple(COLOURS.values())])
def test_equal_figures_have_equal_bytes(hues: tuple[str, ...]) -> None:
    assert picture(drawn(*hues)) == picture(drawn(*hues))
