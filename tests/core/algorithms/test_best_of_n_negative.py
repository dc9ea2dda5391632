"""Best-of-N with a negative gradient: which responses go down, how hard, and what each form does not do."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sims.core.algorithms.best_of_n import BestOfN, BestOfNNegative
from sims.core.losses.likelihood import unlikelihood_loss
from sims.core.objectives.batch import Batch, Outputs
from sims.environments.space import TokenSpace
from tests.core.drawn_batches import examples
from tests.core.enumeration import enumerate_batches, make_problem

LOGP = -torch.tensor([[0.5, 2.0, 1.0, 3.0]], dtype=torch.float64)
REWARDS = torch.tensor([[0.2, 1.0, 0.4, 0.0]], dtype=torch.float64)


def make_batch(rewards: Tensor = REWARDS, **fields: Any) -> Batch:
    """Single tokens: rewards (B, K)."""
    mask = torch.ones(*rewards.shape, 1, dtype=torch.bool)
    return Batch(torch.zeros(len(rewards), dtype=torch.int64), mask.long(), mask, rewards=rewards, **fields)


def run(algorithm: BestOfN, batch: Batch, logp: Tensor = LOGP) -> tuple[float, list[Any]]:
    """The loss, and its gradient by log-probs (B, K)."""
    leaf = logp.unsqueeze(-1).clone().requires_grad_()
    targets = algorithm.at_update(batch, algorithm.targets(batch, {})[0], None)
    loss = algorithm.loss(Outputs(leaf), batch, targets).sum()
    return loss.item(), torch.autograd.grad(loss, leaf)[0].squeeze(-1).tolist()


def test_who_is_pushed_down_by_hand() -> None:
    """The best is the second; the worst the last."""
    for negatives, down, lowered in (
        ("worst", [0, 0, 0, 1], -3.0),
        ("mean_of_rest", [1 / 3, 0, 1 / 3, 1 / 3], -(0.5 + 1.0 + 3.0) / 3),
        ("sum_of_rest", [1, 0, 1, 1], -(0.5 + 1.0 + 3.0)),
    ):
        loss, gradient = run(BestOfNNegative(beta=0.3, negatives=negatives), make_batch())
        assert loss == pytest.approx(2.0 + 0.3 * lowered)
        assert gradient[0] == pytest.approx([0.3 * d - (k == 1) for k, d in enumerate(down)])


def test_equals_of_the_best_go_up_and_equals_of_the_worst_share_the_push() -> None:
    rewards = torch.tensor([[1.0, 1.0, 0.0, 0.0, 0.5]]).double()
    logp = -torch.ones(1, 5).double()
    _, gradient = run(BestOfNNegative(beta=1.0), make_batch(rewards), logp)
    assert gradient[0] == pytest.approx([-0.5, -0.5, 0.5, 0.5, 0.0])
    _, gradient = run(BestOfNNegative(beta=1.0, negatives="sum_of_rest"), make_batch(rewards), logp)
    assert gradient[0] == pytest.approx([-0.5, -0.5, 1.0, 1.0, 1.0])


@pytest.mark.parametrize("negatives", ["worst", "mean_of_rest", "sum_of_rest"])
@pytest.mark.parametrize("form", ["log_prob", "log_complement"])
def test_of_equal_rewards_none_is_pushed_down(negatives: Any, form: Any) -> None:
    batch = make_batch(torch.full((1, 4), 0.1).double())
    assert run(BestOfNNegative(beta=1.0, negatives=negatives, form=form), batch) == run(BestOfN(), batch)


def test_log_complement_pushes_by_the_odds() -> None:
    """β·π/(1 − π), π = e^−0.5, e^−1, e^−3."""
    loss, gradient = run(BestOfNNegative(beta=0.3, negatives="sum_of_rest", form="log_complement"), make_batch())
    p = [math.exp(-x) for x in (0.5, 1.0, 3.0)]
    assert loss == pytest.approx(2.0 - 0.3 * sum(math.log(1 - x) for x in p))
    odds = [0.3 * x / (1 - x) for x in p]
    assert gradient[0] == pytest.approx([odds[0], -1.0, odds[1], odds[2]])


@pytest.mark.parametrize("negatives", ["worst", "mean_of_rest", "sum_of_rest"])
def test_log_ratios_to_a_fixed_reference_change_the_loss_and_not_the_gradient(negatives: Any) -> None:
    """So that of the released code's six variants no more than four differ."""
    logp_ref = -torch.tensor([[[1.0], [0.3], [2.0], [0.7]]]).double()
    plain, ratio = (
        run(BestOfNNegative(beta=0.3, negatives=negatives, form=form), make_batch(logp_ref=logp_ref))
        for form in ("log_prob", "log_ratio")
    )
    assert ratio[1] == plain[1]
    down = {"worst": [0, 0, 0, 1], "mean_of_rest": [1 / 3, 0, 1 / 3, 1 / 3], "sum_of_rest": [1, 0, 1, 1]}[negatives]
    constant = (
        0.3 * sum(d * x for d, x in zip(down, (1.0, 0.3, 2.0, 0.7), strict=True)) - 0.3
    )  # − β·ℓ_ref, + ℓ_ref(best)
    assert ratio[0] == pytest.approx(plain[0] + constant)
    assert BestOfNNegative(form="log_ratio").needs_reference and not BestOfNNegative().needs_reference


