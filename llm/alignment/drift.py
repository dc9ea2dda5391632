"""How far what users ask is from what a version was trained on: the energy distance of prompts' hidden states.

D(X, Y) = 2·E‖x − y‖ − E‖x − x'‖ − E‖y − y'‖ ≥ 0, and 0 only for equal distributions (Székely and Rizzo 2013)

Estimated without bias from samples, so it can be a little below 0. What it would be without any drift is found by
permutation: the pooled prompts are divided at random, again and again, and the 95 % quantile of the distances is the
level that only one pair of equal distributions in twenty exceeds. Wrong where the hidden states of the first version do
not tell the prompts apart: then there is no distance to see.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PERMUTATIONS = 200
MOST = 400  # prompts of each side; the distances of 800 prompts are 5 MB


def energy_distance(between: NDArray[np.float64], count: int) -> float:
    """D of the first `count` points and the rest, from the distances of all points (N, N)."""
    x, y = between[:count, :count], between[count:, count:]
    n, m = len(x), len(y)
    return float(2 * between[:count, count:].mean() - x.sum() / (n * (n - 1)) - y.sum() / (m * (m - 1)))


def drift(trained: NDArray[np.float32], asked: NDArray[np.float32], rng: np.random.Generator) -> tuple[float, float]:
    """(distance, the level that it exceeds with probability 0.05 without drift). trained: (n, H), asked: (m, H); at
    most `MOST` of each are used. ValueError for fewer than two of either."""
    if min(len(trained), len(asked)) < 2:
        raise ValueError(f"{len(trained)} and {len(asked)} prompts: must be at least 2 of each")
    sides = [side[np.sort(rng.permutation(len(side))[:MOST])] for side in (trained, asked)]
    points = np.concatenate(sides).astype(np.float64)
    squares = (points * points).sum(1)
    between = np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * points @ points.T, 0.0))
    np.fill_diagonal(between, 0.0)
    count = len(sides[0])
    shuffled = []
    for _ in range(PERMUTATIONS):
        order = rng.permutation(len(points))
        shuffled.append(energy_distance(between[np.ix_(order, order)], count))
    return energy_distance(between, count), float(np.quantile(shuffled, 0.95))
