"""Exercises of notebook 10: a labeller that favours long responses, the energy distance, and ratings that compare."""

from __future__ import annotations

import numpy as np
import torch

from sims.core.objectives.preferences import preference_probability

from .checking import Exercise, Problem


def _pair(random: np.random.Generator) -> Problem:
    """Two responses: their gold rewards and their lengths; and a labeller."""
    return {
        "gold": random.normal(size=2),
        "length": random.permutation(np.arange(8, 26))[:2],
        "bias": float(random.uniform(0.02, 0.06)),
        "temperature": float(random.uniform(0.4, 0.8)),
        "flip_rate": float(random.uniform(0.05, 0.2)),
    }


def _preferred(gold: np.ndarray, length: np.ndarray, bias: float, temperature: float, flip_rate: float) -> float:
    first, second = torch.tensor(gold + bias * length)
    chance = float(preference_probability(first, second, temperature))
    return (1 - flip_rate) * chance + flip_rate * (1 - chance)


label_probability = Exercise(
    problem=_pair,
    exact=_preferred,
    faults={
        "The bias is missing: the labeller sees g + bias·length.": lambda g, n, b, t, f: _preferred(g, n, 0.0, t, f),
        "The flip is missing: a label is flipped with probability flip_rate.": lambda g, n, b, t, f: _preferred(
            g, n, b, t, 0.0
        ),
        "This is the probability that the second is preferred.": lambda g, n, b, t, f: _preferred(
            g[::-1].copy(), n[::-1].copy(), b, t, f
        ),
        "The bias has the wrong sign: this labeller favours the shorter response.": lambda g, n, b, t, f: _preferred(
            g, n, -b, t, f
        ),
        "The temperature multiplies: it divides the difference.": lambda g, n, b, t, f: _preferred(g, n, b, 1 / t, f),
        "The temperature divides the gold reward alone: the bias is a part of what the labeller sees.": (
            lambda g, n, b, t, f: _preferred(g / t, n, b, 1.0, f)
        ),
        "What a flip adds is missing: a label for the second one may be turned into one for the first.": (
            lambda g, n, b, t, f: (1 - f) * _preferred(g, n, b, t, 0.0)
        ),
    },
    done="(1 − f)·p + f·(1 − p), p = σ((g₁ − g₂ + b·(n₁ − n₂))/T): with a large b the lengths decide.",
)


def _two_samples(random: np.random.Generator) -> Problem:
    return {
        "x": random.normal(size=int(random.integers(4, 7))),
        "y": random.normal(1.0, 1.5, size=int(random.integers(7, 10))),
    }


def _between(x: np.ndarray, y: np.ndarray) -> float:
    """E‖x − y‖ over all pairs of two samples."""
    return float(np.abs(x[:, None] - y).mean())


def _within(x: np.ndarray) -> float:
    """E‖x − x'‖ over all pairs of two different points."""
    return _between(x, x) * len(x) / (len(x) - 1)


energy_distance = Exercise(
    problem=_two_samples,
    exact=lambda x, y: 2 * _between(x, y) - _within(x) - _within(y),
    faults={
        "A point is compared with itself too: its distance of 0 makes the estimate too large.": lambda x, y: (
            2 * _between(x, y) - _between(x, x) - _between(y, y)
        ),
        "The distance between the samples counts twice.": lambda x, y: _between(x, y) - _within(x) - _within(y),
        "This is only the distance between the samples: it is not 0 where they are alike.": lambda x, y: (
            2 * _between(x, y)
        ),
        "The distances within the samples are averaged: both are subtracted.": lambda x, y: (
            2 * _between(x, y) - (_within(x) + _within(y)) / 2
        ),
        "Distances are squared: this is 2·(difference of the means)², and blind to a change of the spread.": (
            lambda x, y: 2 * (((x[:, None] - y) ** 2).mean() - x.var(ddof=1) - y.var(ddof=1))
        ),
        "This compares the means alone.": lambda x, y: 2 * abs(x.mean() - y.mean()),
    },
    done="2·E‖x − y‖ − E‖x − x'‖ − E‖y − y'‖, of different points: 0 on average without drift.",
)


def _ratings(random: np.random.Generator) -> Problem:
    """Three weeks of requests. The live version serves in the last one; one request in five has no rating, nan."""
    week = np.repeat([1, 2, 3], [20, 20, int(random.integers(40, 60))])
    live = (week == 3) & (random.random(len(week)) < 0.6)
    rating = (random.random(len(week)) < 0.8 - 0.2 * week + 0.2 * live).astype(float)
    rating[random.random(len(week)) < 0.2] = np.nan
    return {"live": live, "week": week, "rating": rating}


def _effect(live: np.ndarray, week: np.ndarray, rating: np.ndarray) -> float:
    asked = (week == week.max()) & ~np.isnan(rating)
    return float(rating[asked & live].mean() - rating[asked & ~live].mean())


rating_effect = Exercise(
    problem=_ratings,
    exact=_effect,
    faults={
        "The predecessor's earlier weeks are counted: users asked something else then.": lambda s, w, r: (
            np.nanmean(r[s]) - np.nanmean(r[~s])
        ),
        "The live version is compared with the week before: users asked something else then.": lambda s, w, r: (
            np.nanmean(r[s]) - np.nanmean(r[w == w.max() - 1])
        ),
        "A request without a rating counts as a thumb down.": lambda s, w, r: _effect(s, w, np.nan_to_num(r)),
        "The sign is wrong: positive must mean that the live version is liked more.": lambda s, w, r: -_effect(s, w, r),
        "Thumbs are counted: the versions serve different numbers of requests.": lambda s, w, r: (
            np.nansum(r[s]) - np.nansum(r[~s & (w == w.max())])
        ),
        "The live version is compared with all requests of the week, its own among them.": lambda s, w, r: (
            np.nanmean(r[s]) - np.nanmean(r[w == w.max()])
        ),
    },
    done="Same week, same users, both versions: what is left is the version.",
)
