"""What collapses between online and offline: falls of the score, and entropies that leave room for a difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sims.experiments.measures import fall
from sims.experiments.store import Record
from sims.statistics.gates import Gate

from .gating import Sides, last_with_room


def interaction_of_falls(rare: Sequence[Record], semi: Sequence[Record]) -> np.ndarray:
    """(runs,): by how much more the rare sync falls than the frequent one on few prompts than on many, each given in
    this order."""
    return np.asarray(fall(rare[0]) - fall(semi[0]) - (fall(rare[1]) - fall(semi[1])))


def measured(record: Record, name: str, at: int = -1) -> np.ndarray:
    """(runs,): an array at an evaluation."""
    return np.asarray(record.arrays[name][:, at].astype(float))


def entropy_with_room(dense: Record, binary: Record, margin: float, name: str = "entropy") -> tuple[int, Gate]:
    """The last evaluation at which neither's entropy is so near 0 or its start that a difference of a margin could not
    be seen, and the gate there. name: the array of entropies."""
    start = float(dense.arrays[name][:, 0].mean())
    shares = Sides(dense.arrays[name] / start, binary.arrays[name] / start, 0.0)
    at, left = last_with_room([shares], margin / start)
    return at, replace(left, why=f"as shares of the start's entropy, {left.why}")
