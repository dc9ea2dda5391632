"""The one training loop: collect, judge, aim, update, and again.

It knows neither what a policy is nor how many runs or devices there are: a Learner updates, and whoever iterates over
the ticks draws progress bars, evaluates, or saves.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .algorithms import Algorithm, State
from .batch import Batch
from .learner import Learner, Step, narrow_targets
from .noise import Noise
from .preferences import count_pairs
from .protocols import Environment, Policy, Prompts, Samples, evaluate
from .reference import Reference
from .schedule import Schedule
from .spec import SpecError


@dataclass(frozen=True, eq=False)
class Tick:
    """One update: how many are done, samples drawn so far, updates since the sampler was synced, the batch, the
    step."""

    update: int
    samples: int
    staleness: int
    batch: Batch
    step: Step


def check_run(algorithm: Algorithm, schedule: Schedule) -> None:
    """Refuse what cannot run, before it runs. Raises SpecError with the field to change."""
    name, generations = algorithm.kind, schedule.num_generations
    if generations < algorithm.min_generations:
        rule = f"must be at least {algorithm.min_generations}: {name} compares responses to the same prompt"
        raise SpecError("num_generations", generations, rule)
    if algorithm.label_pairing is not None:
        count_pairs(generations, algorithm.label_pairing)
    if algorithm.needs_probes and schedule.batch_size < 2:
        raise SpecError(
            "batch_size", schedule.batch_size, f"must be at least 2: {name} mismatches prompts and responses"
        )
    if schedule.reference != "fixed" and not algorithm.needs_reference:
        raise SpecError(
            "reference", schedule.reference, f"has no effect: {name} looks at no reference with these settings"
        )


class Training:
    """A run in progress: everything that changes between two updates, and the loop that changes it.

    policy is trained in place; the reference and the sampler start as copies of it.
    """

    def __init__(
        self,
        policy: Policy,
        environment: Environment,
        algorithm: Algorithm,
        schedule: Schedule,
        learner: Learner,
        noise: Noise,
    ) -> None:
        check_run(algorithm, schedule)
        self.policy, self.environment, self.algorithm = policy, environment, algorithm
        self.schedule, self.learner, self.noise = schedule, learner, noise
        self.reference = Reference(policy, schedule)
        parameter = learner.parameters[0]
        self.state: State = algorithm.initial_state(noise.lead, parameter.dtype, parameter.device)
        # The sampler is the policy itself where it is synced before every batch.
        self.fresh = schedule.source == "policy" and schedule.sync_period == schedule.updates_per_batch
        self.sampler = policy if self.fresh else policy.clone()
        self.pool: Batch | None = None
        self.updates = self.batches = self.samples = self.synced_at = 0

    def ticks(self, updates: int) -> Iterator[Tick]:
        """Train until `updates` are done in all, one tick an update. `updates` must fall on a batch boundary."""
        schedule = self.schedule
        if updates % schedule.updates_per_batch:
            raise SpecError(
                "updates", updates, f"must be a multiple of the {schedule.updates_per_batch} updates a batch"
            )
        while self.updates < updates:
            batch = self.next_batch()
            with torch.no_grad():
                targets, self.state = self.algorithm.targets(batch, self.state)
            size = schedule.minibatch_size or schedule.batch_size
            for epoch in range(schedule.epochs):
                targets = self.algorithm.at_epoch(batch, targets, epoch)
                for start in range(0, schedule.batch_size, size):
                    part = batch.narrow(start, size)
                    step = self.learner.update(self.algorithm, part, narrow_targets(targets, batch, part, start))
                    staleness = self.updates - self.synced_at
                    self.updates += 1
                    self.reference.after_update(self.updates, self.policy)
                    yield Tick(self.updates, self.samples, staleness, batch, step)

    def next_batch(self) -> Batch:
        """Sync if it is time, then collect what the schedule's source gives."""
        if self.fresh:
            self.synced_at = self.updates
        elif self.schedule.source == "policy" and self.updates - self.synced_at >= self.schedule.sync_period:
            self.sampler.copy_from(self.policy)
            self.synced_at = self.updates
        if self.schedule.source == "pool":
            batch = self._from_pool()
        else:
            batch = self.collect(self.schedule.batch_size)
            self.samples += self.schedule.samples_per_batch
        self.batches += 1
        return self._freeze(batch)

    @torch.no_grad()
    def collect(self, prompts: int) -> Batch:
        """Draw responses to so many prompts, and have them judged."""
        algorithm, noise = self.algorithm, self.noise
        asked = self.environment.prompts(prompts, noise)
        tokens, prompt_mask = (asked.tokens, asked.mask) if isinstance(asked, Prompts) else (asked, None)
        samples = self._draw(tokens, prompt_mask)
        pairing = algorithm.label_pairing
        judged = self.environment.judge(asked, samples.responses, samples.mask, pairing, noise)
        return Batch(
            prompts=tokens,
            responses=samples.responses,
            mask=samples.mask,
            prompt_mask=prompt_mask,
            logp_sampler=samples.logp,
            rewards=judged.rewards,
            gold=judged.gold,
            pairs=judged.pairs,
            pair_label=judged.pair_label,
            pair_weight=judged.pair_weight,
            desirable=judged.desirable,
        )

    def _draw(self, prompts: Tensor, prompt_mask: Tensor | None) -> Samples:
        """K responses a prompt, each slot from the law that the algorithm wants; equal laws are drawn together."""
        drawn = []
        for law, slots in itertools.groupby(self.algorithm.slot_laws(self.schedule.num_generations)):
            count, stream = len(list(slots)), "responses" if law.name == "policy" else f"{law.name} responses"
            if law.name == "reference":
                drawn.append(self.reference.policy.sample(prompts, count, self.noise, stream, None, prompt_mask))
            else:
                blend = (self.reference.policy, law.share) if law.name == "mixture" else None
                drawn.append(self.sampler.sample(prompts, count, self.noise, stream, blend, prompt_mask))
        if len(drawn) == 1:
            return drawn[0]
        axis = len(self.noise.lead) + 1
        return Samples(*(torch.cat(parts, dim=axis) for parts in zip(*drawn, strict=True)))

    def _from_pool(self) -> Batch:
        """The next prompts of the fixed pool, in a new order each time it has been gone through."""
        pool_size, size = self.schedule.pool_size or 0, self.schedule.batch_size
        if self.pool is None:
            self.pool = self.collect(pool_size)
            self.samples = pool_size * self.schedule.num_generations
        turn = self.batches % (pool_size // size)
        if turn == 0:
            self.order = self.noise.uniforms("pool order", pool_size).argsort(-1)
        return self.pool.gather(self.order[..., turn * size : (turn + 1) * size])

    @torch.no_grad()
    def _freeze(self, batch: Batch) -> Batch:
        """Add what is frozen at collection: reference log-probs, critic values, probes."""
        algorithm = self.algorithm
        if algorithm.needs_probes:
            batch = batch.replace(probes=mismatch(batch))
        if algorithm.needs_reference:
            batch = batch.replace(logp_ref=self.reference.score(batch), reference_version=self.reference.version)
            if batch.probes is not None:
                batch = batch.replace(probes=batch.probes.replace(logp_ref=self.reference.score(batch.probes)))
        if algorithm.needs_critic:
            batch = batch.replace(values=evaluate(self.policy, batch, values=True).values)
        return batch


def mismatch(batch: Batch) -> Batch:
    """Each prompt with the responses of the next one: a derangement of any batch of 2 prompts or more."""
    axis = len(batch.lead)
    moved = {name: getattr(batch, name) for name in ("responses", "mask", "weight")}
    moved = {name: None if x is None else x.roll(-1, dims=axis) for name, x in moved.items()}
    return Batch(prompts=batch.prompts, prompt_mask=batch.prompt_mask, **moved)
