"""What a figure's rows say, drawn beside it: each effect with its interval, in margins."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.transforms import blended_transform_factory

from figures.claims import Verdict

from .style import RC

WIDTH, GAP, MARGIN, BELOW = 5.4, 0.2, 0.12, 0.62  # inches: of all; left of the panel, right of it and below
LETTERS = 97  # of a row's name and state, which stand on one line
ABOVE, LEAST, EACH = 0.38, 1.3, 0.42  # inches above the panel; of height, and for each row
FACES = {"supported": "black", "opposite": "white", "too small": "white", "inconclusive": "0.6", "no test": "0.85"}
SHAPES = {"supported": "o", "opposite": "X", "too small": "v", "inconclusive": "d", "no test": "o"}


def panel_of(rows: Sequence[Verdict], height: float) -> MatplotlibFigure | None:
    """A figure of the rows, theorems aside, at least `height` inches high; None where there are none. Their axis is in
    margins, linear within two of them and logarithmic beyond; the band is ±1 margin."""
    shown = [row for row in rows if row.low is not None and row.high is not None]
    if not shown:
        return None
    height = max(height, LEAST + EACH * len(shown))
    with plt.rc_context(RC):
        fig = MatplotlibFigure(figsize=(WIDTH, height))
        wide, high = WIDTH - GAP - MARGIN, height - BELOW - ABOVE
        panel: Any = fig.add_axes((GAP / WIDTH, BELOW / height, wide / WIDTH, high / height))
        across = blended_transform_factory(panel.transAxes, panel.transData)
        for i, row in enumerate(shown):
            assert row.low is not None and row.high is not None
            ends = [[(row.effect - row.low) / row.margin], [(row.high - row.effect) / row.margin]]
            ink = "0.6" if row.verdict == "no test" else "black"
            face = FACES[row.verdict]
            panel.errorbar(
                row.effect / row.margin,
                -i,
                xerr=ends,
                fmt=SHAPES[row.verdict],
                ms=5,
                color=ink,
                mfc=face,
                elinewidth=1.2,
            )
            state = "fragile" if row.why.startswith("fragile") else row.verdict
            said = textwrap.shorten(f"{row.id} {row.part} ({row.setting})", LETTERS - len(state), placeholder=" …")
            above: Any = {"xycoords": across, "xytext": (0, 5), "textcoords": "offset points", "fontsize": 7}
            panel.annotate(said, (0.0, -i), va="bottom", **above)
            panel.annotate(state, (1.0, -i), va="bottom", ha="right", style="italic", **above)
        panel.axvspan(-1, 1, color="0.5", alpha=0.12, linewidth=0)
        panel.axvline(0, color="0.3", linewidth=0.8)
        panel.set_xscale("symlog", linthresh=2.0)
        low, high = panel.get_xlim()
        sizes = (0, 1, 2, 5, 10, 20, 50) if max(-low, high) < 20 else (0, 1, 5, 20, 100, 500)  # apart on the axis
        steps = [sign * size for size in sizes for sign in (-1, 1)]
        panel.set_xticks(sorted({step for step in steps if low <= step <= high}))
        panel.xaxis.set_major_formatter("{x:g}")
        panel.minorticks_off()
        panel.set(ylim=(0.7 - len(shown), 0.8), yticks=[], xlabel="effect, in margins")
        panel.spines["left"].set_visible(False)
        panel.set_title("As tested: effect, 95 % interval, ±1 margin", fontsize=10)
    return fig
