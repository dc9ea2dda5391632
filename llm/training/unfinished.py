"""What a fit of a reward model keeps on disk until it is finished: settings, metrics and checkpoints.

    <output>.unfinished/spec.json  metrics.jsonl  checkpoint-00000040/

The model appears as <output> in one moment, with the metrics in it, and this folder is gone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm.reward_models.calibration import HeldOut
from llm.reward_models.fit import Fit, FitUpdate
from sims.core.spec import SpecError
from sims.experiments.command import tell
from sims.experiments.folders import check_folder

from . import checkpoint
from .checkpoint import Checkpoint, write_text
from .loggers import JsonLines, read_json_lines

SPEC, METRICS = "spec.json", "metrics.jsonl"


class Unfinished:
    """settings: JSON of all that the fit depends on. Raises SpecError where a stopped fit is there and neither resume
    nor overwrite is set, where there is none to resume, or one of other settings."""

    def __init__(self, output: Path, settings: Mapping[str, Any], resume: bool, overwrite: bool) -> None:
        self.output, self.folder = output, output.with_name(output.name + ".unfinished")
        self.settings, self.resume = dict(settings), resume
        check_folder("output", self.folder)
        there = self.folder.exists()
        if resume and overwrite:
            raise SpecError("overwrite", True, "cannot be combined with --resume")
        if resume and not there:
            raise SpecError("resume", True, f"there is nothing to go on with: no {self.folder}")
        if there and not (resume or overwrite):
            raise SpecError(
                "output", str(output), f"a fit was stopped: --resume goes on with {self.folder}, --overwrite deletes it"
            )

    def held(self, data: int) -> Checkpoint | None:
        """The checkpoint to go on from. data: the digest of the rows, which must be those of before."""
        self.settings_held = {"settings": self.settings, "data": data}
        if not self.resume:
            return None
        try:
            before = json.loads((self.folder / SPEC).read_text())
        except (OSError, ValueError) as error:
            raise SpecError("resume", str(self.folder), f"{SPEC} cannot be read: --overwrite starts again") from error
        if before != json.loads(json.dumps(self.settings_held)):
            raise SpecError("resume", str(self.folder), "is a fit of other settings or rows: --overwrite starts again")
        return checkpoint.load(self.folder, tell)

    def begin(self, updates: int) -> None:
        """From here on the folder is there. updates: those done, after which metrics are dropped."""
        if not self.resume:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / SPEC, json.dumps(self.settings_held, indent=1) + "\n")
        self.metrics = JsonLines(self.folder / METRICS, updates)

    def log(self, update: FitUpdate, held_out: HeldOut | None) -> None:
        row = {"update": update.update, "loss": update.loss, "accuracy": update.accuracy, "grad_norm": update.grad_norm}
        if held_out is not None:
            row |= {"eval_log_loss": held_out.log_loss, "eval_accuracy": held_out.accuracy}
        self.metrics.log(row)

    def save(self, fitting: Fit) -> None:
        tensors, numbers = fitting.state_dict()
        checkpoint.save(self.folder, fitting.updates, tensors, numbers, self.settings, keep=2)

    def kept(self) -> str:
        """What is there after a stop."""
        left = checkpoint.found(self.folder)
        return f"{left[-1][1]} is kept: the same command with --resume goes on" if left else "no checkpoint was written"

    def finish(self) -> str:
        """Hand the metrics to the finished model; a line if held-out log loss was lower before the end."""
        self.metrics.close()
        rows = [row for row in read_json_lines(self.folder / METRICS) if "eval_log_loss" in row]
        shutil.copyfile(self.folder / METRICS, self.output / METRICS)
        shutil.rmtree(self.folder)
        best, last = min(rows, key=lambda row: row["eval_log_loss"]), rows[-1]
        if last["eval_log_loss"] - best["eval_log_loss"] <= 0.01 * best["eval_log_loss"]:
            return ""
        return (
            f"\nheld-out log loss was lowest at update {best['update']} ({best['eval_log_loss']:.3f}; at the end "
            f"{last['eval_log_loss']:.3f}): fewer epochs or a lower learning_rate would keep it there"
        )
