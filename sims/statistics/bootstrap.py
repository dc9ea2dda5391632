"""Student's and bootstrap-t (studentised bootstrap) intervals, for many samples at once.

Columns are separate samples: x is (runs, columns), and every result has one entry per column.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]


def mean_bounds(x: Array, level: float, resamples: int | None, seed: int) -> tuple[Array, Array, Array]:
    """Mean, and the ends of the smallest interval that holds both Student's and the bootstrap-t; without resamples
    Student's alone."""
    centre, error = mean_and_error(x)
    student = student_quantile(len(x) - 1, level)
    if resamples is None:
        return centre, centre - student * error, centre + student * error
    return centre, *hull(centre, error, *mean_quantiles(x, error, level, resamples, seed), student)


def mean_and_error(x: Array) -> tuple[Array, Array]:
    """Mean and its standard error s/√n; 0 where the runs differ by rounding only."""
    low, high = x.min(0), x.max(0)
    centre = np.clip(x.mean(0), low, high)  # the rounded mean of equal numbers can miss them all
    constant = high - low <= 4 * np.finfo(np.float64).eps * np.abs(x).max(0)
    return centre, np.where(constant, 0.0, x.std(0, ddof=1) / np.sqrt(len(x)))


@lru_cache(maxsize=1024)  # scipy takes a third of a millisecond, and a figure asks for the same few for every row
def student_quantile(freedom: float, level: float) -> float:
    """Student's t quantile of a two-sided interval; ValueError for a level outside (0, 1)."""
    if not 0 < level < 1:
        raise ValueError(f"level: {level}: must lie between 0 and 1, as in 0.95")
    return float(stats.t.ppf((1 + level) / 2, freedom))


def welch_freedom(error_x: float, runs_x: int, error_y: float, runs_y: int) -> float:
    """Welch–Satterthwaite degrees of freedom of a difference of two means with these standard errors."""
    largest = max(error_x, error_y)
    if largest == 0:
        return float(runs_x + runs_y - 2)
    u, v = (error_x / largest) ** 2, (error_y / largest) ** 2
    return float((u + v) ** 2 / (u**2 / (runs_x - 1) + v**2 / (runs_y - 1)))


def hull(centre: Array, error: Array, t_low: Array, t_high: Array, student: float) -> tuple[Array, Array]:
    """Ends of the smallest interval that holds both Student's and that of the quantiles t_low, t_high of t*."""
    t_low, t_high = finite_or_student(t_low, t_high, student)
    return centre - np.maximum(t_high, student) * error, centre - np.minimum(t_low, -student) * error


def finite_or_student(t_low: Array, t_high: Array, student: float) -> tuple[Array, Array]:
    """The quantiles, or Student's where so many resamples show no spread that one of them is infinite."""
    known = np.isfinite(t_low) & np.isfinite(t_high)
    return np.where(known, t_low, -student), np.where(known, t_high, student)


def mean_quantiles(x: Array, error: Array, level: float, resamples: int, seed: int) -> tuple[Array, Array]:
    """Lower and upper quantile of t* of the mean of x."""
    return tails(studentised(*resampled(standard(x, error), resample_counts(len(x), resamples, seed))), level)


def difference_quantiles(
    x: Array, y: Array, error: Array, level: float, resamples: int, seed: int
) -> tuple[Array, Array]:
    """Lower and upper quantile of t* of mean(x) − mean(y), whose standard error is `error`."""
    mean_x, square_x = resampled(standard(x, error), resample_counts(len(x), resamples, seed))
    mean_y, square_y = resampled(standard(y, error), other_arm(resample_counts(len(y), resamples, seed)))
    return tails(studentised(mean_x - mean_y, square_x + square_y), level)


def standard(x: Array, error: Array) -> Array:
    """Sorted, so that the order of the runs has no effect; centred at 0, in units of the error, 0 where that is 0."""
    ordered = np.sort(x, axis=0)
    return np.where(error > 0, (ordered - ordered.mean(0)) / np.where(error > 0, error, 1.0), 0.0)


def resampled(x: Array, counts: Array) -> tuple[Array, Array]:
    """Mean and squared standard error of every resample, (resamples, columns). counts: (resamples, runs)."""
    runs = len(x)
    mean = counts @ x / runs
    return mean, np.maximum(counts @ (x * x) / runs - mean * mean, 0.0) / (runs - 1)


def studentised(mean: Array, square: Array) -> Array:
    """mean/√square; ±∞ where a resample shows no spread. In the units of `standard`: 1 is the sample's error.

    A spread below a hundredth of the sample's counts as none: where all but a few runs agree up to rounding, such
    resamples are common, and would make bands a hundred times too wide.
    """
    flat = square < 1e-4
    infinite = np.where(np.abs(mean) < 1e-12, 0.0, np.copysign(np.inf, mean))
    return np.where(flat, infinite, mean / np.sqrt(np.where(flat, 1.0, square)))


def tails(values: Array, level: float) -> tuple[Array, Array]:
    """The k-th smallest and k-th largest, k = ⌊(resamples + 1)·(1 − level)/2⌋. values: (resamples, columns)."""
    resamples = len(values)
    rank = int((resamples + 1) * (1 - level) / 2 + 1e-9)
    if not 0 < level < 1 or rank < 1:
        highest = 1 - 2 / (resamples + 1)
        raise ValueError(f"level: {level}: must be above 0, and at most {highest:.4g} with {resamples} resamples")
    ordered = np.partition(values, [rank - 1, resamples - rank], axis=0)
    return ordered[rank - 1], ordered[resamples - rank]


@lru_cache(maxsize=16)
def resample_counts(runs: int, resamples: int, seed: int, stream: int = 0) -> Array:
    """How often each run is in each resample, (resamples, runs). Every resample is followed by its mirror image.

    Laid out as quarters: first, second, first mirrored, second mirrored; `other_arm` exchanges first and second, so
    that two samples are resampled independently and exchanging them flips the sign of a difference, no more.
    """
    if resamples < 4 or resamples % 4:
        raise ValueError(f"resamples: {resamples}: must be a positive multiple of 4")
    rng = np.random.default_rng([seed, stream, runs])
    half = rng.multinomial(runs, np.full(runs, 1 / runs), size=resamples // 2).astype(np.float64)
    counts = np.concatenate([half, half[:, ::-1]])
    counts.flags.writeable = False  # it is cached
    return counts


def other_arm(counts: Array) -> Array:
    """Resamples of the second of two samples, independent of the first's."""
    resamples, runs = counts.shape
    return counts.reshape(2, 2, resamples // 4, runs)[:, ::-1].reshape(resamples, runs)


def picks(runs: int, resamples: int, seed: int, stream: int) -> NDArray[np.int64]:
    """The same resamples as indices into sorted runs, (resamples, runs)."""
    counts = resample_counts(runs, resamples, seed, stream).astype(np.int64)
    return np.repeat(np.tile(np.arange(runs), resamples), counts.ravel()).reshape(resamples, runs)
