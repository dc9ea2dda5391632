"""Descent on both directions of the KL: the published start in numbers, and gradients against finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest

from sims.exact.kl_dynamics import (
    LEAST,
    Coordinates,
    Divergence,
    descent,
    divergence,
    follow,
    onto_simplex,
    step,
    velocity,
)
from sims.exact.tables import log_softmax

START, TARGET = np.array([0.3, 0.3, 0.1, 0.3]), np.array([0.2, 0.1, 0.6, 0.1])
both = pytest.mark.parametrize("kind", get_args(Divergence))
every = pytest.mark.parametrize("coordinates", get_args(Coordinates))


def distributions(seed: int, count: int = 2, n: int = 5) -> np.ndarray:
    return np.exp(log_softmax(np.random.default_rng(seed).normal(size=(count, n))))


@pytest.mark.parametrize(
    ("kind", "distribution"), [("forward", (0.267, 0.219, 0.296, 0.219)), ("reverse", (0.357, 0.236, 0.171, 0.236))]
)
def test_one_step_from_the_published_start(kind: Any, distribution: tuple[float, ...]) -> None:
    """On logits at η = 2, to the three digits that the notes on the paper have."""
    assert np.round(step(kind, "logits", START, TARGET, 2.0), 3) == pytest.approx(distribution, abs=1e-12)


def test_the_divergences_by_hand() -> None:
    p, q = np.array([0.5, 0.5]), np.array([0.25, 0.75])
    assert divergence("forward", p, q) == pytest.approx(0.25 * np.log(0.5) + 0.75 * np.log(1.5))
    assert divergence("reverse", p, q) == pytest.approx(0.5 * np.log(2.0) + 0.5 * np.log(2 / 3))


@both
def test_gradients_by_logits_and_by_probabilities_against_finite_differences(kind: Any) -> None:
    p, q = distributions(1)

    def slope(distribution: Callable[[np.ndarray], np.ndarray]) -> list[float]:
        ends = [[divergence(kind, distribution(side * d), q) for side in (1.0, -1.0)] for d in 1e-6 * np.eye(len(p))]
        return [float(above - below) / 2e-6 for above, below in ends]

    by_logits = slope(lambda d: np.exp(log_softmax(np.log(p) + d)))
    np.testing.assert_allclose(descent(kind, "logits", p, q), by_logits, rtol=0, atol=1e-9)
    np.testing.assert_allclose(descent(kind, "probabilities", p, q), slope(lambda d: p + d), rtol=0, atol=1e-8)


@both
def test_the_natural_gradient_is_fishers_inverse_times_the_gradient(kind: Any) -> None:
    p, q = distributions(2)
    natural = np.linalg.pinv(np.diag(p) - np.outer(p, p)) @ descent(kind, "logits", p, q)
    found = descent(kind, "natural", p, q)
    np.testing.assert_allclose(found - found.mean(), natural - natural.mean(), rtol=0, atol=1e-10)


@both
@every
def test_velocity_is_that_of_a_small_step_and_goes_down(kind: Any, coordinates: Any) -> None:
    p, q = distributions(3)
    found = velocity(kind, coordinates, p, q)
    moved = (step(kind, coordinates, p, q, 1e-6) - step(kind, coordinates, p, q, -1e-6)) / 2e-6
    np.testing.assert_allclose(found, moved, rtol=0, atol=1e-8)
    assert abs(found.sum()) < 1e-14
    assert divergence(kind, p + 1e-6 * found, q) < divergence(kind, p, q)


def test_a_natural_step_of_1_on_the_reverse_kl_lands_on_the_target() -> None:
    np.testing.assert_allclose(step("reverse", "natural", START, TARGET, 1.0), TARGET, rtol=0, atol=1e-15)


def test_which_is_faster_to_a_category_in_natural_coordinates() -> None:
    """Reverse where KL(p‖q) > e^u − 1 − u, u = log(q/p), and nowhere else."""
    p, q = distributions(4, count=400).reshape(2, 200, 5)
    faster = velocity("reverse", "natural", p, q) > velocity("forward", "natural", p, q)
    u = np.log(q / p)
    assert (faster == (divergence("reverse", p, q)[:, None] > np.expm1(u) - u)).all()
    assert faster.any() and not faster.all()


@both
@every
def test_small_steps_end_at_the_target(kind: Any, coordinates: Any) -> None:
    distributions_ = follow(kind, coordinates, START, TARGET, 0.02, 4000)
    assert distributions_.shape == (4001, 4) and (distributions_[0] == START).all()
    np.testing.assert_allclose(distributions_[-1], TARGET, rtol=0, atol=1e-3)
    assert (np.diff(divergence(kind, distributions_, TARGET)) <= 1e-15).all()


@every
def test_a_step_that_is_too_long_leaves_a_distribution(coordinates: Any) -> None:
    distributions_ = follow("forward", coordinates, START, TARGET, 20.0, 20)
    assert np.isfinite(distributions_).all() and distributions_.min() >= 0.9 * LEAST and distributions_.max() > 0.9
    np.testing.assert_allclose(distributions_.sum(-1), 1.0, rtol=0, atol=1e-14)


def test_the_projection() -> None:
    """Onto itself; by hand; and no other distribution is nearer."""
    np.testing.assert_allclose(onto_simplex(START), START, rtol=0, atol=1e-15)
    np.testing.assert_allclose(onto_simplex(np.array([1.2, 0.4, -5.0])), [0.9, 0.1, 0.0], rtol=0, atol=1e-15)
    x = np.random.default_rng(5).normal(size=(20, 4))
    found = onto_simplex(x)
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(-1), 1.0, rtol=0, atol=1e-14)
    others = np.random.default_rng(6).dirichlet(np.full(4, 0.5), size=(200, 1))
    assert (np.square(others - x).sum(-1) >= np.square(found - x).sum(-1)).all()
