"""States, p-values and gates, by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sims.statistics import gates
from sims.statistics.gates import Gate
from sims.statistics.intervals import Interval, student_interval
from sims.statistics.verdicts import Kind, outcome, over_tunings, p_value, stands, state, survive, theorem


def interval(low: float, high: float, runs: int = 20) -> Interval:
    return Interval((low + high) / 2, low, high, 0.95, runs, "by hand")


@pytest.mark.parametrize(
    ("low", "high", "effect", "none", "at_most"),
    [
        (0.11, 0.3, "supported", "opposite", "opposite"),
        (0.1, 0.3, "inconclusive", "inconclusive", "inconclusive"),  # beyond excludes the margin itself
        (0.05, 0.2, "inconclusive", "inconclusive", "inconclusive"),
        (-0.05, 0.1, "too small", "supported", "supported"),  # within, and at most, include it
        (-0.1, 0.1, "too small", "supported", "supported"),
        (-0.2, 0.05, "too small", "inconclusive", "supported"),
        (-0.2, -0.1, "too small", "inconclusive", "supported"),
        (-0.3, -0.11, "opposite", "opposite", "supported"),
        (-0.3, 0.3, "inconclusive", "inconclusive", "inconclusive"),
    ],
)
def test_states_by_hand(low: float, high: float, effect: str, none: str, at_most: str) -> None:
    found = interval(low, high)
    assert state(found, 0.1) == effect
    assert state(interval(-high, -low), 0.1, sign=-1) == effect
    assert state(found, 0.1, kind="none") == none
    assert state(found, 0.1, kind="at most") == state(interval(-high, -low), 0.1, sign=-1, kind="at most") == at_most
    assert state(interval(low, high, runs=9), 0.1) == state(found, 0.1, runs=9) == "inconclusive"


@settings(max_examples=300, deadline=None)
@given(st.floats(-3, 3), st.floats(0, 3), st.floats(0.01, 2), st.sampled_from([1, -1]))
def test_states_are_consistent(low: float, width: float, margin: float, sign: int) -> None:
    found, mirror = interval(low, low + width), interval(-low - width, -low)
    effect, none = state(found, margin, sign), state(found, margin, sign, "none")
    assert effect == state(mirror, margin, -sign)
    assert none == state(mirror, margin, sign, "none") == state(found, margin, -sign, "none")
    if none == "supported":  # nothing that matters, on either side
        assert effect == state(found, margin, -sign) == "too small"
    if effect == "supported":
        assert (none, state(found, margin, -sign)) == ("opposite", "opposite")


def test_what_no_state_follows_from_is_refused() -> None:
    for arguments, message in (((0.0,), "margin: 0.0"), ((0.1, 0), "sign: 0: must be 1 or -1")):
        with pytest.raises(ValueError, match=message):
            state(interval(0.2, 0.3), *arguments)
    with pytest.raises(ValueError, match=r"level: 0.9"):
        state(Interval(0.2, 0.1, 0.3, 0.9, 20, ""), 0.1)


def test_what_contrastive_losses_gain_on_policy_is_no_support_of_a_negative_gradient() -> None:
    """C27 as it was first designed, but on-policy: DPO and IPO − Best-of-N, mean over budgets, 50 runs, margin .05."""
    first_design = {"R1": (-0.011, -0.034, 0.010), "R2": (0.001, -0.000, 0.002), "network": (0.023, -0.021, 0.068)}
    found = {where: state(Interval(*ends, 0.95, 50, ""), 0.05) for where, ends in first_design.items()}
    assert found == {"R1": "too small", "R2": "too small", "network": "inconclusive"}


def test_a_closed_gate_comes_before_the_interval() -> None:
    open_, closed = Gate("room", True, "there is"), Gate("placebo", False, "none was run")
    found = outcome(interval(0.2, 0.3), 0.1, gates=(open_, closed))
    assert (found.state, found.why, found.gates) == ("no test", "placebo: none was run", (open_, closed))
    assert outcome(interval(0.2, 0.3), 0.1, gates=(open_,)).state == "supported"
    assert outcome(interval(0.2, 0.3), 0.1, -1, gates=(open_,)).state == "opposite"


def test_a_state_that_flips_is_fragile() -> None:
    found = outcome(interval(0.11, 0.3), 0.1)
    assert stands(found, {"other seeds": "supported"}) == found
    flipped = stands(found, {"other rounding": "supported", "other seeds": "too small"})
    assert flipped.state == "inconclusive" and flipped.why == "fragile: supported, but too small with other seeds"


def test_a_row_that_is_no_answer_cannot_be_fragile() -> None:
    for found in (
        outcome(interval(0.11, 0.3), 0.1, gates=[Gate("room", False, "none")]),
        outcome(interval(0.05, 0.3), 0.1),
    ):
        assert stands(found, {"other seeds": "supported"}) == found


def test_the_direction_of_what_was_claimed_to_be_none_is_said() -> None:
    assert outcome(interval(-0.3, -0.2), 0.1, kind="none").why.endswith("below 0")
    assert outcome(interval(0.2, 0.3), 0.1, kind="none").why.endswith("above 0")


def test_a_theorem_has_no_interval_and_must_hold() -> None:
    assert theorem(1e-12, 1e-9, 200).state == "theorem"
    for worst in (1e-6, float("nan")):
        found = theorem(worst, 1e-9, 200)
        assert found.state == "opposite" and found.why.startswith("does not hold: an error of")


def test_tunings_are_held_by_one_interval() -> None:
    found = over_tunings([interval(0.1, 0.3), interval(0.2, 0.6, runs=10)])
    assert (found.estimate, found.low, found.high, found.runs) == (pytest.approx(0.3), 0.1, 0.6, 10)


# p-values.


def test_p_values_of_students_intervals_are_those_of_scipy() -> None:
    a = np.random.default_rng(0).normal(0.3, 0.2, 20)
    found = student_interval(a)
    assert p_value(found, 0.1) == pytest.approx(stats.ttest_1samp(a, 0.1).pvalue)
    assert p_value(student_interval(-a), 0.1, sign=-1) == pytest.approx(stats.ttest_1samp(a, 0.1).pvalue)
    assert p_value(found, 0.1, sign=-1) == pytest.approx(stats.ttest_1samp(a, 0.1).pvalue)  # opposite
    assert p_value(found, 0.1, kind="none") == pytest.approx(stats.ttest_1samp(a, 0.1).pvalue)  # outside
    assert p_value(student_interval(-a), 0.1, kind="at most") == pytest.approx(stats.ttest_1samp(-a, 0.1).pvalue)
    both = [stats.ttest_1samp(a, margin).pvalue for margin in (0.4, -0.4)]
    assert p_value(found, 0.4, kind="none") == pytest.approx(max(both))


@pytest.mark.parametrize("kind", ["effect", "none", "at most"])
def test_a_p_value_is_small_where_the_state_is_decided(kind: Kind) -> None:
    for low in np.linspace(-0.4, 0.4, 41) + 0.001:  # no end lies on a margin
        for width in (0.01, 0.1, 0.3):
            found = interval(low, low + width)
            decided = state(found, 0.1, kind=kind) != "inconclusive"
            assert (p_value(found, 0.1, kind=kind) <= 0.05) == decided, (found, kind)


def test_runs_without_spread_prove_nothing() -> None:
    assert p_value(interval(1.0, 1.0), 0.1) == p_value(interval(0.0, 0.0), 0.1, kind="none") == 1


def test_rows_that_survive_by_hand() -> None:
    """Benjamini and Hochberg at 5 %, five rows: the largest k with p₍k₎ ≤ k/5 · 0.05 is 3."""
    assert survive([0.001, 0.9, 0.029, 0.012, 0.06]).tolist() == [True, False, True, True, False]
    assert survive([]).tolist() == []


# Gates.


def test_room() -> None:
    ceiling, middle, floor = np.full(20, 0.99), np.full(20, 0.5), np.full(20, -0.98)
    assert gates.room(ceiling, middle, 0.0, 1.0, 0.05).open and gates.room(middle, ceiling, 0.0, 1.0, 0.05).open
    closed = gates.room(ceiling, ceiling, 0.0, 1.0, 0.05)
    assert not closed.open and "above it" in closed.why and "shorter" in closed.why
    assert not gates.room(floor, floor, -1.0, 1.0, 0.05).open and gates.room(floor, floor, -2.0, 1.0, 0.05).open


def test_positive_control() -> None:
    assert (
        gates.positive_control(interval(0.06, 0.2), 0.05).open
        and gates.positive_control(interval(-0.2, -0.06), 0.05).open
    )
    assert gates.positive_control(interval(0.06, 0.2), 0.05, only_above=True).open
    assert not gates.positive_control(interval(-0.2, -0.06), 0.05, only_above=True).open
    assert not gates.positive_control(interval(0.04, 0.2), 0.05).open and not gates.positive_control(None, 0.05).open


def test_runs_at_a_bound() -> None:
    some = np.append(np.full(19, 0.5), 0.995)
    assert not gates.runs_at_a_bound({"a": some}, 0.0, 1.0).open
    assert not gates.runs_at_a_bound({"a": 1 - some}, 0.0, 1.0).open
    assert gates.runs_at_a_bound({"a": np.tile(some, 5)}, 0.0, 1.0).open
    assert gates.runs_at_a_bound({"a": some[:19]}, 0.0, 1.0).open


def test_grid_edge() -> None:
    grid = [{"learning_rate": r, "beta": 0.1} for r in (0.1, 0.3, 1.0)]  # one β: it has no edge
    grids = {"a": grid}
    assert gates.grid_edge({"a": {"learning_rate": 0.3, "beta": 0.1}}, grids).open
    for rate in (0.1, 1.0):
        closed = gates.grid_edge({"a": {"learning_rate": rate}}, grids)
        assert not closed.open and f"a took learning_rate = {rate:g} of 0.1 … 1" in closed.why
        assert gates.grid_edge({"a": {"learning_rate": rate}}, grids, plateaus=["a"]).open


def test_placebo() -> None:
    assert gates.placebo(interval(-0.05, 0.04), 0.05).open and not gates.placebo(interval(-0.05, 0.06), 0.05).open
    assert not gates.placebo(interval(-0.06, 0.05), 0.05).open  # a fall is an effect too
    assert gates.placebo(interval(-0.3, 0.04), 0.05, only_above=True).open
    assert "not at most 0.05" in gates.placebo(interval(0.0, 0.06), 0.05, only_above=True).why
    assert not gates.placebo(None, 0.05).open and gates.placebo(None, 0.05, "a claim about a mechanism").open


def test_shared_arms() -> None:
    assert gates.shared_arms(["a"], ["b"], ["c"], ["d"]).open
    for arms in ("abad", "abcb", "aacd", "abcc"):
        assert not gates.shared_arms(*([arm] for arm in arms)).open


@pytest.mark.parametrize(("lesser", "open_"), [(0.1, True), (0.54, True), (0.56, False), (0.84, False)])
def test_a_difference_of_differences_is_none_where_the_one_that_is_claimed_to_be_larger_has_no_place(
    lesser: float, open_: bool
) -> None:
    """Elsewhere the difference is .4: an arm must be .45 above the lesser one, of a largest score of 1. Each pair has
    room by itself at .84, where the gain can be .16 at most."""
    arms = (np.full(20, x) for x in (lesser, 0.5, 0.1))
    assert gates.within_the_scale(*arms, 1.0, 0.05).open is open_
    assert gates.room(np.full(20, 0.85), np.full(20, 0.84), 0.0, 1.0, 0.05).open


def test_geometry() -> None:
    assert [gates.overlap(m) for m in (0.2, 0.1, 0.05)] == ["in", "between", "out"]
    assert gates.geometry({"R1": 0.046, "R2": 0.4}, {"R1": "out", "R2": "in"}).open
    closed = gates.geometry({"min": 0.17}, {"min": "out"})
    assert not closed.open and closed.why.startswith("min is between (0.17), not out")


@pytest.mark.parametrize(
    "closed",
    [
        gates.room(np.ones(20), np.ones(20), 0.0, 1.0, 0.05),
        gates.positive_control(interval(0.04, 0.2), 0.05),
        gates.positive_control(None, 0.05),
        gates.runs_at_a_bound({"a": np.ones(20)}, 0.0, 1.0),
        gates.grid_edge({"a": {"beta": 1.0}}, {"a": [{"beta": 0.1}, {"beta": 1.0}]}),
        gates.placebo(interval(0.0, 0.2), 0.05),
        gates.placebo(None, 0.05),
        gates.shared_arms(["a"], ["b"], ["a"], ["d"]),
        gates.within_the_scale(np.full(20, 0.8), np.full(20, 0.5), np.full(20, 0.1), 1.0, 0.05),
        gates.geometry({"min": 0.17}, {"min": "out"}),
        gates.estimand({"a": interval(-0.3, -0.2), "b": interval(0.1, 0.3)}),
        gates.trained({"a": np.linspace(-0.1, 0.1, 20)}),
        gates.above_the_reference({"a": np.linspace(-0.2, -0.1, 20)}),
        gates.luck_of_tuning({"a": gates.Chosen(np.linspace(0.1, 0.2, 20), 0.3, 10, 5)}, 0.02),
        gates.rises("the score", np.linspace(-0.2, -0.1, 20)),
    ],
    ids=lambda gate: gate.name,
)
def test_a_closed_gate_says_what_would_open_it(closed: Gate) -> None:
    assert not closed.open and closed.why.endswith("would open it")


def test_estimand() -> None:
    ipo, best, flat = interval(-0.3, -0.2), interval(0.1, 0.3), interval(-0.1, 0.1)
    assert gates.estimand({"best": best, "flat": flat}).open and gates.estimand({"ipo": ipo, "flat": flat}).open
    assert not gates.estimand({"ipo": ipo, "best": best}).open


def test_what_falls_does_not_still_rise() -> None:
    """It has moved beyond noise, which is enough to be trained, and not to rise."""
    rising = np.linspace(0.1, 0.2, 20)
    assert gates.rises("the score", rising).open
    assert not gates.rises("the score", -rising).open and gates.trained({"the score": -rising}).open
    assert not gates.rises("the score", np.linspace(-0.1, 0.12, 20)).open


def test_a_tuned_arm_is_shown_to_be_at_the_reference_or_above() -> None:
    """By the lower end of its interval: 0.07 below the mean of 20 runs that are spread evenly over 0.48."""
    above, below = np.linspace(0.1, 0.2, 20), np.linspace(-0.2, -0.1, 20)
    assert gates.above_the_reference({"a": above}).open
    closed = gates.above_the_reference({"a at the end": above, "b over the run": below})
    assert not closed.open and closed.why.startswith("b over the run scores -0.15")
    noisy = np.linspace(-0.2, 0.28, 20)  # whose mean is above
    assert not gates.above_the_reference({"a": noisy}, flat=0.025).open
    assert gates.above_the_reference({"a": noisy}, flat=0.05).open
    assert gates.above_the_reference({"a": noisy + 0.05}, flat=0.025).open
    at_it = np.linspace(-0.01, 0.01, 20)  # an arm that is shown to stay where it was
    assert gates.above_the_reference({"a": at_it}, flat=0.025).open and not gates.above_the_reference({"a": at_it}).open


def scoring(mean: float, spread: float = 0.1) -> np.ndarray:
    """(100,) of this mean and standard deviation."""
    x = np.random.default_rng(0).normal(size=100)
    return mean + spread * (x - x.mean()) / x.std(ddof=1)


@pytest.mark.parametrize(
    ("mean", "runs", "among", "arms", "open_"),
    [
        (0.5245, 10**6, 1, 1, True),  # z = 2.45, but less than flat
        (0.5255, 10**6, 1, 1, False),
        (0.60, 100, 1, 1, False),  # z = 7
        (0.60, 4, 1, 1, True),  # 1.96
        (0.63, 4, 1, 1, False),  # 2.55: a chance of .006
        (0.63, 4, 16, 1, True),  # of each of sixteen points
        (0.63, 4, 1, 2, True),  # of each of two arms
        (0.75, 1, 1, 1, False),  # 2.49: of .007
        (0.75, 1, 2, 1, True),
        (0.30, 100, 1, 1, True),  # more than in tuning
    ],
)
def test_an_arm_that_scores_less_than_when_it_was_tuned_was_lucky(
    mean: float, runs: int, among: int, arms: int, open_: bool
) -> None:
    """Tested by 100 runs of 0.5 ± 0.1: as many of the tuning, or few, its mean the best of one point or of many."""
    others = {f"other {i}": gates.Chosen(scoring(0.5), 0.5, runs, among) for i in range(1, arms)}
    gate = gates.luck_of_tuning({"a": gates.Chosen(scoring(0.5), mean, runs, among), **others}, flat=0.025)
    assert gate.open is open_
    assert open_ or gate.why.startswith(f"a scored {mean:.2f} in {runs} tuning runs, the best of {among}, and scores")


def test_runs_that_are_all_alike_are_not_what_others_were() -> None:
    assert not gates.luck_of_tuning({"a": gates.Chosen(np.full(20, 0.5), 0.53, 10, 5)}, flat=0.025).open
    assert gates.luck_of_tuning({"a": gates.Chosen(np.full(20, 0.5), 0.5, 10, 5)}, flat=0.0).open
    assert gates.luck_of_tuning({}, flat=0.0).open  # nothing was tuned


def test_an_open_gate_of_luck_clears_nothing() -> None:
    """By nine tuning runs it does not know, and by ten it knows of this choice alone."""
    known, few = (gates.Chosen(scoring(0.5), 0.52, runs, 16) for runs in (10, 9))
    told = gates.luck_of_tuning({"a": few, "b": known}, flat=0.025)
    assert told.open and told.why.startswith("not known: a (9 tuning runs); ")
    told = gates.luck_of_tuning({"b": known}, flat=0.025)
    assert told.open and "not known" not in told.why and told.why.endswith("another point is better was not asked")


@pytest.mark.parametrize("runs", [1, 4, 100])
def test_a_fair_choice_of_points_that_are_alike_is_seldom_taken_for_luck(runs: int) -> None:
    """Two arms, the best of sixteen points each: of 2,000 rows at most .01 are closed. More than 40 would be with a
    chance of 2e-5 if it were .01; seeds are fixed."""
    rng = np.random.default_rng(1)
    closed = 0
    for _ in range(2000):
        best = rng.normal(size=(2, 16)).max(1) / np.sqrt(runs)
        arms = {str(i): gates.Chosen(rng.normal(size=50), float(x), runs, 16) for i, x in enumerate(best)}
        closed += not gates.luck_of_tuning(arms, flat=0.0).open
    assert closed <= 40


def test_trained() -> None:
    moved, still = np.linspace(0.1, 0.2, 20), np.linspace(-0.1, 0.1, 20)
    assert gates.trained({"a": moved, "b": -moved}).open
    closed = gates.trained({"a": moved, "b": still})
    assert not closed.open and closed.why.startswith("b did not move")
