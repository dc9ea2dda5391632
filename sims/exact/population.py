"""Expected gradient of an algorithm: the weight ∂L/∂ℓ of every response of an enumerable environment.

The *population loss* L is the expectation of an algorithm's loss on one batch in which every prompt occurs once with K
responses, over all randomness: responses and labels. Whatever the algorithm treats as constant (the sampler's
distribution, advantages, anchors, its state) has no gradient. `tables.chain_rule` turns the weights into a gradient.

**To add an algorithm**: write its weights from its equation, not from its code, in its family's file:

    @population("dpo")
    def dpo(algorithm: DPO, problem: Population) -> np.ndarray: ...

Closed forms are best; else `expect_over_responses` if the loss is a sum over responses, `expect_over_groups` if it
depends on a prompt's K responses together, `expect_over_batches` if on all prompts together.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Population:
    """An enumerable environment, a policy and the algorithm's inputs: X prompts, N responses, L tokens, K slots.

    mask: (N, L), True for a response's tokens, which come before the padding.
    logp, logp_ref: (X, N, L) log-probs of each token under policy and reference, 0 in masked slots.
    logp_sampler: (K, X, N, L), the distribution that each of the K slots is drawn from.
    rewards: (X, N). label: (X, N, N) probability that the first is preferred to the second.
    values: (X, N, L), the critic's values when the batch was collected.
    state: what the algorithm carries from earlier batches. epoch: which pass over the batch this is, from 0.
    correct_above: rewards above it are correct (pairing = correct_incorrect).

    >>> half = np.log([[[0.5], [0.5]]])  # one prompt, two responses of one token
    >>> one_slot, label = half[None], np.array([[[0.5, 0.0], [1.0, 0.5]]])
    >>> problem = sims.exact.Population(
    ...     np.ones((2, 1), bool), half, half, one_slot, np.array([[0.0, 1.0]]), label, np.zeros((1, 2, 1))
    ... )
    >>> problem.prompts, problem.responses, problem.generations
    (1, 2, 1)
    """

    mask: np.ndarray
    logp: np.ndarray
    logp_ref: np.ndarray
    logp_sampler: np.ndarray
    rewards: np.ndarray
    label: np.ndarray
    values: np.ndarray
    state: Mapping[str, Any] = field(default_factory=dict)
    epoch: int = 0
    correct_above: float = 0.5

    @property
    def prompts(self) -> int:
        """X"""
        return self.rewards.shape[0]

    @property
    def responses(self) -> int:
        """N"""
        return self.rewards.shape[1]

    @property
    def generations(self) -> int:
        """K"""
        return self.logp_sampler.shape[0]

    @property
    def lengths(self) -> np.ndarray:
        """(N,) tokens of each response."""
        return self.mask.sum(-1)

    @property
    def log_ratio(self) -> np.ndarray:
        """ρ(y) = log π(y) − log π_ref(y): (X, N)."""
        return (self.logp - self.logp_ref).sum(-1)

    @property
    def distribution(self) -> np.ndarray:
        """(K, X, N) probability of each response in each slot."""
        return np.exp(self.logp_sampler.sum(-1))

    @property
    def shared_distribution(self) -> np.ndarray:
        """(X, N), the distribution of all slots; ValueError if they differ."""
        distribution = self.distribution
        if not np.allclose(distribution, distribution[:1], rtol=1e-12, atol=0.0):
            raise ValueError(
                "logp_sampler: the slots have different distributions: this closed form needs the same in all"
            )
        return distribution[0]


Weights = Callable[[Any, Population], np.ndarray]
_WEIGHTS: dict[str, Weights] = {}


def population(kind: str) -> Callable[[Weights], Weights]:
    """Register a function (algorithm, problem) -> weights, (X, N) or (X, N, L), for the algorithm of that kind."""

    def register(weights: Weights) -> Weights:
        _WEIGHTS[kind] = weights
        return weights

    return register


def has_population_weights(kind: str) -> bool:
    """Whether population weights are registered for an algorithm.

    >>> sims.exact.has_population_weights("dpo")
    True
    """
    return kind in _WEIGHTS


def population_weights(algorithm: Any, problem: Population) -> np.ndarray:
    """Expected ∂L/∂ℓ(y), (X, N), or ∂L/∂ℓ_t(y), (X, N, L), of an algorithm whose settings are plain numbers, not
    per-run arrays.

    A response's weight includes its probability: one that is never drawn has weight 0. KeyError for an algorithm
    without population weights.

    >>> half = np.log([[[0.5], [0.5]]])  # one prompt, two responses of one token
    >>> one_slot, label = half[None], np.array([[[0.5, 0.0], [1.0, 0.5]]])
    >>> problem = sims.exact.Population(
    ...     np.ones((2, 1), bool), half, half, one_slot, np.array([[0.0, 1.0]]), label, np.zeros((1, 2, 1))
    ... )
    >>> sims.exact.population_weights(sims.SFT(), problem)  # −ℓ, each with probability ½
    array([[[-0.5],
            [-0.5]]])
    """
    if algorithm.kind not in _WEIGHTS:
        raise KeyError(f"{algorithm.kind} has no population weights: register them with @population in sims/exact")
    return _WEIGHTS[algorithm.kind](algorithm, problem)


def expect_over_responses(problem: Population, weight: Callable[[int], np.ndarray]) -> np.ndarray:
    """Weights of a loss that is a mean over single responses: 1/(XK)·Σ_k μ_k(y)·w_k(y).

    weight(k): (X, N) or (X, N, L), derivative of a response's loss with respect to its ℓ (or ℓ_t) if drawn in slot k.
    """
    parts = []
    for k, distribution in enumerate(problem.distribution):
        own = weight(k)
        parts.append((distribution if own.ndim == 2 else distribution[..., None]) * own)
    return sum(parts) / (problem.prompts * problem.generations)


def expect_over_groups(problem: Population, weight: Callable[[int, np.ndarray], np.ndarray]) -> np.ndarray:
    """Weights of a loss that is a mean over prompts, by summing over all N^K groups of each prompt.

    weight(x, groups): derivative of the group's loss by the ℓ of each of its members, (G, K) or (G, K, L), where groups
    (G, K) are indices of responses. Returns (X, N) or (X, N, L).
    """
    groups = every_outcome(problem.responses, problem.generations)
    slots = np.arange(problem.generations)
    totals = []
    for x in range(problem.prompts):
        probability = problem.distribution[slots, x, groups].prod(-1)
        totals.append(_collect(groups, probability, weight(x, groups), problem.responses))
    return np.stack(totals) / problem.prompts


def expect_over_batches(problem: Population, weight: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Weights of a loss that depends on all prompts together, by summing over all N^(XK) batches: keep XK <= 4.

    weight(batches): derivative of the whole batch's loss by the ℓ of each of its responses, (G, X, K) or (G, X, K, L),
    where batches (G, X, K) are indices of responses. Returns (X, N) or (X, N, L).
    """
    prompts, generations = problem.prompts, problem.generations
    batches = every_outcome(problem.responses, prompts * generations).reshape(-1, prompts, generations)
    rows, slots = np.arange(prompts)[:, None], np.arange(generations)
    probability = problem.distribution[slots, rows, batches].prod((-2, -1))
    weights = weight(batches)
    return np.stack([_collect(batches[:, x], probability, weights[:, x], problem.responses) for x in range(prompts)])


