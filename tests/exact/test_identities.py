"""The field's identities, exact in float64: unbiasedness, minimisers, and which divergence an estimator descends.

Each holds on a table of single actions and on a tree of 15 sequences of several lengths, summed over everything that
could have been drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import Tensor

from sims.core.algorithms.best_of_n import BestOfN
from sims.core.algorithms.clipped import PPO
from sims.core.algorithms.contrastive import DPO, IPO
from sims.core.algorithms.policy_gradient import RLOO, Reinforce
from sims.core.algorithms.reward_weighted import RWR
from sims.core.losses.policy_gradient import reinforce_loss
from sims.core.objectives import divergences
from sims.core.objectives.advantages import centred
from sims.core.objectives.batch import Batch, sequence_sum
from sims.environments.space import TokenSpace
from sims.exact import (
    best_of_n,
    entropy,
    expected_reward,
    kl_best_of_n_bound,
    kl_policy_ref,
    kl_ref_policy,
    objective,
    objective_weights,
    optimum,
)
from sims.policies import TablePolicy
from tests.core.enumeration import Enumeration, Problem, enumerate_batches, make_problem

EXACT = {"rtol": 0.0, "atol": 1e-10}
TREE = make_problem(TokenSpace(3, 3, eos=True), prompts=1, seed=49)
PROBLEMS = [
    pytest.param(make_problem(TokenSpace(4), prompts=2, seed=10), id="table"),
    pytest.param(TREE, id="tree"),
]
both = pytest.mark.parametrize("problem", PROBLEMS)


def autograd(problem: Problem, loss: Callable[[Tensor], Tensor]) -> np.ndarray:
    """Gradient by the policy's logits, (X, nodes, V), of a loss of token log-probs (X, N, L), through the policy."""
    logits = torch.from_numpy(problem.policy)[None].requires_grad_(True)
    responses, mask = (x.expand(1, problem.prompts, *x.shape) for x in problem.space.all_responses)
    prompts = torch.arange(problem.prompts)[None]
    logp = TablePolicy(problem.space, logits).forward(Batch(prompts, responses, mask)).logp[0]
    (gradient,) = torch.autograd.grad(loss(torch.where(mask[0], logp, 0.0)), [logits])
    return gradient[0].numpy()


def tensor(x: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x))


def objective_gradient(problem: Problem, beta: float) -> np.ndarray:
    """∇(mean over prompts of E[r] − β·KL(π‖π_ref)), by autograd."""
    rewards, logp_ref = tensor(problem.rewards), tensor(problem.logp(problem.reference))

    def value(logp: Tensor) -> Tensor:
        logp = logp.sum(-1)
        return (logp.exp() * (rewards - beta * (logp - logp_ref))).sum(-1).mean()

    return autograd(problem, value)


def as_table(problem: Problem, logp: np.ndarray) -> np.ndarray:
    """Logits (X, nodes, V) of the table policy with sequence log-probs (X, N): token masses behind each prefix."""
    mass = np.zeros_like(problem.policy)
    nodes = problem.space.node_index(problem.space.all_responses[0])
    nodes = np.zeros_like(problem.responses) if nodes is None else nodes.numpy()
    for x, probability in enumerate(np.exp(logp)):
        for y, length in enumerate(problem.mask.sum(-1)):
            np.add.at(mass[x], (nodes[y, :length], problem.responses[y, :length]), probability[y])
    return np.log(np.where(mass.sum(-1, keepdims=True) > 0, mass, 1.0))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


# Quantities


@both
def test_distances_agree_with_the_core(problem: Problem) -> None:
    """Two independent implementations, one in NumPy and one in torch."""
    p, q = problem.logp(problem.policy), problem.logp(problem.reference)
    for mine, theirs in (
        (kl_policy_ref(p, q), divergences.kl_policy_ref(tensor(p), tensor(q))),
        (kl_ref_policy(p, q), divergences.kl_ref_policy(tensor(p), tensor(q))),
        (entropy(p), divergences.entropy(tensor(p))),
    ):
        np.testing.assert_allclose(mine, theirs.numpy(), **EXACT)
    assert not np.allclose(kl_policy_ref(p, q), kl_ref_policy(p, q), atol=1e-2)


