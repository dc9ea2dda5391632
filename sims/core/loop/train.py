"""The one training loop: collect, label, compute targets, update, and again.

It does not depend on the kind of policy, or the number of runs or devices: a Learner makes the updates, and the caller,
who iterates over them, evaluates, saves and shows progress.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from sims.core.algorithms import Algorithm, State
from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import Batch
from sims.core.objectives.preferences import count_pairs
from sims.core.schedule import Schedule
from sims.core.spec import SpecError

from .collect import Collector, as_drawn
from .deployment import Deployment
from .labelling import Labelling
from .learner import Learner, UpdateStats, parts
from .protocols import Environment, Policy
from .reference import Reference


@dataclass(frozen=True, eq=False)
class Update:
    """The result of one update.

    number: updates done, this one included. samples: responses drawn so far. staleness: see `Schedule.counts`; of a
    replay (...,), one per run, as each has its own order. batch: what was collected, of which the update used a
    minibatch. stats: loss and gradient.
    """

    number: int
    samples: int
    staleness: int | Tensor
    batch: Batch
    stats: UpdateStats


def check_run(
    algorithm: Algorithm, schedule: Schedule, labelling: Labelling | None = None, deployment: Deployment | None = None
) -> None:
    """Check before a run that algorithm, schedule and labelling fit together. Raises SpecError with the field to
    change."""
    name, generations, labelling = algorithm.kind, schedule.num_generations, labelling or Labelling()
    algorithm.check_schedule(schedule)
    labelling.check_schedule(schedule)
    deployment = deployment or Deployment()
    deployment.check_schedule(schedule)
    if deployment.curated_pairs and algorithm.label_pairing is None:
        raise SpecError("curated_pairs", deployment.curated_pairs, f"must be 0: {name} takes no pairs")
    if schedule.source != "dataset":  # recorded data bring their own responses, pairs and labels
        if generations < algorithm.min_generations:
            rule = f"must be at least {algorithm.min_generations}: {name} compares responses to the same prompt"
            raise SpecError("num_generations", generations, rule)
        if algorithm.label_pairing is not None:
            count_pairs(generations, algorithm.label_pairing)
    if algorithm.needs_probes and schedule.batch_size < 2:
        raise SpecError(
            "batch_size", schedule.batch_size, f"must be at least 2: {name} needs responses to other prompts"
        )
    if schedule.reference != "fixed" and not algorithm.needs_reference and labelling.labels == "environment":
        raise SpecError("reference", schedule.reference, f"has no effect: {name} uses no reference with these settings")


def uses_reference(algorithm: Algorithm, schedule: Schedule, labelling: Labelling) -> bool:
    """Whether training asks the reference policy, by the loss, the reward, the labels, or for responses."""
    drawn = {distribution.name for distribution in algorithm.slot_distributions(schedule.num_generations)}
    return algorithm.needs_reference or labelling.labels != "environment" or drawn != {"policy"}


class Training:
    """A run in progress: the state that changes between updates, and the training loop.

    policy is trained in place; the reference and the sampler start as copies of it. reference: such a copy, in whatever
    form; None: one is made.
    """

    def __init__(
        self,
        policy: Policy,
        environment: Environment,
        algorithm: Algorithm,
        schedule: Schedule,
        learner: Learner,
        noise: Noise,
        labelling: Labelling | None = None,
        reference: Policy | None = None,
        deployment: Deployment | None = None,
    ) -> None:
        check_run(algorithm, schedule, labelling, deployment)
        self.policy, self.learner, self.noise = policy, learner, noise
        self.algorithm, self.schedule = algorithm, schedule
        self.reference = Reference(reference or policy.clone(), schedule)
        self.collector = Collector(
            policy, self.reference, environment, algorithm, schedule, noise, labelling, deployment
        )
        parameter = learner.parameters[0]
        self.state: State = algorithm.initial_state(noise.lead, parameter.dtype, parameter.device)
        self.updates = 0
        # What tells an environment that changes with time how many updates are done.
        self.advance: Callable[[int], None] | None = getattr(environment, "advance", None)

    def train(self, updates: int) -> Iterator[Update]:
        """Train until `updates` updates are done in total, yielding each. `updates` must fall on a batch boundary."""
        schedule, collector = self.schedule, self.collector
        schedule.check_updates(updates)
        if schedule.uses_online_run and collector.pool is None:
            self._train_online(updates)
        if (there := collector.replayed_updates) is not None and updates > there:
            raise SpecError("updates", updates, f"must be at most {there}: the run that is replayed has no more")
        while self.updates < updates:
            if self.advance is not None:
                self.advance(self.updates)
            batch = collector.next_batch(self.updates)
            with torch.no_grad():
                targets, self.state = self.algorithm.targets(batch, self.state)
            for epoch in range(schedule.epochs):
                if epoch > 0:
                    targets = self.algorithm.at_epoch(batch, targets, epoch)
                for minibatch, its_targets in parts(batch, targets, schedule.minibatch_size):
                    stats = self.learner.update(self.algorithm, minibatch, its_targets)
                    apart = self.updates - collector.drawn_at
                    staleness: int | Tensor = apart.abs() if isinstance(apart, Tensor) else abs(apart)
                    self.updates += 1
                    if schedule.reference != "fixed":
                        self.reference.after_update(self.updates, self.policy)
                    if self.advance is not None:
                        self.advance(self.updates)
                    yield Update(self.updates, collector.samples, staleness, batch, stats)
        collector.read_rewards()

    def _train_online(self, updates: int) -> None:
        """Train a second policy on-policy with the same schedule and noise; keep the batches that it drew, or what it
        became."""
        collector, schedule = self.collector, self.schedule.on_policy()
        learner, policy = self.learner, self.policy.clone()
        other = Learner(
            policy, learner.optimiser.spec, self.noise.lead, learner.micro_batch_size, learner.group_by_length
        )
        run = Training(policy, collector.environment, self.algorithm, schedule, other, self.noise)
        last = (x.batch for x in run.train(updates) if x.number % schedule.updates_per_batch == 0)
        if self.schedule.source == "replay":
            collector.pool = Batch.join([as_drawn(batch) for batch in last])
        else:
            for _ in last:
                pass
            collector.sampler.copy_from(policy)
            collector.synced_at = updates
        collector.samples = run.collector.samples

    @property
    def between_batches(self) -> bool:
        """Whether the last batch is used up; a run can be saved only then."""
        return self.updates % self.schedule.updates_per_batch == 0

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """The state for resuming, as named tensors and numbers: a restored run continues bit for bit.

        An environment with state gives it as numbers by its own `state_dict`.
        """
        if not self.between_batches:
            raise ValueError(f"update {self.updates} is in the middle of a batch: a run is saved between batches")
        collector, policies = self.collector, {"policy": self.policy}
        if not collector.fresh and self.schedule.source == "policy":
            policies["sampler"] = collector.sampler
        if self.schedule.reference != "fixed":
            policies["reference"] = self.reference.policy
        if collector.frozen_labeller is not None:
            policies["labeller"] = collector.frozen_labeller
        tensors = {
            f"{name}.{i}": p.detach() for name, policy in policies.items() for i, p in enumerate(policy.parameters())
        }
        if collector.deployment.gates:
            tensors["refused"] = collector.refused
        tensors |= {f"state.{name}": value for name, value in self.state.items()}
        tensors |= {f"learner.{name}": value for name, value in self.learner.tensors().items()}
        if collector.pool is not None and collector.order is not None:
            tensors |= {f"pool.{name}": value for name, value in collector.pool.tensors().items()}
            tensors["pool order"] = collector.order
        numbers = {
            "updates": self.updates,
            "samples": collector.samples,
            "batches": collector.batches,
            "synced_at": collector.synced_at,
            "reference_version": self.reference.version,
            "optimiser_steps": self.learner.optimiser.steps,
        }
        numbers |= {f"noise.{name}": count for name, count in self.noise.state_dict().items()}
        remembered: dict[str, int] = getattr(collector.environment, "state_dict", dict)()
        return tensors, numbers | {f"environment.{name}": value for name, value in remembered.items()}

    @torch.no_grad()
    def load_state_dict(self, tensors: dict[str, Tensor], numbers: dict[str, int]) -> None:
        """Continue from `state_dict`. The training must have been created from the same spec and initial policy."""
        collector = self.collector
        if "labeller.0" in tensors:
            collector.frozen_labeller = self.policy.clone()
        for name, policy in (
            ("policy", self.policy),
            ("sampler", collector.sampler),
            ("reference", self.reference.policy),
            ("labeller", collector.frozen_labeller),
        ):
            if policy is not None and f"{name}.0" in tensors:
                load_policy(policy, tensors, name)
        collector.refused = tensors.get("refused", collector.refused)
        self.state = _below(tensors, "state.")
        self.learner.load(_below(tensors, "learner."), numbers["optimiser_steps"])
        if "pool order" in tensors:
            fields: dict[str, Any] = {**_below(tensors, "pool.")}
            collector.pool, collector.order = Batch(**fields), tensors["pool order"]
        self.updates, self.reference.version = numbers["updates"], numbers["reference_version"]
        collector.samples, collector.batches = numbers["samples"], numbers["batches"]
        collector.synced_at = numbers["synced_at"]
        self.noise.load_state_dict(_below(numbers, "noise."))
        if hasattr(collector.environment, "load_state_dict"):
            collector.environment.load_state_dict(_below(numbers, "environment."))


V = TypeVar("V")


@torch.no_grad()
def load_policy(policy: Policy, tensors: dict[str, Tensor], name: str = "policy") -> None:
    """Give a policy the parameters that `Training.state_dict` has under a name."""
    for i, parameter in enumerate(policy.parameters()):
        parameter.copy_(tensors[f"{name}.{i}"])


def _below(named: dict[str, V], prefix: str) -> dict[str, V]:
    """The entries whose names start with the prefix, without it."""
    return {name[len(prefix) :]: value for name, value in named.items() if name.startswith(prefix)}
