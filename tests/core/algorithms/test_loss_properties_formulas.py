"""What must hold of advantages, reductions, divergences and pair losses, whoever uses them.

Rows are those of `tests/BUGS.md`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sims.core.algorithms import all_algorithms
from sims.core.algorithms.clipped import GRPO, GroupPolicyGradient
from sims.core.losses.contrastive import conservative_dpo_loss, dpo_loss, hinge_loss, ipo_loss, log_odds
from sims.core.losses.reward_model import labelled_bradley_terry_loss
from sims.core.objectives.advantages import centred, gae, group_mean, leave_one_out, standardised, whiten
from sims.core.objectives.divergences import k3
from sims.core.objectives.reductions import TokenReduction, shares, token_shares
from tests.core.drawn_batches import Shape, Style, examples, make_case, same, shapes, styles

FLOAT32_EPSILON = 2.0**-23
exponents = st.floats(-12.0, -4.0)
signs = st.sampled_from([-1.0, 1.0])


def tensor(*values: Any, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype)


def slope(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    point = at.clone().requires_grad_()
    return torch.autograd.grad(loss(point).sum(), point)[0]


# --- KL estimators


@examples(200)
@given(exponent=exponents, sign=signs)
def test_row_8_k3_of_small_log_ratios_in_float32(exponent: float, sign: float) -> None:
    """Not negative, and ½x² up to what rounding −x costs; e^−x − 1 + x would be off by the rounding of 1."""
    x = tensor(sign * 10.0**exponent, dtype=torch.float32)
    value = float(k3(x))
    assert value >= 0.0
    assert abs(value - 0.5 * float(x) ** 2) <= 1e-4 * 0.5 * float(x) ** 2 + FLOAT32_EPSILON * abs(float(x))


# --- reductions


def test_row_15_every_reduction_by_hand() -> None:
    """Two prompts of two responses with 1 and 3, 2 and 2 tokens; then the last response is absent."""
    mask = torch.tensor([[[1, 0, 0], [1, 1, 1]], [[1, 1, 0], [1, 1, 0]]], dtype=torch.bool)
    all_there = {
        "sequence_sum": [[1 / 4, 1 / 4], [1 / 4, 1 / 4]],  # 2 prompts × 2 responses
        "sequence_mean": [[1 / 4, 1 / 12], [1 / 8, 1 / 8]],
        "token_mean": [[1 / 8, 1 / 8], [1 / 8, 1 / 8]],  # 1 + 3 + 2 + 2 tokens
        "constant_length": [[1 / 40, 1 / 40], [1 / 40, 1 / 40]],  # a constant of 10
    }
    one_absent = {
        "sequence_sum": [[1 / 4, 1 / 4], [1 / 2, 0]],  # a prompt counts as much as the other, whatever it has left
        "sequence_mean": [[1 / 4, 1 / 12], [1 / 4, 0]],
        "token_mean": [[1 / 6, 1 / 6], [1 / 6, 0]],
        "constant_length": [[1 / 40, 1 / 40], [1 / 20, 0]],
    }
    like = torch.zeros(mask.shape, dtype=torch.float64)
    weight = tensor([1.0, 1.0], [1.0, 0.0])
    for reduction in get_args(TokenReduction):
        for given_weight, expected in ((None, all_there), (weight, one_absent)):
            found = token_shares(given_weight, mask, like, reduction, 10)
            torch.testing.assert_close(found, tensor(*expected[reduction]).unsqueeze(-1) * mask)
    torch.testing.assert_close(shares(weight, weight), tensor([1 / 4, 1 / 4], [1 / 2, 0.0]))
    torch.testing.assert_close(shares(None, weight), tensor([1 / 4, 1 / 4], [1 / 4, 1 / 4]))


@examples(50)
@given(shape=shapes(), style=styles(mask=("ragged", "holes", "empty")))
def test_row_15_shares_are_of_a_mean(shape: Shape, style: Style) -> None:
    """They add up to 1 wherever a unit weighs one, and to 0 of nothing; they do not feel the scale of the weights."""
    batch = make_case(shape, style).batch
    like = batch.need("rewards")
    there = torch.ones_like(like) if batch.weight is None else batch.weight
    for found in (shares(batch.weight, like), shares(None if batch.weight is None else 3 * there, like)):
        same(found.sum((-2, -1)), (there > 0).any(-1).any(-1).to(like.dtype))
    for reduction in ("token_mean", "sequence_mean"):
        share = token_shares(batch.weight, batch.mask, batch.need("values"), reduction)
        counted = (there.unsqueeze(-1) * batch.mask).sum((-3, -2, -1)) > 0
        total = share.sum((-3, -2, -1))
        if reduction == "token_mean":
            same(total, counted.to(total.dtype))
        else:  # a response without tokens keeps its share, of nothing
            assert (total <= 1.0 + 1e-12).all()


def test_row_16_a_constant_length_is_given_and_not_read_off_the_padding() -> None:
    mask = torch.ones(1, 1, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="constant_length = None: must be"):
        token_shares(None, mask, torch.zeros(1, 1, 2), "constant_length")


# --- advantages


@examples(50)
@given(
    shape=shapes(), seed=st.integers(0, 999), ddof=st.integers(0, 1), shift=st.floats(-9, 9), scale=st.floats(0.1, 9)
)
def test_rows_43_and_44_advantages_under_affine_maps(
    shape: Shape, seed: int, ddof: int, shift: float, scale: float
) -> None:
    """Invariant at δ = 0; at δ > 0 shrunk by σ/(σ + δ). σ is the deviation that torch calls `correction = ddof`."""
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(*shape.lead, shape.prompts, shape.generations, generator=generator, dtype=torch.float64)
    deviation = rewards.std(-1, correction=ddof, keepdim=True)
    plain = standardised(rewards, ddof=ddof, epsilon=0.0)
    same(plain, (rewards - rewards.mean(-1, keepdim=True)) / deviation)
    same(standardised(scale * rewards + shift, ddof=ddof, epsilon=0.0), plain, 1e-9)
    same(standardised(rewards, ddof=ddof, epsilon=0.3), plain * deviation / (deviation + 0.3))
    same(leave_one_out(scale * rewards + shift), scale * leave_one_out(rewards), 1e-9)
    same(standardised(rewards, scale="none"), centred(rewards))


def test_row_44_the_default_is_that_of_trl_and_verl() -> None:
    assert GRPO().ddof == 1
    assert torch.equal(standardised(tensor([0.0, 3.0, 1.0])), standardised(tensor([0.0, 3.0, 1.0]), ddof=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [k for k, cls in all_algorithms().items() if issubclass(cls, GroupPolicyGradient)])
def test_row_43_seven_equal_rewards_teach_nothing(kind: str, dtype: torch.dtype) -> None:
    """Seven float32 rewards of 0.1 do not sum to seven times 0.1: the residue must not be divided by δ."""
    rewards = torch.full((2, 7), 0.1, dtype=dtype)
    for scale in ("group", "batch", "none"):
        algorithm = all_algorithms()[kind](beta=0.0, scale_rewards=scale)
        batch = make_case(Shape((), 2, 7, 3), EQUAL).to(dtype).batch.replace(rewards=rewards)
        assert (algorithm.targets(batch, {})[0]["advantages"] == 0.0).all()


EQUAL = Style(0, "full", "equal", 1.0, False, "none", "none", False, torch.float64)


def test_row_46_a_reward_of_0_is_a_reward() -> None:
    """Absent is what has weight 0, and nothing else: 0.0 pulls the mean, and a missing reward does not."""
    rewards = tensor([0.0, 2.0, 4.0])
    assert leave_one_out(rewards).tolist() == [[-3.0, 0.0, 3.0]]
    assert leave_one_out(tensor([math.nan, 2.0, 4.0]), tensor([0.0, 1.0, 1.0])).tolist() == [[0.0, -2.0, 2.0]]
    assert group_mean(rewards).item() == 2.0


@examples(50)
@given(shape=shapes(), style=styles(mask=("ragged", "holes", "empty")), gamma=st.floats(0, 1), lam=st.floats(0, 1))
def test_row_47_advantages_step_over_masked_tokens(shape: Shape, style: Style, gamma: float, lam: float) -> None:
    """Σ_s (γλ)^s δ_{t+s} over a response's own tokens, written out; the same as if masked ones were not there."""
    batch = make_case(shape, style).batch
    mask, values = batch.mask.flatten(0, -2), batch.need("values").flatten(0, -2)
    rewards = batch.need("logp_ref").flatten(0, -2)
    spoilt = [x.masked_fill(~mask, torch.nan) for x in (rewards, values)]
    found = gae(*spoilt, mask, gamma, lam)
    assert (found[~mask] == 0.0).all()
    for row in range(min(len(mask), 8)):
        reward, value = rewards[row][mask[row]], values[row][mask[row]]
        following = torch.cat([value[1:], value.new_zeros(min(1, len(value)))])
        errors = reward + gamma * following - value
        steps = torch.arange(len(errors))
        decay = (gamma * lam) ** (steps - steps.unsqueeze(-1)).clamp(min=0).double()
        same(found[row][mask[row]], (decay.triu() * errors).sum(-1))


