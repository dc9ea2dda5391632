"""The best evaluation of a run, whose checkpoint is kept beside the last ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sims.core.spec import SpecError

from .loggers import read_json_lines

LOWER = ("loss", "nll", "perplexity")


class Best:
    """metric: the name in rows of metrics, None to keep no best. greater: whether the best is the greatest; by default
    unless its name ends like one of `LOWER`. file: metrics of the run so far, which a resumed run goes on from."""

    def __init__(self, metric: str | None, greater: bool | None, file: Path) -> None:
        self.metric = metric
        self.sign = 1 if (greater if greater is not None else not (metric or "").endswith(LOWER)) else -1
        self.value, self.update = -math.inf, -1
        for row in read_json_lines(file) if metric is not None and file.exists() else ():
            if metric in row:
                self.see(row)

    def see(self, row: Mapping[str, Any]) -> None:
        """Take note of an evaluation. SpecError if it has no such metric."""
        if self.metric is None:
            return
        if self.metric not in row:
            known = ", ".join(name for name in row if name != "update")
            raise SpecError("metric_for_best_model", self.metric, f"must be a metric of evaluations: {known}")
        value = self.sign * float(row[self.metric])
        if value > self.value:
            self.value, self.update = value, int(row["update"])

    @property
    def updates(self) -> tuple[int, ...]:
        """The update of the best evaluation, if there is one."""
        return () if self.update < 0 else (self.update,)
