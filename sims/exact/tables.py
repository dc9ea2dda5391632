"""Table policies on trees of tokens, in NumPy: log-probs from logits, and gradients back to logits.

A table has one row of V logits for each prompt and prefix: (X, nodes, V). Prefixes are numbered breadth first: the
empty one is 0, the V prefixes of one token follow, then the V² of two.
"""

from __future__ import annotations

import numpy as np

from sims.core.numerics.log_softmax import log_softmax


def prefix_nodes(responses: np.ndarray, vocabulary: int) -> np.ndarray:
    """Number of the prefix before each token. responses: (N, L); returns (N, L)."""
    nodes = np.zeros_like(responses)
    for t in range(1, responses.shape[1]):
        # The children of node n are n·V + 1 to n·V + V, as in a heap.
        nodes[:, t] = nodes[:, t - 1] * vocabulary + 1 + responses[:, t - 1]
    return nodes


def token_logp(logits: np.ndarray, responses: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """log π of each token of each response: (X, N, L), 0 in masked slots.

    logits: (X, nodes, V); responses, mask: (N, L).

    >>> logits, responses = np.zeros((1, 1, 2)), np.array([[0], [1]])  # one prompt, one prefix, two tokens
    >>> np.exp(sims.exact.token_logp(logits, responses, np.ones_like(responses, bool)))[0].tolist()
    [[0.5], [0.5]]
    """
    table = log_softmax(logits)
    nodes = np.where(mask, prefix_nodes(responses, table.shape[-1]), 0)
    return np.where(mask, table[:, nodes, responses], 0.0)


def chain_rule(weights: np.ndarray, logits: np.ndarray, responses: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """∂L/∂logits of a table policy, from ∂L/∂ℓ: (X, nodes, V).

        ∂L/∂logit(n, v) = Σ_{(y, t) at n, y_t = v} w(y, t) − π(v | n)·Σ_{(y, t) at n} w(y, t)

    weights: (X, N), one for each response, or (X, N, L), one for each token; logits: (X, nodes, V); responses, mask:
    (N, L). A response's weight applies to each of its tokens, as ℓ(y) = Σ_t ℓ_t.

    >>> logits, responses = np.zeros((1, 1, 2)), np.array([[0], [1]])
    >>> sims.exact.chain_rule(np.array([[1.0, 0.0]]), logits, responses, np.ones_like(responses, bool)).tolist()
    [[[0.5, -0.5]]]
    """
    if weights.ndim == 2:
        weights = weights[..., None]
    weights = np.where(mask, weights, 0.0)
    taken = np.zeros_like(logits, dtype=np.float64)
    nodes = np.where(mask, prefix_nodes(responses, logits.shape[-1]), 0)
    for x, weight in enumerate(weights):
        np.add.at(taken[x], (nodes, responses), weight)
    return taken - np.exp(log_softmax(logits)) * taken.sum(-1, keepdims=True)
