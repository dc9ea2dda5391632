"""A figure's pictures. In the report: WebP without loss, of few colours, each of them true to what was drawn.

Its words are text of the page (`lettering`). A palette of the commonest colours, or one by median cut, spends itself on
shades of grey of antialiased edges, and gives two lines one hue. Here every colour of a line or an area stays what it
is, and the rest, which are edges, become the nearest of these, or one of their own where that would be seen.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure as MatplotlibFigure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sims.experiments.curves import SAVED

from .lettering import Words, lettered

DPI = 100  # the page's picture is some 1,200 CSS pixels wide; text of 10 points is then 14 pixels high
HEAD = re.compile(r'''<svg [^>]*?width="([\d.]+)pt" height="([\d.]+)pt" viewBox="[^"]*"''')  # as matplotlib writes it
COMMON = 1 / 2000  # share of the pixels from which a colour is that of a line or an area, and kept
ALIKE, EDGE = 4, 40  # distances in RGB up to which common, and other, colours become one that is kept
MOST = 256  # colours that a palette holds


class Pictures(NamedTuple):
    """webp and words: for the report, whose page sets the words over the picture. png and svg: with words, and with a
    panel on the right."""

    webp: bytes
    words: list[Words]
    png: bytes
    svg: bytes


def pictures(fig: MatplotlibFigure, panel: MatplotlibFigure | None, about: Mapping[str, str]) -> Pictures:
    """A figure's pictures. about: what the PNG and the SVG say of themselves.

    To lay a figure out takes as long as to draw it: that is done once, and WebP and PNG are one drawing. Of 33 figures
    a WebP and the words take 586 and 145 kB, where a WebP with the words in it takes 1,154, and SVG 5,106.
    """
    with matplotlib.rc_context(SAVED):
        bare, words, whole = lettered(fig, DPI)
        engine = fig.get_layout_engine()
        fig.set_layout_engine(None)  # it is laid out
        svg = _svg(fig, about)
        fig.set_layout_engine(engine)
        if panel is not None:
            whole = _beside(whole, lettered(panel, DPI).whole)
            svg = _svg_beside(svg, _svg(panel, {}))
    return Pictures(_webp(Image.fromarray(bare)), words, _png(whole, about), svg.encode())


def _beside(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Two pictures as one, white below the lower one."""
    height = max(len(left), len(right))
    both = [np.pad(x, ((0, height - len(x)), (0, 0), (0, 0)), constant_values=255) for x in (left, right)]
    return np.concatenate(both, axis=1)


def _png(pixels: np.ndarray, about: Mapping[str, str]) -> bytes:
    buffer, info = io.BytesIO(), PngInfo()
    for name, text in about.items():
        info.add_text(name, text)
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=info, dpi=(DPI, DPI))
    return buffer.getvalue()


def _svg(fig: MatplotlibFigure, about: Mapping[str, str]) -> str:
    buffer = io.StringIO()
    fig.savefig(buffer, format="svg", metadata={**about, "Date": None})  # type: ignore[dict-item]
    return buffer.getvalue()


def _svg_beside(left: str, right: str) -> str:
    """Two files of matplotlib as one; ids of the right one get a name of their own."""
    first, second = HEAD.search(left), HEAD.search(right)
    assert first and second
    (width, high), (more, low) = map(float, first.groups()), map(float, second.groups())
    head = first.group()
    wide = re.sub(r'(?<=width=")[\d.]+|(?<=viewBox="0 0 )[\d.]+', f"{width + more:g}", head)
    wide = re.sub(r'(?<=height=")[\d.]+|[\d.]+(?="$)', f"{max(high, low):g}", wide)
    body = re.sub(r"<metadata>.*?</metadata>", "", right[second.end() :], flags=re.S)
    body = body[body.index(">") + 1 : body.rindex("</svg>")]
    body = re.sub(r'(\bid="|href="#|url\(#)', r"\1rows_", body)
    end = left.rindex("</svg>")
    placed = f'<g transform="translate({width:g} 0)">{body}</g>\n'
    return left[:end].replace(head, wide, 1) + placed + left[end:]


def small(png: bytes) -> bytes:
    """A PNG as a WebP of few colours."""
    with Image.open(io.BytesIO(png)) as image:
        return _webp(image)


def _webp(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    few_colours(image).convert("RGB").save(buffer, "WEBP", lossless=True, quality=80, method=4)
    return buffer.getvalue()


def few_colours(image: Image.Image) -> Image.Image:
    """A picture with a palette of those of its colours that are seen.

    Colours are taken by how many pixels have them; one that is not common, and at most EDGE from one that was taken,
    becomes the nearest of these.
    """
    rgb = np.asarray(image.convert("RGB")).astype(np.uint32)
    each = (rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]).ravel()
    # Sorted by stretches of one colour, of which a drawing has a fraction of its pixels.
    starts = np.flatnonzero(np.concatenate([[True], each[1:] != each[:-1]]))
    lengths = np.diff(starts, append=len(each))
    colours, where = np.unique(each[starts], return_inverse=True)
    counts = np.bincount(where, weights=lengths)
    parts = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], -1).astype(np.int64)
    limits = np.where(counts >= COMMON * counts.sum(), ALIKE, EDGE) ** 2
    distances = np.full(len(parts), np.iinfo(np.int64).max)
    nearest = np.zeros(len(parts), np.uint8)
    palette: list[int] = []
    for i in np.argsort(-counts, kind="stable"):
        if distances[i] <= limits[i] or len(palette) == 3 * MOST:
            continue
        found = ((parts - parts[i]) ** 2).sum(-1)
        nearest[found < distances] = len(palette) // 3
        distances = np.minimum(distances, found)
        palette += parts[i].tolist()
    few = Image.fromarray(nearest[where].repeat(lengths).reshape(rgb.shape[:2]), "P")
    few.putpalette(palette)
    return few
