"""Sampled losses, summed over everything that could have been sampled: the other side of `sims.exact`.

A batch holds each of X prompts once, with K responses each. All N^(XK) of them stand side by side on the runs axis, so
that an algorithm sees nothing unusual; weighing each run's gradient by the probability of its batch gives the
expectation without sampling.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from sims.core.algorithms import Algorithm, SlotDistribution
from sims.core.loop.collect import mismatch
from sims.core.loop.learner import Learner
from sims.core.loop.optimise import Optimiser
from sims.core.objectives.batch import Batch, OutputRequest
from sims.core.objectives.preferences import choose_pairs, desirable_from_pairs
from sims.environments.space import TokenSpace
from sims.exact import Population, chain_rule, log_softmax, population_weights, token_logp
from sims.policies import TablePolicy


@dataclass(frozen=True, eq=False)
class Problem:
    """Tables of logits (X, nodes, V) of policy, reference and sampler; critics (X, nodes): old and current values.

    rewards: (X, N); label: (X, N, N) probability that the first is preferred.
    """

    space: TokenSpace
    policy: np.ndarray
    reference: np.ndarray
    sampler: np.ndarray
    old_values: np.ndarray
    values: np.ndarray
    rewards: np.ndarray
    label: np.ndarray
    correct_above: float = 0.1

    @property
    def prompts(self) -> int:
        return len(self.policy)

    @cached_property
    def responses(self) -> np.ndarray:
        """(N, L)"""
        return self.space.all_responses[0].numpy()

    @cached_property
    def mask(self) -> np.ndarray:
        """(N, L)"""
        return self.space.all_responses[1].numpy()

    def token_logp(self, logits: np.ndarray) -> np.ndarray:
        """(X, N, L)"""
        return token_logp(logits, self.responses, self.mask)

    def logp(self, logits: np.ndarray) -> np.ndarray:
        """(X, N)"""
        return self.token_logp(logits).sum(-1)

    def gradient(self, weights: np.ndarray) -> np.ndarray:
        """Weights (X, N) or (X, N, L) as a gradient by the policy's logits: (X, nodes, V)."""
        return chain_rule(weights, self.policy, self.responses, self.mask)

    def on_policy(self) -> Problem:
        return replace(self, sampler=self.policy)

    def distribution(self, distribution: SlotDistribution) -> np.ndarray:
        """Logits (X, nodes, V) of what a slot is drawn from."""
        if distribution.name == "mixture":
            return (1.0 - distribution.share) * log_softmax(self.sampler) + distribution.share * log_softmax(
                self.reference
            )
        return self.reference if distribution.name == "reference" else self.sampler


def make_problem(space: TokenSpace, prompts: int, seed: int) -> Problem:
    """A problem in general position, but for its rewards, which tie now and then and are of both signs."""
    random = np.random.default_rng(seed)
    table = (prompts, space.nodes, space.vocabulary)
    count = len(space.all_responses[0])
    rewards = random.permuted(np.resize([1.0, -0.5, 0.25, 1.0, -0.25], (prompts, count)), axis=1)
    # Pairs of the same two responses are as likely either way round, else preferences owe nothing to any reward.
    uneven = random.normal(size=(prompts, count, count))
    return Problem(
        space,
        policy=random.normal(size=table),
        reference=random.normal(size=table),
        sampler=random.normal(size=table),
        old_values=random.normal(size=table[:2]),
        values=random.normal(size=table[:2]),
        rewards=rewards,
        label=1.0 / (1.0 + np.exp(np.swapaxes(uneven, 1, 2) - uneven)),
    )


