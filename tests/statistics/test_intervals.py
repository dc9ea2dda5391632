"""Intervals cover what they promise.

Everything is seeded, so a test either always passes or always fails. False-alarm probabilities are those of a new seed.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from sims.statistics.bootstrap import resample_counts
from sims.statistics.intervals import (
    Interval,
    band,
    bootstrap_t_interval,
    difference_interval,
    interaction,
    interquartile_mean,
    interquartile_mean_interval,
    mean_interval,
    paired_effect,
    probability_of_improvement,
    probability_of_improvement_interval,
    student_interval,
)

RUNS = 20
EXPERIMENTS = 4000
EFFECT = 0.7

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.normal(size=shape)


def exponential(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.exponential(size=shape) - 1  # mean 0


def laplace(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.exponential(size=shape) - rng.exponential(size=shape)  # two exponential arms, paired


def an_interval(low: float, high: float, runs: int = RUNS, level: float = 0.95) -> Interval:
    return Interval((low + high) / 2, low, high, level, runs, "given")


# Coverage. The true one is at most 0.957, 4 standard errors of 0.0032 below 0.97: false alarm 4e-5 a case.


@pytest.mark.parametrize("draw", [normal, exponential, laplace])
def test_coverage_of_a_paired_effect_is_95_percent(draw: Draw) -> None:
    rng = np.random.default_rng(1)
    shared = 5 * rng.normal(size=(RUNS, EXPERIMENTS))  # cancels in every pair; unpaired it would swamp the effect
    a, b = shared + EFFECT + draw(rng, shared.shape), shared
    _, low, high = band(a - b)
    covered = np.mean((low <= EFFECT) & (high >= EFFECT))
    assert 0.93 < covered < 0.97
    first = paired_effect(a[:, 0], b[:, 0])
    assert (first.low, first.high) == pytest.approx((low[0], high[0]), abs=1e-12)


@pytest.mark.parametrize("draw", [normal, exponential])
def test_coverage_of_an_unpaired_difference_is_95_percent(draw: Draw) -> None:
    rng = np.random.default_rng(2)
    a, b = EFFECT + draw(rng, (EXPERIMENTS, RUNS)), 2 * draw(rng, (EXPERIMENTS, RUNS))
    intervals = [difference_interval(x, y) for x, y in zip(a, b, strict=True)]
    assert 0.93 < np.mean([i.low <= EFFECT <= i.high for i in intervals]) < 0.97


def test_without_an_effect_each_side_is_told_in_one_experiment_in_forty() -> None:
    # Rates about 0.022, standard error 0.0023: outside (0.012, 0.034) with probability 2e-5 per side.
    _, low, high = band(np.random.default_rng(3).normal(size=(RUNS, EXPERIMENTS)))
    assert 0.012 < (low > 0).mean() < 0.034
    assert 0.012 < (high < 0).mean() < 0.034


# Against exact references.


def exact_tails(t: np.ndarray) -> tuple[float, float]:
    """The 2.5 % and 97.5 % quantiles of equally likely values."""
    ordered = np.sort(t)
    return float(ordered[int(np.ceil(0.025 * len(t))) - 1]), float(ordered[len(t) - int(np.ceil(0.025 * len(t)))])


def moments_of_all_resamples(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    drawn = np.array(list(product(x, repeat=len(x))))
    return drawn.mean(1), drawn.var(1, ddof=1) / len(x)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # resamples without spread divide by 0, as they should
def test_bootstrap_t_is_the_enumeration_of_all_resamples() -> None:
    x = np.array([0.3, 1.1, 1.4, 2.9, 7.0])
    mean, square = moments_of_all_resamples(x)  # 5⁵ resamples
    t_low, t_high = exact_tails((mean - x.mean()) / np.sqrt(square))
    error = x.std(ddof=1) / np.sqrt(len(x))
    got = bootstrap_t_interval(x, resamples=100_000)
    # t* is discrete: enough resamples hit the very atom
    assert (got.low, got.high) == pytest.approx((x.mean() - t_high * error, x.mean() - t_low * error), rel=1e-9)
    student = student_interval(x)
    both = mean_interval(x, resamples=100_000)
    assert (both.low, both.high) == (min(got.low, student.low), max(got.high, student.high))
    assert got.high > student.high and got.low > student.low  # skewed to the right: each gives one end


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_difference_holds_the_enumeration_of_all_resamples_and_welch() -> None:
    a, b = np.array([0.0, 0.2, 0.5, 4.0]), np.array([1.0, 1.2, 1.9, 2.0])
    (mean_a, square_a), (mean_b, square_b) = moments_of_all_resamples(a), moments_of_all_resamples(b)
    t = (mean_a[:, None] - mean_b - (a.mean() - b.mean())) / np.sqrt(square_a[:, None] + square_b)  # 4⁴·4⁴ resamples
    error = np.sqrt(a.var(ddof=1) / 4 + b.var(ddof=1) / 4)
    estimate = a.mean() - b.mean()
    welch = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    got = difference_interval(a, b, resamples=200_000)
    assert got.estimate == pytest.approx(estimate, abs=1e-12)
    assert got.low == pytest.approx(welch.low, abs=1e-12)
    # The other end is the long one. Its t* is the 2.5 % quantile up to sampling, standard error 0.00035: 4 of them.
    t_low = (estimate - got.high) / error
    assert np.mean(t < t_low - 1e-9) < 0.0264 and np.mean(t < t_low + 1e-9) > 0.0236
    assert got.high > welch.high + error


def test_student_is_scipys() -> None:
    x = np.random.default_rng(4).exponential(size=RUNS)
    for level in (0.9, 0.95, 0.99):
        got, expected = student_interval(x, level), stats.ttest_1samp(x, 0).confidence_interval(level)
        assert (got.low, got.high) == pytest.approx((expected.low, expected.high), rel=1e-12)
        assert (got.level, got.runs) == (level, RUNS)


def test_an_unpaired_difference_holds_welchs_interval_and_little_more() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=30), 3 * rng.normal(size=12)
    got, welch = difference_interval(a, b), stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert got.low <= welch.low + 1e-12 and got.high >= welch.high - 1e-12
    assert got.high - got.low < 1.3 * (welch.high - welch.low)
    assert got.runs == 12


def test_interaction_and_paired_effect_are_means_of_differences_run_by_run() -> None:
    a, b, c, d = np.random.default_rng(6).normal(size=(4, RUNS))
    assert paired_effect(a, b) == mean_interval(a - b)
    assert interaction(a, b, c, d) == mean_interval((a - b) - (c - d))
    assert interaction(a + 3, b, c + 3, d).estimate == pytest.approx(interaction(a, b, c, d).estimate)


def test_pairing_removes_shared_noise() -> None:
    rng = np.random.default_rng(7)
    shared, own = 10 * rng.normal(size=RUNS), rng.normal(size=RUNS)
    paired, unpaired = paired_effect(shared + own, shared), difference_interval(shared + own, shared)
    assert paired.estimate == pytest.approx(unpaired.estimate)
    assert (unpaired.high - unpaired.low) / (paired.high - paired.low) > 5


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_a_band_is_the_mean_interval_at_every_point(axis: int) -> None:
    curves = np.random.default_rng(8).exponential(size=(RUNS, 3, 50))  # 150 points: more than one block
    mean, low, high = band(np.moveaxis(curves, 0, axis), axis)
    assert mean.shape == low.shape == high.shape == (3, 50)
    for point in [(0, 0), (1, 7), (2, 49)]:
        one = mean_interval(curves[:, *point])
        assert (mean[point], low[point], high[point]) == pytest.approx((one.estimate, one.low, one.high), abs=1e-12)


# Awkward data.


def test_equal_runs_give_a_point_and_not_a_rounding_error() -> None:
    for got in (mean_interval([0.1] * 20), student_interval([0.1] * 20), bootstrap_t_interval([0.1] * 20)):
        assert (got.estimate, got.low, got.high) == (0.1, 0.1, 0.1)
    assert difference_interval([0.3] * 20, [0.1] * 12).low == difference_interval([0.3] * 20, [0.1] * 12).high


def test_one_constant_arm_leaves_the_spread_of_the_other() -> None:
    x = np.random.default_rng(9).normal(size=RUNS)
    got, alone = difference_interval(x, [2.0] * RUNS), student_interval(x - 2.0)
    assert got.low <= alone.low + 1e-12 and got.high >= alone.high - 1e-12


def test_one_run_apart_from_nineteen_equal_ones_falls_back_on_student() -> None:
    x = [1.0] + [0.0] * 19  # a resample misses the 1 with probability 0.95²⁰ = 0.36: t* is −∞ in the lower tail
    got, student = bootstrap_t_interval(x), student_interval(x)
    assert (got.low, got.high) == pytest.approx((student.low, student.high), abs=1e-12)
    assert np.isfinite([mean_interval(x).low, mean_interval(x).high]).all()


def test_rare_resamples_without_spread_stay_in_the_tail() -> None:
    x = [1.0] * 4 + [0.0] * 16  # 0.8²⁰ = 0.012 < 0.025: the quantile is finite
    assert np.isfinite(bootstrap_t_interval(x).high)
    assert bootstrap_t_interval(x).high > student_interval(x).high  # the long side of a proportion of 0.2


def test_two_runs_are_enough_for_an_interval() -> None:
    got, student = mean_interval([0.0, 1.0]), student_interval([0.0, 1.0])
    assert (got.low, got.high) == (student.low, student.high)


BAD = {
    "x: run 3 is nan": lambda: mean_interval([0.0, 1.0, 2.0, np.nan]),
    "x: run 1 is inf": lambda: student_interval([0.0, np.inf]),
    "b: run 0 is nan": lambda: difference_interval([0.0, 1.0], [np.nan, 1.0]),
    "b: run 1 is -inf": lambda: paired_effect([0.0, 1.0], [0.0, -np.inf]),
    "d: run 1 is nan": lambda: interaction([0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, np.nan]),
    "x: run 2, column 4 is nan": lambda: band(np.where(np.arange(15).reshape(3, 5) == 14, np.nan, 1.0)),
    "a: run 1 is nan": lambda: probability_of_improvement([0.0, np.nan], [0.0, 1.0]),
    "b: 3 runs: must be paired with the 2 of a": lambda: paired_effect([0.0, 1.0], [0.0, 1.0, 2.0]),
    "must have at least 2 runs": lambda: mean_interval([1.0]),
    r"x: shape \(2, 2\): must be \(runs,\)": lambda: mean_interval([[0.0, 1.0], [1.0, 2.0]]),
    "level: 95": lambda: student_interval([0.0, 1.0], level=95),
    "level: 0.9999": lambda: bootstrap_t_interval([0.0, 1.0], level=0.9999),
    "resamples: 10": lambda: mean_interval([0.0, 1.0], resamples=10),
    "b: 2 tasks": lambda: probability_of_improvement(np.zeros((4, 3)), np.zeros((4, 2))),
    "low <= high": lambda: an_interval(1.0, 0.0),
    r"Interval: nan \[0.0, 1.0\]: must be numbers": lambda: Interval(np.nan, 0.0, 1.0, 0.95, RUNS, "given"),
    r"Interval: 1.0 \[nan, 1.0\]: must be numbers": lambda: Interval(1.0, np.nan, 1.0, 0.95, RUNS, "given"),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_named(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BAD[message]()


# Invariances.

SAMPLES = arrays(np.float64, st.integers(3, 25), elements=st.integers(-50, 50).map(lambda i: i / 8))  # ties are common


@settings(max_examples=60, deadline=None)
@given(SAMPLES, st.floats(-100, 100), st.floats(0.01, 100))
def test_intervals_move_and_stretch_with_the_data(x: np.ndarray, shift: float, scale: float) -> None:
    for interval in (mean_interval, interquartile_mean_interval):
        one, other = interval(x), interval(shift + scale * x)
        expected = shift + scale * np.array([one.estimate, one.low, one.high])
        assert [other.estimate, other.low, other.high] == pytest.approx(expected, rel=1e-7, abs=1e-7)


@settings(max_examples=60, deadline=None)
@given(SAMPLES, SAMPLES, st.randoms(use_true_random=False))
def test_intervals_mirror_with_the_sign_and_ignore_the_order(x: np.ndarray, y: np.ndarray, random: Random) -> None:
    order = random.sample(range(len(x)), len(x))
    one, mirrored, shuffled = mean_interval(x), mean_interval(-x), mean_interval(x[order])
    assert (-mirrored.high, -mirrored.low) == pytest.approx((one.low, one.high), rel=1e-9, abs=1e-9)
    assert (shuffled.low, shuffled.high) == pytest.approx((one.low, one.high), rel=1e-9, abs=1e-9)
    one, swapped, mirrored = difference_interval(x, y), difference_interval(y, x), difference_interval(-x, -y)
    for other in (swapped, mirrored):
        assert (-other.high, -other.low) == pytest.approx((one.low, one.high), rel=1e-9, abs=1e-9)
    one, swapped = probability_of_improvement_interval(x, y), probability_of_improvement_interval(y, x)
    assert (1 - swapped.high, 1 - swapped.low) == pytest.approx((one.low, one.high), abs=1e-9)


def test_intervals_repeat_and_leave_global_generators_alone() -> None:
    np.random.seed(0)  # noqa: NPY002 the very generator that must stay untouched
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    x, y = np.random.default_rng(10).exponential(size=(2, RUNS))
    for interval in (difference_interval, probability_of_improvement_interval):
        first = interval(x, y)
        resample_counts.cache_clear()  # as a new process would draw them
        assert interval(x, y) == first
    for interval in (mean_interval, bootstrap_t_interval, interquartile_mean_interval):
        first = interval(x)
        resample_counts.cache_clear()
        assert interval(x) == first
    assert bootstrap_t_interval(x, seed=1) != bootstrap_t_interval(x, seed=0)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_an_interval_reads_as_one_line() -> None:
    text = str(Interval(0.12345678, -0.5, 1.0, 0.95, 20, "Student"))
    assert text == "+0.1235 [-0.5, +1] (95 %, 20 runs, Student)"


# Robust summaries.


def test_interquartile_mean_cuts_a_quarter_at_each_end() -> None:
    assert interquartile_mean([100.0, 1.0, 2.0, -50.0]) == 1.5  # 1 of 4 at each end
    assert interquartile_mean([9.0, 1.0, 2.0, 3.0, -9.0]) == 2.0  # ⌊5/4⌋ = 1 at each end
    x = np.random.default_rng(13).exponential(size=(20, 6))
    assert interquartile_mean(x) == pytest.approx(stats.trim_mean(x, 0.25, axis=None), abs=1e-15)  # tasks are pooled
    middle = np.sort(x.ravel())[30:90]
    assert interquartile_mean(x) == pytest.approx(middle.mean(), abs=1e-12)


def test_interquartile_interval_is_the_enumeration_of_all_resamples() -> None:
    x = np.array([0.0, 1.0, 7.0, 20.0])
    every = np.array([np.sort(drawn)[1:3].mean() for drawn in product(x, repeat=4)])
    got = interquartile_mean_interval(x, resamples=20_000)
    assert (got.low, got.high) == pytest.approx(exact_tails(every), abs=1e-12)


def test_tasks_are_resampled_each_on_its_own() -> None:
    x = np.random.default_rng(14).normal(size=RUNS)
    together = interquartile_mean_interval(x)
    twice = interquartile_mean_interval(np.stack([x, x], axis=1))  # as many independent runs again: 1/√2 the width
    assert (twice.high - twice.low) / (together.high - together.low) == pytest.approx(2**-0.5, rel=0.15)
    y = np.random.default_rng(15).normal(size=RUNS)
    one = probability_of_improvement_interval(x, y)
    two = probability_of_improvement_interval(np.stack([x, x], axis=1), np.stack([y, y], axis=1))
    assert (two.high - two.low) / (one.high - one.low) == pytest.approx(2**-0.5, rel=0.15)


def test_probability_of_improvement_is_mann_whitneys_u() -> None:
    assert probability_of_improvement([1.0, 2.0], [1.0, 1.5]) == (0.5 + 0 + 1 + 1) / 4  # one tie in four pairs
    rng = np.random.default_rng(16)
    a, b = rng.integers(0, 6, (20, 3)), rng.integers(0, 6, (15, 3))  # many ties
    expected = np.mean([stats.mannwhitneyu(a[:, task], b[:, task]).statistic / (20 * 15) for task in range(3)])
    assert probability_of_improvement(a, b) == pytest.approx(expected, abs=1e-12)
    assert probability_of_improvement_interval(a, b).estimate == pytest.approx(expected, abs=1e-12)


def test_probability_of_improvement_is_covered() -> None:
    # Coverage 0.945, standard error 0.005 in 2,000 experiments: false alarm 1e-3 at 0.93, less at 0.97.
    rng = np.random.default_rng(17)
    truth = stats.norm.cdf(0.5 / np.sqrt(2))
    intervals = [probability_of_improvement_interval(0.5 + x, y) for x, y in rng.normal(size=(2000, 2, RUNS))]
    assert 0.93 < np.mean([i.low <= truth <= i.high for i in intervals]) < 0.97
    assert probability_of_improvement_interval([2.0, 3.0], [0.0, 1.0]).low == 1.0  # complete separation: no width


def test_runs_of_which_all_but_one_agree_nearly_get_students_interval() -> None:
    """A third of the resamples miss the one that differs; their tiny spread would make t* in the hundreds."""
    scores = np.append(1e-6 * np.arange(49), 0.02)
    both, student = mean_interval(scores), student_interval(scores)
    assert (both.low, both.high) == pytest.approx((student.low, student.high))
