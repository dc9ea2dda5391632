"""The one loop that makes a record: train, evaluate at the experiment's points, and put the numbers together.

Simulations and language models differ in how a training is built and in what is measured of it; both are given here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sims.core.loop.train import Training, Update

from .evaluation import Evaluation, Row, unknown_number
from .experiment import Experiment

Arrays = dict[str, np.ndarray]


class Diverged(RuntimeError):
    """A training that cannot go on, because loss, gradient or logits are not finite; the message names the update."""


def _nothing(*_: Any) -> None:
    """What is done where a hook is not given."""


@dataclass(frozen=True)
class Hooks:
    """What else happens along the way.

    updated: after every update, before its evaluation. evaluated: after an evaluation, with the number of updates done.
    completed: after every update and its evaluation, if one was due: when to save a checkpoint. diverged: when training
    cannot go on; raise the error to end there, or else the record is NaN from then on.
    """

    updated: Callable[[Update], None] = _nothing
    evaluated: Callable[[int], None] = _nothing
    completed: Callable[[Update], None] = _nothing
    diverged: Callable[[Diverged], None] = _nothing


class Recorder:
    """A training that is evaluated at the start and at the points of `experiment.evaluated_at`.

    A training that goes on from a checkpoint is evaluated at the points that are left.
    """

    def __init__(
        self,
        training: Training,
        experiment: Experiment,
        evaluations: Sequence[Evaluation],
        hooks: Hooks = Hooks(),
    ) -> None:
        self.training, self.experiment, self.evaluations, self.hooks = training, experiment, evaluations, hooks
        self.rows: list[Row] = []
        self.points: list[int] = []  # updates done at each row
        self.diverged_at = torch.full(training.noise.lead, -1, dtype=torch.int64)

    def run(self, updates: Iterator[Update]) -> None:
        """Go through the updates of the training."""
        points = set(self.experiment.evaluated_at)
        if self.training.updates == 0:
            self._evaluate(None)
        try:
            for update in updates:
                self._note(update)
                self.hooks.updated(update)
                if update.number in points:
                    self._evaluate(update)
                self.hooks.completed(update)
        except Diverged as error:
            self.hooks.diverged(error)
            self.diverged_at = torch.where(self.diverged_at < 0, self.training.updates, self.diverged_at)

    def arrays(self) -> Arrays:
        """The arrays of the record, with an axis of runs if the training has one.

        Over (runs, points): what the evaluations measured, and loss and grad_norm of the update before the point (NaN
        at the start). Over points: updates, samples, staleness. Over runs: diverged_at (−1: never), and the closing
        arrays of the evaluations. Where training could not go on, the missing points are NaN.
        """
        rows, experiment = list(self.rows), self.experiment
        missing = [point for point in experiment.evaluated_at if point > self.points[-1]]
        rows += [{name: torch.full_like(x, torch.nan) for name, x in rows[-1].items()} for _ in missing]
        points = self.points + missing
        arrays = {name: torch.stack([row[name].to(x) for row in rows], dim=-1) for name, x in rows[-1].items()}
        for evaluation in self.evaluations:
            arrays |= evaluation.closing()
        arrays["diverged_at"] = self.diverged_at
        counts = [experiment.schedule.counts(point, experiment.updates) for point in points]
        samples, staleness = (np.array(numbers) for numbers in zip(*counts, strict=True))
        numbers = {name: x.cpu().numpy() for name, x in arrays.items()}
        return numbers | {"updates": np.array(points), "samples": samples, "staleness": staleness}

    def _note(self, update: Update) -> None:
        """What is kept of an update whether or not an evaluation follows."""
        if update.number == 1:
            for evaluation in self.evaluations:
                self.rows[0] |= evaluation.start(update)
        alive = update.stats.alive
        if alive.is_cpu and bool(alive.all()):  # elsewhere reading would wait for the device
            return
        before = self.diverged_at.to(alive.device)
        self.diverged_at = torch.where(~alive & (before < 0), update.number, before)

    def _evaluate(self, update: Update | None) -> None:
        row: Row = {}
        for evaluation in self.evaluations:
            row |= evaluation.row(update)
        unknown = unknown_number(self.training)
        loss, norm = (unknown, unknown) if update is None else (update.stats.loss, update.stats.grad_norm)
        self.rows.append(row | {"loss": loss, "grad_norm": norm})
        self.points.append(0 if update is None else update.number)
        self.hooks.evaluated(self.points[-1])
