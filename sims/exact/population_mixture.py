"""Population weights of a weighted sum of losses."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from .population import Population, population, population_weights

if TYPE_CHECKING:
    from sims.core.algorithms.mixture import Mixture


@population("mixture")
def mixture_weights(algorithm: Mixture, problem: Population) -> np.ndarray:
    """Σ_i w_i·(weights of the i-th loss), each with its own part of the state: (X, N, L)."""
    total = np.zeros((*problem.rewards.shape, problem.mask.shape[-1]))
    for i, loss, state in algorithm.each(dict(problem.state)):
        own = population_weights(loss, replace(problem, state=state))
        # A weight on ℓ, the sum over a response's tokens, is that weight on each of them.
        total += algorithm.loss_weights[i] * (own if own.ndim == 3 else own[..., None] * problem.mask)
    return total
