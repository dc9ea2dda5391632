"""Line charts as SVG text: a few series over cycles, each with its name and its line in a legend above."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 520, 270  # without the legend; narrow enough to be read on a phone
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 14, 44
BESIDE = 5.0  # between the intervals of two series at the same x
ROW, SAMPLE, LETTER = 20, 32, 8.0  # of the legend: height of a row, width of a line with its gap, and of a letter

Points = Sequence[tuple[float, ...]]  # (x, y), or (x, y, low, high) with the ends of an interval


def line_chart(series: Mapping[str, Points], title: str, unit: str, low: float | None = None) -> str:
    """An SVG of at most four series of points, x in whole cycles. title: for those who do not see it; unit: of y; low:
    the lowest y shown, if not that of the points. Without points, an empty text."""
    points = [point for each in series.values() for point in each]
    if not points:
        return ""
    first, last = min(point[0] for point in points), max(point[0] for point in points)
    heights = [y for point in points for y in point[1:]]
    bottom, top = min(heights + ([] if low is None else [low])), max(heights)
    room = 0.08 * (top - bottom) or 0.1
    bottom, top = (bottom if low is not None else bottom - room), top + room
    names = {name: index for index, (name, each) in enumerate(series.items()) if each}
    legend, start = _legend(names)

    def across(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (0.5 if last == first else (x - first) / (last - first))

    def down(y: float) -> float:
        return start + TOP + (HEIGHT - TOP - BOTTOM) * (top - y) / (top - bottom)

    height = start + HEIGHT
    parts = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">', *legend]
    ticks, digits = round_ticks(bottom, top)
    for y in ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down(y):.1f}" y2="{down(y):.1f}"/>')
        said = f"{y:.{digits}f}".replace("-", "−")
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{down(y) + 4:.1f}" text-anchor="end">{said}</text>')
    for cycle in range(int(first), int(last) + 1):
        parts.append(
            f'<text class="tick" x="{across(cycle):.1f}" y="{height - 26}" text-anchor="middle">{cycle}</text>'
        )
    parts.append(f'<text class="tick" x="{LEFT}" y="{height - 6}">cycle · {escape(unit)}</text>')
    for name, index in names.items():
        each = series[name]
        aside = BESIDE * (index - (len(series) - 1) / 2) if len(each[0]) == 4 else 0.0
        path = " ".join(f"{across(x) + aside:.1f},{down(y):.1f}" for x, y, *_ in each)
        parts.append(f'<polyline class="s{index}" points="{path}"/>')
        for x, y, *interval in each:
            at_x, told = f"{across(x) + aside:.1f}", f"{escape(name)}, cycle {x:g}: {y:.3f}"
            if interval:
                y1, y2 = (f"{down(end):.1f}" for end in interval)
                parts.append(f'<line class="s{index}" x1="{at_x}" x2="{at_x}" y1="{y1}" y2="{y2}"/>')
                told += f" [{interval[0]:.3f}, {interval[1]:.3f}]"
            parts.append(
                f'<circle class="s{index}" cx="{at_x}" cy="{down(y):.1f}" r="3.5"><title>{told}</title></circle>'
            )
    return "".join([*parts, "</svg>"])


def round_ticks(bottom: float, top: float) -> tuple[list[float], int]:
    """Three to six round numbers from bottom to top, and how many digits after the point tell them apart."""
    rough = (top - bottom) / 5
    power = math.floor(math.log10(rough))
    step = next(s for s in (1, 2, 5, 10) if s * 10.0**power >= rough) * 10.0**power
    start = math.ceil(bottom / step - 1e-9)
    found = [i * step for i in range(start, math.floor(top / step + 1e-9) + 1)]
    return found, max(0, -math.floor(math.log10(step) + 1e-9))


def _legend(names: Mapping[str, int]) -> tuple[list[str], int]:
    """A line and a name for each series, in as many rows as they need; and their height. names: the series' numbers."""
    parts, x, row = [], float(LEFT), 0
    for name, index in names.items():
        wide = SAMPLE + LETTER * (len(name) + 2)
        if x + wide > WIDTH and x > LEFT:
            x, row = float(LEFT), row + 1
        y = ROW * row + 12
        parts.append(f'<polyline class="s{index}" points="{x:.1f},{y} {x + SAMPLE - 8:.1f},{y}"/>')
        parts.append(f'<text class="name s{index}" x="{x + SAMPLE:.1f}" y="{y + 4}">{escape(name)}</text>')
        x += wide
    return parts, ROW * (row + 1)
