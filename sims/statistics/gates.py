"""Gates: preconditions of a verdict, checked from the records before the effect is computed.

A gate is open, or closed with a reason; a row with a closed gate has the verdict "no test" (`verdicts`). End points
and settings may be chosen by gates, never by the effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from .intervals import Interval, student_interval

RUNS_AT_A_BOUND = 100  # least number of runs per arm if any of them is at a bound
LUCK_KNOWN = 10  # least number of tuning runs by which a choice can be seen to be lucky, or not to be
LUCK = 0.01  # chance per row that a fair choice of settings is taken for a lucky one
AT_A_BOUND = 0.01  # share of the range within which a score is at a bound
IN_LIKELIHOOD, OUT_OF_LIKELIHOOD = 0.2, 0.05  # the reference's mass near the optimum
Overlap = Literal["in", "between", "out"]


@dataclass(frozen=True)
class Gate:
    """One gate of one row. why: what was measured, and, if closed, what would open it."""

    name: str
    open: bool
    why: str


def room(a: ArrayLike, b: ArrayLike, low: float, high: float, margin: float) -> Gate:
    """Whether a difference of the margin in either direction is possible: from the mean of both arms to either bound.

    a, b: (runs,) scores of both sides, within the environment's bounds. Two arms at the upper bound leave no room; one
    there and one far below do.
    """
    level = float((np.mean(np.asarray(a)) + np.mean(np.asarray(b))) / 2)
    up, down = high - level, level - low
    measured = f"the arms' mean is {level:.3g}, within [{low:g}, {high:g}]"
    if min(up, down) >= margin:
        return Gate("room", True, measured)
    where, way = ("above", "a shorter budget") if up < down else ("below", "a longer budget")
    return Gate(
        "room",
        False,
        f"{measured}: less than the margin {margin:g} {where} it; {way} or another environment would open it",
    )


def within_the_scale(b: ArrayLike, c: ArrayLike, d: ArrayLike, high: float, margin: float) -> Gate:
    """Whether what a claim of (a − b) − (c − d) > margin needs is within the scale: a above b + (c − d) + margin, where
    nothing is above `high`. `room` asks each difference by itself, which two can have and the difference of both not:
    of arms at .85 no gain is larger than one of .3. b, c, d: (runs,), at the evaluation that is tested."""
    lesser, other = float(np.mean(np.asarray(b))), float(np.mean(np.asarray(c)) - np.mean(np.asarray(d)))
    needed = lesser + other + margin
    said = f"beside {lesser:.3g}, and a difference of {other:.3g} elsewhere, the claim needs {needed:.3g} of {high:.3g}"
    if needed < high:
        return Gate("within the scale", True, said)
    return Gate(
        "within the scale",
        False,
        f"{said}, which nothing can reach; a budget or a setting at which these are lower would open it",
    )


def positive_control(control: Interval | None, margin: float, only_above: bool = False) -> Gate:
    """For claims of no effect: an arm or a shorter budget in the same setting whose effect exceeds the margin.

    only_above: an effect on the other side is none, as where a claim is about a gap that must be there.
    """
    name = "positive control"
    if control is None:
        return Gate(name, False, "none was run; an arm whose effect exceeds the margin would open it")
    passes = control.low > margin or (control.high < -margin and not only_above)
    closed = f", which does not exceed the margin {margin:g}; an arm or a setting whose effect does would open it"
    return Gate(name, passes, f"its effect is {control}{'' if passes else closed}")


def runs_at_a_bound(arms: Mapping[str, ArrayLike], low: float, high: float, least: int = RUNS_AT_A_BOUND) -> Gate:
    """Whether there are enough runs to observe rare ones, if some runs are at a bound. arms: (runs,) scores each."""
    near = AT_A_BOUND * (high - low)
    for name, given in arms.items():
        scores = np.asarray(given, np.float64)
        share = float(((scores <= low + near) | (scores >= high - near)).mean())
        if share > 0 and len(scores) < least:
            why = f"{share:.0%} of {name}'s {len(scores)} runs are at a bound; {least} runs would open it"
            return Gate("runs at a bound", False, why)
    return Gate("runs at a bound", True, f"no run is at a bound, or there are {least} runs")


def grid_edge(
    chosen: Mapping[str, Mapping[str, float]],
    grids: Mapping[str, Sequence[Mapping[str, float]]],
    plateaus: Sequence[str] = (),
) -> Gate:
    """Whether every arm's settings lie inside its grid. chosen: an arm's settings; grids: the points it was tuned over.

    plateaus: arms whose score was found not to change beyond the end of the grid. A weight of 0 is inside: there is
    nothing below it to try.
    """
    edges = []
    for arm, settings in chosen.items():
        for name, value in settings.items():
            tried = sorted({point[name] for point in grids[arm]})
            ends = {tried[0], tried[-1]} - {0.0}
            if len(tried) > 1 and value in ends and arm not in plateaus:
                edges.append(f"{arm} took {name} = {value:g} of {tried[0]:g} … {tried[-1]:g}")
    if edges:
        return Gate("grid edge", False, f"{'; '.join(edges)}; a wider grid, or a plateau beyond it, would open it")
    return Gate("grid edge", True, "every arm's settings lie inside its grid, or on a plateau")


def placebo(effect: Interval | None, margin: float, none_because: str = "", only_above: bool = False) -> Gate:
    """Whether the effect vanishes under a placebo: permuted rewards or labels, or chance level.

    none_because: why there is no placebo, for claims about a mechanism. only_above: an effect on the other side is
    none, as where a fall is claimed and the placebo rises.
    """
    if effect is None:
        why = f"none: {none_because}" if none_because else "none was run, and no reason was given; either would open it"
        return Gate("placebo", bool(none_because), why)
    gone = effect.high <= margin and (only_above or -margin <= effect.low)
    limit = f"at most {margin:g}" if only_above else f"within ±{margin:g}"
    return Gate(
        "placebo",
        gone,
        f"its effect is {effect}{'' if gone else f', not {limit}; a setting in which it vanishes would open it'}",
    )


def shared_arms(a: Sequence[str], b: Sequence[str], c: Sequence[str], d: Sequence[str]) -> Gate:
    """Whether (a − b) − (c − d) has four different arms. a, b, c, d: hashes of their records.

    If a and c, or b and d, are the same records they cancel, and a plain difference is left.
    """
    pairs = (("first", a, c), ("second", b, d), ("first difference's", a, b), ("second difference's", c, d))
    same = [name for name, x, y in pairs if set(x) & set(y)]
    if same:
        why = f"the {' and '.join(same)} arms are the same records and cancel; separate arms would open it"
        return Gate("shared arms", False, why)
    return Gate("shared arms", True, "all arms have separate records")


def overlap(mass: float) -> Overlap:
    """Whether the optimum is likely under the reference (in), unlikely (out) or between. mass: the reference's near
    it."""
    return "in" if mass >= IN_LIKELIHOOD else "out" if mass <= OUT_OF_LIKELIHOOD else "between"


def geometry(masses: Mapping[str, float], claimed: Mapping[str, Overlap]) -> Gate:
    """Whether each environment has the claimed overlap. masses: the reference's mass near the optimum."""
    wrong = [
        f"{e} is {overlap(masses[e])} ({masses[e]:.2g}), not {side}"
        for e, side in claimed.items()
        if overlap(masses[e]) != side
    ]
    if wrong:
        return Gate("geometry", False, f"{'; '.join(wrong)}; an environment with that overlap would open it")
    return Gate("geometry", True, "; ".join(f"{e} is {side} ({masses[e]:.2g})" for e, side in claimed.items()))