def test_the_gate_leaves_the_unlikely_alone() -> None:
    """The best has e^−2: of it the others have e^1.5, e^1 and e^−1 = 0.37 shares."""
    for gate, open_ in ((0.36, [1, 0, 1, 1]), (0.38, [1, 0, 1, 0])):
        _, gradient = run(BestOfNNegative(beta=0.3, negatives="sum_of_rest", gate=gate), make_batch())
        assert gradient[0] == pytest.approx([0.3 * o - (k == 1) for k, o in enumerate(open_)])


def test_without_weight_or_rest_it_is_best_of_n() -> None:
    assert run(BestOfNNegative(beta=0.0), make_batch()) == run(BestOfN(), make_batch())
    problem = make_problem(TokenSpace(3), prompts=2, seed=1)
    three = ("worst", "mean_of_rest", "sum_of_rest")
    found = [enumerate_batches(problem, BestOfNNegative(negatives=n), 2).expected_gradient() for n in three]
    np.testing.assert_allclose(found[1:], [found[0]] * 2, rtol=0, atol=1e-14)  # of two, all of these are the other


def test_a_prompt_without_responses_and_one_more_prompt() -> None:
    """Shares are of the prompts that are there."""
    rewards = REWARDS.repeat(3, 1)
    weight = torch.ones(3, 4).double()
    weight[1] = 0.0
    algorithm = BestOfNNegative(beta=0.3, negatives="sum_of_rest")
    loss, gradient = run(algorithm, make_batch(rewards, weight=weight), LOGP.repeat(3, 1))
    alone, once = run(algorithm, make_batch())
    assert loss == pytest.approx(alone)
    assert gradient[1] == [0.0] * 4 and gradient[2] == pytest.approx([g / 2 for g in once[0]])


@examples(200)
@given(exponent=st.floats(-30.0, 1.9))
def test_unlikelihood_in_float32_as_p_goes_to_1_or_0(exponent: float) -> None:
    """Value and gradient, relative to float64; log(1 − e^ℓ) is −∞ from ℓ = −3e−8 on."""
    narrow = torch.tensor(-(10.0**exponent), dtype=torch.float32, requires_grad=True)
    wide = narrow.item()
    value = unlikelihood_loss(narrow)
    exact = -math.log(-math.expm1(wide)) if wide > -0.7 else -math.log1p(-math.exp(wide))
    assert value.item() == pytest.approx(exact, rel=1e-5, abs=0.0)
    (slope,) = torch.autograd.grad(value, narrow)
    assert slope.item() == pytest.approx(math.exp(wide) / -math.expm1(wide), rel=1e-5, abs=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unlikelihood_of_the_certain_and_of_the_impossible(dtype: torch.dtype) -> None:
    logp = torch.tensor([0.0, -math.inf], dtype=dtype, requires_grad=True)
    value = unlikelihood_loss(logp)
    assert value.tolist() == [pytest.approx(-math.log(torch.finfo(dtype).tiny)), 0.0]
    assert torch.autograd.grad(value.sum(), logp)[0].tolist() == [0.0, 0.0]


def test_a_response_without_a_token_costs_nothing() -> None:
    batch = make_batch().replace(mask=torch.tensor([[[False], [True], [True], [True]]]))
    loss, gradient = run(BestOfNNegative(beta=0.3, negatives="sum_of_rest", form="log_complement"), batch)
    assert loss == pytest.approx(2.0 - 0.3 * (math.log1p(-math.exp(-1.0)) + math.log1p(-math.exp(-3.0))))
    assert gradient[0][0] == 0.0


@pytest.mark.parametrize("form", ["log_prob", "log_complement"])
def test_one_beta_a_run(form: Any) -> None:
    rewards, logp = REWARDS.expand(2, 3, 4), (LOGP * torch.tensor([1.0, 0.7]).reshape(2, 1, 1).double()).expand(2, 3, 4)
    batch = Batch(
        torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3, 4, 1).long(), torch.ones(2, 3, 4, 1).bool(),
        rewards=rewards,
    )  # fmt: skip
    beta = torch.tensor([0.3, 0.8]).double()
    together = run(BestOfNNegative(beta=beta, form=form), batch, logp)
    apart = [
        run(BestOfNNegative(beta=float(b), form=form), make_batch(rewards[0]), logp[r]) for r, b in enumerate(beta)
    ]
    assert together[0] == pytest.approx(sum(loss for loss, _ in apart))
    assert torch.tensor(together[1]).equal(torch.tensor([gradient for _, gradient in apart]))
