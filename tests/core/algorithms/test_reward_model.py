"""Losses of reward models, by hand-derived values, identities, and their exact minimiser on a table."""

import math

import pytest
import torch

from sims.core.algorithms.reward_model import RewardModelLoss
from sims.core.losses.reward_model import (
    aggregate_aspects,
    bradley_terry_loss,
    centring_loss,
    labelled_bradley_terry_loss,
    smoothed,
)
from sims.core.spec import SpecError


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_bradley_terry_by_hand() -> None:
    log3 = math.log(3.0)
    assert bradley_terry_loss(tensor(0.0)).item() == pytest.approx(math.log(2.0))  # a coin
    assert bradley_terry_loss(tensor(log3)).item() == pytest.approx(math.log(4 / 3))  # σ(log 3) = 3/4
    assert bradley_terry_loss(tensor(log3 + 1.0), margin=1.0).item() == pytest.approx(math.log(4 / 3))
    assert bradley_terry_loss(tensor(-1e4)).item() == 1e4  # −log σ(−x) → x, without overflow


def test_the_margin_is_the_winners() -> None:
    """Whoever wins has to win by the margin: swapping the pair and the label changes nothing."""
    difference, label, margin = tensor(0.7, -0.3, 2.0), tensor(1.0, 0.0, 0.25), tensor(0.5, 1.0, 0.2)
    loss = labelled_bradley_terry_loss(difference, label, margin)
    torch.testing.assert_close(loss, labelled_bradley_terry_loss(-difference, 1.0 - label, margin))
    # second pair: the second won by 0.3, 0.7 short of its margin
    assert loss[1].item() == pytest.approx(math.log(1 + math.exp(0.7)))


def test_minimum_of_a_soft_label_is_its_log_odds() -> None:
    difference = tensor(math.log(3.0)).requires_grad_()
    (slope,) = torch.autograd.grad(labelled_bradley_terry_loss(difference, tensor(0.75)).sum(), difference)
    assert abs(slope.item()) < 1e-15


def test_label_smoothing() -> None:
    assert smoothed(tensor(1.0, 0.0, 0.5), 0.2).tolist() == pytest.approx([0.8, 0.2, 0.5])
    first, second, label = tensor(1.0, -2.0), tensor(0.5, 0.5), tensor(1.0, 0.0)
    ours = RewardModelLoss(label_smoothing=0.2).pair_losses(first, second, label)
    by_hand = 0.8 * RewardModelLoss().pair_losses(first, second, label)
    by_hand += 0.2 * RewardModelLoss().pair_losses(first, second, 1.0 - label)
    torch.testing.assert_close(ours, by_hand)


def test_only_centring_feels_a_shift() -> None:
    first, second, label = tensor(1.0, -2.0), tensor(0.5, 0.5), tensor(1.0, 0.0)
    plain, centred = RewardModelLoss(), RewardModelLoss(center_rewards_coefficient=0.1)
    torch.testing.assert_close(plain.pair_losses(first + 5, second + 5, label), plain.pair_losses(first, second, label))
    assert centring_loss(first, second).tolist() == [2.25, 2.25]  # 1.5², (−1.5)²
    extra = centred.pair_losses(first, second, label) - plain.pair_losses(first, second, label)
    assert extra.tolist() == pytest.approx([0.225, 0.225])


def test_true_rewards_are_the_minimiser_and_centring_picks_one() -> None:
    """Under Bradley–Terry labels the expected loss over all pairs has no gradient at the true rewards, shifted or not;
    with centring, only where the mean over pairs vanishes."""
    rewards = tensor(-1.0, 0.3, 2.0)
    label = torch.sigmoid(rewards[:, None] - rewards)

    def gradient(shift: float, coefficient: float) -> torch.Tensor:
        scores = (rewards + shift).requires_grad_()
        config = RewardModelLoss(center_rewards_coefficient=coefficient)
        first, second = (x.expand(3, 3) for x in (scores[:, None], scores))
        return torch.autograd.grad(config.pair_losses(first, second, label).sum(), scores)[0]

    assert gradient(0.0, 0.0).abs().max() < 1e-15
    assert gradient(7.0, 0.0).abs().max() < 1e-14
    mean = -rewards.mean().item()
    assert abs(gradient(mean, 0.1).sum()) < 1e-14  # no pull on the common level any more
    assert gradient(mean + 1.0, 0.1).sum() > 1.0


def test_aspects_are_averaged() -> None:
    label = torch.tensor([[1.0, 1.0, 0.0, 1.0], [0.5, 0.0, 0.0, 0.0]], dtype=torch.float64)
    assert aggregate_aspects(label).tolist() == [0.75, 0.125]


def test_absent_aspects_do_not_count() -> None:
    """Marking an aspect as absent is deleting it, whatever stands there; without any aspect nothing is known."""
    label = torch.tensor([[1.0, 0.0, 0.0], [1.0, math.nan, 0.0], [math.nan, math.nan, math.inf]]).requires_grad_()
    present = torch.tensor([[True, True, True], [True, False, True], [False, False, False]])
    found = aggregate_aspects(label, present)
    assert found.tolist() == pytest.approx([1 / 3, 0.5, 0.5])
    assert torch.isfinite(torch.autograd.grad(found.sum(), label)[0]).all()


def test_aspects_count_by_who_is_ahead() -> None:
    """Two narrow wins outvote one large loss: not the label of the mean score."""
    scores = torch.tensor([[3.0, 3.0, 1.0], [2.0, 2.0, 5.0]])  # two responses, three aspects
    label = (scores[0] > scores[1]).double()
    assert aggregate_aspects(label[None]).item() == pytest.approx(2 / 3)
    assert scores[0].mean() < scores[1].mean()


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (4, 4)])
def test_shapes(shape: tuple[int, ...]) -> None:
    first, second, label = (torch.rand(shape) for _ in range(3))
    config = RewardModelLoss(label_smoothing=0.1, center_rewards_coefficient=0.01)
    assert config.pair_losses(first, second, label).shape == shape


def test_numbers_per_run() -> None:
    """A stack of runs, each with its own numbers, is each run by itself."""
    first, second, label = (torch.rand(2, 3, 3, dtype=torch.float64) for _ in range(3))  # R = 2, B = Q = 3
    numbers = [(0.1, 0.01), (0.3, 0.5)]
    stacked = RewardModelLoss(label_smoothing=tensor(0.1, 0.3), center_rewards_coefficient=tensor(0.01, 0.5))
    together = stacked.pair_losses(first, second, label)
    for run, (smoothing, coefficient) in enumerate(numbers):
        alone = RewardModelLoss(label_smoothing=smoothing, center_rewards_coefficient=coefficient)
        assert torch.equal(together[run], alone.pair_losses(first[run], second[run], label[run]))


@pytest.mark.parametrize(("field", "value"), [("label_smoothing", 0.5), ("center_rewards_coefficient", -0.1)])
def test_refuses(field: str, value: float) -> None:
    with pytest.raises(SpecError, match=field):
        RewardModelLoss(**{field: value})