def test_responses_that_never_occur_count_nothing() -> None:
    half = np.array([np.log(0.5), np.log(0.5), -np.inf])
    whole = np.log([0.25, 0.25, 0.5])
    assert entropy(half) == pytest.approx(np.log(2), abs=1e-12)
    assert kl_policy_ref(half, whole) == pytest.approx(np.log(2), abs=1e-12)
    assert kl_ref_policy(half, whole) == np.inf
    assert expected_reward(half, np.array([1.0, 2.0, np.inf])) == pytest.approx(1.5, abs=1e-12)
    assert objective_weights(half, half, np.array([1.0, 2.0, 3.0]), beta=0.5)[2] == 0.0


@both
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_objective_weights_are_its_gradient(problem: Problem, beta: float) -> None:
    weights = objective_weights(problem.logp(problem.policy), problem.logp(problem.reference), problem.rewards, beta)
    found = problem.gradient(weights) / problem.prompts
    np.testing.assert_allclose(found, objective_gradient(problem, beta), **EXACT)


@both
def test_chain_rule_of_token_weights_is_autograd(problem: Problem) -> None:
    weights = np.random.default_rng(0).normal(size=(problem.prompts, *problem.mask.shape))
    expected = autograd(problem, lambda logp: (tensor(weights) * logp).sum())
    np.testing.assert_allclose(problem.gradient(weights), expected, **EXACT)


@both
def test_kl_optimum_maximises_the_objective(problem: Problem) -> None:
    """Its value is β·log Z, its gradient 0, and every other policy loses β·KL(π‖π*) to it."""
    beta, logp_ref = 0.3, problem.logp(problem.reference)
    best = optimum(logp_ref, problem.rewards, beta)
    top = objective(best, logp_ref, problem.rewards, beta)
    partition = np.exp(logp_ref + problem.rewards / beta).sum(-1)
    np.testing.assert_allclose(top, beta * np.log(partition), **EXACT)
    at_best = replace(problem, policy=as_table(problem, best))
    np.testing.assert_allclose(at_best.logp(at_best.policy), best, **EXACT)
    np.testing.assert_allclose(objective_gradient(at_best, beta), 0.0, **EXACT)
    other = problem.logp(problem.policy)
    loss = top - objective(other, logp_ref, problem.rewards, beta)
    np.testing.assert_allclose(loss, beta * kl_policy_ref(other, best), **EXACT)


# Policy gradients


@both
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_leave_one_out_is_unbiased(problem: Problem, beta: float) -> None:
    every = enumerate_batches(problem.on_policy(), RLOO(beta=beta), 2)
    np.testing.assert_allclose(-every.expected_gradient(), objective_gradient(problem, beta), **EXACT)


@pytest.mark.parametrize("generations", [2, 3])
def test_group_mean_shrinks_the_gradient_by_one_in_k(generations: int) -> None:
    """The own reward is in the baseline: exactly (K−1)/K of the gradient is left."""
    problem = replace(TREE, sampler=TREE.policy)
    every = enumerate_batches(problem, RLOO(), generations)
    policy = every.policy()
    logits = policy.parameters()[0].requires_grad_(True)
    logp = sequence_sum(policy.forward(every.batch).logp, every.batch.mask)
    loss = reinforce_loss(logp, centred(every.batch.need("rewards"))).mean((-2, -1))
    (gradient,) = torch.autograd.grad(loss.sum(), [logits])
    found = np.einsum("r,r...->...", every.probability, gradient.numpy())
    shrunken = (generations - 1) / generations * objective_gradient(problem, 0.0)
    np.testing.assert_allclose(-found, shrunken, **EXACT)


