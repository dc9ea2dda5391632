"""From an interval and its gates to one of six states; p-values and false discovery control over many rows.

The states of a row, whose claim names the effect, its sign and a margin before the runs:

                 a claimed effect                             a claim of no effect         of at most the margin
    supported    interval wholly beyond the margin,           wholly within ±margin        wholly at or below it
                 on the claimed side
    opposite     wholly beyond the margin on the other side   wholly outside ±margin,      wholly above it
                                                              on either side
    too small    its end on the claimed side is at or below   –                            –
                 the margin, and it is not opposite
    inconclusive everything else, and anything under 10 runs
    no test      a gate is closed (`gates`): the result would be uninformative, or is not about the claim
    theorem      an identity or a proof, checked on random instances: no interval; "opposite" if it does not hold

A claim of at most the margin is one of non-inferiority where the effect is a loss: that something gains does not speak
against "nothing is lost", however much it gains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from .bootstrap import student_quantile
from .gates import Gate
from .intervals import FEWEST_RUNS, LEVEL, Interval

State = Literal["supported", "opposite", "too small", "inconclusive", "no test", "theorem"]
Kind = Literal["effect", "none", "at most"]
FALSE_DISCOVERIES = 0.05


@dataclass(frozen=True)
class Outcome:
    """A state and its reason, in one sentence. gates: all that were checked, open ones included."""

    state: State
    why: str
    gates: tuple[Gate, ...] = ()


def state(interval: Interval, margin: float, sign: int = 1, kind: Kind = "effect", runs: int | None = None) -> State:
    """The state of an interval, by the table at the top; "beyond" excludes the margin itself, "within" includes it.

    margin: the smallest effect that would matter, > 0. sign: +1 or −1, the claimed side; of "at most", the side of what
    is at most the margin. runs: replaces interval.runs, if fewer runs are independent than were averaged.
    """
    if not 0 < margin < np.inf:
        raise ValueError(f"margin: {margin}: must be finite and above 0")
    if sign not in (1, -1):
        raise ValueError(f"sign: {sign}: must be 1 or -1")
    if interval.level < LEVEL:
        raise ValueError(f"level: {interval.level}: a state needs an interval of at least {LEVEL}")
    if (interval.runs if runs is None else runs) < FEWEST_RUNS:
        return "inconclusive"
    low, high = (interval.low, interval.high) if sign > 0 else (-interval.high, -interval.low)
    if kind == "none":
        outside = low > margin or high < -margin
        return "supported" if -margin <= low and high <= margin else "opposite" if outside else "inconclusive"
    if kind == "at most":
        return "supported" if high <= margin else "opposite" if low > margin else "inconclusive"
    if low > margin:
        return "supported"
    if high < -margin:
        return "opposite"
    return "too small" if high <= margin else "inconclusive"


def outcome(
    interval: Interval,
    margin: float,
    sign: int = 1,
    kind: Kind = "effect",
    gates: Sequence[Gate] = (),
) -> Outcome:
    """The state of a row. A closed gate takes precedence over the interval."""
    closed = [gate for gate in gates if not gate.open]
    if closed:
        return Outcome("no test", "; ".join(f"{gate.name}: {gate.why}" for gate in closed), tuple(gates))
    found = state(interval, margin, sign, kind)
    side = f", {'above' if interval.low > 0 else 'below'} 0" if kind == "none" and found == "opposite" else ""
    return Outcome(found, f"{interval}{side}", tuple(gates))


def stands(found: Outcome, again: Mapping[str, State]) -> Outcome:
    """The state of a row that was tested again: where its state differs it is fragile, and so inconclusive.

    again: its state by what was changed, such as "other seeds". A row that is no answer stays what it is.
    """
    others = [f"{other} with {change}" for change, other in again.items() if other != found.state]
    if found.state in ("no test", "theorem", "inconclusive") or not others:
        return found
    return Outcome("inconclusive", f"fragile: {found.state}, but {', '.join(others)}", found.gates)


def theorem(worst: float, tolerance: float, instances: int) -> Outcome:
    """The state of an identity, by its largest error over `instances` random instances: one that exceeds the tolerance,
    or is NaN, disproves it, or the code that checks it."""
    if not worst <= tolerance:
        return Outcome("opposite", f"does not hold: an error of {worst:.1g} on one of {instances} instances")
    return Outcome("theorem", f"holds to {worst:.1g} on {instances} instances")


def over_tunings(intervals: Sequence[Interval]) -> Interval:
    """The smallest interval that holds those of several tuning seeds; its estimate is the mean of theirs."""
    if len(intervals) == 1:
        return intervals[0]
    low, high = min(i.low for i in intervals), max(i.high for i in intervals)
    estimate, runs = float(np.mean([i.estimate for i in intervals])), min(i.runs for i in intervals)
    method = f"{intervals[0].method}, {len(intervals)} tunings"
    return replace(intervals[0], estimate=estimate, low=low, high=high, runs=runs, method=method)


# Many rows.


def p_value(interval: Interval, margin: float, sign: int = 1, kind: Kind = "effect") -> float:
    """Two-sided p of the boundary that the state of an interval turns on: at most 1 − level where that state is not
    inconclusive.

    Student's t with runs − 1 degrees of freedom, and the standard error that the interval's end towards the boundary
    implies: so it follows any kind of interval, and for Student's it is the paired test. The boundary is the margin on
    the claimed side, or for "opposite" the one on the other side; of at most the margin it is the margin. For a claim
    of none inside the margins it is whichever is told apart worse (two one-sided tests), and outside the one that is
    exceeded. An interval of width 0 gives 1: runs that are all equal have no spread to tell by.
    """
    quantile = student_quantile(interval.runs - 1, interval.level)

    def at(boundary: float) -> float:
        above = interval.estimate > boundary
        error = (interval.estimate - interval.low if above else interval.high - interval.estimate) / quantile
        if error <= 0:
            return 1.0
        # The t distribution's upper tail, without the third of a millisecond that `stats.t.sf` takes to check it.
        return float(2 * special.stdtr(interval.runs - 1, -abs(interval.estimate - boundary) / error))

    if kind == "none":
        inside = abs(interval.estimate) <= margin
        return max(at(margin), at(-margin)) if inside else at(float(np.copysign(margin, interval.estimate)))
    other_side = kind == "effect" and state(interval, margin, sign) == "opposite"
    return at(-sign * margin if other_side else sign * margin)


def survive(p_values: ArrayLike, rate: float = FALSE_DISCOVERIES) -> np.ndarray:
    """Which rows are significant at a false discovery rate of `rate` (Benjamini and Hochberg 1995).

    p_values: (rows,) of all tested rows, one family. Valid for independent rows and for positively dependent ones, as
    rows that share arms mostly are.
    """
    given = np.asarray(p_values, np.float64)
    return np.asarray(stats.false_discovery_control(given) <= rate) if given.size else np.zeros(0, bool)
