"""Pictures of the report have few colours, and none of another hue than what was drawn."""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure as MatplotlibFigure
from PIL import Image

from figures.report.lettering import Words, alike, kept, lettered, read_words
from figures.report.picture import ALIKE, EDGE, few_colours, pictures, small
from figures.report.style import COLOURS
from sims.core.spec import SpecError


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


def test_colours_are_counted_by_pixels_however_they_lie() -> None:
    """Stripes are one stretch of a colour a row, or one pixel after the other; turned, they have the same palette."""
    image = Image.fromarray(lettered(drawn(*COLOURS.values()), 100).whole)
    turned = few_colours(image.transpose(Image.Transpose.TRANSPOSE)).transpose(Image.Transpose.TRANSPOSE)
    assert few_colours(image).getpalette() == turned.getpalette()
    np.testing.assert_array_equal(np.asarray(few_colours(image)), np.asarray(turned))


def test_a_figure_without_paper_is_on_white() -> None:
    def on(paper: str) -> np.ndarray:
        fig = drawn("#0072B2")
        fig.set_facecolor(paper)
        fig.axes[0].set_facecolor(paper)
        return lettered(fig, 100).whole.astype(int)

    assert np.abs(on("none") - on("white")).max() <= 2  # roundings of two ways to blend


@pytest.mark.parametrize("hues", [("#0072B2",), tuple(COLOURS.values())])
def test_equal_figures_have_equal_bytes(hues: tuple[str, ...]) -> None:
    assert pictures(drawn(*hues), None, {}) == pictures(drawn(*hues), None, {})


def placed() -> MatplotlibFigure:
    """Two words that are set, and three that stay in the picture."""
    fig = MatplotlibFigure(figsize=(4, 3))
    fig.text(0.25, 0.5, "which", fontsize=18, color="#0072B2", fontweight="bold")
    fig.text(
        0.5,
        0.2,
        "turned",
        fontsize=9,
        rotation=90,
        ha="center",
        va="bottom",
        color="red",
        alpha=0.5,
        fontstyle="italic",
    )
    fig.text(0.6, 0.8, "$x^2$")
    axes = fig.add_axes((0.6, 0.1, 0.3, 0.3), xticks=[], yticks=[])
    axes.text(0.5, 0.5, "cut off at the edge", clip_on=True)
    return fig


def test_words_are_where_they_were_drawn_and_not_in_the_picture_any_more() -> None:
    """In pixels at 100 per inch: 400 wide and 300 high; the height of a letter is some .73 of a font's size."""
    pixels, (which, turned), whole = lettered(placed(), 100)
    assert (which.x, which.y, which.text, which.size, which.colour) == (100, 150, "which", 25.0, "#0072b2")
    assert which.bold and not which.italic and which.angle == 0 and 70 < which.width < 100
    assert turned.italic and not turned.bold and turned.angle == 90 and turned.colour == "#ff8080"
    assert turned.y == 240 and 200 < turned.x <= 200 + turned.size / 2
    inked = (pixels != 255).any(-1)
    assert not inked[:200, :230].any(), "words that are set are not drawn"
    assert inked[40:80, 230:300].any(), "a formula is"
    assert inked[200:240, 280:350].any(), "and a text that is cut off"
    assert pixels.shape == whole.shape == (300, 400, 3)
    drawn = (whole != 255).any(-1)
    assert (drawn & ~inked)[100:160, 100:190].any() and (drawn >= inked).all(), "the other picture has them too"


def test_a_figure_is_laid_out_once_and_its_panel_stands_beside_it() -> None:
    fig, panel = MatplotlibFigure(figsize=(4, 3), layout="constrained"), MatplotlibFigure(figsize=(2, 5))
    for each in (fig, panel):
        each.subplots(2, sharex=True)[0].plot([0, 1], label="one")  # as in both figures: ids that could be the same
    engine = fig.get_layout_engine()
    assert engine is not None
    laid: list[object] = []
    execute = engine.execute
    engine.execute = lambda figure: (laid.append(figure), execute(figure))[1]  # type: ignore[method-assign]
    found = pictures(fig, panel, {"Title": "two"})
    assert laid == [fig] and fig.get_layout_engine() is engine
    both, alone = pixels(found.png), pixels(found.webp)
    assert both.shape == (500, 600, 3) and alone.shape == (300, 400, 3)
    assert (both[300:, :400] == 255).all() and (both[300:, 400:] != 255).any()
    with Image.open(io.BytesIO(found.png)) as image:
        assert image.info["Title"] == "two"
    svg = ElementTree.fromstring(found.svg)
    assert (svg.get("width"), svg.get("height"), svg.get("viewBox")) == ("432pt", "360pt", "0 0 432 360")
    ids = [each.get("id") for each in svg.iter() if each.get("id")]
    assert len(ids) == len(set(ids)) and "rows_figure_1" in ids
    used = re.findall(r'(?:href="#|url\(#)([^")]+)', found.svg.decode())
    assert used and set(used) <= set(ids)


def test_words_come_back_from_a_file_and_others_are_refused() -> None:
    words = lettered(placed(), 100)[1]
    assert read_words(kept(words), "audit.json") == words
    plain = Words(1, 2, 30, "plain", 12.5)
    assert kept([plain]) == [[1, 2, 30, "plain", 12.5]] and read_words(kept([plain]), "") == [plain]
    for line in ([1, 2], ["x", 2, 30, "text", 12], [1, 2, 30, "text", 12, 0, '"><script>'], 7):
        with pytest.raises(SpecError, match=r"audit\.json: words"):
            read_words([line], "audit.json")  # type: ignore[list-item]


def test_neighbours_of_one_face_share_it() -> None:
    one, two, other = (Words(0, 0, 1, "a", size) for size in (10, 10, 12))
    assert alike([one, two, other, one]) == [(one, [one, two]), (other, [other]), (one, [one])]
