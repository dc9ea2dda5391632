"""Worker processes: their records are those of one process, they stay for the next call, and a failure ends them."""

from pathlib import Path

import numpy as np
import pytest

from sims.core.algorithms import find_algorithm
from sims.core.schedule import Schedule
from sims.environments import BanditR1
from sims.experiments import runner as room
from sims.experiments.experiment import Experiment
from sims.experiments.runner import obtain
from sims.experiments.store import Store
from sims.policies import Table


def experiments(seed: int) -> list[Experiment]:
    """Two stacks, so that two workers have something to do."""
    return [
        Experiment("arm", BanditR1(), Table(), find_algorithm("rloo")(), schedule, updates=4, evaluations=2)
        .replace(runs=2, seed=seed)
        for schedule in (Schedule(batch_size=4), Schedule(batch_size=8))
    ]  # fmt: skip


def test_workers_give_the_same_records_and_stay_for_the_next_call(tmp_path: Path) -> None:
    alone = obtain(experiments(0), Store(tmp_path / "alone"))
    together = obtain(experiments(0), Store(tmp_path / "together"), jobs=2)
    for a, b in zip(alone, together, strict=True):
        assert all(np.array_equal(a.arrays[name], b.arrays[name], equal_nan=True) for name in a.arrays)
    first = set(room._workers[2].pool._processes)
    seen = []
    obtain(experiments(1), Store(tmp_path / "together"), jobs=2, progress=lambda p: seen.append(p.work_done / p.work))
    assert set(room._workers[2].pool._processes) == first
    assert seen[0] == 0 and seen[-1] == 1 and seen == sorted(seen)  # nothing is left over from the call before


def test_an_interruption_ends_the_workers_and_the_next_call_has_new_ones(tmp_path: Path) -> None:
    def interrupt(progress: room.Progress) -> None:
        if progress.work_done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        obtain(experiments(2), Store(tmp_path), jobs=2, progress=interrupt)
    assert 2 not in room._workers
    assert len(obtain(experiments(2), Store(tmp_path), jobs=2)) == 2
