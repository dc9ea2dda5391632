"""How on-policy a run is: how much is collected at a time, how often it is used, and who draws it.

Online, semi-online and offline forms of an algorithm are schedules, not other algorithms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from .spec import Spec, SpecError, setting


@dataclass(frozen=True)
class Schedule(Spec, kind="schedule"):
    """One turn collects `batch_size` prompts with `num_generations` responses each, and takes several updates on them.

    Updates a batch = epochs · batch_size / minibatch_size. On-policy: one update a batch, drawn by the current policy.
    Offline comes in two kinds, and a figure says which: `sync_every_updates` = inf draws fresh responses from the
    initial policy for ever; `source` = pool draws `pool_size` prompts' responses once and goes through them again and
    again. `source` = replay first trains on-policy by this very schedule, then starts again from the initial policy on
    the batches that were drawn: in order this is the same run once more, shuffled it is offline data of an online
    policy's making (Tang et al. 2024).

    >>> sims.Schedule(batch_size=64, minibatch_size=16, epochs=2).updates_per_batch
    8
    >>> sims.Schedule(batch_size=64, minibatch_size=48)
    Traceback (most recent call last):
    sims.core.spec.SpecError: minibatch_size = 48: must divide batch_size = 64
    """

    batch_size: int = setting(64, "prompts collected at a time (B)", at_least=1)
    num_generations: int = setting(
        2, "responses a prompt (K); samples a batch = batch_size x num_generations", at_least=1
    )
    minibatch_size: int | None = setting(None, "prompts an update (M); must divide batch_size; none: all", at_least=1)
    epochs: int = setting(1, "passes over a collected batch", at_least=1)
    sync_every_updates: float | None = setting(
        None,
        "updates between copies of the policy to the sampler; none: before every batch; inf: never",
        at_least=1,
        infinite=True,
    )
    source: Literal["policy", "pool", "replay", "dataset"] = setting(
        "policy",
        "fresh responses of the sampler, a fixed pool drawn once from it, the stream of an on-policy run of the same "
        "experiment, or the environment's recorded data",
    )
    pool_size: int | None = setting(None, "prompts in the pool (source = pool)", at_least=1)
    replay_window: float | None = setting(
        None,
        "how many prompts a recorded one may move from its place (source = replay): 0: in order; inf: shuffled",
        at_least=0,
        infinite=True,
    )
    reference: Literal["fixed", "copy", "ema"] = setting(
        "fixed", "the initial policy for ever, a copy of the policy now and then, or an exponential average of it"
    )
    reference_every_updates: int | None = setting(None, "updates between copies (reference = copy)", at_least=1)
    reference_rate: float | None = setting(
        None, "share of the policy taken in an update (reference = ema)", above=0, at_most=1
    )

    @property
    def updates_per_batch(self) -> int:
        """Updates between two collections: the T, or the staleness, of the papers."""
        return self.epochs * (self.batch_size // (self.minibatch_size or self.batch_size))

    @property
    def sync_period(self) -> float:
        """Updates between two copies of the policy to the sampler."""
        return self.updates_per_batch if self.sync_every_updates is None else self.sync_every_updates

    @property
    def samples_per_batch(self) -> int:
        return self.batch_size * self.num_generations

    def check(self) -> None:
        if self.minibatch_size is not None and self.batch_size % self.minibatch_size:
            raise SpecError("minibatch_size", self.minibatch_size, f"must divide batch_size = {self.batch_size}")
        period = self.sync_every_updates
        if period is not None and not math.isinf(period) and period % self.updates_per_batch:
            multiples = f"{self.updates_per_batch}, {2 * self.updates_per_batch}, ..."
            rule = f"must fall on batch boundaries: a multiple of the {self.updates_per_batch} updates a batch"
            raise SpecError("sync_every_updates", period, f"{rule} ({multiples}), or inf")
        self._check_pair("source", "pool", "pool_size")
        self._check_pair("source", "replay", "replay_window")
        self._check_pair("reference", "copy", "reference_every_updates")
        self._check_pair("reference", "ema", "reference_rate")
        if self.pool_size is not None and self.pool_size % self.batch_size:
            raise SpecError("pool_size", self.pool_size, f"must be a multiple of batch_size = {self.batch_size}")
        if self.source != "policy" and period is not None:
            raise SpecError(
                "sync_every_updates", period, f"has no effect with source = {self.source}: nobody draws again"
            )

    def check_updates(self, updates: int) -> None:
        """Refuse, with SpecError, a number of updates that does not end on a batch boundary."""
        if updates % self.updates_per_batch:
            raise SpecError("updates", updates, f"must be a multiple of the {self.updates_per_batch} updates a batch")

    def _check_pair(self, field: str, choice: str, companion: str) -> None:
        """A companion setting is there exactly when the choice that it belongs to is made."""
        chosen, value = getattr(self, field) == choice, getattr(self, companion)
        if chosen and value is None:
            raise SpecError(companion, value, f"must be given when {field} = {choice}")
        if value is not None and not chosen:
            raise SpecError(companion, value, f"only means something when {field} = {choice}")
