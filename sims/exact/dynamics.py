"""Training without sampling: gradient descent on an algorithm's population loss, on the logits of one prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sims.core.numerics.log_softmax import log_softmax

from .population import Population, population_weights, sigmoid

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


def one_prompt(
    logp: ArrayLike, logp_ref: ArrayLike, rewards: ArrayLike, sampler: ArrayLike, label_temperature: float = 0.0
) -> Population:
    """One prompt with N responses of one token each. logp, logp_ref, rewards: (N,); sampler: (K, N) probabilities,
    which draw the K slots; label_temperature: see `preference_matrix`.

    >>> half = np.log([0.5, 0.5])
    >>> problem = sims.exact.one_prompt(half, half, [0.0, 1.0], sampler=np.exp([half, half]))
    >>> sims.exact.population_weights(sims.BestOfN(), problem).round(12)  # −P(best of two)
    array([[-0.25, -0.75]])
    """
    logp, logp_ref, gain = (np.asarray(x, dtype=np.float64) for x in (logp, logp_ref, rewards))
    with np.errstate(divide="ignore"):  # what is never drawn has log-prob −∞
        logp_sampler = np.log(np.asarray(sampler, dtype=np.float64))
    return Population(
        mask=np.ones((len(gain), 1), bool),
        logp=logp[None, :, None],
        logp_ref=logp_ref[None, :, None],
        logp_sampler=logp_sampler[:, None, :, None],
        rewards=gain[None],
        label=preference_matrix(gain, label_temperature)[None],
        values=np.zeros((1, len(gain), 1)),
    )


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
    ref = np.asarray(logp_ref, dtype=np.float64)
    spread = np.eye(len(ref)) if kernel is None else np.asarray(kernel, dtype=np.float64)
    weights: Weights = algorithm if callable(algorithm) else lambda problem: population_weights(algorithm, problem)
    drawn = np.tile(np.exp(ref), (num_generations, 1)) if sampler is None else np.asarray(sampler)
    logits, followed = ref.copy(), [log_softmax(ref)]
    for update in range(updates):
        if sampler is None and not np.isinf(sync_every_updates) and update % int(sync_every_updates) == 0:
            drawn = np.tile(np.exp(followed[-1]), (num_generations, 1))
        problem = one_prompt(followed[-1], ref, rewards, drawn, label_temperature)
        pull = np.asarray(weights(problem)).reshape(len(ref))
        logits = logits - learning_rate * spread @ (pull - np.exp(followed[-1]) * pull.sum())
        followed.append(log_softmax(logits))
    return np.stack(followed)