@examples(50)
@given(shape=shapes(), style=styles(mask=("ragged", "holes", "empty")))
def test_row_47_whitening_sees_only_real_tokens(shape: Shape, style: Style) -> None:
    batch = make_case(shape, style).batch
    mask, values = batch.mask, batch.need("values")
    found = whiten(values.masked_fill(~mask, torch.nan), mask)
    found, masks, plain = (x.reshape(-1, *x.shape[-3:]) for x in (found, mask, values))
    for run in range(len(found)):
        real = plain[run][masks[run]]
        assert (found[run][~masks[run]] == 0.0).all()
        if len(real):
            same(found[run][masks[run]], (real - real.mean()) / torch.sqrt(real.var(correction=0) + 1e-8), 1e-9)


# --- losses of pairs


@examples(60)
@given(beta=st.floats(0.01, 5.0), label=st.floats(0.02, 0.98), smoothing=st.floats(0.01, 0.49))
def test_row_21_minimisers_sit_where_the_papers_say(beta: float, label: float, smoothing: float) -> None:
    """Of p·l(h) + (1 − p)·l(−h) by the margin h, for labels that say yes with probability p."""

    def both(loss: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda h: label * loss(h) + (1.0 - label) * loss(-h)

    log_odds_of_label = math.log(label / (1.0 - label))
    smoothed = math.log((1.0 - smoothing) / smoothing)
    places: list[tuple[Callable[[Tensor], Tensor], float]] = [
        (both(lambda h: dpo_loss(h, beta)), log_odds_of_label / beta),
        (both(lambda h: ipo_loss(h, beta)), (2.0 * label - 1.0) / (2.0 * beta)),
        (lambda h: ipo_loss(h, beta), 1.0 / (2.0 * beta)),
        (lambda h: conservative_dpo_loss(h, beta, smoothing), smoothed / beta),
        (lambda h: labelled_bradley_terry_loss(h, tensor(label)), log_odds_of_label),
    ]
    for loss, place in places:
        at, around = tensor(place), tensor(place - 0.5, place + 0.5)
        assert float(slope(loss, at)) == pytest.approx(0.0, abs=1e-12 * max(1.0, abs(place)))
        below, above = slope(loss, around)
        assert below < 0 < above
    assert slope(lambda h: hinge_loss(h, beta), tensor(1.0 / beta + 0.01)).item() == 0.0
    assert slope(lambda h: hinge_loss(h, beta), tensor(1.0 / beta - 0.01)).item() == -beta


@examples(200)
@given(exponent=st.floats(-30.0, 1.9))
def test_row_22_log_odds_in_float32_as_p_goes_to_1_or_0(exponent: float) -> None:
    """Value and gradient, relative to float64; log1p(−e^ℓ) has no digit left at ℓ = −1e−8."""
    narrow = tensor(-(10.0**exponent), dtype=torch.float32)
    wide = narrow.double()
    exact = float(wide) - math.log(-math.expm1(float(wide)))
    assert float(log_odds(narrow)) == pytest.approx(exact, rel=1e-5, abs=1e-6)
    assert float(log_odds(wide)) == pytest.approx(exact, rel=1e-12, abs=1e-12)
    assert float(slope(log_odds, narrow)) == pytest.approx(-1.0 / math.expm1(float(wide)), rel=1e-5)
