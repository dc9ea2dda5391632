"""Line charts as SVG text: a few series over cycles, each named at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise

WIDTH, HEIGHT = 640, 270
LEFT, RIGHT, TOP, BOTTOM = 46, 128, 14, 44

Points = Sequence[tuple[float, float]]


def line_chart(series: Mapping[str, Points], title: str, unit: str, low: float | None = None) -> str:
    """An SVG of at most four series (x, y), x in whole cycles. title: for those who do not see it; unit: of y; low: the
    lowest y shown, if not that of the points. Without points, an empty text."""
    points = [point for each in series.values() for point in each]
    if not points:
        return ""
    first, last = min(x for x, _ in points), max(x for x, _ in points)
    bottom, top = min([y for _, y in points] + ([] if low is None else [low])), max(y for _, y in points)
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
    for x in range(int(first), int(last) + 1):
        parts.append(f'<text class="tick" x="{across(x):.1f}" y="{HEIGHT - 26}" text-anchor="middle">{x}</text>')
    parts.append(f'<text class="tick" x="{LEFT}" y="{HEIGHT - 8}">cycle · {escape(unit)}</text>')
    heights = _apart([down(each[-1][1]) if each else 0 for each in series.values()])
    for index, ((name, each), at) in enumerate(zip(series.items(), heights, strict=True)):
        if not each:
            continue
        path = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in each)
        parts.append(f'<polyline class="s{index}" points="{path}"/>')
        parts += [
            f'<circle class="s{index}" cx="{across(x):.1f}" cy="{down(y):.1f}" r="3.5"><title>{escape(name)}, cycle '
            f"{x:g}: {y:.3f}</title></circle>"
            for x, y in each
        ]
        parts.append(f'<text class="name s{index}" x="{WIDTH - RIGHT + 8}" y="{at + 4:.1f}">{escape(name)}</text>')
    return "".join([*parts, "</svg>"])


def _apart(heights: Sequence[float], least: float = 16.0) -> list[float]:
    """The heights, moved so that no two are closer than `least`."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    moved = list(heights)
    for above, below in pairwise(order):
        moved[below] = max(moved[below], moved[above] + least)
    return moved
