"""Intervals for means of bounded scores, where many runs are at a bound and a rare one is far from it.

Student's and the bootstrap use only the spread of the observed runs: where 19 of 20 runs would reach the largest reward
and one would be far below, a sample without such a run gives too narrow an interval. The bounds limit how far an unseen
run can be, and so how wide an interval must be.

The upper end is Gaffke's (Gaffke 2005; Learned-Miller and Thomas 2019): with D ~ Dirichlet(1, …, 1) over the n runs and
one more that sits at the upper bound b,

    upper = the (1 + level)/2 quantile of  D₁x₍₁₎ + … + Dₙx₍ₙ₎ + Dₙ₊₁b,

which is a Bayesian bootstrap with one run added at the bound; the lower end is the mirror image. For runs that are 0 or
1 it is the interval of Clopper and Pearson, exactly: n runs at 1 give the lower end (α/2)^{1/n}. That it always covers
at its level is proven for such runs and conjectured for others; no counterexample is known, and
`tests/statistics/coverage.py` simulates it. It is wider than Student's where runs lie together far from both bounds, by
about log(2/α)/n of the distance to the bound, as it allows for a rare run that is far away."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from .bootstrap import Array
from .intervals import LEVEL, Interval

DRAWS = 10_000  # of the weights: the Monte Carlo error of an end's level is about 0.0016


def bounded_interval(x: ArrayLike, low: float, high: float, level: float = LEVEL, seed: int = 0) -> Interval:
    """Interval for the mean of x, all of it within [low, high]. x: (runs,), 2 or more."""
    scores = _checked("x", x, low, high)
    centre, lower, upper = (float(end[0]) for end in bounded_bounds(scores[:, None], low, high, level, seed))
    return Interval(centre, lower, upper, level, len(scores), "Gaffke")


def bounded_paired_effect(a: ArrayLike, b: ArrayLike, low: float, high: float, level: float = LEVEL) -> Interval:
    """Mean of a − b over runs that share their noise, both within [low, high]: of differences within ±(high − low).
    a, b: (runs,), in the same order."""
    first, second = _checked("a", a, low, high), _checked("b", b, low, high)
    if len(first) != len(second):
        raise ValueError(f"b: {len(second)} runs: must be paired with the {len(first)} of a")
    return bounded_interval(first - second, low - high, high - low, level)


def bounded_difference(a: ArrayLike, b: ArrayLike, low: float, high: float, level: float = LEVEL) -> Interval:
    """mean(a) − mean(b) of independent runs, each mean within its interval at (1 + level)/2: by Bonferroni, so at least
    `level` together. a: (n_a,), b: (n_b,)."""
    each = (1.0 + level) / 2
    x, y = bounded_interval(a, low, high, each), bounded_interval(b, low, high, each)
    runs = min(x.runs, y.runs)
    return Interval(x.estimate - y.estimate, x.low - y.high, x.high - y.low, level, runs, "Gaffke, Bonferroni")


def bounded_bounds(x: Array, low: float, high: float, level: float, seed: int = 0) -> tuple[Array, Array, Array]:
    """Mean, lower and upper end for many problems at once. x: (runs, columns), within [low, high]."""
    ordered, share = np.sort(x, axis=0), (1.0 + level) / 2
    upper = np.quantile(_upper_draws(ordered, high, seed), share, axis=0, method="higher")
    lower = -np.quantile(_upper_draws(-ordered[::-1], -low, seed), share, axis=0, method="higher")
    return ordered.mean(0), lower, upper


def _upper_draws(ordered: Array, bound: float, seed: int) -> Array:
    """(draws, columns): means of the sorted runs and one at the bound, by drawn weights. ordered: (runs, columns)."""
    weights = _weights(len(ordered), seed)
    return weights[:, :-1] @ ordered + weights[:, -1:] * bound


@lru_cache(maxsize=8)
def _weights(runs: int, seed: int) -> Array:
    """(DRAWS, runs + 1): of a flat Dirichlet."""
    drawn = np.random.default_rng((seed, runs)).exponential(size=(DRAWS, runs + 1))
    return np.asarray(drawn / drawn.sum(1, keepdims=True))


def _checked(name: str, x: ArrayLike, low: float, high: float) -> Array:
    values = np.asarray(x, np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"{name}: shape {values.shape}: must be (runs,), 2 or more")
    if not low < high:
        raise ValueError(f"low = {low}, high = {high}: must be low < high")
    outside = ~((values >= low) & (values <= high))
    if outside.any():
        run = int(outside.argmax())
        raise ValueError(f"{name}: run {run} is {values[run]}: must lie within [{low}, {high}]")
    return values
