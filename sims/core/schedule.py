"""How on-policy a run is: batch size, sample reuse, sync period (staleness), and the source of the responses.

Online, semi-online and offline forms of an algorithm are schedules, not other algorithms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from .spec import Spec, SpecError, setting


@dataclass(frozen=True)
class Schedule(Spec, kind="schedule"):
    """Each iteration collects `batch_size` prompts with `num_generations` responses each, and makes one or more
    updates.

    Updates per batch = epochs · batch_size / minibatch_size. On-policy: one update per batch, drawn by the current
    policy. There are two offline forms: `sync_every_updates` = inf draws fresh responses from the initial policy
    throughout; `source` = pool draws the responses to `pool_size` prompts once and reuses them. `source` = replay first
    trains on-policy with the same schedule, then starts again from the initial policy on the batches that were drawn:
    in order it repeats the same run, shuffled it is offline training on data of an online run (Tang et al. 2024).

    >>> sims.Schedule(batch_size=64, minibatch_size=16, epochs=2).updates_per_batch
    8
    >>> sims.Schedule(batch_size=64, minibatch_size=48)
    Traceback (most recent call last):
    sims.core.spec.SpecError: minibatch_size = 48: must divide batch_size = 64
    """

    batch_size: int = setting(64, "prompts per collected batch (B)", at_least=1)
    num_generations: int = setting(
        2, "responses per prompt (K); samples per batch = batch_size x num_generations", at_least=1
    )
    minibatch_size: int | None = setting(
        None, "prompts per update (M); must divide batch_size; none: the whole batch", at_least=1
    )
    epochs: int = setting(1, "passes over each collected batch", at_least=1)
    sync_every_updates: float | None = setting(
        None,
        "updates between copies of the policy to the sampler, which draws the responses; none: before every batch; "
        "inf: never, so that the sampler stays the initial policy",
        at_least=1,
        infinite=True,
    )
    source: Literal["policy", "pool", "replay", "dataset"] = setting(
        "policy",
        "where responses come from: policy: fresh samples of the sampler; pool: a fixed set drawn once from the "
        "initial policy; replay: the batches of an on-policy run of the same experiment; dataset: the environment's "
        "recorded data",
    )
    pool_size: int | None = setting(None, "number of prompts in the fixed pool (source = pool)", at_least=1)
    replay_window: float | None = setting(
        None,
        "how far a prompt may move from its position in the recorded order (source = replay); 0: original order; inf: "
        "fully shuffled",
        at_least=0,
        infinite=True,
    )
    reference: Literal["fixed", "copy", "ema"] = setting(
        "fixed",
        "reference policy: fixed: the initial policy; copy: a copy of the policy, renewed every "
        "reference_every_updates; ema: an exponential moving average of the policy",
    )
    reference_every_updates: int | None = setting(
        None, "updates between copies of the policy to the reference (reference = copy)", at_least=1
    )
    reference_rate: float | None = setting(
        None, "weight of the current policy in the moving average, per update (reference = ema)", above=0, at_most=1
    )

    @property
    def updates_per_batch(self) -> int:
        """Updates per collected batch; the T of the papers."""
        return self.epochs * (self.batch_size // (self.minibatch_size or self.batch_size))

    @property
    def sync_period(self) -> float:
        """Updates between two copies of the policy to the sampler."""
        return self.updates_per_batch if self.sync_every_updates is None else self.sync_every_updates

    @property
    def samples_per_batch(self) -> int:
        return self.batch_size * self.num_generations

    def counts(self, update: int, updates: int) -> tuple[int, int]:
        """Responses drawn, and staleness of the last update, when `update` of `updates` updates are done.

        An update's staleness is the number of updates that the policy has made since the sampler was a copy of it. A
        pool is drawn by the initial policy, once; recorded and replayed data count from the start as well.

        >>> schedule = sims.Schedule(batch_size=4, sync_every_updates=3)
        >>> [schedule.counts(update, 6) for update in (0, 1, 3, 4)]
        [(0, 0), (8, 0), (24, 2), (32, 0)]
        """
        if update == 0:
            return 0, 0
        begun = (update - 1) // self.updates_per_batch  # batches before the last update's
        drawn = {
            "policy": (begun + 1) * self.samples_per_batch,
            "pool": (self.pool_size or 0) * self.num_generations,
            "replay": updates // self.updates_per_batch * self.samples_per_batch,
            "dataset": 0,
        }
        since = begun * self.updates_per_batch
        if self.source == "policy" and not math.isinf(self.sync_period):
            synced_at = since - since % int(self.sync_period)
        else:
            synced_at = 0
        return drawn[self.source], update - 1 - synced_at

    def check(self) -> None:
        if self.minibatch_size is not None and self.batch_size % self.minibatch_size:
            raise SpecError("minibatch_size", self.minibatch_size, f"must divide batch_size = {self.batch_size}")
        period = self.sync_every_updates
        if period is not None and not math.isinf(period) and period % self.updates_per_batch:
            multiples = f"{self.updates_per_batch}, {2 * self.updates_per_batch}, ..."
            rule = f"must fall on batch boundaries: a multiple of the {self.updates_per_batch} updates per batch"
            raise SpecError("sync_every_updates", period, f"{rule} ({multiples}), or inf")
        self._check_pair("source", "pool", "pool_size")
        self._check_pair("source", "replay", "replay_window")
        self._check_pair("reference", "copy", "reference_every_updates")
        self._check_pair("reference", "ema", "reference_rate")
        if self.pool_size is not None and self.pool_size % self.batch_size:
            raise SpecError("pool_size", self.pool_size, f"must be a multiple of batch_size = {self.batch_size}")
        if self.source != "policy" and period is not None:
            raise SpecError(
                "sync_every_updates", period, f"has no effect with source = {self.source}, which does not resample"
            )

    def check_updates(self, updates: int) -> None:
        """Refuse, with SpecError, a number of updates that does not end on a batch boundary."""
        if updates % self.updates_per_batch:
            raise SpecError("updates", updates, f"must be a multiple of the {self.updates_per_batch} updates per batch")

    def _check_pair(self, field: str, choice: str, companion: str) -> None:
        """A companion setting must be given exactly when its choice is made."""
        chosen, value = getattr(self, field) == choice, getattr(self, companion)
        if chosen and value is None:
            raise SpecError(companion, value, f"must be given when {field} = {choice}")
        if value is not None and not chosen:
            raise SpecError(companion, value, f"only means something when {field} = {choice}")