def estimand(effects: Mapping[str, Interval]) -> Gate:
    """Whether a mean over algorithms is meaningful: not if one's interval is above 0 and another's below."""
    above, below = [n for n, e in effects.items() if e.low > 0], [n for n, e in effects.items() if e.high < 0]
    if above and below:
        why = f"above 0 for {', '.join(above)}, below for {', '.join(below)}; a row for each would open it"
        return Gate("estimand", False, why)
    return Gate("estimand", True, "no two of the averaged effects differ in sign")


def trained(changes: Mapping[str, ArrayLike]) -> Gate:
    """Whether training changed every arm significantly. changes: of each arm (runs,) since the start, in score or in
    KL."""
    still = [name for name, x in changes.items() if (i := student_interval(x)).low <= 0 <= i.high]
    if still:
        return Gate("trained", False, f"{', '.join(still)} did not move beyond noise; more updates would open it")
    return Gate("trained", True, "every arm moved beyond noise")


def above_the_reference(scores: Mapping[str, ArrayLike], flat: float = 0.0) -> Gate:
    """Whether every arm that was tuned is shown to be no worse than the reference, whose score is 0: the lower end of
    its interval is at −`flat` or above. Of an arm that is below, or may be for all that its runs say, not to train at
    all may be better, so that its settings are not tuned, whatever a few tuning runs said. An arm that stays at the
    reference, as where there is nothing for it to find, is open once its runs show that. scores: (runs,) of each arm,
    by its name and when they are taken."""
    found = {name: student_interval(x) for name, x in scores.items()}
    below = {name: i for name, i in found.items() if i.low < -flat}
    if below:
        said = "; ".join(f"{name} scores {i}" for name, i in below.items())
        limit = f"not shown to be at the reference's 0 or above, within {flat:.3g}"
        return Gate("above the reference", False, f"{said}, {limit}; more tuning runs would open it")
    return Gate("above the reference", True, "every tuned arm is shown to be at the reference or above")


