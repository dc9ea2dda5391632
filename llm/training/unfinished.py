"""What `reward` and `pretrain` keep on disk until the model is finished.

    <output>.unfinished/spec.json  run.yaml  metrics.jsonl  checkpoint-00000040/

The model appears as <output> in one moment, with metrics and run.yaml in it, and this folder is gone.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llm.distributed.spread import first_launched
from sims.core.spec import Spec, SpecError, from_json
from sims.experiments.command import tell
from sims.experiments.folders import check_folder

from . import checkpoint
from .checkpoint import CONFIG, METRICS, OPTIONS, SPEC, Checkpoint, read_spec, write_spec, write_text
from .loggers import JsonLines, read_json_lines
from .loop import Fit, Loop, Saving
from .written_by import check_written_by

ANSWERS = "answers"  # in SPEC


def stored(output: Path, command: str) -> dict[str, Spec]:
    """The settings of the fit of a command that was stopped, by kind, to go on from its folder alone. SpecError where
    there is none."""
    folder = _beside(output)
    check_written_by("output", folder, [command])
    if not _holds_a_fit(folder):
        raise SpecError("resume", True, f"there is nothing to go on with: no {folder / SPEC}")
    return {kind: from_json(value) for kind, value in _read(folder)["settings"].items()}


def options_of(output: Path) -> dict[str, Any]:
    """What the fit that was stopped evaluates and keeps, by option."""
    return checkpoint.stored_options(_beside(output))


def was_finished(output: Path, command: str) -> bool:
    """Whether a fit of a command was stopped when its model stood already, and at most what is left of its own folder
    was to be removed: it is removed, of several processes by the first. SpecError for what another command wrote."""
    folder = _beside(output)
    for each in (output, folder):
        check_written_by("output", each, [command])
    if not (output / METRICS).exists():
        return False
    try:
        if (folder / METRICS).read_bytes() != (output / METRICS).read_bytes():
            return False
    except OSError:
        if _holds_a_fit(folder):
            return False
    if first_launched():
        shutil.rmtree(folder, ignore_errors=True)
        tell(f"{output} was finished already")
    return True


class Unfinished:
    """command: whose fit it is. settings: JSON of all that the fit depends on; config: the file that makes it again.
    saving: with a metric, of evaluations; save_every: None for a tenth of all updates. evaluations: how many there are
    after the first. options: JSON of what is evaluated and kept, to go on likewise. Raises SpecError where a stopped
    fit is there and neither resume nor overwrite is set, where there is none to resume, one of other settings, or the
    folder of another command."""

    def __init__(
        self,
        output: Path,
        command: str,
        settings: Mapping[str, Any],
        config: str,
        saving: Saving,
        resume: bool,
        overwrite: bool,
        evaluations: int = 4,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.output, self.folder, self.config = output, _beside(output), config
        self.settings, self.saving, self.resume, self.evaluations = dict(settings), saving, resume, evaluations
        self.options = options or {}
        if evaluations < 1:
            raise SpecError("evaluations", evaluations, "must be int >= 1")
        check_folder("output", self.folder)
        check_written_by("output", self.folder, [command])
        there = _holds_a_fit(self.folder)
        if resume and overwrite:
            raise SpecError("overwrite", True, "cannot be combined with --resume")
        if resume and not there:
            raise SpecError("resume", True, f"there is nothing to go on with: no {self.folder / SPEC}")
        if there and not (resume or overwrite):
            raise SpecError(
                "output", str(output), f"a fit was stopped: --resume goes on with {self.folder}, --overwrite deletes it"
            )

    def answers(self) -> Any:
        """What was asked for when the fit was started, and is not asked for again, as `held` was given it; None where
        there is nothing."""
        return _read(self.folder).get(ANSWERS) if self.resume else None

    def held(self, data: int = 0, read: Mapping[str, str] | None = None, answers: Any = None) -> Checkpoint | None:
        """The checkpoint to go on from. data: the digest of the rows, which must be those of before. read: digests of
        what else must, by what it is. answers: JSON to keep for `answers`."""
        found, self.numbers = dict(read or {}), {}
        self.settings_held = {"settings": self.settings, "data": data, "read": found}
        self.kept_beside = {OPTIONS: dict(self.options)} | ({} if answers is None else {ANSWERS: answers})
        if not self.resume:
            return None
        before = _read(self.folder)
        for name in (OPTIONS, ANSWERS):
            before.pop(name, None)
        known = before.setdefault("read", found)  # a fit of before it was written down
        for name, digest in found.items():
            if known.get(name, digest) != digest:
                raise SpecError("resume", str(self.folder), f"is a fit of another {name}: --overwrite starts again")
        if before != json.loads(json.dumps(self.settings_held)):
            raise SpecError("resume", str(self.folder), "is a fit of other settings or rows: --overwrite starts again")
        held = checkpoint.load(self.folder, tell)
        self.numbers = {} if held is None else held.numbers
        if held is not None and held.spec != json.loads(json.dumps(self.settings)):
            raise SpecError(
                "resume", str(self.folder), f"{SPEC} is not that of its checkpoints: --overwrite starts again"
            )
        return held

    def begin(self, updates: int) -> JsonLines:
        """From here on the folder is there. updates: those done, after which metrics are dropped. The metrics."""
        if not self.resume:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_spec(self.folder / SPEC, self.settings_held | self.kept_beside)
        write_text(self.folder / CONFIG, self.config)
        return JsonLines(self.folder / METRICS, updates or -1, self.numbers)

    def run(self, fit: Fit, evaluate: Callable[[], Mapping[str, float]], name: str, first: bool = True) -> None:
        """`Loop.run` in this folder. first: whether this process writes."""
        saving = self.saving
        if saving.save_every is None:
            saving = dataclasses.replace(saving, save_every=max(1, fit.total // 10))
        points = {fit.total * i // self.evaluations for i in range(1, self.evaluations + 1)}
        loggers = [self.begin(fit.updates)] if first else []
        self.loop = Loop(self.folder, self.settings, saving, points, loggers, first=first)
        self.loop.run(fit, evaluate, name)

    def kept(self) -> str:
        """What is there after a stop."""
        left = checkpoint.found(self.folder)
        return f"{left[-1][1]} is kept: the same command with --resume goes on" if left else "no checkpoint was written"

    def written(self) -> list[Path]:
        """The files that go beside the finished model: the metrics, which are complete, and what makes it again."""
        return [self.folder / METRICS, self.folder / CONFIG]

    def finish(self, taken: int) -> str:
        """Remove the folder; a line if the best evaluation was before the last. taken: the update whose weights the
        model has."""
        metric, best = self.saving.metric_for_best_model, self.loop.best.update
        values = {row["update"]: row[metric] for row in read_json_lines(self.folder / METRICS) if metric in row}
        _remove(self.folder)
        if best in (None, last := max(values, default=None)):
            return ""
        if best not in values:
            return f"\n{METRICS} was damaged: update {best}, which was best, has no {metric}"
        found = f"{metric} was best at update {best} ({values[best]:.3f}; at the end {values[last]:.3f})"
        if taken == best:
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
