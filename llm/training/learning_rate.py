"""Learning rates that warm up and decay, under transformers' names."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from sims.core.loop.optimise import Optimiser
from sims.core.spec import SpecError, setting

Scheduler = Literal["constant", "constant_with_warmup", "linear", "cosine"]


@dataclass(frozen=True)
class ScheduledOptimiser(Optimiser, kind="scheduled_optimiser"):
    """An optimiser whose learning rate is a function of the updates done; `learning_rate` is its peak.

    With s updates done of T, and W of them warm-up (numbers as transformers' `get_scheduler` gives them):

        s < W: s/W,    then  1 (constant_with_warmup),  1 − p (linear),  (1 + cos πp)/2 (cosine),    p = (s − W)/(T − W)

    The first update of a warm-up has rate 0, as in transformers. A run that is resumed with another number of updates
    continues on the new curve, so that its rate may jump.

    >>> llm.ScheduledOptimiser(lr_scheduler_type="linear", warmup_steps=2.0).factor(1, 10)
    0.5
    """

    lr_scheduler_type: Scheduler = setting("constant", "how the learning rate changes over a run, as in transformers")
    warmup_steps: float = setting(
        0.0, "updates over which the rate rises from 0; below 1, a share of all updates", at_least=0
    )

    def check(self) -> None:
        if self.lr_scheduler_type == "constant" and self.warmup_steps > 0:
            rule = "has no effect with lr_scheduler_type = constant: take constant_with_warmup, linear or cosine"
            raise SpecError("warmup_steps", self.warmup_steps, rule)
        if self.warmup_steps > 1 and not float(self.warmup_steps).is_integer():
            raise SpecError("warmup_steps", self.warmup_steps, "must be a whole number of updates, or a share below 1")

    def factor(self, done: int, updates: int) -> float:
        """The factor on the peak rate for the next update, after `done` of `updates`."""
        warmup = int(self.warmup_steps) if self.warmup_steps >= 1 else math.ceil(updates * self.warmup_steps)
        if self.lr_scheduler_type == "constant":
            return 1.0
        if done < warmup:
            return done / warmup
        progress = (done - warmup) / max(1, updates - warmup)
        if self.lr_scheduler_type == "linear":
            return max(0.0, 1.0 - progress)
        return 0.5 * (1.0 + math.cos(math.pi * progress)) if self.lr_scheduler_type == "cosine" else 1.0
