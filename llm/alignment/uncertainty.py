"""A Bradley–Terry model on hidden states, fitted anew to all labels in every cycle, and how unsure it is of a response.

P(first ≻ second) = σ(w·(φ₁ − φ₂)),    w ~ N(0, I/λ)

φ is the mean hidden state of a response, in units of its standard deviation. The posterior of w is approximated by a
normal distribution at its mode (Laplace): Σ = (λI + Σᵢ pᵢ(1 − pᵢ)·dᵢdᵢᵀ)⁻¹ with dᵢ = φ₁ − φ₂. The uncertainty of a
response is the posterior standard deviation of its score against the average response, √((φ − φ̄)ᵀΣ(φ − φ̄)): it is
large where no labelled pair has said anything about the directions in which the response differs from others (MacKay
1992). It is linear: of what the hidden states do not show linearly it knows nothing, and is too sure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .logistic import Array, logistic

PRECISION = 1.0  # λ


@dataclass(frozen=True, eq=False)
class Posterior:
    """centre, scale: (H,), the units of φ; weight: (H,), the mode of w; covariance: (H, H), Σ."""

    centre: Array
    scale: Array
    weight: Array
    covariance: Array

    def uncertainty(self, responses: NDArray[np.float32]) -> Array:
        """(N,) of vectors (N, H)."""
        features = (responses.astype(np.float64) - self.centre) / self.scale
        return np.sqrt(np.maximum(np.einsum("nh,hk,nk->n", features, self.covariance, features), 0.0))


def fit(
    responses: NDArray[np.float32], first: NDArray[np.float32], second: NDArray[np.float32], labels: Array
) -> Posterior:
    """The posterior after labelled pairs. responses: (N, H), which set the units; first, second: (Q, H), Q ≥ 0; labels:
    (Q,), the probability that the first is better."""
    wide = responses.astype(np.float64)
    centre, scale = wide.mean(0), np.maximum(wide.std(0), 1e-6)
    size = len(centre)
    difference = ((first.astype(np.float64) - second) / scale).reshape(len(labels), size)
    weight, hessian = logistic(difference, labels, PRECISION)
    return Posterior(centre, scale, weight, np.linalg.inv(hessian).astype(np.float64))
