"""Gradient descent on KL(q‖p) and KL(p‖q) of a distribution p over n categories towards a target q, exactly, step by
step.

    forward = KL(q‖p), what maximum likelihood on samples of q descends; reverse = KL(p‖q), what KL-regularised policy
    gradients descend, q their optimum.

The same loss changes p differently in different coordinates. With u = log(q/p):

    coordinates      a step of size η                         forward                   reverse
    logits           z ← z − η·∂L/∂z, p = softmax(z)          ∂L/∂z = p − q             ∂L/∂z = −p·(u + KL(p‖q))
    probabilities    p ← Π(p − η·∂L/∂p), Π onto the simplex   ∂L/∂p = −e^u              ∂L/∂p = 1 − u
    natural          z ← z − η·F⁺·∂L/∂z, F Fisher's matrix    F⁺·∂L/∂z = 1 − e^u        F⁺·∂L/∂z = −u − KL(p‖q)

A natural step of size 1 on the reverse KL reaches q. Everything is NumPy and float64; a distribution is (..., n).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from sims.core.numerics.log_softmax import log_softmax

from .quantities import kl_policy_ref

Divergence = Literal["forward", "reverse"]
Coordinates = Literal["logits", "probabilities", "natural"]
LEAST = 1e-12


def divergence(kind: Divergence, p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL(q‖p) or KL(p‖q), nats. p, q: (..., n), positive; returns (...)."""
    first, second = (q, p) if kind == "forward" else (p, q)
    return kl_policy_ref(np.log(first), np.log(second))


def descent(kind: Divergence, coordinates: Coordinates, p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """What is subtracted, times η, from the logits or, in `probabilities`, from p: (..., n). See the table above."""
    u = np.log(q) - np.log(p)
    if coordinates == "probabilities":
        return -np.exp(u) if kind == "forward" else 1.0 - u
    natural = -np.expm1(u) if kind == "forward" else -u - divergence("reverse", p, q)[..., None]
    return natural if coordinates == "natural" else p * natural


def onto_simplex(x: np.ndarray) -> np.ndarray:
    """The distribution nearest to x, in Euclid's distance: max(x − λ, 0) with λ such that it sums to 1. x: (..., n).

    Duchi et al. 2008.
    """
    ordered = -np.sort(-x, axis=-1)
    counts = np.arange(1, x.shape[-1] + 1)
    levels = (ordered.cumsum(-1) - 1.0) / counts
    last = (ordered > levels).sum(-1, keepdims=True) - 1
    return np.maximum(x - np.take_along_axis(levels, last, axis=-1), 0.0)


def step(kind: Divergence, coordinates: Coordinates, p: np.ndarray, q: np.ndarray, eta: float) -> np.ndarray:
    """The distribution after one step of size η. p, q: (..., n); returns (..., n).

    A projected step, or one that is too long, can set a category to 0, where neither gradient exists: it is clipped to
    LEAST.
    """
    move = eta * descent(kind, coordinates, p, q)
    distribution = onto_simplex(p - move) if coordinates == "probabilities" else np.exp(log_softmax(np.log(p) - move))
    kept = np.maximum(distribution, LEAST)
    return kept / kept.sum(-1, keepdims=True)


def follow(
    kind: Divergence, coordinates: Coordinates, p: np.ndarray, q: np.ndarray, eta: float, steps: int
) -> np.ndarray:
    """The distributions after 0, 1, ..., `steps` steps: (steps + 1, ..., n)."""
    distributions = [p]
    for _ in range(steps):
        distributions.append(step(kind, coordinates, distributions[-1], q, eta))
    return np.stack(distributions)


def velocity(kind: Divergence, coordinates: Coordinates, p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """dp/dη at η = 0, for a distribution inside the simplex: (..., n), sums to 0.

    In natural coordinates it is q − p forward and p·(u + KL(p‖q)) reverse: the reverse KL raises a category faster
    exactly where KL(p‖q) > e^u − 1 − u. In logits both are multiplied by p.
    """
    move = descent(kind, coordinates, p, q)
    if coordinates == "probabilities":
        return move.mean(-1, keepdims=True) - move
    return p * ((p * move).sum(-1, keepdims=True) - move)