@both
def test_ppo_at_ratio_one_is_reinforce(problem: Problem) -> None:
    """Batch by batch with a critic of 0, and on average with any critic: a baseline of the prefix moves no mean."""
    ppo = PPO(beta=0.3, lam=1.0)
    plain = Reinforce(beta=0.3, baseline="none")
    no_critic = replace(problem.on_policy(), old_values=np.zeros_like(problem.old_values))
    gradients = [enumerate_batches(no_critic, a, 2).losses_and_gradients()[1] for a in (ppo, plain)]
    if problem.space.length == 1:
        np.testing.assert_allclose(*gradients, **EXACT)
    else:  # each token is paid for the KL of those after it only, which REINFORCE's common factor is on average
        rewards_only = [enumerate_batches(no_critic, replace(a, beta=0.0), 2) for a in (ppo, plain)]
        np.testing.assert_allclose(*[every.losses_and_gradients()[1] for every in rewards_only], **EXACT)
    any_critic = enumerate_batches(problem.on_policy(), ppo, 2)
    np.testing.assert_allclose(-any_critic.expected_gradient(), objective_gradient(problem, 0.3), **EXACT)


def test_short_traces_need_a_true_critic() -> None:
    """λ < 1 believes the critic: unbiased if its values are those of the policy, biased otherwise."""
    problem = TREE.on_policy()
    reach = np.exp(problem.logp(problem.policy))
    nodes = problem.space.node_index(problem.space.all_responses[0]).numpy()
    mass, value = np.zeros((2, problem.prompts, problem.space.nodes))
    for total, x in ((mass, reach), (value, reach * problem.rewards)):
        for t in range(problem.space.length):
            alive = problem.mask[:, t]
            np.add.at(total[0], nodes[alive, t], x[0, alive])
    true_values = np.divide(value, mass, out=np.zeros_like(value), where=mass > 0)
    truth = objective_gradient(problem, 0.0)
    for values, unbiased in ((true_values, True), (problem.old_values, False)):
        every = enumerate_batches(replace(problem, old_values=values), PPO(lam=0.4), 2)
        assert np.allclose(-every.expected_gradient(), truth, **EXACT) == unbiased


# KL estimators


def tokenwise_kl(logp: Tensor, logq: Tensor, problem: Problem, from_reference: bool) -> np.ndarray:
    """∇ of Σ over prefixes of π(prefix)·KL of the next token, with the weights π(prefix) held fixed: (X, nodes, V).

    The softmax's gradient of KL(q‖p) is p − q, and of KL(p‖q) it is p·(log p/q − KL).
    """
    p, q = (np.exp(x.numpy()) for x in (logp, logq))
    nodes = problem.space.node_index(problem.space.all_responses[0])
    nodes = np.zeros_like(problem.responses) if nodes is None else nodes.numpy()
    reach = np.zeros(p.shape[:-1])
    sequence = np.exp(problem.logp(problem.policy))
    for t in range(problem.space.length):
        alive = problem.mask[:, t]
        for x in range(problem.prompts):
            np.add.at(reach[x], nodes[alive, t], sequence[x, alive])
    log_ratio = np.log(p) - np.log(q)
    step = p - q if from_reference else p * (log_ratio - (p * log_ratio).sum(-1, keepdims=True))
    return reach[..., None] * step


@both
def test_values_of_the_estimators(problem: Problem) -> None:
    """k1 and k3 are unbiased for KL(π‖π_ref), of whole sequences and summed over tokens; k2 is not."""
    policy, reference = problem.token_logp(problem.policy), problem.token_logp(problem.reference)
    distribution, truth = problem.logp(problem.policy), kl_policy_ref(policy.sum(-1), reference.sum(-1))
    for per_token in (False, True):
        ratio = policy - reference if per_token else (policy - reference).sum(-1)
        for name, estimator in divergences.KL_ESTIMATORS.items():
            value = estimator(tensor(ratio)).numpy()
            mean = expected_reward(distribution, value.sum(-1) if per_token else value)
            if name == "k2":
                assert np.abs(mean - truth).min() > 0.02
            else:
                np.testing.assert_allclose(mean, truth, **EXACT)
    # k3 owes its small variance to being nonnegative, response by response.
    assert (divergences.k3(tensor(policy - reference)) >= 0).all()