@dataclass(frozen=True, eq=False)
class Enumeration:
    """Every batch of one algorithm on one problem. batch: R runs; probability: (R,), sums to 1; state before it."""

    problem: Problem
    algorithm: Algorithm
    batch: Batch
    probability: np.ndarray
    state: dict[str, Tensor]

    def policy(self) -> TablePolicy:
        """R copies of the policy, of which each run differentiates its own."""
        tables = (self.problem.policy, self.problem.values)
        logits, values = (torch.from_numpy(np.tile(x, (self.batch.lead[0], *(1,) * x.ndim))) for x in tables)
        return TablePolicy(self.problem.space, logits, values)

    def losses_and_gradients(self, epoch: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """(R,) losses and (R, X, nodes, V) gradients by the logits, one per batch, as one update makes them."""
        policy = self.policy()
        learner = Learner(policy, Optimiser(), self.batch.lead)
        targets, _ = self.algorithm.targets(self.batch, self.state)
        targets = self.algorithm.at_epoch(self.batch, targets, epoch)
        probe_logp = learner.score_probes(self.batch) if self.algorithm.needs_probes else None
        targets = self.algorithm.at_update(self.batch, targets, probe_logp)
        loss = self.algorithm.loss(policy.forward(self.batch, self.algorithm.output_request), self.batch, targets).sum(
            -1
        )
        (gradient,) = torch.autograd.grad(loss.sum(), [policy.parameters()[0]])
        return loss.detach().numpy(), gradient.numpy()

    def expected_gradient(self, epoch: int = 0) -> np.ndarray:
        """E[∇ loss] by the logits: (X, nodes, V)."""
        return np.einsum("r,r...->...", self.probability, self.losses_and_gradients(epoch)[1])

    def population(self, epoch: int = 0) -> Population:
        """The same, as the oracle sees it."""
        problem = self.problem
        generations = self.batch.responses.shape[-2]
        distributions = [
            problem.distribution(distribution) for distribution in self.algorithm.slot_distributions(generations)
        ]
        nodes = problem.space.node_index(problem.space.all_responses[0])
        nodes = np.zeros_like(problem.responses) if nodes is None else np.where(problem.mask, nodes.numpy(), 0)
        return Population(
            mask=problem.mask,
            logp=problem.token_logp(problem.policy),
            logp_ref=problem.token_logp(problem.reference),
            logp_sampler=np.stack([problem.token_logp(distribution) for distribution in distributions]),
            rewards=problem.rewards,
            label=problem.label,
            values=np.where(problem.mask, problem.old_values[:, nodes], 0.0),
            state={name: float(value[0]) for name, value in self.state.items()},
            epoch=epoch,
            correct_above=problem.correct_above,
        )

    def population_gradient(self, epoch: int = 0) -> np.ndarray:
        """The oracle's gradient by the logits: (X, nodes, V)."""
        return self.problem.gradient(population_weights(self.algorithm, self.population(epoch)))


def enumerate_batches(
    problem: Problem, algorithm: Algorithm, generations: int, hard_labels: bool = False, later: bool = True
) -> Enumeration:
    """All batches of `generations` responses to each prompt, with what the algorithm asked for and nothing else.

    hard_labels: enumerate the outcomes of all labels too; else a label is the probability of its outcome. later:
    an algorithm with a state sees its second batch, after a first one that is the same in all runs.
    """
    prompts, count = problem.prompts, len(problem.responses)
    drawn = np.array(list(itertools.product(range(count), repeat=prompts * generations)))
    drawn = drawn.reshape(-1, prompts, generations)
    slots, rows = np.arange(generations), np.arange(prompts)[:, None]
    distributions = [problem.distribution(distribution) for distribution in algorithm.slot_distributions(generations)]
    logp_sampler = np.stack([problem.token_logp(distribution) for distribution in distributions])[slots, rows, drawn]
    probability = np.exp(logp_sampler.sum((-3, -2, -1)))
    batch = Batch(
        prompts=torch.arange(prompts).expand(len(drawn), prompts),
        responses=torch.from_numpy(problem.responses[drawn]),
        mask=torch.from_numpy(problem.mask[drawn]),
        rewards=torch.from_numpy(problem.rewards[rows, drawn]),
        logp_sampler=torch.from_numpy(logp_sampler),
    )
    if algorithm.label_pairing is not None:
        batch, probability = _label(problem, algorithm, batch, drawn, probability, hard_labels)
    batch = _freeze(problem, algorithm, batch)
    lead = batch.lead
    state = algorithm.initial_state(lead, torch.float64, torch.device("cpu"))
    if state and later:
        first = batch.replace(rewards=torch.full_like(batch.need("rewards"), 0.3))
        first = first.over_prompts(lambda x, axis: x[lead[0] // 3].expand(x.shape))
        _, state = algorithm.targets(first, state)
    return Enumeration(problem, algorithm, batch, probability, state)


def _label(
    problem: Problem, algorithm: Algorithm, batch: Batch, drawn: np.ndarray, probability: np.ndarray, hard: bool
) -> tuple[Batch, np.ndarray]:
    """Add pairs and labels; hard ones multiply the outcomes by 2 per pair."""
    pairs, pair_weight = choose_pairs(batch.need("rewards"), algorithm.label_pairing, problem.correct_above)
    rows = np.arange(problem.prompts)[:, None]
    first, second = (np.take_along_axis(drawn, pairs[..., side].numpy(), -1) for side in (0, 1))
    label = torch.from_numpy(problem.label[rows, first, second])
    batch = batch.replace(pairs=pairs, pair_weight=pair_weight, pair_label=label)
    if hard:
        units = label[0].numel()
        outcomes = torch.tensor(list(itertools.product([0.0, 1.0], repeat=units)), dtype=label.dtype)
        wins = outcomes.reshape(-1, *label.shape[1:])
        chance = torch.where(wins[:, None] > 0.5, label, 1.0 - label).prod(-1).prod(-1)  # (outcomes, R)
        probability = (torch.from_numpy(probability) * chance).flatten().numpy()
        batch = batch.over_prompts(lambda x, axis: x.expand(len(wins), *x.shape).flatten(0, 1))
        batch = batch.replace(pair_label=wins[:, None].expand(-1, len(label), *label.shape[1:]).flatten(0, 1))
    desirable = desirable_from_pairs(batch.need("pairs"), batch.need("pair_label"), batch.responses.shape[-2])
    return batch.replace(desirable=desirable), probability


def _freeze(problem: Problem, algorithm: Algorithm, batch: Batch) -> Batch:
    """Add reference log-probs, old values and probes, each only if the algorithm says that it needs them."""
    size = batch.lead[0]
    tables = (problem.reference, problem.old_values)
    logits, values = (torch.from_numpy(x).expand(size, *x.shape) for x in tables)
    frozen = TablePolicy(problem.space, logits, values)
    if algorithm.needs_probes:
        batch = batch.replace(probes=mismatch(batch))
    if algorithm.needs_reference:
        batch = batch.replace(logp_ref=frozen.forward(batch).logp)
        if batch.probes is not None:
            probes = batch.probes
            logp_ref = frozen.forward(probes).logp
            batch = batch.replace(probes=probes.replace(logp_ref=logp_ref))
    if algorithm.needs_critic:
        batch = batch.replace(values=frozen.forward(batch, OutputRequest(values=True)).values)
    return batch
