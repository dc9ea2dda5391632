"""Gates: could a test have come out either way? Each is read from the records before the effect is looked at.

A gate is open, or closed with a reason; a row with a closed one is no test (`verdicts`). They choose end points and
settings, which an effect never may.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from .intervals import Interval, student_interval

RUNS_AT_A_BOUND = 100  # that a row needs of which a run sits at a bound
AT_A_BOUND = 0.01  # of the range: what counts as sitting there
IN_LIKELIHOOD, OUT_OF_LIKELIHOOD = 0.2, 0.05  # of the reference's mass within the bump of the optimum
Overlap = Literal["in", "between", "out"]


@dataclass(frozen=True)
class Gate:
    """One gate of one row. why: what was measured, and of a closed one what would open it."""

    name: str
    open: bool
    why: str


def room(a: ArrayLike, b: ArrayLike, low: float, high: float, margin: float) -> Gate:
    """Whether either side of a difference could be ahead by a margin: at the level that both have together.

    a, b: (runs,) scores of both sides, within the environment's bounds. Two arms at the ceiling leave no room; one at
    the ceiling and one far below do, for their level is between.
    """
    level = float((np.mean(np.asarray(a)) + np.mean(np.asarray(b))) / 2)
    up, down = high - level, level - low
    said = f"the arms' level is {level:.3g}, within [{low:g}, {high:g}]"
    if min(up, down) >= margin:
        return Gate("room", True, said)
    where, way = ("above", "a shorter budget") if up < down else ("below", "a longer budget")
    return Gate(
        "room", False, f"{said}: less than the margin {margin:g} {where} it; {way} or another problem would open it"
    )


def positive_control(control: Interval | None, margin: float) -> Gate:
    """For a claim of none: an arm or a shorter budget in the same setting whose effect passes the margin."""
    name = "positive control"
    if control is None:
        return Gate(name, False, "none was run; an arm whose effect passes the margin would open it")
    passes = control.low > margin or control.high < -margin
    return Gate(
        name, passes, f"its effect is {control}{'' if passes else f', which does not pass the margin {margin:g}'}"
    )


def runs_at_a_bound(arms: Mapping[str, ArrayLike], low: float, high: float, least: int = RUNS_AT_A_BOUND) -> Gate:
    """Whether a row with runs at a bound has runs enough to see the rare one that is not. arms: (runs,) scores each."""
    near = AT_A_BOUND * (high - low)
    for name, given in arms.items():
        scores = np.asarray(given, np.float64)
        share = float(((scores <= low + near) | (scores >= high - near)).mean())
        if share > 0 and len(scores) < least:
            why = f"{share:.0%} of {name}'s {len(scores)} runs sit at a bound; {least} runs would open it"
            return Gate("runs at a bound", False, why)
    return Gate("runs at a bound", True, f"none sits there, or there are {least} runs")


def grid_edge(
    chosen: Mapping[str, Mapping[str, float]],
    grids: Mapping[str, Sequence[Mapping[str, float]]],
    plateaus: Sequence[str] = (),
) -> Gate:
    """Whether every arm's settings lie inside its grid. chosen: an arm's settings; grids: the points it was tuned over.

    plateaus: arms of which a wider look showed that the score no longer changes beyond the end.
    """
    edges = []
    for arm, settings in chosen.items():
        for name, value in settings.items():
            tried = sorted({point[name] for point in grids[arm]})
            if len(tried) > 1 and value in (tried[0], tried[-1]) and arm not in plateaus:
                edges.append(f"{arm} took {name} = {value:g} of {tried[0]:g} … {tried[-1]:g}")
    if edges:
        return Gate("grid edge", False, f"{'; '.join(edges)}; a wider grid, or a plateau beyond it, would open it")
    return Gate("grid edge", True, "every arm's settings lie inside its grid, or on a plateau")


def placebo(effect: Interval | None, margin: float, none_because: str = "") -> Gate:
    """Whether what should abolish the effect did: permuted rewards or labels, or chance level.

    none_because: why there is none, of a claim about a mechanism.
    """
    if effect is None:
        why = f"none: {none_because}" if none_because else "none was run, and no reason was given"
        return Gate("placebo", bool(none_because), why)
    gone = -margin <= effect.low and effect.high <= margin
    return Gate("placebo", gone, f"its effect is {effect}{'' if gone else f', not within ±{margin:g}'}")


def shared_arms(a: Sequence[str], b: Sequence[str], c: Sequence[str], d: Sequence[str]) -> Gate:
    """Whether (a − b) − (c − d) is of four different arms: hashes of the records behind each.

    a and c, or b and d, that are the same records cancel, and what is left is a plain difference.
    """
    pairs = (("first", a, c), ("second", b, d), ("first difference's", a, b), ("second difference's", c, d))
    same = [name for name, x, y in pairs if set(x) & set(y)]
    if same:
        why = f"the {' and '.join(same)} arms are the same records and cancel; arms of their own would open it"
        return Gate("shared arms", False, why)
    return Gate("shared arms", True, "all arms are records of their own")


def overlap(mass: float) -> Overlap:
    """Where an optimum lies whose bump has `mass` under the reference: in likelihood, out of it, or between."""
    return "in" if mass >= IN_LIKELIHOOD else "out" if mass <= OUT_OF_LIKELIHOOD else "between"


def geometry(masses: Mapping[str, float], claimed: Mapping[str, Overlap]) -> Gate:
    """Whether each environment is what its name says. masses: the reference's mass within the optimum's bump."""
    wrong = [
        f"{e} is {overlap(masses[e])} ({masses[e]:.2g}), not {side}"
        for e, side in claimed.items()
        if overlap(masses[e]) != side
    ]
    if wrong:
        return Gate("geometry", False, "; ".join(wrong))
    return Gate("geometry", True, "; ".join(f"{e} is {side} ({masses[e]:.2g})" for e, side in claimed.items()))


def estimand(effects: Mapping[str, Interval]) -> Gate:
    """Whether a mean over algorithms answers anything: not if one's interval is above 0 and another's below."""
    above, below = [n for n, e in effects.items() if e.low > 0], [n for n, e in effects.items() if e.high < 0]
    if above and below:
        why = f"above 0 for {', '.join(above)}, below for {', '.join(below)}; a row for each would open it"
        return Gate("estimand", False, why)
    return Gate("estimand", True, "no two of the averaged effects differ in sign")


def trained(changes: Mapping[str, ArrayLike]) -> Gate:
    """Whether every arm has moved beyond noise. changes: of each arm (runs,) since the start, in score or in KL."""
    still = [name for name, x in changes.items() if (i := student_interval(x)).low <= 0 <= i.high]
    if still:
        return Gate("trained", False, f"{', '.join(still)} did not move beyond noise; more updates would open it")
    return Gate("trained", True, "every arm moved beyond noise")