@dataclass(frozen=True)
class Chosen:
    """What an arm's settings scored when they were chosen, and what they score when they are tested. scores: (runs,)
    tested; mean: over so many `runs` of the tuning; among: how many points had as many runs there, and might have been
    chosen."""

    scores: ArrayLike
    mean: float
    runs: int
    among: int


def luck_of_tuning(arms: Mapping[str, Chosen], flat: float) -> Gate:
    """Whether every arm scores, when tested, what its settings scored when they were chosen. The best of k points is
    chosen for its luck too; an arm whose score falls by more than that may have better settings in its grid. Closed
    where it falls short by more than `flat`, and

        k·P(t > z) < LUCK / arms,    z = (tuned − tested) / (s·√(1/n + 1/m)),

    s the standard deviation of the m tested runs, n the number of tuning runs, t Student's with m − 1 degrees of
    freedom. Of normal runs, the best of k points alike has a z beyond that with at most this chance, whatever the
    points share: a row is closed by chance in LUCK of cases at most. An open gate clears nothing: of arms that fewer
    than LUCK_KNOWN runs chose it says that it does not know, and of none that its grid has no better point."""
    short, most = [], ("", flat)
    for name, arm in arms.items():
        scores = np.asarray(arm.scores, np.float64)
        tested, m = float(scores.mean()), len(scores)
        error = max(float(scores.std(ddof=1)) * float(np.sqrt(1 / arm.runs + 1 / m)), 1e-12)
        chance = min(1.0, arm.among * float(stats.t.sf((arm.mean - tested) / error, m - 1)))
        said = f"{name} scored {arm.mean:.2f} in {arm.runs} tuning runs, the best of {arm.among}"
        said = f"{said}, and scores {tested:.2f} (chance {chance:.1g})"
        most = max(most, (said, arm.mean - tested), key=lambda x: x[1])
        if arm.mean - tested > flat and chance < LUCK / len(arms):
            short.append(said)
    if short:
        return Gate("luck of tuning", False, f"{'; '.join(short)}; more tuning runs would open it")
    few = [f"{name} ({arm.runs} tuning runs)" for name, arm in arms.items() if arm.runs < LUCK_KNOWN]
    unknown = f"not known: {', '.join(few)}" if few else ""
    seen = f"the largest fall, which may be luck's: {most[0]}" if most[0] else "no arm that falls by more than is flat"
    said = f"{seen}; whether another point is better was not asked"
    return Gate("luck of tuning", True, "; ".join(filter(None, (unknown, said))))


def rises(name: str, changes: ArrayLike) -> Gate:
    """Whether something goes on rising, as a reward model's score where gold falls: that gold falls because the policy
    does what it is trained to do, and not because training fails. changes: (runs,) while gold falls."""
    found = student_interval(changes)
    said = f"{name} changes by {found} meanwhile"
    if found.low > 0:
        return Gate("still rises", True, said)
    return Gate("still rises", False, f"{said}, and does not rise; smaller steps would open it")
