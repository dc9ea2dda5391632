"""A run of `train` or `sft` as the training loop sees it: its metrics, evaluations and completions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from sims.core.loop.train import Update

from .evaluation import EvaluatedSamples
from .held_out import RecordedEvaluation
from .loggers import Logger
from .metrics import UpdateMetrics
from .run import Run

SHOWN = 4  # completions kept of each evaluation
_TICK = 1e-9  # of a clock, in seconds: what an update takes at least, where the clock has not moved


class RunFit:
    """samples: where completions of evaluations go. with_kl: as of `UpdateMetrics`."""

    def __init__(self, run: Run, samples: Logger, with_kl: bool = False) -> None:
        self.run, self.samples = run, samples
        self.metrics, self.recorded = UpdateMetrics(run, with_kl), RecordedEvaluation(run)
        self.state_dict, self.load_state_dict = run.state_dict, run.load_state_dict
        self.total = run.experiment.updates
        self.tokens, self.since = 0, time.perf_counter()

    @property
    def updates(self) -> int:
        """Updates done."""
        return self.run.training.updates

    @property
    def between_batches(self) -> bool:
        """Whether the run can be saved now."""
        return self.run.training.between_batches

    def train(self) -> Iterator[Update]:
        """`Run.train`."""
        for update in self.run.train():
            self.tokens += int(update.batch.mask.sum())
            yield update
            self.metrics.forget()  # of an update that was not logged

    def row(self, update: Update) -> dict[str, float]:
        """`UpdateMetrics.row`, and tokens trained on per second since the last row or evaluation."""
        seconds = max(time.perf_counter() - self.since, _TICK)
        row = self.metrics.row(update) | {"tokens_per_second": self.tokens / seconds}
        self.tokens, self.since = 0, time.perf_counter()
        return row

    def evaluate(self) -> dict[str, Any]:
        """Numbers of an evaluation, under names that begin with eval_; its first completions are logged as samples."""
        evaluation = self.run.evaluate()
        _log_samples(evaluation, self.updates, self.samples)
        self.recorded.row()
        self.since = time.perf_counter()
        return {f"eval_{name}": value for name, value in (evaluation.shown | self.recorded.last).items()}


def _log_samples(evaluation: EvaluatedSamples, update: int, samples: Logger) -> None:
    rows = zip(evaluation.prompts, evaluation.completions, evaluation.rewards, evaluation.lengths, strict=True)
    for prompt, completion, reward, length in list(rows)[:SHOWN]:
        samples.log({"update": update, "reward": reward, "length": length, "prompt": prompt, "completion": completion})
