"""Line charts as SVG text: a few series over cycles, each named at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise

WIDTH, HEIGHT = 640, 270
LEFT, RIGHT, TOP, BOTTOM = 46, 140, 14, 44
BESIDE = 5.0  # between the intervals of two series at the same x

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

    def across(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (0.5 if last == first else (x - first) / (last - first))

    def down(y: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (top - y) / (top - bottom)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for i in range(5):
        y = bottom + (top - bottom) * i / 4
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down(y):.1f}" y2="{down(y):.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{down(y) + 4:.1f}" text-anchor="end">{y:.2f}</text>')
    for cycle in range(int(first), int(last) + 1):
        parts.append(
            f'<text class="tick" x="{across(cycle):.1f}" y="{HEIGHT - 26}" text-anchor="middle">{cycle}</text>'
        )
    parts.append(f'<text class="tick" x="{LEFT}" y="{HEIGHT - 8}">cycle · {escape(unit)}</text>')
    ends = _apart([down(each[-1][1]) if each else 0 for each in series.values()])
    for index, ((name, each), at) in enumerate(zip(series.items(), ends, strict=True)):
        if not each:
            continue
        aside = BESIDE * (index - (len(series) - 1) / 2) if len(each[0]) == 4 else 0.0
        path = " ".join(f"{across(x) + aside:.1f},{down(y):.1f}" for x, y, *_ in each)
        parts.append(f'<polyline class="s{index}" points="{path}"/>')
        for x, y, *interval in each:
            at_x, said = f"{across(x) + aside:.1f}", f"{escape(name)}, cycle {x:g}: {y:.3f}"
            if interval:
                y1, y2 = (f"{down(end):.1f}" for end in interval)
                parts.append(f'<line class="s{index}" x1="{at_x}" x2="{at_x}" y1="{y1}" y2="{y2}"/>')
                said += f" [{interval[0]:.3f}, {interval[1]:.3f}]"
            parts.append(
                f'<circle class="s{index}" cx="{at_x}" cy="{down(y):.1f}" r="3.5"><title>{said}</title></circle>'
            )
        parts.append(f'<text class="name s{index}" x="{WIDTH - RIGHT + 8}" y="{at + 4:.1f}">{escape(name)}</text>')
    return "".join([*parts, "</svg>"])


def _apart(heights: Sequence[float], least: float = 16.0) -> list[float]:
    """The heights, moved so that no two are closer than `least`."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    moved = list(heights)
    for above, below in pairwise(order):
        moved[below] = max(moved[below], moved[above] + least)
    return moved
