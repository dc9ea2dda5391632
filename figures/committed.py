"""Records that cost too much for everybody to compute: kept in the repository, each with a shrunken twin of itself.

A record is drawn as it is. Its twin is run again: if the code of today no longer gives the twin's numbers, the record
is stale, and the report says so. `python -m figures NAME --full` computes the record itself again, `--keep` replaces
it. How the arms were tuned is kept beside their records, so that drawing them tunes nothing again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from sims.experiments.experiment import Experiment
from sims.experiments.store import CommittedRecord, DamagedRecord, Record, load_committed, save_committed, spec_hash

FOLDER = Path(__file__).parent / "records"
TOLERANCE = 1e-3  # other processors differ in the last bits, which some tens of updates make larger

Point = Mapping[str, float]


@dataclass(frozen=True)
class Tuned:
    """How one arm's settings were chosen: every point of the grid with its mean score, and the point taken.

    finals: [point, mean score] of those that were run once more, on another seed, final_runs times each.
    """

    arm: str
    points: list[Point]
    scores: list[float]
    runs: int
    chosen: int
    finals: list[tuple[int, float]] = field(default_factory=list)
    final_runs: int = 0


def shrink(arm: Experiment) -> Experiment:
    """A run of the same kind that takes no time: 4 runs, 2 of a transformer, and a fraction of the updates.

    Where training magnifies rounding, it is in float64 and at a tenth of the learning rate, so that another processor,
    which differs in the last bits, still gives its numbers. A language model's costs a hundred times as much, and has
    a few short responses an evaluation; one that computes in bfloat16 stays there.
    """
    turn = arm.schedule.updates_per_batch
    updates = max(turn, min(arm.updates // 10, 20) // turn * turn)
    of_a_model = arm.environment.executor.startswith("llm.")
    exactly = arm.policy.scoring.precision == "stored" if of_a_model else arm.policy.magnifies_rounding  # type: ignore[attr-defined]
    if exactly:
        slower = arm.optimiser.replace(learning_rate=arm.optimiser.learning_rate / 10)
        arm = arm.replace(precision="float64", optimiser=slower)
    if of_a_model:
        decoding = arm.policy.decoding  # type: ignore[attr-defined]
        decoding = decoding.replace(max_new_tokens=min(decoding.max_new_tokens, 16))
        few = arm.environment.replace(evaluation_prompts=min(arm.environment.evaluation_prompts, 16))  # type: ignore[attr-defined]
        arm = arm.replace(environment=few, policy=arm.policy.replace(decoding=decoding))
    small = {"updates": updates, "evaluations": min(arm.evaluations, updates, 5)}
    costly = of_a_model or arm.policy.magnifies_rounding
    return arm.replace(name=f"{arm.name}-quick", runs=2 if costly else 4, **small)


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


def load_tuning(candidates: Mapping[str, Sequence[Experiment]], folder: Path = FOLDER) -> list[Tuned] | None:
    """How the arms were tuned when their records were kept, None if they were not, or not over these candidates.

    candidates: the tuning runs of each arm, a point of its grid each. DamagedRecord if the file cannot be read.
    """
    path = _tuning_path(candidates, folder)
    if not path.exists():
        return None
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["tuned"]
        found = [Tuned(**e | {"finals": [tuple(final) for final in e.get("finals", [])]}) for e in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedRecord(path, f"it cannot be read: {error}") from error
    if [tuned.arm for tuned in found] != list(candidates):
        raise DamagedRecord(path, "it is of other arms")
    return found


def keep_tuning(candidates: Mapping[str, Sequence[Experiment]], tuned: Sequence[Tuned], folder: Path = FOLDER) -> None:
    """Put the grid of every arm, its scores and the choice into the repository, beside the judged records."""
    path = _tuning_path(candidates, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    temporary.write_text(json.dumps({"tuned": [asdict(entry) for entry in tuned]}, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _tuning_path(candidates: Mapping[str, Sequence[Experiment]], folder: Path) -> Path:
    """Named by the specs of all tuning runs: other arms, points, seeds or numbers of runs are another file."""
    return folder / f"tuning-{spec_hash({arm: [e.to_json() for e in tried] for arm, tried in candidates.items()})}.json"
