"""The training loop of `sft`, `train`, `reward` and `pretrain`: metrics, held-out numbers, checkpoints, the best one.

Before the first update, and after each of `points`, what is fitted is evaluated. A run that was stopped goes on from
its last checkpoint, and ends with the same files, bit for bit but for clocks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from tqdm import tqdm

from sims.core.spec import SpecError
from sims.experiments.command import tell

from . import checkpoint
from .best import Best
from .checkpoint import CheckpointError
from .loggers import Logger, closing_all

BAR = {"loss": "loss", "accuracy": "accuracy"}  # metrics in the bar, and what they are called there


class Fit(Protocol):
    """Weights that are fitted update by update. Each of several processes that share them must make every call."""

    @property
    def updates(self) -> int:
        """Updates done."""

    @property
    def total(self) -> int:
        """Updates in all."""

    @property
    def between_batches(self) -> bool:
        """Whether `state_dict` can be asked for: not while a batch is used for further updates."""

    def train(self) -> Iterator[Any]:
        """Go through the updates that are left."""

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, int]]: ...

    def load_state_dict(self, tensors: dict[str, Tensor], numbers: dict[str, int]) -> None: ...


@dataclass(frozen=True)
class Saving:
    """What is kept of a fit. save_every: updates between checkpoints; None: at evaluations.

    metric_for_best_model: of evaluations; the checkpoint with its best value is kept beside the last ones.
    greater_is_better: None: unless the metric is a loss. load_best_model_at_end: whether the finished model is that of
    the best evaluation, or the last."""

    save_every: int | None = None
    save_total_limit: int = 2
    metric_for_best_model: str | None = None
    greater_is_better: bool | None = None
    load_best_model_at_end: bool = False

    def __post_init__(self) -> None:
        for name in ("save_every", "save_total_limit"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise SpecError(name, value, "must be int >= 1")


class Loop:
    """folder: of the checkpoints and metrics.jsonl. settings: JSON of all that the fit depends on. points: updates
    after which it is evaluated. loggers: where rows of metrics go. samples: what else evaluations write. log_every:
    updates between rows; those of `points` have one anyway. first: whether this process writes."""

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        saving: Saving,
        points: Collection[int],
        loggers: Sequence[Logger] = (),
        samples: Sequence[Logger] = (),
        log_every: int = 1,
        first: bool = True,
    ) -> None:
        self.folder, self.settings, self.saving, self.points = folder, settings, saving, points
        self.loggers, self.samples, self.log_every, self.first = loggers, samples, log_every, first

    def run(
        self,
        fit: Fit,
        evaluate: Callable[[], Mapping[str, float]],
        name: str,
        row: Callable[[Any], Mapping[str, float]] = dataclasses.asdict,
        bar: Mapping[str, str] = BAR,
    ) -> None:
        """Go through the updates that are left; at the end, fit holds the best weights if these are wanted.

        evaluate: the numbers of an evaluation by name. row: the metrics of an update, `update` among them. bar: those
        that the bar shows, and their names there. Raises CheckpointError, naming the update, for what cannot be
        written."""
        self.best = Best(self.saving.metric_for_best_model, self.saving.greater_is_better, self.folder, fit.updates)
        self.due = False
        with (
            closing_all((*self.loggers, *self.samples)),
            tqdm(total=fit.total, initial=fit.updates, desc=name, unit="update", disable=not self.first) as progress,
        ):
            if fit.updates == 0:
                self._evaluate(fit, evaluate)
            for update in fit.train():
                if fit.updates % self.log_every == 0 or fit.updates in self.points:
                    found = row(update)
                    self.log(found)
                    shown = {short: f"{found[name]:.3g}" for name, short in bar.items() if name in found}
                    progress.set_postfix(shown, refresh=False)
                progress.update()
                if fit.updates in self.points:
                    self._evaluate(fit, evaluate)
                self._save_if_due(fit)
        if self.first:  # a process that was killed while it saved its last checkpoint left one more than is kept
            checkpoint.prune(self.folder, self.saving.save_total_limit, self.best.updates)
        if self.saving.load_best_model_at_end and self.best.update not in (None, fit.updates):
            self._load_best(fit)

    def log(self, row: Mapping[str, Any]) -> None:
        """Write a row of metrics."""
        for logger in self.loggers:
            logger.log(dict(row))

    def _evaluate(self, fit: Fit, evaluate: Callable[[], Mapping[str, float]]) -> None:
        """Log an evaluation. The best is one of those whose weights can be saved."""
        row = {"update": fit.updates, **evaluate()}
        self.log(row)
        if fit.between_batches and self.best.see(row):
            self.due = True

    def _save_if_due(self, fit: Fit) -> None:
        """Save a checkpoint where one is due; in the middle of a batch, as soon as it has ended."""
        every = self.saving.save_every
        reached = fit.updates in self.points if every is None else fit.updates % every == 0
        self.due = self.due or reached or fit.updates == fit.total
        if not (self.due and fit.between_batches):
            return
        self.due = False
        tensors, numbers = fit.state_dict()
        if self.first:
            for logger in (*self.loggers, *self.samples):
                numbers = numbers | logger.checksums
            keep, also = self.saving.save_total_limit, self.best.updates
            checkpoint.save(self.folder, fit.updates, tensors, numbers, self.settings, keep, also)

    def _load_best(self, fit: Fit) -> None:
        """Give the fit the weights of the best evaluation; the last ones stay where these cannot be read."""
        try:
            best = checkpoint.read(dict(checkpoint.found(self.folder))[self.best.updates[0]])
        except (CheckpointError, KeyError) as error:
            tell(f"the best weights, of update {self.best.update}, are lost, and the last are taken: {error}")
        else:
            fit.load_state_dict(best.tensors, best.numbers)
