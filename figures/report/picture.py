"""A figure's picture in the report: WebP without loss, of few colours, each of them true to what was drawn.

Its words are text of the page (`lettering`). A palette of the commonest colours, or one by median cut, spends itself on
shades of grey of antialiased edges, and gives two lines one hue. Here every colour of a line or an area stays what it
is, and the rest, which are edges, become the nearest of these, or one of their own where that would be seen.
"""

from __future__ import annotations

import io

import matplotlib
import numpy as np
from matplotlib.figure import Figure as MatplotlibFigure
from PIL import Image

from sims.experiments.curves import SAVED

from .lettering import Words, lettered

DPI = 100  # the page's picture is some 1,200 CSS pixels wide; text of 10 points is then 14 pixels high
COMMON = 1 / 2000  # share of the pixels from which a colour is that of a line or an area, and kept
ALIKE, EDGE = 4, 40  # distances in RGB up to which common, and other, colours become one that is kept
MOST = 256  # colours that a palette holds


def picture(fig: MatplotlibFigure) -> tuple[bytes, list[Words]]:
    """For the report: a WebP, and the words that are set over it. Of 33 figures, in kB: 586 and 145, where a WebP
    with the words in it takes 1,154, and SVG 5,106."""
    with matplotlib.rc_context(SAVED):
        pixels, words = lettered(fig, DPI)
    return _webp(Image.fromarray(pixels)), words


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
    colours, where, counts = np.unique(rgb @ (65536, 256, 1), return_inverse=True, return_counts=True)
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
    few = Image.fromarray(nearest[where].reshape(rgb.shape[:2]), "P")
    few.putpalette(palette)
    return few