def every_outcome(responses: int, draws: int) -> np.ndarray:
    """All outcomes of `draws` draws: (responses^draws, draws) indices of responses."""
    return np.array(list(itertools.product(range(responses), repeat=draws)))


def _collect(groups: np.ndarray, probability: np.ndarray, weights: np.ndarray, responses: int) -> np.ndarray:
    """Σ_g P(g) Σ_k 1[g_k = y]·w(g, k). groups: (G, K); weights: (G, K) or (G, K, L); returns (N,) or (N, L)."""
    total = np.zeros((responses, *weights.shape[2:]))
    np.add.at(total, groups, probability.reshape(-1, *(1,) * (weights.ndim - 1)) * weights)
    return total


def batch_shares(weight: np.ndarray) -> np.ndarray:
    """Each unit's share of a mean over prompts of weighted means over a prompt's units. weight, result: (G, X, U).

    Prompts of total weight 0 are ignored; a batch of total weight 0 has shares 0.
    """
    total = weight.sum(-1, keepdims=True)
    prompts = (total > 0).sum(-2, keepdims=True)
    return np.divide(weight, total * prompts, out=np.zeros_like(weight, dtype=np.float64), where=total > 0)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + e^{−x}). Any shape."""
    return np.exp(-np.logaddexp(0.0, -x))
