"""From an interval and its gates to one of six states; p-values and false discovery control over many rows.

The states of a row, whose claim names the effect, its sign and a margin before the runs:

                 a claimed effect                             a claim of no effect
    supported    interval wholly beyond the margin,           wholly within ±margin
                 on the claimed side
    opposite     wholly beyond the margin on the other side   wholly outside ±margin, on either side
    too small    its end on the claimed side is at or below   –
                 the margin, and it is not opposite
    inconclusive everything else, and anything under 10 runs
    no test      a gate is closed (`gates`): the result would be uninformative, or is not about the claim
    theorem      an identity or a proof, checked on random instances: no interval

`statistics.verdict` is the older rule, in which "refuted" meant both opposite and too small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from .bootstrap import mean_and_error, welch_freedom
from .gates import Gate
from .intervals import FEWEST_RUNS, LEVEL, Interval

State = Literal["supported", "opposite", "too small", "inconclusive", "no test", "theorem"]
Kind = Literal["effect", "none"]
FALSE_DISCOVERIES = 0.05


@dataclass(frozen=True)
class Outcome:
    """A state and its reason, in one sentence. gates: all that were checked, open ones included."""

    state: State
    why: str
    gates: tuple[Gate, ...] = ()


def state(interval: Interval, margin: float, sign: int = 1, kind: Kind = "effect", runs: int | None = None) -> State:
    """The state of an interval, by the table at the top; "beyond" excludes the margin itself, "within" includes it.

    margin: the smallest effect that would matter, > 0. sign: +1 or −1, the claimed side. runs: replaces interval.runs,
    if fewer runs are independent than were averaged.
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
    again: Sequence[Interval] = (),
) -> Outcome:
    """The state of a row. A closed gate takes precedence over the interval.

    again: intervals of the same effect with other rounding or on another processor; if their state differs, the row is
    fragile and so inconclusive.
    """
    closed = [gate for gate in gates if not gate.open]
    if closed:
        return Outcome("no test", "; ".join(f"{gate.name}: {gate.why}" for gate in closed), tuple(gates))
    found = state(interval, margin, sign, kind)
    others = {state(other, margin, sign, kind) for other in again} - {found}
    if others:
        return Outcome(
            "inconclusive", f"fragile: {found}, but {', '.join(sorted(others))} when run again", tuple(gates)
        )
    side = f", {'above' if interval.low > 0 else 'below'} 0" if kind == "none" and found == "opposite" else ""
    return Outcome(found, f"{interval}{side}", tuple(gates))


def theorem(worst: float, tolerance: float, instances: int) -> Outcome:
    """The state of an identity: its largest error over `instances` random instances. ValueError if it exceeds the
    tolerance."""
    if not worst <= tolerance:
        raise ValueError(f"worst: {worst}: an identity must hold to {tolerance} on all of {instances} instances")
    return Outcome("theorem", f"holds to {worst:.1g} on {instances} instances")


def over_tunings(intervals: Sequence[Interval]) -> Interval:
    """The smallest interval that holds those of several tuning seeds; its estimate is the mean of theirs."""
    low, high = min(i.low for i in intervals), max(i.high for i in intervals)
    estimate, runs = float(np.mean([i.estimate for i in intervals])), min(i.runs for i in intervals)
    method = f"{intervals[0].method}, {len(intervals)} tunings"
    return replace(intervals[0], estimate=estimate, low=low, high=high, runs=runs, method=method)


# Many rows.


def p_value(x: ArrayLike, margin: float, sign: int = 1, kind: Kind = "effect") -> float:
    """Student's p at the margin, of differences run by run. x: (runs,).

    kind = effect: p of "sign · mean is at most margin". kind = none, two one-sided tests (equivalence): the larger p of
    "mean is at least margin" and "mean is at most −margin". Runs that are all equal give 1, as t is undefined: use
    `bounded.bounded_p_value` there.
    """
    centre, error = (float(value[0]) for value in mean_and_error(np.asarray(x, np.float64)[:, None]))
    return _at_margin(centre, error, len(np.asarray(x)) - 1, margin, sign, kind)


def p_value_of_difference(a: ArrayLike, b: ArrayLike, margin: float, sign: int = 1, kind: Kind = "effect") -> float:
    """Welch's p at the margin, of mean(a) − mean(b) of independent runs. a: (n_a,), b: (n_b,)."""
    x, y = (np.asarray(values, np.float64)[:, None] for values in (a, b))
    (mean_x, error_x), (mean_y, error_y) = mean_and_error(x), mean_and_error(y)
    freedom = welch_freedom(float(error_x[0]), len(x), float(error_y[0]), len(y))
    error = float(np.hypot(error_x, error_y)[0])
    return _at_margin(float(mean_x[0] - mean_y[0]), error, freedom, margin, sign, kind)


def _at_margin(centre: float, error: float, freedom: float, margin: float, sign: int, kind: Kind) -> float:
    if error == 0:
        return 1.0
    if kind == "none":
        return max(float(stats.t.sf((margin - side * centre) / error, freedom)) for side in (1, -1))
    return float(stats.t.sf((sign * centre - margin) / error, freedom))


def survive(p_values: ArrayLike, rate: float = FALSE_DISCOVERIES) -> np.ndarray:
    """Which rows are significant at a false discovery rate of `rate` (Benjamini and Hochberg 1995).

    p_values: (rows,) of all tested rows, one family. Valid for independent rows and for positively dependent ones, as
    rows that share arms mostly are.
    """
    given = np.asarray(p_values, np.float64)
    return np.asarray(stats.false_discovery_control(given) <= rate) if given.size else np.zeros(0, bool)
