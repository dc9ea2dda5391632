"""Where things stand in a forest plot: one axis for all rows of a claim that share a unit, each drawn in its table row.

Positions are percent of the width, so that a plot is as wide as its screen and its text never shrinks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

from .reading import Row

TICKS = 4  # a phone has room for so many numbers
EDGE = 4.0  # percent left free on either side
FEW = 4  # of so many intervals one may go on beyond the axis
SHORTER = 0.6  # if without its ends the axis has at most this share of its length


@dataclass(frozen=True)
class Axis:
    """From low to high, in the rows' unit; ticks lie within."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        """Percent of the width; what lies beyond an end is put on it."""
        share = (value - self.low) / (self.high - self.low)
        return round(EDGE + (100 - 2 * EDGE) * min(max(share, 0.0), 1.0), 2)


@dataclass(frozen=True)
class Mark:
    """One row's drawing. zone: the left end and width of where the claim puts its effect; None if the row names none.
    ends: of its interval; None, with the effect, if it is not finite. beyond: whether it goes on there, to the left and
    to the right."""

    zone: tuple[float, float] | None
    ends: tuple[float, float] | None
    effect: float
    beyond: tuple[bool, bool]


def axis(rows: Sequence[Row]) -> Axis:
    """An axis that holds every effect, 0, what each interval is held against, and the intervals, but for the few that
    are so wide that all others would be squeezed."""
    held = [0.0]
    for row in rows:
        held += [row.effect, *(row.zone or ())]
    intervals = [(row.low, row.high) for row in rows]
    for _ in range(len(rows) // FEW):
        without = [intervals[:i] + intervals[i + 1 :] for i in range(len(intervals))]
        shortest = min(without, key=lambda others: _length(held, others))
        if _length(held, shortest) > SHORTER * _length(held, intervals):
            break
        intervals = shortest
    low, high = _ends(held, intervals)
    if low == high:
        low, high = low - 1.0, high + 1.0
    spread = (high - low) * 0.04
    low, high = (low - spread if low < 0 else low), (high + spread if high > 0 else high)
    ticks = MaxNLocator(TICKS, steps=[1, 2, 5, 10]).tick_values(low, high)
    slack = 1e-9 * (high - low)
    return Axis(low, high, tuple(float(tick) for tick in ticks if low - slack <= tick <= high + slack))


def _ends(held: Sequence[float], intervals: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The least and the largest finite value."""
    finite = [value for value in itertools.chain(held, *intervals) if math.isfinite(value)]
    return min(finite), max(finite)


def _length(held: Sequence[float], intervals: Sequence[tuple[float, float]]) -> float:
    low, high = _ends(held, intervals)
    return high - low


def mark(row: Row, axis: Axis) -> Mark:
    """Where a row's interval lies on an axis, and where it was claimed to lie."""
    zone = None
    if row.zone is not None:
        low, high = row.zone
        zone = 0.0 if math.isinf(low) else axis.at(low), 100.0 if math.isinf(high) else axis.at(high)
    whole = all(map(math.isfinite, (row.effect, row.low, row.high)))
    return Mark(
        zone=(zone[0], round(max(zone[1] - zone[0], 0.4), 2)) if zone else None,
        ends=(axis.at(row.low), axis.at(row.high)) if whole else None,
        effect=axis.at(row.effect) if whole else 0.0,
        beyond=(whole and row.low < axis.low, whole and row.high > axis.high),
    )


def number(value: float, sign: bool = True) -> str:
    """Three decimals; powers of ten where these would be 0; a real minus."""
    if not math.isfinite(value):
        return str(value)
    form = ("+" if sign else "") + (".3f" if value == 0 or 0.0005 <= abs(value) < 1e5 else ".1e")
    return format(value, form).replace("-", "−").replace("+0.000", "0.000")


def tick(value: float, axis: Axis) -> str:
    """A tick's number, as short as it is exact."""
    step = (axis.ticks[1] - axis.ticks[0]) if len(axis.ticks) > 1 else 1.0
    return format(0.0 if abs(value) < step / 1e6 else float(f"{value:.6g}"), "g").replace("-", "−")
