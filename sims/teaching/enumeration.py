"""What an algorithm's own code does on average: its loss and gradient on every group that could be drawn, one by one.

A group is K responses to the one prompt of a small problem. All N^K of them stand side by side on the runs axis, so
that the algorithm sees nothing unusual; to weigh each with its probability is to take the expectation without sampling.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch

from sims import exact
from sims.core.algorithms import Algorithm
from sims.core.loop.learner import Learner
from sims.core.loop.optimise import Optimiser
from sims.core.objectives.batch import Batch
from sims.core.objectives.preferences import choose_pairs, preference_probability
from sims.core.spec import SpecError
from sims.environments.space import TokenSpace
from sims.policies.table import TablePolicy

MOST_GROUPS = 200_000


@dataclass(frozen=True, eq=False)
class Groups:
    """Every group: responses (G, K), as indices; probability, loss (G,); gradient (G, nodes, V), by the logits."""

    responses: np.ndarray
    probability: np.ndarray
    loss: np.ndarray
    gradient: np.ndarray

    @property
    def expected_gradient(self) -> np.ndarray:
        """E[∇ loss] by the logits: (nodes, V)."""
        return np.einsum("g,gnv->nv", self.probability, self.gradient)

    @property
    def expected_loss(self) -> float:
        """E[loss]"""
        return float(self.probability @ self.loss)


def every_group(
    algorithm: Algorithm,
    space: TokenSpace,
    logits: np.ndarray,
    rewards: np.ndarray,
    generations: int,
    logits_ref: np.ndarray | None = None,
    logits_sampler: np.ndarray | None = None,
) -> Groups:
    """The loss and gradient of an algorithm on each group of K responses, as one update computes them, in float64.

    logits, logits_ref, logits_sampler: (nodes, V) of the policy, the reference and the distribution that draws; None:
    those of the policy. rewards: (N,). A critic has the value 0 everywhere. Of a pair the first response wins with the
    Bradley–Terry probability of temperature 1. SpecError where there are too many groups to list.

    >>> logits, rewards = np.zeros((1, 3)), np.array([0.0, 0.25, 1.0])
    >>> groups = sims.teaching.enumeration.every_group(sims.RLOO(), sims.TokenSpace(3), logits, rewards, generations=2)
    >>> (-groups.expected_gradient).round(6)  # uphill: π·(r − E[r])
    array([[-0.138889, -0.055556,  0.194444]])
    """
    responses, mask = space.all_responses
    count = len(responses)
    if count**generations > MOST_GROUPS:
        raise SpecError("generations", generations, f"{count}^{generations} groups: must be {MOST_GROUPS} at most")
    reference = logits if logits_ref is None else logits_ref
    sampler = logits if logits_sampler is None else logits_sampler
    tables = [
        exact.token_logp(table[None], responses.numpy(), mask.numpy())[0] for table in (sampler, logits, reference)
    ]
    logp_sampler, logp_policy, logp_ref = (torch.from_numpy(table) for table in tables)
    drawn = torch.tensor(list(itertools.product(range(count), repeat=generations)))[:, None]  # (G, 1, K)
    probability = logp_sampler.sum(-1)[drawn].sum((-2, -1)).exp()
    batch = Batch(
        prompts=torch.zeros(len(drawn), 1, dtype=torch.int64),
        responses=responses[drawn],
        mask=mask[drawn],
        rewards=torch.from_numpy(np.asarray(rewards, dtype=np.float64))[drawn],
        logp_sampler=logp_sampler[drawn],
        logp_policy=logp_policy[drawn],
        logp_ref=logp_ref[drawn] if algorithm.needs_reference else None,
        values=torch.zeros_like(logp_sampler[drawn]) if algorithm.needs_critic else None,
    )
    if algorithm.label_pairing is not None:
        batch = _label(algorithm, batch)
    loss, gradient = gradients(algorithm, space, logits, batch)
    return Groups(drawn[:, 0].numpy(), probability.numpy(), loss, gradient)


def gradients(
    algorithm: Algorithm, space: TokenSpace, logits: np.ndarray, batch: Batch, micro_batch_size: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Losses (R,) and gradients by the logits (R, nodes, V) of a batch (R, B, K, L), one for each of its runs.

    micro_batch_size: prompts that go through the policy together, which must change neither.
    """
    runs = batch.lead[0]
    table = torch.from_numpy(np.asarray(logits, dtype=np.float64)).expand(runs, 1, *logits.shape).clone()
    values = torch.zeros_like(table[..., 0]) if algorithm.needs_critic else None
    learner = Learner(TablePolicy(space, table, values), Optimiser(), batch.lead, micro_batch_size)
    targets, _ = algorithm.targets(batch, algorithm.initial_state(batch.lead, torch.float64, torch.device("cpu")))
    targets = algorithm.at_update(batch, algorithm.at_epoch(batch, targets, 0), None)
    found, loss = learner.gradient(algorithm, batch, targets)
    return loss.numpy(), found[0][:, 0].numpy()


def _label(algorithm: Algorithm, batch: Batch) -> Batch:
    """The batch with its pairs, and the probability that the first of each is preferred."""
    assert algorithm.label_pairing is not None
    pairs, weight = choose_pairs(batch.need("rewards"), algorithm.label_pairing)
    first, second = (batch.need("rewards").gather(-1, pairs[..., side]) for side in (0, 1))
    label = preference_probability(first, second, temperature=1.0)
    return batch.replace(pairs=pairs, pair_weight=weight, pair_label=label)
