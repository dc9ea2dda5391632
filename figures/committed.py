"""What the repository keeps of a figure: figures/records/<figure>.npz, every tested record and how arms were tuned.

A record is drawn from there where computing it would take too long; its `source` is then "committed". Beside it lies a
shrunken twin of itself. Where today's sources are not those that made the records, a twin of every kind of arm is run,
and of a kind whose twin gives other numbers all of them: a record with such a twin is "stale", and the report says so.
Sources whose twin agreed are noted in the file, and a twin that was run lies in the store, so that none is run twice.
`python -m figures NAME --keep` runs every twin, and writes the file; a stale record keeps the twin that it had, until
`--full --keep` computes it again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sims.experiments.experiment import Experiment
from sims.experiments.record_file import DamagedRecord, Record, RecordFile, encode
from sims.experiments.store import record_key, spec_hash
from sims.experiments.whole import write_file

FOLDER = Path(__file__).parent / "records"
TOLERANCE = 1e-3  # of a twin: other processors differ in the last bits, which some tens of updates make larger
LARGE = 4096  # bytes of an array that a twin leaves out: it is compared by its curves
COMPARED = ("gold", "reward", "kl_policy_ref", "entropy", "diverged_at")  # what every twin keeps

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

    It is in float64, so that another processor, which differs in the last bits, still gives its numbers: in float32 a
    gradient that is zero but for rounding, as of a response that nobody drew, can be as large as Adam's ε, and is then
    a step. Where training magnifies rounding, it is also at a tenth of the learning rate. A language model's costs a
    hundred times as much, and has a few short responses an evaluation; one that computes in bfloat16 stays there.
    """
    turn = arm.schedule.updates_per_batch
    updates = max(turn, min(arm.updates // 10, 20) // turn * turn)
    of_a_model = arm.environment.executor.startswith("llm.")
    costly = of_a_model or arm.policy.magnifies_rounding
    if not of_a_model or arm.policy.scoring.precision == "stored":  # type: ignore[attr-defined]
        arm = arm.replace(precision="float64")
        if costly:
            slower = arm.optimiser.replace(learning_rate=arm.optimiser.learning_rate / 10)
            arm = arm.replace(optimiser=slower)
    if of_a_model:
        decoding = arm.policy.decoding  # type: ignore[attr-defined]
        decoding = decoding.replace(max_new_tokens=min(decoding.max_new_tokens, 16))
        few = arm.environment.replace(evaluation_prompts=min(arm.environment.evaluation_prompts, 16))  # type: ignore[attr-defined]
        arm = arm.replace(environment=few, policy=arm.policy.replace(decoding=decoding))
    first = arm.labelling.implicit_after_updates
    if first:  # whose labels are whose changes within the twin too
        arm = arm.replace(
            labelling=arm.labelling.replace(implicit_after_updates=max(1, first * updates // arm.updates))
        )
    small = {"updates": updates, "evaluations": min(arm.evaluations, updates, 5)}
    return arm.replace(name=f"{arm.name}-quick", runs=2 if costly else 4, **small)


def kind(arm: Experiment) -> str:
    """All of an arm's spec but its finite numbers: arms of one kind go through the same code, but where a number alone,
    such as a period of 1, takes another branch."""

    def without_numbers(x: Any) -> Any:
        if isinstance(x, dict):
            return {name: without_numbers(value) for name, value in x.items()}
        if isinstance(x, (list, tuple)):
            return [without_numbers(value) for value in x]
        return 0 if isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x) else x

    return json.dumps(without_numbers(arm.to_json()), sort_keys=True)


def agree(before: Record, now: Record) -> bool:
    """Whether a twin that was run again gives its old numbers, to a relative TOLERANCE."""
    return before.arrays.keys() <= now.arrays.keys() and all(
        before.arrays[name].shape == now.arrays[name].shape
        and np.allclose(before.arrays[name], now.arrays[name], rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
        for name in before.arrays
    )


class Committed:
    """The committed records of one figure; none where there is no file. DamagedRecord if it is not whole."""

    def __init__(self, figure: str, folder: Path | None = None) -> None:
        self.path = (folder or FOLDER) / f"{figure}.npz"
        self.file = RecordFile(self.path) if self.path.exists() else None
        notes = self.file.notes if self.file else {}
        self.twins: dict[str, str] = notes.get("twins", {})
        self.tunings: dict[str, Any] = notes.get("tunings", {})
        self.agreed: dict[str, list[str]] = notes.get("agreed", {})
        self.rows: list[set[str]] = [set(keys) for keys in notes.get("rows", ())]

    def record(self, name: str, spec: Mapping[str, Any]) -> Record | None:
        """The record of a spec; its source says "committed", which is for `proven` and the twin to make true."""
        key = record_key(name, spec)
        if self.file is None or key not in self.file.keys:
            return None
        return self.file.record(key, spec, "committed")

    def twin(self, arm: Experiment) -> Record | None:
        """What the shrunken twin of an arm gave when its record was made."""
        key = self.twins.get(record_key(arm.name, arm.to_json()))
        return None if self.file is None or key is None else self.file.record(key)

    def proven(self, key: str, sources: str) -> bool:
        """Whether these sources are known to give a record: they made it, or its twin agreed under them."""
        return self.file is not None and (self.file.keys[key] == sources or sources in self.agreed.get(key, ()))

    def tuning(self, key: str) -> list[Tuned] | None:
        """How arms were tuned; None if they were not, or not over this grid (see `tuning_key`)."""
        if key not in self.tunings:
            return None
        try:
            return [Tuned(**_with_infinities(entry)) for entry in self.tunings[key]]
        except (KeyError, TypeError) as error:
            raise DamagedRecord(self.path, f"a tuning cannot be read: {error}") from error

    def core_seconds(self) -> dict[str, float]:
        """What each tested record cost to compute, by its key."""
        if self.file is None:
            return {}
        tested = self.file.keys.keys() - self.twins.values()
        costs = {key: self.file.provenance(key) for key in sorted(tested)}
        return {key: float(p.get("core_seconds", p["seconds"])) for key, p in costs.items()}


def tuning_key(arms: Mapping[str, Experiment], grids: Mapping[str, Sequence[Point]], **how: float) -> str:
    """Of all that decides how arms are tuned: other arms, points, seeds or numbers of runs are another tuning."""
    tried = {name: [dict(point) for point in grids[name]] for name in arms}
    return spec_hash({"arms": {name: arm.to_json() for name, arm in arms.items()}, "grids": tried, "how": how})


@dataclass
class Kept:
    """What a figure puts into the repository. used: the arrays of each record that were looked at. rows: the keys of
    the records behind each of its rows."""

    records: dict[str, Record] = field(default_factory=dict)
    twins: dict[str, tuple[str, Record]] = field(default_factory=dict)
    tunings: dict[str, list[Tuned]] = field(default_factory=dict)
    agreed: dict[str, list[str]] = field(default_factory=dict)
    used: dict[str, set[str]] = field(default_factory=dict)
    rows: list[list[str]] = field(default_factory=list)

    def note_rows(self, rows: Iterable[Collection[str]]) -> None:
        """Of each row, the hashes of the specs that it was tested by."""
        self.rows = [sorted(key for key, record in self.records.items() if record.hash in hashes) for hashes in rows]

    def watch(self, key: str, record: Record) -> Record:
        """The record, noting which of its arrays are used."""
        self.records[key] = record
        arrays = Watched(record.arrays, self.used.setdefault(key, set()))
        return Record(record.spec, arrays, record.provenance, record.source)

    def write(self, figure: str, folder: Path | None = None) -> Path:
        """figures/records/<figure>.npz, with the arrays that drawing and testing used, and no others."""
        path = (folder or FOLDER) / f"{figure}.npz"
        chosen = {}
        for key, record in self.records.items():
            names = self.used[key] or {"gold"}
            chosen[key] = _only(record, [name for name in record.arrays if name in names])
        for key, (twin_key, twin) in self.twins.items():
            names = (self.used[key] | set(COMPARED)) & set(twin.arrays)
            chosen[twin_key] = _only(twin, [name for name in sorted(names) if twin.arrays[name].nbytes <= LARGE])
        notes = {
            "twins": {key: twin_key for key, (twin_key, _) in self.twins.items()},
            "tunings": {key: [_without_infinities(entry) for entry in tuned] for key, tuned in self.tunings.items()},
            "agreed": self.agreed,
            "rows": self.rows,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, encode(chosen, notes, compress=True))
        return path


def _without_infinities(tuned: Tuned) -> dict[str, Any]:
    """As JSON, which knows no −∞, the score of what gave none."""
    entry = asdict(tuned)
    scores = [None if math.isinf(score) else score for score in tuned.scores]
    return entry | {"scores": scores, "finals": [[i, None if math.isinf(s) else s] for i, s in tuned.finals]}


def _with_infinities(entry: Mapping[str, Any]) -> dict[str, Any]:
    scores = [-math.inf if score is None else score for score in entry["scores"]]
    return dict(entry) | {"scores": scores, "finals": [(i, -math.inf if s is None else s) for i, s in entry["finals"]]}


def _only(record: Record, names: Sequence[str]) -> Record:
    return Record(record.spec, {name: record.arrays[name] for name in names}, record.provenance)


@dataclass(frozen=True, eq=False)
class Watched(Mapping[str, np.ndarray]):
    """Arrays that note which of them are used; to ask whether one is there is to use it."""

    arrays: Mapping[str, np.ndarray]
    used: set[str]

    def __getitem__(self, name: str) -> np.ndarray:
        array = self.arrays[name]
        self.used.add(name)
        return array

    def __contains__(self, name: object) -> bool:
        if name in self.arrays:
            self.used.add(str(name))
        return name in self.arrays

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)
