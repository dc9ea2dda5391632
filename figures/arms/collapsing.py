"""What collapses between online and offline: falls of the score, lengths that a copied reference could have kept, and
entropies that leave room for a difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from sims.experiments.measures import fall
from sims.experiments.store import Record
from sims.statistics.gates import Gate, estimand, positive_control, room
from sims.statistics.intervals import Interval, mean_interval

from .gating import FLAT, Sides, last_with_room


def interaction_of_falls(rare: Sequence[Record], semi: Sequence[Record]) -> np.ndarray:
    """(runs,): by how much more the rare sync falls than the frequent one on few prompts than on many, each given in
    this order."""
    return np.asarray(fall(rare[0]) - fall(semi[0]) - (fall(rare[1]) - fall(semi[1])))


def measured(record: Record, name: str, at: int = -1) -> np.ndarray:
    """(runs,): an array at an evaluation."""
    return np.asarray(record.arrays[name][:, at].astype(float))


def first_copy(updates: np.ndarray, period: float) -> int:
    """The last evaluation before the reference is copied for the first time, which is after `period` updates: until
    then a fixed reference and a copied one make the same runs. In a run that ends before, the last of all."""
    return int(np.searchsorted(updates, period, side="right")) - 1


def lost_since(fixed: Record, period: float, at: int) -> Interval:
    """Tokens that are lost with a fixed reference from the first copy of the other one to an evaluation."""
    first = first_copy(fixed.arrays["updates"], period)
    return mean_interval(measured(fixed, "length", first) - measured(fixed, "length", at))


def preventable(fixed: Record, period: float, at: int, margin: float) -> Gate:
    """Whether there is a loss of length that copies of the reference could prevent: what a fixed one loses before the
    first copy, a copied one loses as well."""
    found = positive_control(lost_since(fixed, period, at), margin, only_above=True)
    since = f"since the first copy, after {period:g} updates"
    return replace(found, why=f"tokens that are lost with a fixed reference {since}: {found.why}")


def entropy_with_room(dense: Record, binary: Record, margin: float, name: str = "entropy") -> tuple[int, Gate]:
    """The last evaluation at which neither's entropy is so near 0 or its start that a difference of a margin could not
    be seen, and the gate there. name: the array of entropies."""
    start = float(dense.arrays[name][:, 0].mean())
    shares = Sides(dense.arrays[name] / start, binary.arrays[name] / start, 0.0)
    at, left = last_with_room([shares], margin / start)
    return at, replace(left, why=f"as shares of the start's entropy, {left.why}")


def on_the_way(arms: Mapping[float, tuple[Record, Record]], margin: float) -> Gate:
    """`estimand` of the entropies' differences, dense − binary, at the first and at the last evaluation that leave
    room, by each learning rate. After as many updates a smaller rate is where a larger one was before: a sign that
    turns on the way hangs on the rate that was taken, and on the length of the run. A sign counts where the interval is
    beyond half a margin: nearer to 0 two arms are as good as one, and nothing turns. arms: by learning rate."""
    found = {}
    for rate, (dense, binary) in arms.items():
        last, _ = entropy_with_room(dense, binary, margin)
        one, other = (record.arrays["entropy"].astype(float) for record in (dense, binary))
        start = float(one[:, 0].mean())
        rooms = (at for at in range(1, last) if room(one[:, at], other[:, at], 0.0, start, margin).open)
        for at in (next(rooms, last), last):
            name = f"{rate:g} after {int(dense.arrays['updates'][at])} updates"
            found[name] = mean_interval(one[:, at] - other[:, at])
    half = FLAT * margin
    gate = estimand({name: effect for name, effect in found.items() if effect.low > half or effect.high < -half})
    if gate.open:
        return replace(gate, why=f"{' and '.join(found)}: no two differ in sign by more than half the margin")
    said = "; ".join(f"{effect.estimate:+.2f} at {name}" for name, effect in found.items())
    return replace(
        gate,
        why=f"the sign turns on the way, and with the learning rate: {said}; the same sign at every rate and "
        "evaluation that leave room would open it",
    )
