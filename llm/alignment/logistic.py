"""Logistic regression with a normal prior, for the models of hidden states and for the gate's win rate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
NEWTON_STEPS = 50
SETTLED = 1e-10  # the largest change of a coefficient in the last step


def logistic(design: Array, labels: Array, precision: float | Array) -> tuple[Array, Array]:
    """(θ, H): the minimum of Σᵢ log(1 + e^{sᵢ}) − yᵢsᵢ + ½Σⱼ λⱼθⱼ², s = design·θ, and the second derivatives there.

    design: (N, D); labels: (N,), y within [0, 1]; precision: λ, a number or (D,). By Newton's method from 0. Without a
    prior (λ = 0) there is no minimum where labels can be separated, and the numbers grow with every step.
    """
    theta, prior = np.zeros(design.shape[1]), np.broadcast_to(precision, design.shape[1])
    hessian = np.diag(prior).astype(np.float64)
    for _ in range(NEWTON_STEPS if len(labels) else 0):
        chance = probability(design @ theta)
        gradient = design.T @ (chance - labels) + prior * theta
        hessian = np.diag(prior) + (design * (chance * (1 - chance))[:, None]).T @ design
        step = np.linalg.solve(hessian, gradient)
        theta = theta - step
        if np.abs(step).max() < SETTLED:
            break
    return theta, hessian


def probability(logits: Array) -> Array:
    """σ of each."""
    return np.asarray(0.5 * (1 + np.tanh(logits / 2)))


def log_loss(logits: Array, labels: Array) -> Array:
    """−y log σ(s) − (1 − y) log σ(−s) of each, in nats."""
    return np.asarray(np.logaddexp(0.0, logits) - labels * logits)
