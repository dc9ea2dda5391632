"""Where batches come from: fresh samples of a sampler, a fixed pool, a replayed run, or recorded data."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from sims.core.algorithms import Algorithm
from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import Batch, OutputRequest
from sims.core.schedule import Schedule

from .checks import check_labels, check_shape
from .labelling import Labelling, implicit_reward
from .protocols import Environment, Policy, Prompts, SampleRequest, Samples
from .reference import Reference


class Collector:
    """Draws responses, labels them, and stores the log-probs and values that are needed before the policy changes.

    samples: how many responses were drawn so far. synced_at: updates done at the last sync of the sampler.
    pool: batches drawn once and reused, in `order`; drawn here, or by the run that is replayed. frozen_labeller: copy
    of the policy that labels the samples (implicit_policy = frozen).
    """

    def __init__(
        self,
        policy: Policy,
        reference: Reference,
        environment: Environment,
        algorithm: Algorithm,
        schedule: Schedule,
        noise: Noise,
        labelling: Labelling | None = None,
    ) -> None:
        self.policy, self.reference, self.environment = policy, reference, environment
        self.algorithm, self.schedule, self.noise = algorithm, schedule, noise
        self.labelling = labelling or Labelling()
        self.frozen_labeller: Policy | None = None
        # The sampler is the policy itself where it is synced before every batch.
        self.fresh = schedule.source == "policy" and schedule.sync_period == schedule.updates_per_batch
        self.sampler = policy if self.fresh or schedule.source in ("dataset", "replay") else policy.clone()
        self.pool: Batch | None = None
        self.order: Tensor | None = None
        self.samples = self.batches = self.synced_at = 0

    def next_batch(self, updates: int) -> Batch:
        """Sync the sampler if it is due, then collect a batch from the schedule's source. updates: number done so
        far."""
        schedule = self.schedule
        if self.fresh:
            self.synced_at = updates
        elif schedule.source == "policy" and updates - self.synced_at >= schedule.sync_period:
            self.sampler.copy_from(self.policy)
            self.synced_at = updates
        if schedule.source == "policy":
            batch = self.draw(schedule.batch_size, updates)
        elif schedule.source == "pool":
            batch = self._from_pool()
        elif schedule.source == "replay":
            batch = self._from_stream()
        else:
            batch = self._recorded()
        self.batches += 1
        return self._freeze(batch)

    @torch.no_grad()
    def draw(self, prompts: int, updates: int = 0) -> Batch:
        """Draw responses to `prompts` prompts, and label them. updates: number done so far."""
        asked = self.environment.prompts(prompts, self.noise)
        environment, shape = type(self.environment).__name__, (*self.noise.lead, prompts)
        if asked.mask is None:
            check_shape(f"{environment}.prompts", asked.tokens, shape, "one number per prompt")
        samples = self._responses(asked)
        drawn = Batch(asked.tokens, samples.responses, samples.mask, asked.mask, logp_sampler=samples.logp)
        own = {"rewards": self._own_rewards(drawn)} if self._labels_itself(updates) else {}
        pairing = self.algorithm.label_pairing
        labels = self.environment.label(asked, samples.responses, samples.mask, pairing, self.noise, **own)
        check_labels(f"{environment}.label", labels, samples.responses, pairing, rewarded=not own)
        self.samples += prompts * self.schedule.num_generations
        return drawn.replace(
            rewards=labels.rewards,
            gold=labels.gold,
            pairs=labels.pairs,
            pair_label=labels.pair_label,
            pair_weight=labels.pair_weight,
            desirable=labels.desirable,
        )

    def _recorded(self) -> Batch:
        """The next recorded prompts, with their responses and labels."""
        batch = self.environment.recorded(self.schedule.batch_size, self.noise)
        source = f"{type(self.environment).__name__}.recorded"
        shape = (*self.noise.lead, self.schedule.batch_size, *batch.responses.shape[-2:])
        check_shape(f"{source}: responses", batch.responses, shape, "tokens of K responses per prompt")
        if batch.rewards is not None:
            check_labels(source, batch, batch.responses, self.algorithm.label_pairing)
        return batch

    def _labels_itself(self, updates: int) -> bool:
        """Whether the policy labels this batch; makes the frozen copy when it first does (implicit_policy = frozen)."""
        by_policy = self.labelling.labels_with_policy(updates)
        if by_policy and self.labelling.implicit_policy == "frozen" and self.frozen_labeller is None:
            self.frozen_labeller = self.policy.clone()
        return by_policy

    def _own_rewards(self, batch: Batch) -> Tensor:
        labeller = self.sampler if self.frozen_labeller is None else self.frozen_labeller
        return implicit_reward(labeller, self.reference.policy, batch, self.labelling.implicit_beta)

    def _responses(self, prompts: Prompts) -> Samples:
        """K responses per prompt, each slot from the distribution that the algorithm declares; slots with the same one
        are drawn together."""
        drawn = []
        for distribution, slots in itertools.groupby(self.algorithm.slot_distributions(self.schedule.num_generations)):
            count = len(list(slots))
            stream = "responses" if distribution.name == "policy" else f"{distribution.name} responses"
            blend = (self.reference.policy, distribution.share) if distribution.name == "mixture" else None
            sampler = self.reference.policy if distribution.name == "reference" else self.sampler
            drawn.append(sampler.sample(SampleRequest(prompts, count, self.noise, stream, blend)))
        if len(drawn) == 1:
            return drawn[0]
        axis = len(self.noise.lead) + 1
        return Samples(*(torch.cat(parts, dim=axis) for parts in zip(*drawn, strict=True)))

    def _from_pool(self) -> Batch:
        """The next prompts of the fixed pool, in a new random order for each pass."""
        pool_size, size = self.schedule.pool_size or 0, self.schedule.batch_size
        if self.pool is None:
            self.pool = self.draw(pool_size)
        turn = self.batches % (pool_size // size)
        if turn == 0 or self.order is None:
            self.order = self.noise.uniforms("pool order", pool_size).argsort(-1)
        return self.pool.gather(self.order[..., turn * size : (turn + 1) * size])

    def _from_stream(self) -> Batch:
        """The next prompts of another run's stream, each at most `replay_window` positions from where it was drawn."""
        assert self.pool is not None, "a replay starts from a stream: Training.train records it"
        window, size = self.schedule.replay_window or 0.0, self.schedule.batch_size
        if self.order is None:
            positions = torch.arange(self.pool.size, dtype=torch.float64)
            moves = self.noise.uniforms("replay order", self.pool.size)
            # Sorted by position + window·u, no prompt moves further than the window; sorted by u, all are shuffled.
            self.order = (moves if math.isinf(window) else positions + window * moves).argsort(stable=True, dim=-1)
        return self.pool.gather(self.order[..., self.batches * size : (self.batches + 1) * size])

    @torch.no_grad()
    def _freeze(self, batch: Batch) -> Batch:
        """Add what is computed once at collection: reference log-probs, critic values, probes."""
        algorithm = self.algorithm
        if algorithm.needs_probes:
            batch = batch.replace(probes=mismatch(batch))
        if algorithm.needs_reference:
            batch = batch.replace(logp_ref=self.reference.score(batch), reference_version=self.reference.version)
            if batch.probes is not None:
                batch = batch.replace(probes=batch.probes.replace(logp_ref=self.reference.score(batch.probes)))
        if algorithm.penalises_reward and algorithm.needs_reference and not self.fresh:
            batch = batch.replace(logp_policy=self.policy.forward(batch).logp)
        if algorithm.needs_critic:
            batch = batch.replace(values=self.policy.forward(batch, OutputRequest(values=True)).values)
        return batch


def as_drawn(batch: Batch) -> Batch:
    """A batch without what was computed at collection: only its responses, rewards and labels."""
    return batch.replace(logp_policy=None, logp_ref=None, values=None, probes=None, reference_version=0)


def mismatch(batch: Batch) -> Batch:
    """Each prompt with the responses to the next one: mismatched in every batch of 2 prompts or more."""
    axis = len(batch.lead)
    moved = {name: getattr(batch, name) for name in ("responses", "mask", "weight")}
    moved = {name: None if x is None else x.roll(-1, dims=axis) for name, x in moved.items()}
    return Batch(prompts=batch.prompts, prompt_mask=batch.prompt_mask, **moved)
