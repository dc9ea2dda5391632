"""The exact noise of policy gradients, against every batch that could be drawn, through the algorithms themselves."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from math import comb

import numpy as np
import pytest
import torch

from sims.core.algorithms import Algorithm
from sims.core.algorithms.clipped import GRPO, PPO, DrGRPO
from sims.core.algorithms.policy_gradient import RLOO, Reinforce
from sims.environments.space import TokenSpace
from sims.exact import variance
from sims.exact.variance import Answers, Moments
from tests.core.enumeration import Enumeration, Problem, enumerate_batches, make_problem

EXACT = {"rtol": 1e-10, "atol": 1e-10}
TABLE = make_problem(TokenSpace(4), prompts=2, seed=10).on_policy()
TREE = make_problem(TokenSpace(3, 3, eos=True), prompts=1, seed=49).on_policy()
PROBLEMS = [pytest.param(TABLE, id="table"), pytest.param(TREE, id="tree")]
both = pytest.mark.parametrize("problem", PROBLEMS)
ESTIMATORS = [
    pytest.param(Reinforce(baseline="none"), lambda a, k: variance.reinforce(a, k), id="no baseline"),
    pytest.param(Reinforce(), lambda a, k: variance.reinforce(a, k, a.mean_reward), id="running mean"),
    pytest.param(RLOO(), variance.rloo, id="rloo"),
    pytest.param(DrGRPO(), variance.dr_grpo, id="dr_grpo"),
    pytest.param(GRPO(beta=0.0), variance.grpo, id="grpo"),
    pytest.param(GRPO(beta=0.0, std_epsilon=0.0), lambda a, k: variance.grpo(a, k, 1, 0.0), id="grpo, no delta"),
    pytest.param(GRPO(beta=0.0, ddof=0, std_epsilon=0.3), lambda a, k: variance.grpo(a, k, 0, 0.3), id="grpo, ddof 0"),
]
Estimate = Callable[[Answers, int], Moments]


def answers(problem: Problem) -> Answers:
    return variance.table_answers(problem.policy, problem.rewards, problem.responses, problem.mask)


def every_batch(problem: Problem, algorithm: Algorithm, generations: int, mean: float) -> Enumeration:
    """All batches; a running mean of rewards has arrived at `mean`."""
    found = enumerate_batches(problem, algorithm, generations)
    arrived = torch.full((found.batch.lead[0],), mean, dtype=torch.float64)
    return replace(found, state={**found.state, "reward_mean": arrived}) if found.state else found


def check(problem: Problem, algorithm: Algorithm, moments: Moments, generations: int) -> None:
    """Against all batches of each prompt once: g = 1/X·Σ_x G_x, in blocks of logits."""
    found = every_batch(problem, algorithm, generations, answers(problem).mean_reward)
    uphill = -found.losses_and_gradients()[1].reshape(len(found.probability), problem.prompts, -1) * problem.prompts
    np.testing.assert_allclose(moments.mean, np.einsum("r,rxp->xp", found.probability, uphill), **EXACT)
    np.testing.assert_allclose(moments.square, np.einsum("r,rxp,rxp->x", found.probability, uphill, uphill), **EXACT)


@both
@pytest.mark.parametrize(("algorithm", "estimate"), ESTIMATORS)
@pytest.mark.parametrize("generations", [2, 3])
def test_moments_are_those_of_every_group(
    problem: Problem, algorithm: Algorithm, estimate: Estimate, generations: int
) -> None:
    check(problem, algorithm, estimate(answers(problem), generations), generations)


@both
@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_ppo_has_the_moments_of_every_group(problem: Problem, lam: float) -> None:
    own = answers(problem)
    values = np.where(problem.mask, problem.old_values[:, own.nodes], 0.0)
    check(problem, PPO(lam=lam), variance.ppo(own, 2, values, lam), 2)


@pytest.mark.parametrize(("algorithm", "estimate"), ESTIMATORS[2:5])
def test_larger_groups_of_few_responses(algorithm: Algorithm, estimate: Estimate) -> None:
    problem = make_problem(TokenSpace(3), prompts=1, seed=3).on_policy()
    check(problem, algorithm, estimate(answers(problem), 7), 7)


@pytest.mark.parametrize(("algorithm", "estimate"), ESTIMATORS)
def test_batches_of_drawn_prompts(algorithm: Algorithm, estimate: Estimate) -> None:
    """Two of two prompts with replacement: every draw of prompts, and every batch of it."""
    total, square = np.zeros(TABLE.policy.shape), 0.0
    for drawn in itertools.product(range(2), repeat=2):
        tables = ("policy", "reference", "sampler", "old_values", "values", "rewards", "label")
        problem = replace(TABLE, **{name: getattr(TABLE, name)[list(drawn)] for name in tables})
        found = every_batch(problem, algorithm, 2, answers(TABLE).mean_reward)
        uphill = -found.losses_and_gradients()[1]
        gradients = np.zeros((len(found.probability), *TABLE.policy.shape))
        for slot, x in enumerate(drawn):  # both copies of a prompt move the same logits
            gradients[:, x] += uphill[:, slot]
        total += np.einsum("r,r...->...", found.probability, gradients) / 4
        square += (found.probability @ (gradients**2).sum((1, 2, 3))) / 4
    noise = variance.batch_noise(estimate(answers(TABLE), 2), num_prompts=2)
    np.testing.assert_allclose(noise.signal, (total**2).sum(), **EXACT)
    np.testing.assert_allclose(noise.within + noise.between, square - (total**2).sum(), **EXACT)
    np.testing.assert_allclose(noise.relative, square / (total**2).sum() - 1, **EXACT)


@both
def test_which_estimators_are_unbiased(problem: Problem) -> None:
    own = answers(problem)
    truth = variance.reward_gradient(own)
    right = variance.true_values(own)
    for moments in (
        variance.reinforce(own, 1),
        variance.reinforce(own, 1, 0.7),
        variance.rloo(own, 2),
        variance.ppo(own, 1, right, 0.0),
        variance.ppo(own, 1, right, 0.95),
        variance.ppo(own, 1, 0.0 * right, 1.0),
    ):
        np.testing.assert_allclose(moments.mean, truth, **EXACT)
    np.testing.assert_allclose(variance.dr_grpo(own, 4).mean, 0.75 * truth, **EXACT)
    assert variance.angle(variance.grpo(own, 4).mean, truth) > 1.0
    if problem is TREE:
        assert variance.angle(variance.ppo(own, 1, 0.0 * right, 0.5).mean, truth) > 1.0


def test_true_values_by_hand() -> None:
    # Vocabulary 2, length 2, token 0 ends: responses 0, 10, 11.
    space = TokenSpace(2, 2, eos=True)
    logits = np.log(np.array([[[0.5, 0.5], [1.0, 1.0], [0.25, 0.75]]]))  # prefixes: none, 0 (never reached), 1
    responses, mask = (x.numpy() for x in space.all_responses)
    own = variance.table_answers(logits, np.array([[1.0, 0.0, 2.0]]), responses, mask)
    assert own.distribution == pytest.approx(np.array([[0.5, 0.125, 0.375]]))
    later = 0.25 * 0.0 + 0.75 * 2.0
    first = 0.5 * 1.0 + 0.5 * later
    assert variance.true_values(own) == pytest.approx(np.array([[[first, 0], [first, later], [first, later]]]))


def test_limits() -> None:
    """In a large group the others' mean is the prompt's own value, on single tokens the perfect critic."""
    own = answers(TABLE)
    critic, rloo = variance.ppo(own, 10**7, variance.true_values(own)), variance.rloo(own, 10**7)
    within = [variance.batch_noise(moments, 1).within for moments in (critic, rloo)]
    assert within[1] == pytest.approx(within[0], rel=1e-6)
    untrained = variance.ppo(own, 3, np.zeros((2, 4, 1)))
    np.testing.assert_allclose(untrained.square, variance.reinforce(own, 3).square, **EXACT)
    noise = [variance.batch_noise(estimate(own, 4), 16).relative for estimate in (variance.rloo, variance.dr_grpo)]
    assert noise[0] == pytest.approx(noise[1], rel=1e-12)


def test_angle_by_hand() -> None:
    assert variance.angle(np.array([2.0, 0.0]), np.array([[3.0, 3.0]])[0]) == pytest.approx(45.0, abs=1e-12)
    assert variance.angle(np.array([1.0, 0.0]), np.array([-1.0, 0.0])) == pytest.approx(180.0)
    nearly = variance.angle(np.array([1.0, 0.0]), np.array([1.0, 1e-9]))
    assert nearly == pytest.approx(np.degrees(1e-9), rel=1e-9)


def test_compositions() -> None:
    found = variance.compositions(7, 3)
    assert len(found) == len({tuple(row) for row in found}) == comb(9, 2)
    assert (found.sum(-1) == 7).all() and found.min() == 0
    assert variance.compositions(5, 1).tolist() == [[5]]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="generations: 1: must be at least 2"):
        variance.rloo(answers(TABLE), 1)
    with pytest.raises(ValueError, match=r"40 levels: .* must be 1000000 at most"):
        variance.compositions(16, 40)
