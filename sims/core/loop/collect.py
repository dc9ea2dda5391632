"""Where batches come from: fresh samples of a sampler, a fixed pool, a replayed run, or recorded data."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from sims.core.algorithms import Algorithm
from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import Batch, OutputRequest
from sims.core.schedule import Schedule
from sims.core.spec import SpecError

from .checks import check_labels, check_shape
from .deployment import CURATORS_SEE, Deployment, least_certain, passes, set_back, take
from .labelling import Labelling, implicit_reward
from .protocols import Environment, Labels, Policy, Prompts, SampleRequest, Samples
from .reference import Reference


class Collector:
    """Draws responses, labels them, and stores the log-probs and values that are needed before the policy changes.

    samples: responses drawn so far, without those to prompts of which no pair was labelled, as `Schedule.counts` has
    them. synced_at: updates done at the last sync of the sampler. drawn_at: updates that the policy which drew the last
    batch had made; of a replay (...,), one per run. pool: responses drawn once and used in `order`, of prompts, or of
    batches where a run is replayed. frozen_labeller: copy of the policy that labels the samples (implicit_policy =
    frozen). refused: (lead), how often a gate refused the policy of each run. checked: whether what the environment
    gives has been checked, by its first batch.
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
        deployment: Deployment | None = None,
    ) -> None:
        self.policy, self.reference, self.environment = policy, reference, environment
        self.algorithm, self.schedule, self.noise = algorithm, schedule, noise
        self.labelling, self.deployment = labelling or Labelling(), deployment or Deployment()
        self.pairing, self.needs_reference = algorithm.label_pairing, algorithm.needs_reference
        distributions = itertools.groupby(algorithm.slot_distributions(schedule.num_generations))
        self.slots = [(distribution, len(list(slots))) for distribution, slots in distributions]
        self.frozen_labeller: Policy | None = None
        # The sampler is the policy itself where it is synced before every batch.
        self.fresh = schedule.source == "policy" and schedule.sync_period == schedule.updates_per_batch
        self.sampler = policy if self.fresh or schedule.source in ("dataset", "replay") else policy.clone()
        self.pool: Batch | None = None
        self.order: Tensor | None = None
        self.samples = self.batches = self.synced_at = 0
        self.drawn_at: int | Tensor = 0
        self.refused = torch.zeros(noise.lead, dtype=torch.int64)
        self.checked = False
        # Sums of rewards that are looked at later, many at once: each look would wait for the device.
        self.read_later = noise.device.type != "cpu"
        self.unread: list[Tensor] = []

    @torch.no_grad()
    def next_batch(self, updates: int) -> Batch:
        """Sync the sampler if it is due, collect a batch from the schedule's source, and add what is computed once at
        collection: reference log-probs, critic values, probes. updates: number done so far."""
        schedule, algorithm, reference = self.schedule, self.algorithm, self.reference
        if self.fresh:
            self.synced_at = updates
        elif schedule.source == "policy" and updates - self.synced_at >= schedule.sync_period:
            self._deploy()
            self.synced_at = updates
        self.drawn_at = self.synced_at
        if len(self.unread) == 256:
            self.read_rewards()
        if schedule.source == "policy":
            batch = self.draw(schedule.batch_size, updates)
        elif schedule.source == "pool":
            batch = self._from_pool()
        elif schedule.source == "replay":
            batch = self._from_stream()
        else:
            batch = self.environment.recorded(schedule.batch_size, self.noise)
            rewards = None if self.read_later else batch.rewards
            if not self.checked or (rewards is not None and not rewards.sum().isfinite()):
                self._check_recorded(batch)
        self.batches += 1
        if algorithm.needs_probes:
            batch = replace(batch, probes=mismatch(batch))
        if self.needs_reference:
            logp_ref = reference.policy.forward(batch).logp
            batch = replace(batch, logp_ref=logp_ref, reference_version=reference.version)
            if batch.probes is not None:
                logp_ref = reference.policy.forward(batch.probes).logp
                batch = replace(batch, probes=replace(batch.probes, logp_ref=logp_ref))
        if algorithm.penalises_reward and self.needs_reference and not self.fresh:
            batch = replace(batch, logp_policy=self.policy.forward(batch).logp)
        if algorithm.needs_critic:
            batch = replace(batch, values=self.policy.forward(batch, OutputRequest(values=True)).values)
        return batch

    def _deploy(self) -> None:
        """The trained policy becomes the sampler; where a gate refuses it, the sampler becomes it."""
        if self.deployment.gates:
            refused = ~passes(self.deployment, self.policy, self.sampler, self.environment, self.noise)
            set_back(self.policy, self.sampler, refused)
            self.refused = self.refused + refused.long()
        self.sampler.copy_from(self.policy)

    @torch.no_grad()
    def draw(self, count: int, updates: int = 0) -> Batch:
        """Draw responses to `count` prompts, and label them. updates: number done so far."""
        curated = self.deployment.curated_pairs
        fresh = count - curated
        candidates = fresh * self.deployment.label_candidates
        prompts = self.environment.prompts(candidates, self.noise)
        if not self.checked and prompts.mask is None:
            name, shape = f"{type(self.environment).__name__}.prompts", (*self.noise.lead, candidates)
            check_shape(name, prompts.tokens, shape, "one number per prompt")
        samples = self._responses(prompts)
        if candidates > fresh:
            index = least_certain(prompts, samples, fresh, self.sampler, self.reference.policy)
            prompts, samples = _at(prompts, samples, index)
        given, labelling = {}, self.labelling
        if labelling.labels == "implicit" and updates >= labelling.implicit_after_updates:
            given["rewards"] = self._implicit_rewards(prompts, samples)
        labels = self.environment.label(prompts, samples.responses, samples.mask, self.pairing, self.noise, **given)
        # Shapes and ranges are checked once. NaN is looked for in every batch: noiseless labels would make ties of it.
        total = labels.rewards.sum()
        if self.read_later and self.checked:
            self.unread += [] if given else [total]
        elif not self.checked or not math.isfinite(total):
            self._check("label", labels, samples.responses, rewarded=not given)
        self.samples += count * self.schedule.num_generations
        batch = _labelled(prompts, samples, labels)
        return self._with_curated(batch, curated) if curated else batch

    def _with_curated(self, batch: Batch, count: int) -> Batch:
        """A batch and the pairs that curators choose among fresh ones and label by gold; those that are lacking weigh
        0."""
        wanted: Callable[[Prompts, Tensor], Tensor] | None = getattr(self.environment, "curated", None)
        if wanted is None:
            owner = type(self.environment).__name__
            raise SpecError("curated_pairs", count, f"must be 0: {owner} does not say which pairs curators want")
        prompts = self.environment.prompts(count * CURATORS_SEE, self.noise)
        samples = self._responses(prompts)
        right = wanted(prompts, samples.responses)
        index = (~right).to(torch.int8).argsort(dim=-1, stable=True)[..., :count]  # those drawn first come first
        prompts, samples = _at(prompts, samples, index)
        gold = self.environment.label(prompts, samples.responses, samples.mask, None, self.noise).gold
        assert gold is not None
        labels = self.environment.label(
            prompts, samples.responses, samples.mask, self.pairing, self.noise, rewards=gold
        )
        assert labels.pair_label is not None
        weight = take(right, index).unsqueeze(-1).expand(labels.pair_label.shape).to(labels.pair_label.dtype)
        chosen = _labelled(prompts, samples, labels)
        alike = torch.ones_like(batch.need("pair_label")) if batch.pair_weight is None else batch.pair_weight
        return Batch.join([replace(batch, pair_weight=alike), replace(chosen, pair_weight=weight)])

    def _implicit_rewards(self, prompts: Prompts, samples: Samples) -> Tensor:
        """Rewards of the policy that labels; makes the frozen copy when it first does (implicit_policy = frozen)."""
        if self.labelling.implicit_policy == "frozen" and self.frozen_labeller is None:
            self.frozen_labeller = self.policy.clone()
        labeller = self.sampler if self.frozen_labeller is None else self.frozen_labeller
        batch = Batch(prompts.tokens, samples.responses, samples.mask, prompts.mask)
        return implicit_reward(labeller, self.reference.policy, batch, self.labelling.implicit_beta)

    def _responses(self, prompts: Prompts) -> Samples:
        """K responses per prompt, each slot from the distribution that the algorithm declares; slots with the same one
        are drawn together."""
        drawn = []
        for distribution, count in self.slots:
            stream = "responses" if distribution.name == "policy" else f"{distribution.name} responses"
            blend = (self.reference.policy, distribution.share) if distribution.name == "mixture" else None
            sampler = self.reference.policy if distribution.name == "reference" else self.sampler
            drawn.append(sampler.sample(SampleRequest(prompts, count, self.noise, stream, blend)))
        if len(drawn) == 1:
            return drawn[0]
        axis = len(self.noise.lead) + 1
        return Samples(*(torch.cat(parts, dim=axis) for parts in zip(*drawn, strict=True)))

    def _check_recorded(self, batch: Batch) -> None:
        """SpecError for recorded responses, rewards and labels of the wrong shape or range."""
        name = f"{type(self.environment).__name__}.recorded: responses"
        shape = (*self.noise.lead, self.schedule.batch_size, *batch.responses.shape[-2:])
        check_shape(name, batch.responses, shape, "tokens of K responses per prompt")
        self._check("recorded", batch, batch.responses, rewarded=batch.rewards is not None)

    def read_rewards(self) -> None:
        """SpecError if a reward was not finite in a batch whose sum was not read yet."""
        unread, self.unread = self.unread, []
        if unread and not math.isfinite(torch.stack(unread).sum()):
            rule = "must be finite, and was not in one of the last 256 updates or fewer; device = cpu names the batch"
            raise SpecError(f"{type(self.environment).__name__}.label: rewards", math.nan, rule)

    def _check(self, method: str, labels: Labels | Batch, responses: Tensor, rewarded: bool = True) -> None:
        check_labels(f"{type(self.environment).__name__}.{method}", labels, responses, self.pairing, rewarded)
        self.checked = True

    def _from_pool(self) -> Batch:
        """The next prompts of the fixed pool, in a new random order for each pass."""
        pool_size, size = self.schedule.pool_size or 0, self.schedule.batch_size
        if self.pool is None:
            self.pool = self.draw(pool_size)
        turn = self.batches % (pool_size // size)
        if turn == 0 or self.order is None:
            self.order = self.noise.uniforms("pool order", pool_size).argsort(-1)
        index = self.order[..., turn * size : (turn + 1) * size]
        return self.pool.gather(index.to(self.pool.responses.device))

    @property
    def replayed_updates(self) -> int | None:
        """How many updates the run that is replayed has batches for; None where none is."""
        if self.pool is None or self.schedule.source != "replay":
            return None
        return self.pool.size // self.schedule.batch_size * self.schedule.updates_per_batch

    def _from_stream(self) -> Batch:
        """The next batch of an online run, whole, in an order that shuffles each window of batches by itself."""
        assert self.pool is not None, "a replay starts from a stream: Training.train records it"
        window, size = self.schedule.replay_window or 1.0, self.schedule.batch_size
        if self.order is None:
            batches = self.pool.size // size
            windows = torch.arange(batches, dtype=torch.float64, device=self.noise.device) // window
            # Sorted by the window's number + u, with u < 1, no batch leaves its window.
            self.order = (windows + self.noise.uniforms("replay order", batches)).argsort(stable=True, dim=-1)
        drawn = self.order[..., self.batches]
        self.drawn_at = drawn * self.schedule.updates_per_batch
        return self.pool.gather(drawn.unsqueeze(-1) * size + torch.arange(size, device=drawn.device))


def _at(prompts: Prompts, samples: Samples, index: Tensor) -> tuple[Prompts, Samples]:
    """Prompts and their responses at indices (..., count)."""
    return replace(prompts, tokens=take(prompts.tokens, index)), Samples(*(take(x, index) for x in samples))


def _labelled(prompts: Prompts, samples: Samples, labels: Labels) -> Batch:
    return Batch(
        prompts.tokens, samples.responses, samples.mask, prompts.mask, logp_sampler=samples.logp, **vars(labels)
    )


def as_drawn(batch: Batch) -> Batch:
    """A batch without what was computed at collection: only its responses, rewards and labels."""
    return replace(batch, logp_policy=None, logp_ref=None, values=None, probes=None, reference_version=0)


def mismatch(batch: Batch) -> Batch:
    """Each prompt with the responses to the next one: mismatched in every batch of 2 prompts or more."""
    axis = len(batch.lead)
    moved = {name: getattr(batch, name) for name in ("responses", "mask", "weight")}
    moved = {name: None if x is None else x.roll(-1, dims=axis) for name, x in moved.items()}
    return Batch(prompts=batch.prompts, prompt_mask=batch.prompt_mask, **moved)
