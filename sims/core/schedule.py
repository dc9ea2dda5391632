"""How on-policy a run is: batch size, sample reuse, sync period (staleness), and the source of the responses.

Online, semi-online and offline forms of an algorithm are schedules, not other algorithms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Self

from .spec import Spec, SpecError, setting


@dataclass(frozen=True)
class Schedule(Spec, kind="schedule"):
    """Each iteration collects `batch_size` prompts with `num_generations` responses each, and makes one or more
    updates.

    Updates per batch = epochs · batch_size / minibatch_size. On-policy: one update per batch, drawn by the current
    policy. There are two offline forms: `sync_every_updates` = inf draws fresh responses from the initial policy
    throughout; `source` = pool draws the responses to `pool_size` prompts once and reuses them. Two more start from an
    on-policy run with the same schedule, and then train the initial policy on its data (Tang et al. 2024): `source` =
    replay on the batches that the run drew, in order, which repeats the run bit for bit, or shuffled; `pool_policy` =
    final on a pool that its last policy draws.

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
    pool_policy: Literal["initial", "final"] = setting(
        "initial",
        "policy that draws the pool (source = pool): initial; final: the one that an on-policy run of the same "
        "experiment ends with",
        omit_default=True,
    )
    replay_window: float | None = setting(
        None,
        "successive batches that are shuffled among themselves (source = replay); 1: original order; inf: all",
        at_least=1,
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

    @property
    def uses_online_run(self) -> bool:
        """Whether an on-policy run comes first, whose batches or final policy are used."""
        return self.source == "replay" or self.pool_policy == "final"

    def on_policy(self) -> Self:
        """The same with fresh samples of the policy."""
        return self.replace(source="policy", pool_size=None, pool_policy="initial", replay_window=None)

    def counts(self, update: int, updates: int) -> tuple[int, float]:
        """Responses drawn, and staleness of the last update, when `update` of `updates` updates are done.

        An update's staleness is the difference between the numbers of updates that two policies have made: the one that
        is trained, and the one that drew the batch. In a shuffled replay, this is the mean over all orders. Recorded
        data count as drawn at the start.

        >>> schedule = sims.Schedule(batch_size=4, sync_every_updates=3)
        >>> [schedule.counts(update, 6) for update in (0, 1, 3, 4)]
        [(0, 0), (8, 0), (24, 2), (32, 0)]
        >>> schedule = sims.Schedule(batch_size=4, source="replay", replay_window=2)
        >>> [schedule.counts(update, 4) for update in (1, 2, 3)]  # batches 0 and 1 in either order, then 2 or 3
        [(32, 0.5), (32, 0.5), (32, 0.5)]
        """
        if update == 0:
            return 0, 0
        begun, batches = (update - 1) // self.updates_per_batch, updates // self.updates_per_batch
        online = batches * self.samples_per_batch if self.uses_online_run else 0
        drawn = {
            "policy": (begun + 1) * self.samples_per_batch,
            "pool": online + (self.pool_size or 0) * self.num_generations,
            "replay": online,
            "dataset": 0,
        }[self.source]
        if self.replay_window is not None:
            window = int(min(self.replay_window, batches))
            first = begun - begun % window
            ages = [abs(update - 1 - batch * self.updates_per_batch) for batch in range(first, batches)[:window]]
            return drawn, sum(ages) / len(ages)
        drawn_at = updates if self.pool_policy == "final" else 0
        if self.source == "policy" and not math.isinf(self.sync_period):
            since = begun * self.updates_per_batch
            drawn_at = since - since % int(self.sync_period)
        return drawn, abs(update - 1 - drawn_at)

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
        if self.pool_policy != "initial" and self.source != "pool":
            raise SpecError("pool_policy", self.pool_policy, "only means something when source = pool")
        window = self.replay_window
        if window is not None and not math.isinf(window) and window % 1:
            raise SpecError("replay_window", window, "must be a whole number of batches, or inf")
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
