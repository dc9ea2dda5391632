"""Tasks for engines, in a module that their workers can import by its name."""

import numpy as np

from sims.core.algorithms import find_algorithm
from sims.core.schedule import Schedule
from sims.environments import BanditR1
from sims.experiments.experiment import Experiment
from sims.experiments.store import Record
from sims.policies import Table


def experiments(seed: int, updates: int = 4) -> list[Experiment]:
    """Two stacks, so that two workers have something to do."""
    return [
        Experiment("arm", BanditR1(), Table(), find_algorithm("rloo")(), schedule, updates=updates, evaluations=2)
        .replace(runs=2, seed=seed)
        for schedule in (Schedule(batch_size=4), Schedule(batch_size=8))
    ]  # fmt: skip


def arms() -> list[Experiment]:
    """Long enough to be killed in the middle of."""
    return [arm.replace(updates=4000) for arm in experiments(0)]


def assert_same(some: list[Record], others: list[Record]) -> None:
    for a, b in zip(some, others, strict=True):
        assert a.arrays.keys() == b.arrays.keys()
        assert all(np.array_equal(a.arrays[name], b.arrays[name], equal_nan=True) for name in a.arrays)
