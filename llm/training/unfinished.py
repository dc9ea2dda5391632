"""The loop of `reward` and `pretrain`, and what it keeps on disk until the model is finished.

    <output>.unfinished/spec.json  run.yaml  metrics.jsonl  checkpoint-00000040/

The model appears as <output> in one moment, with metrics and run.yaml in it, and this folder is gone.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import Tensor
from tqdm import tqdm

from sims.core.spec import Spec, SpecError, from_json
from sims.experiments.command import tell
from sims.experiments.folders import check_folder

from . import checkpoint
from .best import Best
from .checkpoint import CONFIG, METRICS, SPEC, Checkpoint, read_spec, write_spec, write_text
from .loggers import JsonLines, read_json_lines

S = TypeVar("S", bound=Spec)


class Fit(Protocol):
    """Weights that are fitted update by update."""

    @property
    def updates(self) -> int:
        """Updates done."""

    @property
    def total(self) -> int:
        """Updates in all."""

    def train(self) -> Iterator[Any]:
        """Go through the updates that are left; each is a dataclass of numbers, `update` and `loss` among them."""

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, int]]: ...

    def load_state_dict(self, tensors: dict[str, Tensor], numbers: dict[str, int]) -> None: ...


@dataclass(frozen=True)
class Saving:
    """When a fit is measured on held-out data, and what is kept of it. save_every: updates between checkpoints, None:
    a tenth of all. load_best_model_at_end: whether the finished model is that of the best evaluation, or the last."""

    evaluations: int = 4
    save_every: int | None = None
    save_total_limit: int = 2
    load_best_model_at_end: bool = False

    def __post_init__(self) -> None:
        for name in ("save_every", "evaluations", "save_total_limit"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise SpecError(name, value, "must be int >= 1")


def stored(output: Path) -> dict[str, Spec]:
    """The settings of the fit that was stopped, by kind, to go on from its folder alone. SpecError where there is
    none."""
    folder = _beside(output)
    if not _holds_a_fit(folder):
        raise SpecError("resume", True, f"there is nothing to go on with: no {folder / SPEC}")
    return {kind: from_json(value) for kind, value in _read(folder)["settings"].items()}


def was_finished(output: Path) -> bool:
    """Whether a fit was stopped when its model stood already, and only its own folder was left to remove: it is
    removed."""
    folder = _beside(output)
    try:
        if not any(folder.iterdir()) and output.exists():
            folder.rmdir()
            tell(f"{output} was finished already")
            return True
        if (folder / METRICS).read_bytes() != (output / METRICS).read_bytes():
            return False
    except OSError:
        return False
    _remove(folder)
    tell(f"{output} was finished already")
    return True


class Unfinished:
    """settings: JSON of all that the fit depends on; config: the file that makes it again. metric: of evaluations,
    whose best checkpoint is kept. Raises SpecError where a stopped fit is there and neither resume nor overwrite is
    set, where there is none to resume, or one of other settings."""

    def __init__(
        self,
        output: Path,
        settings: Mapping[str, Any],
        config: str,
        metric: str,
        saving: Saving,
        resume: bool,
        overwrite: bool,
    ) -> None:
        self.output, self.folder, self.config = output, _beside(output), config
        self.settings, self.metric, self.saving, self.resume = dict(settings), metric, saving, resume
        check_folder("output", self.folder)
        there = _holds_a_fit(self.folder)
        if resume and overwrite:
            raise SpecError("overwrite", True, "cannot be combined with --resume")
        if resume and not there:
            raise SpecError("resume", True, f"there is nothing to go on with: no {self.folder / SPEC}")
        if there and not (resume or overwrite):
            raise SpecError(
                "output", str(output), f"a fit was stopped: --resume goes on with {self.folder}, --overwrite deletes it"
            )

    def held(self, data: int = 0) -> Checkpoint | None:
        """The checkpoint to go on from. data: the digest of the rows, which must be those of before."""
        self.settings_held, self.numbers = {"settings": self.settings, "data": data}, {}
        if not self.resume:
            return None
        if _read(self.folder) != json.loads(json.dumps(self.settings_held)):
            raise SpecError("resume", str(self.folder), "is a fit of other settings or rows: --overwrite starts again")
        held = checkpoint.load(self.folder, tell)
        self.numbers = {} if held is None else held.numbers
        if held is not None and held.spec != json.loads(json.dumps(self.settings)):
            raise SpecError(
                "resume", str(self.folder), f"{SPEC} is not that of its checkpoints: --overwrite starts again"
            )
        return held

    def begin(self, updates: int) -> None:
        """From here on the folder is there. updates: those done, after which metrics are dropped."""
        if not self.resume:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_spec(self.folder / SPEC, self.settings_held)
        write_text(self.folder / CONFIG, self.config)
        self.metrics = JsonLines(self.folder / METRICS, updates, self.numbers)
        self.best = Best(self.metric, None, self.folder / METRICS)

    def run(
        self, fit: Fit, evaluate: Callable[[], Mapping[str, float]], name: str, first: bool = True, bar: bool = True
    ) -> None:
        """Go through the updates that are left: metrics, held-out numbers, checkpoints; at the end, fit holds the best
        weights if these are wanted. evaluate: held-out numbers by name, asked of every process; first: whether this
        one writes."""
        if first:
            self.begin(fit.updates)
        points = {fit.total * i // self.saving.evaluations for i in range(1, self.saving.evaluations + 1)}
        every = self.saving.save_every or max(1, fit.total // 10)
        with tqdm(total=fit.total, initial=fit.updates, desc=name, disable=None if first and bar else True) as shown:
            for update in fit.train():
                row = dataclasses.asdict(update)
                numbers = {key: f"{row[key]:.3f}" for key in ("loss", "accuracy") if key in row}
                shown.set_postfix(numbers, refresh=False)
                shown.update()
                if update.update in points:
                    row |= evaluate()
                if first:
                    self.log(row)
                    if update.update in points or update.update % every == 0:
                        self.save(fit)
        if first and self.saving.load_best_model_at_end and self.best.update not in (-1, fit.updates):
            self._load_best_model_at_end(fit)

    def _load_best_model_at_end(self, fit: Fit) -> None:
        """Give the fit the weights of the best evaluation; the last ones stay where these cannot be read."""
        try:
            best = checkpoint.read(dict(checkpoint.found(self.folder))[self.best.update])
        except (checkpoint.CheckpointError, KeyError) as error:
            tell(f"the best weights, of update {self.best.update}, are lost, and the last are taken: {error}")
        else:
            fit.load_state_dict(best.tensors, best.numbers)

    def log(self, row: Mapping[str, Any]) -> None:
        """Write a row of metrics; note the best."""
        self.metrics.log(dict(row))
        if self.metric in row:
            self.best.see(row)

    def save(self, fit: Fit) -> None:
        tensors, numbers = fit.state_dict()
        keep, also = self.saving.save_total_limit, self.best.updates
        numbers = numbers | self.metrics.checksums
        checkpoint.save(self.folder, fit.updates, tensors, numbers, self.settings, keep, also)

    def kept(self) -> str:
        """What is there after a stop."""
        left = checkpoint.found(self.folder)
        return f"{left[-1][1]} is kept: the same command with --resume goes on" if left else "no checkpoint was written"

    def written(self) -> list[Path]:
        """The files that go beside the finished model: the metrics, which are complete, and what makes it again."""
        self.metrics.close()
        return [self.folder / METRICS, self.folder / CONFIG]

    def finish(self, taken: int) -> str:
        """Remove the folder; a line if the best evaluation was before the last. taken: the update whose weights the
        model has."""
        rows = [row for row in read_json_lines(self.folder / METRICS) if self.metric in row]
        _remove(self.folder)
        values, last = {row["update"]: row[self.metric] for row in rows}, rows[-1]["update"]
        if self.best.update == last:
            return ""
        found = f"{self.metric} was best at update {self.best.update} ({values[self.best.update]:.3f}; at the end "
        found += f"{values[last]:.3f})"
        if taken == self.best.update:
            return f"\n{found}: the model is that of update {taken}"
        return f"\n{found}: --load-best-model-at-end would have taken it"


def _beside(output: Path) -> Path:
    return output.with_name(output.name + ".unfinished")


def _holds_a_fit(folder: Path) -> bool:
    """Whether anything would be lost with the folder, which a process that was killed at once leaves empty."""
    return (folder / SPEC).exists() or bool(checkpoint.found(folder))


def _remove(folder: Path) -> None:
    """Delete a folder, its metrics last: they show that it was finished if this is stopped."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    (folder / SPEC).unlink(missing_ok=True)
    shutil.rmtree(folder)


def _read(folder: Path) -> dict[str, Any]:
    try:
        found = read_spec(folder / SPEC)
        if not isinstance(found["settings"], dict):
            raise ValueError("settings must be an object")
        return found
    except (OSError, ValueError, KeyError) as error:
        raise SpecError("resume", str(folder), f"{SPEC} cannot be read: --overwrite starts again") from error
