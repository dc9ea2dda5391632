"""Training without sampling: gradient descent on an algorithm's population loss, on the logits of one prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .population import Population, population_weights, sigmoid
from .tables import log_softmax

Weights = Callable[[Population], np.ndarray]


def preference_matrix(rewards: ArrayLike, temperature: float) -> np.ndarray:
    """P(first ≻ second) = σ((r_first − r_second)/temperature): (N, N). rewards: (N,). Bradley & Terry 1952.

    temperature = 0: the larger reward wins, ties give one half.

    >>> sims.exact.preference_matrix([0.0, np.log(3)], temperature=1.0).round(12)  # odds of 1 to 3
    array([[0.5 , 0.25],
           [0.75, 0.5 ]])
    """
    gap = np.subtract.outer(np.asarray(rewards, dtype=np.float64), np.asarray(rewards, dtype=np.float64))
    return (np.sign(gap) + 1.0) / 2.0 if temperature == 0 else sigmoid(gap / temperature)


def follow_gradient(
    algorithm: Any | Weights,
    logp_ref: ArrayLike,
    rewards: ArrayLike,
    *,
    learning_rate: float,
    updates: int,
    label_temperature: float = 0.0,
    sync_every_updates: float = 1,
    sampler: ArrayLike | None = None,
    kernel: ArrayLike | None = None,
    num_generations: int = 2,
) -> np.ndarray:
    """log π after 0, 1, ..., `updates` steps z ← z − η·K·∂L/∂z from the reference, L the population loss: (updates + 1,
    N). It is what plain gradient descent does with batches of infinite size.

    algorithm: one with population weights (`has_population_weights`), or a function Population → ∂L/∂ℓ, (1, N).
    logp_ref, rewards: (N,) of the one prompt's N responses. label_temperature: see `preference_matrix`.
    sync_every_updates: updates between copies of the policy to the sampler; inf: the reference draws for ever.
    sampler: (K, N) probabilities that draw the K slots at every update, in place of the policy: recorded data.
    kernel: (N, N), how far a step on one response's logit takes another's: Φ·Φᵀ where logits are Φ·θ and θ is what
    descends; the identity, a table's, unless given. Wrong for Adam, which scales each step by its past, and for
    algorithms whose state changes from batch to batch.

    >>> logp_ref, rewards = np.log([0.5, 0.3, 0.2]), np.array([0.0, 0.5, 1.0])
    >>> followed = sims.exact.follow_gradient(
    ...     sims.DPO(beta=0.5), logp_ref, rewards, learning_rate=10.0, updates=400, label_temperature=1.0
    ... )
    >>> bool(np.allclose(followed[-1], sims.exact.optimum(logp_ref, rewards, beta=0.5)))
    True
    """
    ref, gain = np.asarray(logp_ref, dtype=np.float64), np.asarray(rewards, dtype=np.float64)
    label = preference_matrix(gain, label_temperature)[None]
    spread = np.eye(len(ref)) if kernel is None else np.asarray(kernel, dtype=np.float64)
    weights: Weights = algorithm if callable(algorithm) else lambda problem: population_weights(algorithm, problem)
    mask, zeros = np.ones((len(ref), 1), bool), np.zeros((1, len(ref), 1))
    with np.errstate(divide="ignore"):  # what recorded data never show has log-prob −∞
        slots = np.log(np.tile(np.exp(ref), (num_generations, 1)) if sampler is None else np.asarray(sampler))
    logits, followed = ref.copy(), [log_softmax(ref)]
    for update in range(updates):
        if sampler is None and not np.isinf(sync_every_updates) and update % int(sync_every_updates) == 0:
            slots = np.tile(followed[-1], (num_generations, 1))
        problem = Population(
            mask=mask,
            logp=followed[-1][None, :, None],
            logp_ref=ref[None, :, None],
            logp_sampler=slots[:, None, :, None],
            rewards=gain[None],
            label=label,
            values=zeros,
        )
        pull = np.asarray(weights(problem)).reshape(len(ref))
        logits = logits - learning_rate * spread @ (pull - np.exp(followed[-1]) * pull.sum())
        followed.append(log_softmax(logits))
    return np.stack(followed)
