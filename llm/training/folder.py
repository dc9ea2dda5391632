"""The folder of a run: its files, how it is started or resumed, and the table printed at the end.

<output>/spec.json  run.yaml  metrics.jsonl  samples.jsonl  checkpoint-00000060/  model/
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm.embedded import find_folder
from llm.models.adapters import weights_digest
from sims.core.spec import SpecError, from_json
from sims.experiments.command import one_line, tell
from sims.experiments.experiment import Experiment

from . import checkpoint
from .checkpoint import COMMAND, CONFIG, METRICS, OPTIONS, SPEC, Checkpoint
from .loggers import read_json_lines
from .read_again import check_files, files_read
from .run import Run
from .written_by import RUNS, check_written_by

SAMPLES, MODEL = "samples.jsonl", "model"
SAMPLE = ("prompt", "completion", "reward")  # what each row of samples has
# In SPEC: digests of the weights that the run was started with, and of what else it reads.
WEIGHTS, FILES = "weights", "files"


def held_in(experiment: Experiment, folder: Path, run: int, resume: bool, overwrite: bool) -> Checkpoint | None:
    """The checkpoint to resume from, None for a run from its start. Changes nothing, but sets aside a damaged one.

    Raises SpecError where the folder holds a run and neither resume nor overwrite is set, or a run of another spec.
    """
    file = folder / SPEC
    if not file.exists() or overwrite:
        return None
    if not resume:
        raise SpecError("output", str(folder), "holds a run: --resume goes on with it, --overwrite replaces it")
    before = _without_end(_read(file))
    for name in (OPTIONS, WEIGHTS, FILES, COMMAND):
        before.pop(name, None)
    if before != _without_end({"experiment": experiment.to_json(), "run": run}):
        raise SpecError("output", str(folder), "holds a run of another spec: only updates and evaluations may change")
    held = checkpoint.load(folder, tell)
    if held is not None and _without_end({"experiment": held.spec, "run": run}) != before:
        raise SpecError("output", str(folder), f"{SPEC} is not that of its checkpoints: --overwrite starts again")
    return held


@dataclass(frozen=True, kw_only=True)
class Start:
    """How a run was started, which its folder keeps.

    weights: `weights_read`, of before they were loaded, as a folder may be removed then. options: JSON of what is
    logged and kept of the run, to go on likewise. command: whose run it is.
    """

    experiment: Experiment
    run: int
    weights: Mapping[str, str]
    options: Mapping[str, Any]
    command: str

    def to_json(self) -> dict[str, Any]:
        """What SPEC holds."""
        held = {"experiment": self.experiment.to_json(), "run": self.run, COMMAND: self.command}
        files = files_read(self.experiment)
        return held | {OPTIONS: dict(self.options), WEIGHTS: dict(self.weights), FILES: files}


def begin(folder: Path, start: Start, overwrite: bool) -> None:
    """Write the spec into the folder; overwrite: and delete the run that it holds. SpecError for a run that goes on
    with other weights, or other files, than it was started with."""
    file = folder / SPEC
    if file.exists() and not overwrite:
        check_weights(start.experiment, folder, start.weights)
        check_read(start.experiment, folder)
    if file.exists() and overwrite:
        for path in (file, folder / CONFIG, folder / METRICS, folder / SAMPLES, *folder.glob("events.out.tfevents.*")):
            path.unlink(missing_ok=True)
        for path in (*(path for _, path in checkpoint.found(folder)), folder / MODEL):
            shutil.rmtree(path, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.write_spec(file, start.to_json())


def weights_read(experiment: Experiment) -> dict[str, str]:
    """A digest of the weights in each folder that the run reads, by the setting that names it."""
    return {field: weights_digest(name, field) for field, name in _models_read(experiment).items()}


def _models_read(experiment: Experiment) -> dict[str, str]:
    """The names of the models that a run reads, by setting."""
    names = {"model": getattr(experiment.policy, "model", None)}
    names |= {field: getattr(experiment.environment, field, None) for field in ("reward_model", "gold_reward_model")}
    return {field: name for field, name in names.items() if name is not None}


def check_apart(experiment: Experiment, folder: Path) -> None:
    """SpecError for a run that would replace the model, or a reward model, that it starts from: it could not be
    resumed, and its run.yaml could not make it again."""
    for field, name in _models_read(experiment).items():
        read, written = (Path(os.path.abspath(path)) for path in (find_folder(name), folder / MODEL))
        if read == written or written in read.parents:
            rule = f"holds {field} = {name}, which the run would replace: must be another folder"
            raise SpecError("output", str(folder), rule)


def check_weights(experiment: Experiment, folder: Path, now: Mapping[str, str]) -> None:
    """SpecError for a run in a folder that was started with other weights than `weights_read` finds now."""
    before = _digests(folder, WEIGHTS)
    for field, weights in now.items():
        if before.get(field, weights) != weights:
            name = getattr(experiment.policy if field == "model" else experiment.environment, field)
            rule = "has other weights than those that the run was started with: must be the same, to go on with it"
            raise SpecError(field, name, rule)


def check_read(experiment: Experiment, folder: Path, *fields: str) -> None:
    """`check_files` of a run in a folder."""
    check_files(experiment, _digests(folder, FILES), fields)


def _digests(folder: Path, name: str) -> dict[str, str]:
    found = _read(folder / SPEC).get(name, {})
    if not isinstance(found, dict):
        raise SpecError("output", str(folder), f"{SPEC} is damaged: {name} must be an object")
    return found


def stored(folder: Path, field: str = "output", commands: Sequence[str] = RUNS) -> tuple[Experiment, int]:
    """The experiment of the run of one of these commands in a folder, and the run's index. Raises SpecError, naming
    `field`, where there is none."""
    check_written_by(field, folder, commands)
    held = _read(folder / SPEC, field)
    try:
        experiment = from_json(held["experiment"], Experiment)
        if not isinstance(experiment, Experiment):
            raise TypeError("experiment")
        return experiment, int(held["run"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise SpecError(field, str(folder), f"{SPEC} is damaged: {error!r}") from error


def _read(file: Path, field: str = "output") -> dict[str, Any]:
    try:
        return checkpoint.read_spec(file)
    except FileNotFoundError as error:
        raise SpecError(field, str(file.parent), f"holds no run: there is no {file.name} in it") from error
    except OSError as error:
        raise SpecError(field, str(file.parent), f"{file.name} cannot be read: {error.strerror}") from error
    except ValueError as error:
        way = ": --overwrite starts again" if field == "output" else ""
        raise SpecError(field, str(file.parent), f"{file.name} is damaged: {error}{way}") from error


def _without_end(spec: dict[str, Any]) -> dict[str, Any]:
    return spec | {"experiment": spec["experiment"] | {"updates": 0, "evaluations": 0}}


def try_to_save(run: Run) -> None:
    """Write all of the model's folder but its weights, somewhere else: what would fail after the last update, such as
    settings of generation that transformers refuses to write, fails before the first. Raises SpecError."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            run.policy.model.save_pretrained(scratch, state_dict={})  # type: ignore[operator]
            run.tokenizer.save_pretrained(scratch)
        except (OSError, ValueError, TypeError) as error:
            spec: Any = run.experiment.policy
            raise SpecError(
                "model", spec.model, f"could not be saved after training: {one_line(str(error))}"
            ) from error


