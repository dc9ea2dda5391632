"""What sets each policy gradient apart from its parent, in numbers derived by hand or by listing every batch."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sims.core.algorithms import Algorithm
from sims.core.algorithms.clipped import CISPO, DAPO, GRPO, GSPO, PPO, DrGRPO
from sims.core.algorithms.policy_gradient import RLOO, Reinforce
from sims.core.losses.policy_gradient import clipped_loss, reinforce_loss, value_loss, weighted_loss
from sims.core.objectives.advantages import standardised
from sims.core.objectives.batch import Batch, Outputs, lengths
from sims.core.spec import SpecError
from sims.environments.space import TokenSpace
from sims.exact import objective_weights
from tests.core.enumeration import enumerate_batches, make_problem

RATIO_GROUP = [GRPO(beta=0.0), DrGRPO(), DAPO(), GSPO(), CISPO()]


def tensor(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def make_batch(rewards: Tensor, mask: Tensor, logp_sampler: Tensor | None = None, **fields: Any) -> Batch:
    """A batch of (..., B, K) rewards and (..., B, K, L) masks; the sampler's log-probs are −1 per token by default."""
    if logp_sampler is None:
        logp_sampler = torch.full(mask.shape, -1.0, dtype=torch.float64)
    prompts = torch.zeros(mask.shape[:-2], dtype=torch.int64)
    return Batch(prompts, torch.zeros(mask.shape, dtype=torch.int64), mask, None, rewards=rewards,
                 logp_sampler=logp_sampler, **fields)  # fmt: skip