@both
def test_estimators_of_sequences_descend(problem: Problem) -> None:
    """As a loss on the policy's own samples: k1 descends nothing, k2 KL(π‖π_ref), k3 KL(π_ref‖π)."""
    reference = tensor(problem.logp(problem.reference))
    own = tensor(np.exp(problem.logp(problem.policy)))

    def descends(estimator: Callable[[Tensor], Tensor]) -> np.ndarray:
        return autograd(problem, lambda logp: (own * estimator(logp.sum(-1) - reference)).sum())

    policy_ref = autograd(problem, lambda logp: divergences.kl_policy_ref(logp.sum(-1), reference).sum())
    ref_policy = autograd(problem, lambda logp: divergences.kl_ref_policy(logp.sum(-1), reference).sum())
    np.testing.assert_allclose(descends(divergences.k1), 0.0, **EXACT)
    np.testing.assert_allclose(descends(divergences.k2), policy_ref, **EXACT)
    np.testing.assert_allclose(descends(divergences.k3), ref_policy, **EXACT)
    assert cosine(policy_ref, ref_policy) < 0.99


@both
def test_estimators_per_token_descend(problem: Problem) -> None:
    """Summed over tokens they descend the sum over prefixes of per-token KLs, the prefixes' weights held fixed."""
    reference = tensor(problem.token_logp(problem.reference))
    own = tensor(np.exp(problem.logp(problem.policy)))
    logp, logq = (tensor(x).log_softmax(-1) for x in (problem.policy, problem.reference))

    def descends(estimator: Callable[[Tensor], Tensor]) -> np.ndarray:
        return autograd(problem, lambda logp: (own * estimator(logp - reference).sum(-1)).sum())

    np.testing.assert_allclose(descends(divergences.k1), 0.0, **EXACT)
    k2, k3 = descends(divergences.k2), descends(divergences.k3)
    np.testing.assert_allclose(k2, tokenwise_kl(logp, logq, problem, from_reference=False), **EXACT)
    np.testing.assert_allclose(k3, tokenwise_kl(logp, logq, problem, from_reference=True), **EXACT)
    whole = reference.sum(-1)
    policy_ref = autograd(problem, lambda logp: divergences.kl_policy_ref(logp.sum(-1), whole).sum())
    ref_policy = autograd(problem, lambda logp: divergences.kl_ref_policy(logp.sum(-1), whole).sum())
    if problem.space.length == 1:
        np.testing.assert_allclose(k2, policy_ref, **EXACT)
        np.testing.assert_allclose(k3, ref_policy, **EXACT)
    else:
        assert cosine(k2, policy_ref) < 0.6
        assert cosine(k3, ref_policy) < 0.8
        assert cosine(k3, policy_ref) < 0.6


# Minimisers


def bradley_terry(problem: Problem) -> Problem:
    """The same problem with a labeller whose scale is 1."""
    difference = problem.rewards[:, :, None] - problem.rewards[:, None, :]
    return replace(problem, label=1.0 / (1.0 + np.exp(-difference)))


def at(problem: Problem, logp: np.ndarray) -> Problem:
    """The same problem with another policy, given by its sequences' log-probs (X, N)."""
    return replace(problem, policy=as_table(problem, logp))


@both
@pytest.mark.parametrize("pairing", ["drawn", "all"])
def test_dpo_is_minimised_by_the_kl_optimum(problem: Problem, pairing: str) -> None:
    """Under Bradley–Terry labels of scale 1, whatever distribution draws the pairs: zero gradient at
    π_ref·e^{r/β}/Z."""
    labelled, dpo = bradley_terry(problem), DPO(beta=0.5, pairing=pairing)
    best = optimum(labelled.logp(labelled.reference), labelled.rewards, 0.5)
    every = enumerate_batches(at(labelled, best), dpo, 2)
    np.testing.assert_allclose(every.expected_gradient(), 0.0, **EXACT)
    np.testing.assert_allclose(every.population_gradient(), 0.0, **EXACT)
    other = enumerate_batches(labelled, dpo, 2)
    assert np.abs(other.expected_gradient()).max() > 1e-3
    losses = [e.probability @ e.losses_and_gradients()[0] for e in (every, other)]
    assert losses[0] < losses[1]


