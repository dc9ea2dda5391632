"""Records that cost too much for everybody to compute: kept in the repository, each with a shrunken twin of itself.

A record is drawn as it is. Its twin is run again: if the code of today no longer gives the twin's numbers, the record
is stale, and the report says so. `python -m figures NAME --full` computes the record itself again, `--keep` replaces
it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sims.core.experiment import Experiment
from sims.core.store import CommittedRecord, Record, load_committed, save_committed

FOLDER = Path(__file__).parent / "records"
TOLERANCE = 1e-3  # other processors differ in the last bits, which some tens of updates make larger


def shrink(arm: Experiment) -> Experiment:
    """A run of the same kind that takes no time: 4 runs, and a fraction of the updates."""
    turn = arm.schedule.updates_per_batch
    updates = max(turn, min(arm.updates // 10, 20) // turn * turn)
    return arm.replace(name=f"{arm.name}-quick", runs=4, updates=updates, evaluations=min(arm.evaluations, updates, 5))


def load(arm: Experiment, folder: Path = FOLDER) -> CommittedRecord | None:
    """The committed record of an arm and its twin, None if there is none."""
    return load_committed(folder, arm.name, arm.to_json())


def keep(arm: Experiment, record: Record, twin: Record, folder: Path = FOLDER) -> None:
    """Put a finished record and its twin into the repository, with the commit, machine and cost of both."""
    save_committed(folder, arm.name, record, twin)


def agree(before: Record, now: Record) -> bool:
    """Whether a twin that was run again gives its old numbers, to a relative TOLERANCE."""
    return before.arrays.keys() == now.arrays.keys() and all(
        np.allclose(before.arrays[name], now.arrays[name], rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
        for name in before.arrays
    )
