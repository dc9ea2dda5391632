"""What the notebooks sum over every group is what the oracle says of the algorithm on average."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sims
from sims.core.objectives.batch import Batch
from sims.exact import Population, chain_rule, population_weights, token_logp
from sims.teaching.enumeration import every_group, gradients

SPACE = sims.TokenSpace(2, 2, eos=True)  # 3 responses, of 1 and 2 tokens


def tables(count: int) -> list[np.ndarray]:
    random = np.random.default_rng(5)
    return [random.normal(size=(SPACE.nodes, SPACE.vocabulary)) for _ in range(count)]


@pytest.mark.parametrize(
    "algorithm", [sims.RLOO(beta=0.2), sims.GRPO(), sims.DAPO(), sims.DPO(beta=0.3), sims.SFT(), sims.PPO(beta=0.1)]
)
def test_expected_gradients_are_the_population_s(algorithm: sims.Algorithm) -> None:
    policy, reference = tables(2)
    rewards = np.array([0.0, 1.0, 0.25])
    responses, mask = (x.numpy() for x in SPACE.all_responses)
    groups = every_group(algorithm, SPACE, policy, rewards, generations=4, logits_ref=reference)
    logp, logp_ref = (token_logp(x[None], responses, mask) for x in (policy, reference))
    label = 1.0 / (1.0 + np.exp(rewards[None, :] - rewards[:, None]))
    slots = np.stack([logp] * 4)
    problem = Population(mask, logp, logp_ref, slots, rewards[None], label[None], np.zeros_like(logp))
    expected = chain_rule(population_weights(algorithm, problem), policy[None], responses, mask)[0]
    np.testing.assert_allclose(groups.expected_gradient, expected, rtol=0, atol=1e-10)
    assert abs(groups.probability.sum() - 1) < 1e-12


def test_a_sampler_of_its_own_draws_the_groups() -> None:
    policy, sampler = tables(2)
    rewards = np.array([0.0, 1.0, 0.25])
    groups = every_group(sims.SFT(), SPACE, policy, rewards, generations=1, logits_sampler=sampler)
    responses, mask = (x.numpy() for x in SPACE.all_responses)
    drawn = np.exp(token_logp(sampler[None], responses, mask).sum(-1))
    np.testing.assert_allclose(groups.probability, drawn[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        groups.expected_gradient, chain_rule(-drawn, policy[None], responses, mask)[0], rtol=0, atol=1e-12
    )


def test_too_many_groups_are_refused_in_a_line() -> None:
    with pytest.raises(sims.SpecError, match=r"generations = 30: 3\^30 groups: must be 200000 at most"):
        every_group(sims.RLOO(), SPACE, tables(1)[0], np.zeros(3), generations=30)


def test_micro_batches_reach_the_learner() -> None:
    """An algorithm that divides by what it sees in a micro-batch is found out."""

    class OwnShares(sims.DAPO):
        def loss(self, outputs, batch, targets):  # type: ignore[no-untyped-def]
            return super().loss(outputs, batch, super().at_update(batch, targets, None))

    responses, mask = SPACE.all_responses
    drawn = torch.tensor([[[0, 1], [1, 2], [2, 0], [1, 1]]])
    logp = torch.from_numpy(token_logp(tables(1)[0][None], responses.numpy(), mask.numpy())[0])[drawn]
    rewards = torch.tensor([[[0.0, 1.0], [1.0, 0.5], [0.0, 0.5], [1.0, 0.0]]], dtype=torch.float64)
    batch = Batch(torch.zeros(1, 4, dtype=torch.int64), responses[drawn], mask[drawn], rewards=rewards)
    batch = batch.replace(logp_sampler=logp)
    for algorithm, same in ((sims.DAPO(), True), (OwnShares(), False)):
        whole, parts = (gradients(algorithm, SPACE, tables(1)[0], batch, size)[1] for size in (None, 1))
        assert np.allclose(whole, parts, rtol=0, atol=1e-12) == same