@both
def test_dpo_descends_to_the_kl_optimum(problem: Problem) -> None:
    """A zero gradient could be a saddle: quasi-Newton steps from another policy end at the optimum."""
    labelled, beta = bradley_terry(problem), 0.5
    shape, distribution = labelled.policy.shape, np.exp(labelled.logp(labelled.sampler))
    pairs = labelled.label * distribution[:, :, None] * distribution[:, None, :]
    template = enumerate_batches(labelled, DPO(beta=beta), 2)

    def loss_and_gradient(logits: np.ndarray) -> tuple[float, np.ndarray]:
        moved = replace(labelled, policy=logits.reshape(shape))
        ratio = moved.logp(moved.policy) - moved.logp(moved.reference)
        margin = ratio[:, :, None] - ratio[:, None, :]
        # Σ p·f(h) + (1 − p)·f(−h) over ordered pairs is twice the sum of p·f(h), as p(j, i) = 1 − p(i, j).
        loss = 2.0 * (pairs * np.logaddexp(0.0, -beta * margin)).sum() / labelled.prompts
        return loss, replace(template, problem=moved).population_gradient().ravel()

    options = {"gtol": 1e-10, "maxiter": 500}
    end = optimize.minimize(loss_and_gradient, labelled.policy.ravel(), jac=True, method="BFGS", options=options)
    best = optimum(labelled.logp(labelled.reference), labelled.rewards, beta)
    # The gradient is exact to 1e-10, what is found with it to its square root or so.
    np.testing.assert_allclose(labelled.logp(end.x.reshape(shape)), best, atol=1e-5)


@both
def test_ipo_is_minimised_by_the_preference_optimum(problem: Problem) -> None:
    """π_ref·e^{P(y ≻ μ)/β}/Z, with P(y ≻ μ) the chance to be preferred to a draw of the pairs' own distribution μ."""
    beta, distribution = 0.4, np.exp(problem.logp(problem.sampler))
    wins = np.einsum("xij,xj->xi", problem.label, distribution)
    best = optimum(problem.logp(problem.reference), wins, beta)
    every = enumerate_batches(at(problem, best), IPO(beta=beta), 2)
    np.testing.assert_allclose(every.expected_gradient(), 0.0, **EXACT)
    assert np.abs(enumerate_batches(problem, IPO(beta=beta), 2).expected_gradient()).max() > 1e-3


@both
def test_rwr_is_minimised_by_the_optimum_around_its_samples(problem: Problem) -> None:
    """μ·e^{r/β}/Z, around the distribution that was sampled and not around the reference; a clipped weight moves it."""
    best = optimum(problem.logp(problem.sampler), problem.rewards, 0.5)
    for clip, there in ((20.0, True), (1.5, False)):
        every = enumerate_batches(at(problem, best), RWR(beta=0.5, weight_clip=clip), 1)
        assert np.allclose(every.expected_gradient(), 0.0, **EXACT) == there


# Best of n


@both
@pytest.mark.parametrize("n", [1, 2, 3])
def test_best_of_n_is_the_distribution_of_the_best(problem: Problem, n: int) -> None:
    """By order statistics, against listing all N^n draws; equally good draws share the win."""
    logp = problem.logp(problem.sampler)
    expected = np.zeros_like(logp)
    draws = np.indices((logp.shape[1],) * n).reshape(n, -1).T
    for x in range(problem.prompts):
        rewards = problem.rewards[x, draws]
        best = rewards == rewards.max(-1, keepdims=True)
        share = best / best.sum(-1, keepdims=True) * np.exp(logp[x, draws].sum(-1, keepdims=True))
        np.add.at(expected[x], draws, share)
    np.testing.assert_allclose(best_of_n(logp, problem.rewards, n), expected, **EXACT)
    assert kl_policy_ref(np.log(expected), logp).max() <= kl_best_of_n_bound(n) + 1e-12