def run(algorithm: Algorithm, batch: Batch, logp: Tensor, values: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The loss of one minibatch, (...), and its gradient by the log-probs (..., B, K, L)."""
    state = algorithm.initial_state(batch.lead, torch.float64, torch.device("cpu"))
    targets, _ = algorithm.targets(batch, state)
    targets = algorithm.at_update(batch, targets, None)
    leaf = logp.detach().clone().requires_grad_()
    loss = algorithm.loss(Outputs(leaf, values=values), batch, targets).sum(-1)
    (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    return loss.detach(), gradient


def ragged(*counts: list[int]) -> Tensor:
    """Masks (B, K, 4) of responses of these lengths."""
    return torch.arange(4) < torch.tensor(counts).unsqueeze(-1)


class TestClippedLoss:
    def test_by_hand(self) -> None:
        log_ratio = tensor(2.0, 2.0, 0.5, 0.5, 1.1).log().requires_grad_()
        advantages = tensor(3.0, -3.0, 3.0, -3.0, 3.0)
        loss = clipped_loss(log_ratio, advantages, 0.2, 0.3)
        # Clipped are: a good action already 1.3 times likelier, a bad one already 0.8 times.
        torch.testing.assert_close(loss, tensor(-1.3 * 3, 2.0 * 3, -0.5 * 3, 0.8 * 3, -1.1 * 3))
        (gradient,) = torch.autograd.grad(loss.sum(), log_ratio)
        torch.testing.assert_close(gradient, tensor(0.0, 2.0 * 3, -0.5 * 3, 0.0, -1.1 * 3))

    def test_a_ratio_that_overflows_has_no_gradient_where_it_is_clipped(self) -> None:
        log_ratio = tensor(1e4, -1e4, -1e4).requires_grad_()
        loss = clipped_loss(log_ratio, tensor(1.0, 1.0, -1.0), 0.2, 0.2)
        torch.testing.assert_close(loss, tensor(-1.2, 0.0, 0.8))
        assert torch.autograd.grad(loss.sum(), log_ratio)[0].tolist() == [0.0, 0.0, 0.0]

    def test_a_range_of_1_is_no_bound_below(self) -> None:
        for low in (1.0, tensor(1.0)):
            loss = clipped_loss(tensor(-30.0), tensor(-2.0), low, 0.2)
            torch.testing.assert_close(loss, tensor(2.0 * math.exp(-30.0)), rtol=1e-12, atol=0.0)

    def test_ranges_by_run(self) -> None:
        log_ratio = tensor([1.0, -1.0], [1.0, -1.0])
        advantages = tensor([1.0, -1.0], [1.0, -1.0])
        both = clipped_loss(log_ratio, advantages, tensor([0.1], [0.3]), tensor([0.2], [0.4]))
        torch.testing.assert_close(both, tensor([-1.2, 0.9], [-1.4, 0.7]))


class TestWeightedLoss:
    def test_by_hand(self) -> None:
        logp = tensor(-1.0, -2.0, -3.0).requires_grad_()
        loss = weighted_loss(logp, tensor(9.0, 1.1, 0.1).log(), tensor(2.0, 2.0, -2.0), 0.5, 4.0)
        torch.testing.assert_close(loss, tensor(5.0 * 2.0, 1.1 * 2.0 * 2.0, -0.5 * 2.0 * 3.0))
        # However far the ratio is, the token keeps its gradient: minus weight times advantage.
        torch.testing.assert_close(torch.autograd.grad(loss.sum(), logp)[0], tensor(-10.0, -2.2, 1.0))

    def test_the_ratio_carries_no_gradient(self) -> None:
        logp = tensor(-1.0).requires_grad_()
        loss = weighted_loss(logp, logp + 1.0, tensor(2.0), 1.0, 4.0)
        torch.testing.assert_close(torch.autograd.grad(loss.sum(), logp)[0], tensor(-2.0))


def test_value_loss_by_hand() -> None:
    values, returns, old = tensor(2.0, 0.2, 2.0), tensor(1.0, 1.0, 3.0), tensor(0.0, 0.0, 0.0)
    torch.testing.assert_close(value_loss(values, returns, old, None), tensor(0.5, 0.32, 0.5))
    # Clipped to 0.5 the values are .5, .2, .5; the larger error counts: 1, .64, 2.5².
    torch.testing.assert_close(value_loss(values, returns, old, 0.5), tensor(0.5, 0.32, 0.5 * 6.25))


@pytest.mark.parametrize("algorithm", RATIO_GROUP, ids=lambda a: a.kind)
def test_at_ratio_1_the_gradient_is_reinforce_s_up_to_length_normalisation(algorithm: Algorithm) -> None:
    mask = ragged([1, 3], [2, 4])
    batch = make_batch(tensor([0.0, 1.0], [3.0, 1.0]), mask)
    _, gradient = run(algorithm, batch, batch.need("logp_sampler"))
    advantages = tensor([-1.0, 1.0], [1.0, -1.0])
    if algorithm.kind != "dr_grpo":  # deviations, ddof 1: √½ and √2
        advantages = advantages * tensor([0.5], [1.0]) / (tensor([math.sqrt(0.5)], [math.sqrt(2.0)]) + 1e-4)
    else:
        advantages = advantages * tensor([0.5], [1.0])
    share = {
        "grpo": 1.0 / (4.0 * lengths(mask)),
        "gspo": 1.0 / (4.0 * lengths(mask)),
        "dr_grpo": tensor([0.25, 0.25], [0.25, 0.25]),
        "dapo": tensor([0.1, 0.1], [0.1, 0.1]),  # ten tokens in all
        "cispo": tensor([0.1, 0.1], [0.1, 0.1]),
    }[algorithm.kind]
    expected = torch.where(mask, -(share * advantages).unsqueeze(-1), 0.0)
    torch.testing.assert_close(gradient, expected)


class TestBiases:
    """Dr. GRPO takes GRPO's biases away: what is left is the policy gradient, exactly, but for its length."""

    PROBLEM = make_problem(TokenSpace(2, 3, eos=True), prompts=2, seed=4).on_policy()

    def true_gradient(self) -> np.ndarray:
        logp = self.PROBLEM.logp(self.PROBLEM.policy)
        weights = objective_weights(logp, logp, self.PROBLEM.rewards, beta=0.0)
        return self.PROBLEM.gradient(-weights / self.PROBLEM.prompts)

    @pytest.mark.parametrize("generations", [2, 4])
    @pytest.mark.parametrize("constant", [1, 5])
    def test_dr_grpo(self, generations: int, constant: int) -> None:
        problem = make_problem(TokenSpace(3, 2, eos=True), prompts=1, seed=4).on_policy()
        logp = problem.logp(problem.policy)
        truth = problem.gradient(-objective_weights(logp, logp, problem.rewards, beta=0.0))
        every = enumerate_batches(problem, DrGRPO(constant_length=constant), generations)
        expected = (generations - 1) / generations * truth / constant
        np.testing.assert_allclose(every.expected_gradient(), expected, rtol=0, atol=1e-12)

    def test_rloo_with_and_without_a_ratio(self) -> None:
        for algorithm in (RLOO(), RLOO(epsilon=0.2)):
            found = enumerate_batches(self.PROBLEM, algorithm, 2).expected_gradient()
            np.testing.assert_allclose(found, self.true_gradient(), rtol=0, atol=1e-12)

    @pytest.mark.parametrize("algorithm", [GRPO(beta=0.0), DAPO(), GSPO(), CISPO()], ids=lambda a: a.kind)
    def test_the_others_point_elsewhere(self, algorithm: Algorithm) -> None:
        found = enumerate_batches(self.PROBLEM, algorithm, 2).expected_gradient().ravel()
        truth = self.true_gradient().ravel()
        cosine = found @ truth / np.linalg.norm(found) / np.linalg.norm(truth)
        assert 0.3 < cosine < 0.999


class TestGRPO:
    def test_the_kl_is_k3_per_token(self) -> None:
        mask = ragged([2, 4])
        logp_ref = torch.full(mask.shape, -1.5, dtype=torch.float64)
        batch = make_batch(tensor([1.0, 1.0]), mask, logp_ref=logp_ref)
        loss, gradient = run(GRPO(beta=0.3), batch, batch.need("logp_sampler"))
        ratio = 0.5  # −1 − (−1.5)
        assert loss.item() == pytest.approx(0.3 * (math.exp(-ratio) - 1 + ratio))
        expected = 0.3 * (1 - math.exp(-ratio)) * mask.double() / (2 * mask.sum(-1, keepdim=True))
        torch.testing.assert_close(gradient, expected)

    def test_without_beta_the_reference_is_not_asked_for(self) -> None:
        assert GRPO().needs_reference
        assert not GRPO(beta=0.0).needs_reference

    def test_refuses_settings_without_effect(self) -> None:
        with pytest.raises(SpecError, match="ddof = 0: has no effect with scale_rewards = none"):
            GRPO(scale_rewards="none", ddof=0)
        with pytest.raises(SpecError, match=r"std_epsilon = 0\.5: has no effect"):
            DrGRPO(std_epsilon=0.5)


class TestDAPO:
    MASK = ragged([1, 3], [4, 4])
    REWARDS = tensor([0.0, 1.0], [0.5, 0.5])

    def test_a_group_of_equal_rewards_is_deleted(self) -> None:
        logp = torch.full(self.MASK.shape, -0.9, dtype=torch.float64)
        both, gradient = run(DAPO(), make_batch(self.REWARDS, self.MASK), logp)
        alone, kept = run(DAPO(), make_batch(self.REWARDS[:1], self.MASK[:1]), logp[:1])
        torch.testing.assert_close(both, alone)
        torch.testing.assert_close(gradient[:1], kept)
        assert (gradient[1] == 0.0).all()
        # Kept, its eight tokens would count: 12 in place of 4.
        diluted, _ = run(DAPO(drop_equal_groups=False), make_batch(self.REWARDS, self.MASK), logp)
        torch.testing.assert_close(diluted, both * 4 / 12)

    def test_no_group_with_a_lesson_gives_no_loss(self) -> None:
        loss, gradient = run(DAPO(beta=0.0), make_batch(self.REWARDS[1:], self.MASK[1:]), tensor([[-0.9] * 4] * 2))
        assert loss.item() == 0.0 and (gradient == 0.0).all()

    def test_absent_responses_stay_absent(self) -> None:
        weight = tensor([1.0, 1.0], [0.0, 1.0])
        rewards = tensor([0.0, 1.0], [math.nan, 0.5])
        logp = torch.full(self.MASK.shape, -0.9, dtype=torch.float64)
        found, _ = run(DAPO(), make_batch(rewards, self.MASK, weight=weight), logp)
        alone, _ = run(DAPO(), make_batch(self.REWARDS[:1], self.MASK[:1]), logp[:1])
        torch.testing.assert_close(found, alone)

    def test_clips_higher_than_grpo(self) -> None:
        batch = make_batch(tensor([0.0, 1.0]), ragged([1, 1]))
        logp = torch.full((1, 2, 4), -1.0 + math.log(1.25), dtype=torch.float64)
        grpo, dapo = (run(a, batch, logp)[1][0, 1, 0] for a in (GRPO(beta=0.0), DAPO()))
        assert grpo == 0.0 and dapo < 0.0  # the good response's ratio is 1.25: beyond 1.2, below 1.28


class TestGSPO:
    def test_is_a_surrogate_of_whole_responses(self) -> None:
        """Equal to −min(sA, clip(s)A) of one ratio a response, in mean, with the gradient spread over its tokens."""
        generator = torch.Generator().manual_seed(0)
        mask = ragged([1, 3, 4], [2, 4, 2])
        batch = make_batch(tensor([0.0, 1.0, 0.5], [3.0, 1.0, 0.0]), mask)
        logp = torch.randn(mask.shape, generator=generator, dtype=torch.float64) * 0.3 - 1.0
        loss, gradient = run(GSPO(epsilon=0.1, epsilon_high=0.2), batch, logp)
        mean_ratio = (torch.where(mask, logp + 1.0, 0.0).sum(-1) / lengths(mask)).requires_grad_()
        surrogate = clipped_loss(mean_ratio, standardised(batch.need("rewards")), 0.1, 0.2).mean()
        torch.testing.assert_close(loss, surrogate.detach())
        (slope,) = torch.autograd.grad(surrogate, mean_ratio)
        torch.testing.assert_close(gradient, torch.where(mask, (slope / lengths(mask)).unsqueeze(-1), 0.0))

    def test_one_wild_token_clips_all_of_its_response_and_none_in_grpo(self) -> None:
        batch = make_batch(tensor([0.0, 1.0]), ragged([2, 2]))
        logp = torch.full((1, 2, 4), -1.0, dtype=torch.float64)
        logp[0, 1, 0] += 1.0  # mean log-ratio ½: far outside; its neighbour's own ratio is 1
        gspo, grpo = (run(a, batch, logp)[1][0, 1, :2] for a in (GSPO(), GRPO(beta=0.0)))
        assert gspo.tolist() == [0.0, 0.0]
        assert grpo[0] == 0.0 and grpo[1] < 0.0


class TestCISPO:
    def test_keeps_the_gradient_where_grpo_clips_it(self) -> None:
        batch = make_batch(tensor([0.0, 1.0]), ragged([1, 1]))
        logp = torch.full((1, 2, 4), 1.0, dtype=torch.float64)  # ratio e² = 7.4, above 1 + 4
        grpo, cispo = (run(a, batch, logp)[1][0, 1, 0] for a in (GRPO(beta=0.0), CISPO()))
        advantage = 0.5 / (math.sqrt(0.5) + 1e-4)
        assert grpo == 0.0
        assert cispo.item() == pytest.approx(-5.0 * advantage / 2)

    def test_bounds_below_when_asked(self) -> None:
        batch = make_batch(tensor([0.0, 1.0]), ragged([1, 1]))
        logp = torch.full((1, 2, 4), -4.0, dtype=torch.float64)
        unbounded, bounded = (run(CISPO(epsilon=e), batch, logp)[1][0, 1, 0].item() for e in (1.0, 0.2))
        assert unbounded / bounded == pytest.approx(math.exp(-3.0) / 0.8)


@pytest.mark.parametrize("cls", [GRPO, DrGRPO, DAPO, CISPO])
def test_importance_sampling_level(cls: type[GRPO]) -> None:
    """One level up the ratio of a response is the geometric mean of its tokens'."""
    batch = make_batch(tensor([0.0, 1.0]), ragged([2, 2]))
    uneven, even = (torch.full((1, 2, 4), -1.0, dtype=torch.float64) for _ in range(2))
    uneven[0, 1, :2] = tensor(-0.8, -1.1)
    even[0, 1, :2] = -0.95
    level, token = cls(beta=0.0, importance_sampling_level="sequence"), cls(beta=0.0)
    assert run(level, batch, uneven)[0].item() == pytest.approx(run(level, batch, even)[0].item())
    assert run(token, batch, uneven)[0].item() != pytest.approx(run(token, batch, even)[0].item(), rel=1e-4)


class TestRLOO:
    def test_a_ratio_for_the_whole_response(self) -> None:
        batch = make_batch(tensor([0.0, 1.0]), ragged([1, 3]))
        logp = torch.full((1, 2, 4), -0.9, dtype=torch.float64)
        loss, _ = run(RLOO(epsilon=0.2), batch, logp)
        # A = −1, 1; w = e^{.1}, e^{.3} = 1.35, which is clipped to 1.2
        assert loss.item() == pytest.approx(0.5 * (math.exp(0.1) - 1.2))

    def test_absent_rewards_are_not_read(self) -> None:
        weight = tensor([1.0, 1.0, 0.0])
        batch = make_batch(tensor([0.0, 1.0, math.nan]), ragged([1, 3, 2]), weight=weight)
        fewer = make_batch(tensor([0.0, 1.0]), ragged([1, 3]))
        logp = torch.full((1, 3, 4), -0.9, dtype=torch.float64)
        for algorithm in (RLOO(), RLOO(epsilon=0.2), Reinforce(), Reinforce(baseline="none")):
            torch.testing.assert_close(run(algorithm, batch, logp)[0], run(algorithm, fewer, logp[:, :2])[0])


class TestPPO:
    MASK = ragged([1, 3])

    def batch(self, gap: float = 0.5, **fields: Any) -> Batch:
        """Rewards 1 and 2, values 0, each token `gap` likelier under the sampler than under the reference."""
        zeros = torch.zeros(self.MASK.shape, dtype=torch.float64)
        return make_batch(tensor([1.0, 2.0]), self.MASK, logp_ref=zeros - 1.0 - gap, values=zeros, **fields)

    def targets(self, algorithm: PPO, **changes: Any) -> dict[str, Tensor]:
        batch = self.batch(**changes)
        return algorithm.targets(batch, algorithm.initial_state(batch.lead, torch.float64, torch.device("cpu")))[0]

    @pytest.mark.parametrize(
        ("estimator", "price"), [("k1", 0.5), ("k2", 0.125), ("k3", math.exp(-0.5) - 0.5)], ids=["k1", "k2", "k3"]
    )
    def test_kl_in_the_reward(self, estimator: Any, price: float) -> None:
        found = self.targets(PPO(beta=0.1, kl_estimator=estimator, lam=1.0))["advantages"][0, 1]
        cost = 0.1 * price
        torch.testing.assert_close(found, tensor(2 - 3 * cost, 2 - 2 * cost, 2 - cost, 0.0))

    @pytest.mark.parametrize(
        ("estimator", "price"), [("k1", 0.5), ("k2", 0.125), ("k3", math.exp(-0.5) - 0.5)], ids=["k1", "k2", "k3"]
    )
    def test_kl_in_the_loss(self, estimator: Any, price: float) -> None:
        values = torch.zeros((1, 2, 4), dtype=torch.float64)
        batch = self.batch()
        charging = PPO(beta=0.1, kl_in="loss", kl_estimator=estimator)
        losses = [run(a, batch, batch.need("logp_sampler"), values)[0].item() for a in (PPO(), charging)]
        assert losses[1] - losses[0] == pytest.approx(0.1 * price * (1 + 3) / 2)  # summed over tokens, mean of two
        charged = self.targets(PPO(beta=0.1, kl_in="loss", kl_estimator=estimator, lam=1.0))["advantages"]
        torch.testing.assert_close(charged[0, 1], tensor(2.0, 2.0, 2.0, 0.0))

    def test_k1_in_the_loss_has_no_expected_gradient_on_fresh_samples(self) -> None:
        problem = make_problem(TokenSpace(3, 2, eos=True), prompts=1, seed=6).on_policy()
        free, charged = (
            enumerate_batches(problem, algorithm, 1).expected_gradient()
            for algorithm in (PPO(), PPO(beta=5.0, kl_in="loss"))
        )
        np.testing.assert_allclose(charged, free, rtol=0, atol=1e-12)
        assert np.abs(free).max() > 1e-3

    def test_k1_in_the_reward_descends_the_kl(self) -> None:
        problem = make_problem(TokenSpace(3, 2, eos=True), prompts=1, seed=6).on_policy()
        logp, logp_ref = problem.logp(problem.policy), problem.logp(problem.reference)
        truth = problem.gradient(-objective_weights(logp, logp_ref, problem.rewards, beta=0.7))
        found = enumerate_batches(problem, PPO(beta=0.7, lam=1.0), 1).expected_gradient()
        np.testing.assert_allclose(found, truth, rtol=0, atol=1e-12)

    @pytest.mark.parametrize(
        ("target", "factor"),
        # The batch's KL is .5·(1 + 3)/2 = 1. Its relative miss counts up to a fifth, and a tenth of that is added.
        [(0.5, 1.02), (1 / 1.1, 1.01), (1.0, 1.0), (1 / 0.95, 0.995), (10.0, 0.98)],
    )
    @pytest.mark.parametrize("place", ["reward", "loss"])
    def test_beta_follows_the_target(self, target: float, factor: float, place: Any) -> None:
        algorithm = PPO(beta=0.1, target_kl=target, kl_in=place)
        state = {"beta": tensor(0.3)[0]}
        _, after = algorithm.targets(self.batch(), state)
        assert after["beta"].item() == pytest.approx(0.3 * factor)

    def test_the_adapted_beta_is_charged(self) -> None:
        for place in ("reward", "loss"):
            algorithm = PPO(beta=0.1, target_kl=1.0, kl_in=place)
            adapted, _ = algorithm.targets(self.batch(), {"beta": tensor(0.7)[0]})
            fixed, _ = PPO(beta=0.7, kl_in=place).targets(self.batch(), {})
            assert adapted.keys() == fixed.keys()
            for name in fixed:
                torch.testing.assert_close(adapted[name], fixed[name])

    def test_absent_responses_do_not_move_beta(self) -> None:
        algorithm = PPO(beta=0.1, target_kl=0.45)
        _, after = algorithm.targets(self.batch(weight=tensor([1.0, 0.0])), {"beta": tensor(1.0)[0]})
        assert after["beta"].item() == pytest.approx(1 + 0.1 * (0.5 / 0.45 - 1))  # the first response's KL is .5

    def test_beta_is_one_a_run(self) -> None:
        state = PPO(beta=tensor(0.1, 0.2), target_kl=1.0).initial_state((2,), torch.float64, torch.device("cpu"))
        torch.testing.assert_close(state["beta"], tensor(0.1, 0.2))
        assert PPO(beta=0.1).initial_state((2,), torch.float64, torch.device("cpu")) == {}

    @pytest.mark.parametrize("change", [{"kl_in": "loss"}, {"kl_estimator": "k3"}, {"target_kl": 1.0}])
    def test_refuses_what_says_nothing_without_beta(self, change: dict[str, Any]) -> None:
        (name,) = change
        with pytest.raises(SpecError, match=f"{name} = .*has no effect with beta = 0"):
            PPO(**change)
        PPO(beta=0.1, **change)


PER_RUN = [
    (GRPO(beta=0.1), {"beta": (0.0, 0.3), "epsilon": (0.05, 0.4)}),
    (DrGRPO(), {"beta": (0.1, 0.3), "epsilon": (0.05, 0.4)}),
    (DAPO(epsilon_high=None), {"beta": (0.1, 0.3), "epsilon": (0.05, 0.4)}),
    (GSPO(), {"beta": (0.1, 0.3), "epsilon": (0.05, 0.4)}),
    (CISPO(), {"beta": (0.1, 0.3), "epsilon": (0.05, 1.0)}),
    (PPO(), {"beta": (0.1, 0.3), "epsilon": (0.05, 0.4), "gamma": (1.0, 0.5), "lam": (1.0, 0.3), "vf_coef": (0.1, 1)}),
    (RLOO(), {"beta": (0.0, 0.3)}),
    (Reinforce(), {"beta": (0.0, 0.3)}),
]  # fmt: skip


@pytest.mark.parametrize(("algorithm", "numbers"), PER_RUN, ids=lambda a: a.kind if isinstance(a, Algorithm) else "")
def test_numbers_that_are_one_a_run(algorithm: Algorithm, numbers: dict[str, tuple[float, float]]) -> None:
    """Two runs in one tensor, each with its own numbers, give the bits of two runs by themselves."""
    generator = torch.Generator().manual_seed(3)
    mask = torch.stack([ragged([1, 3], [2, 4]), ragged([4, 2], [1, 1])])
    noise = torch.randn(4, *mask.shape, generator=generator, dtype=torch.float64)
    rewards = torch.randn(mask.shape[:-1], generator=generator, dtype=torch.float64)
    batch = make_batch(rewards, mask, noise[0] - 1, logp_ref=noise[1] - 1, values=noise[2])
    logp, values = noise[0] - 1 + 0.4 * noise[3], 0.5 * noise[2]
    stacked = dataclasses.replace(algorithm, **{name: tensor(*pair) for name, pair in numbers.items()})
    loss, gradient = run(stacked, batch, logp, values)
    for name in numbers:  # each number counts
        fewer = {other: tensor(*pair) for other, pair in numbers.items() if other != name}
        assert not torch.equal(run(dataclasses.replace(algorithm, **fewer), batch, logp, values)[0], loss)
    for r in range(2):
        alone = dataclasses.replace(algorithm, **{name: tensor(pair[r]) for name, pair in numbers.items()})
        one = batch.over_prompts(lambda x, axis, r=r: x[r : r + 1])
        own_loss, own_gradient = run(alone, one, logp[r : r + 1], values[r : r + 1])
        assert torch.equal(loss[r : r + 1], own_loss)
        assert torch.equal(gradient[r : r + 1], own_gradient)
        if min(pair[r] for name, pair in numbers.items() if name == "beta") > 0:
            plain = algorithm.replace(**{name: pair[r] for name, pair in numbers.items()})
            torch.testing.assert_close(run(plain, one, logp[r : r + 1], values[r : r + 1])[0], own_loss)


def test_reinforce_loss_by_hand() -> None:
    torch.testing.assert_close(reinforce_loss(tensor(-2.0), tensor(3.0)), tensor(6.0))