def closing_table(folder: Path) -> str:
    """A table of the first and the last evaluation, and the last completions."""
    rows = [row for row in read_json_lines(folder / METRICS) if any(name.startswith("eval_") for name in row)]
    if not rows:
        return f"\n{folder / METRICS} is damaged: it has no evaluation"
    first, last = rows[0], rows[-1]
    lines = [f"\n{'':16}{'start':>10}{'update ' + str(last['update']):>14}"]
    names = [name for name in dict.fromkeys([*last, *first]) if name.startswith("eval_")]
    lines += [f"{name.removeprefix('eval_'):16}{_cell(first, name):>10}{_cell(last, name):>14}" for name in names]
    lacks = [(row["update"], name) for row in (first, last) for name in names if name not in row]
    lines += [f"{folder / METRICS} is damaged: update {update} has no {name}" for update, name in lacks]
    samples = read_json_lines(folder / SAMPLES, SAMPLE)
    drawn = [row for row in samples if row["update"] == last["update"]]
    lines += ["", *(f"  {_line(row['prompt'])[-60:]} → {_line(row['completion'])[:90] or '(empty)'}" for row in drawn)]
    lines += turned(rows)
    return "\n".join([*lines, f"\n{folder / MODEL}  {folder / METRICS}  {folder / SAMPLES}"])


def turned(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each held-out number that was better before the end than at it, by more than a hundredth of itself:
    from there on the model fitted what it was trained on, and not what was held out. rows: of evaluations."""
    found = []
    for name, sign in (("eval_nll", 1), ("eval_rewards/accuracies", -1)):
        values = {int(row["update"]): sign * float(row[name]) for row in rows if name in row}
        if not values:
            continue
        best, last = min(values, key=lambda update: (values[update], update)), max(values)
        if values[last] - values[best] > 0.01 * abs(values[best]):
            found.append(
                f"\n{name} was best at update {best} ({abs(values[best]):.3f}; at the end {abs(values[last]):.3f}): "
                f"with --metric-for-best-model {name} its checkpoint is kept"
            )
    return found


def _cell(row: Mapping[str, Any], name: str) -> str:
    return f"{row[name]:.3f}" if name in row else "–"


def _line(text: str) -> str:
    """The text on one line."""
    return " ".join(text.split())