@both
def test_imitating_the_best_of_n_ends_at_its_distribution(problem: Problem) -> None:
    distribution = best_of_n(problem.logp(problem.sampler), problem.rewards, 2)
    every = enumerate_batches(at(problem, np.log(distribution)), BestOfN(), 2)
    np.testing.assert_allclose(every.expected_gradient(), 0.0, **EXACT)
    assert np.abs(enumerate_batches(problem, BestOfN(), 2).expected_gradient()).max() > 1e-3


@pytest.mark.parametrize("n", [2, 4, 16])
def test_best_of_n_reaches_its_bound_on_continuous_rewards(n: int) -> None:
    """On a grid of m equally likely rewards the gap to log n − (n−1)/n closes, at least as fast as 1/m."""
    gaps = []
    for size in (50, 100, 200, 400):
        logp = np.full(size, -np.log(size))
        gaps.append(kl_best_of_n_bound(n) - kl_policy_ref(np.log(best_of_n(logp, np.arange(size), n)), logp))
    assert all(gap > 0 for gap in gaps)
    assert all(later < 0.55 * earlier for earlier, later in pairwise(gaps))


# What a pair moves


def pair_gradient(problem: Problem, algorithm: DPO | BestOfN, first: int, second: int) -> np.ndarray:
    """∇ of the loss of one batch that holds these two responses to the first prompt: (nodes, V)."""
    every = enumerate_batches(problem, algorithm, 2)
    run = first * len(problem.responses) + second
    return every.losses_and_gradients()[1][run, 0]


def one_prompt(problem: Problem) -> Problem:
    names = ("policy", "reference", "sampler", "old_values", "values", "rewards", "label")
    return replace(problem, **{name: getattr(problem, name)[:1] for name in names})


def test_dpo_moves_only_the_two_actions_of_a_pair() -> None:
    """On a table the softmax's terms cancel between chosen and rejected; imitation of one moves all the others."""
    problem = make_problem(TokenSpace(4), prompts=1, seed=10)
    gradient = pair_gradient(problem, DPO(), 0, 2)[0]
    np.testing.assert_allclose(gradient[[1, 3]], 0.0, **EXACT)
    assert gradient[0] == pytest.approx(-gradient[2], abs=1e-12) and abs(gradient[0]) > 1e-3
    imitation = pair_gradient(problem, BestOfN(), 0, 2)[0]
    assert np.abs(imitation).min() > 1e-3


def test_what_a_pair_has_in_common_cancels() -> None:
    """(1, 1, 0) against (1, 2, 1): the first token, and all prefixes on neither path, are left alone."""
    responses = TREE.responses.tolist()
    first, second = responses.index([1, 1, 0]), responses.index([1, 2, 1])
    gradient = pair_gradient(TREE, DPO(), first, second)
    shared, fork, left, right = 0, 2, 3 * 2 + 2, 3 * 2 + 3  # prefixes (), (1), (1, 1), (1, 2) as in a heap
    np.testing.assert_allclose(gradient[shared], 0.0, **EXACT)
    np.testing.assert_allclose(gradient[fork, 0], 0.0, **EXACT)
    elsewhere = [node for node in range(TREE.space.nodes) if node not in (fork, left, right)]
    np.testing.assert_allclose(gradient[elsewhere], 0.0, **EXACT)
    assert np.abs(gradient[[left, right]]).min() > 1e-4
    # Imitating either one, or both, raises the likelihood of the token that they share.
    assert np.abs(pair_gradient(TREE, BestOfN(), first, second)[shared]).min() > 1e-3


@both
def test_a_prompt_s_own_terms_cancel_in_pairs(problem: Problem) -> None:
    """A constant added to both log-ratios, such as the log-probs of the prompt's tokens, changes nothing."""
    every = enumerate_batches(problem, DPO(), 2)
    shifted = every.batch.need("logp_ref").clone()
    shifted[..., 0] += 0.7
    moved: Enumeration = replace(every, batch=every.batch.replace(logp_ref=shifted))
    for before, after in zip(every.losses_and_gradients(), moved.losses_and_gradients(), strict=True):
        np.testing.assert_allclose(after, before, **EXACT)
