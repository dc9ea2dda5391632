"""The best evaluation of a fit, whose checkpoint is kept beside the last ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sims.core.spec import SpecError

from . import checkpoint
from .checkpoint import METRICS
from .loggers import read_json_lines

LOWER = ("loss", "nll", "perplexity")


class Best:
    """metric: the name in rows of metrics, None to keep no best. greater: whether the best is the greatest; by default
    unless its name ends like one of `LOWER`. folder: of metrics and checkpoints until `done` updates, which a resumed
    fit goes on from. update: that of the best evaluation so far, None before there is one."""

    def __init__(self, metric: str | None, greater: bool | None, folder: Path, done: int = 0) -> None:
        self.metric = metric
        self.sign = 1 if (greater if greater is not None else not (metric or "").endswith(LOWER)) else -1
        self.value = -math.inf
        self.update: int | None = None
        kept = {update for update, _ in checkpoint.found(folder) if update <= done} if metric is not None else ()
        for row in read_json_lines(folder / METRICS) if kept else ():
            if row["update"] in kept and metric in row:
                self.see(row)

    def see(self, row: Mapping[str, Any]) -> bool:
        """Take note of an evaluation; whether it is the best so far. The one before the first update is not: what
        would be kept is not of this fit. SpecError if it has no such metric."""
        if self.metric is None:
            return False
        if self.metric not in row:
            known = ", ".join(name for name in row if name != "update")
            raise SpecError("metric_for_best_model", self.metric, f"must be a metric of evaluations: {known}")
        value, update = self.sign * float(row[self.metric]), int(row["update"])
        if update == 0 or not value > self.value:  # NaN is never the best
            return False
        self.value, self.update = value, update
        return True

    @property
    def updates(self) -> tuple[int, ...]:
        """The update of the best evaluation, if there is one."""
        return () if self.update is None else (self.update,)
