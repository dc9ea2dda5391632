"""Group advantages in numbers derived by hand, and the running mean."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sims.core.objectives.advantages import equal_rewards, mean_so_far, standardised


def tensor(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


class TestStandardised:
    def test_by_hand(self) -> None:
        rewards = tensor([0.0, 0.0, 3.0], [1.0, 1.0, 1.0])  # mean 1, squares 1 + 1 + 4 = 6
        sample, whole = math.sqrt(6 / 2), math.sqrt(6 / 3)
        for ddof, deviation in ((1, sample), (0, whole)):
            expected = tensor([-1.0, -1.0, 2.0], [0.0, 0.0, 0.0])
            expected[0] /= deviation + 0.5
            torch.testing.assert_close(standardised(rewards, ddof=ddof, epsilon=0.5), expected)
        torch.testing.assert_close(standardised(rewards, scale="none"), tensor([-1.0, -1.0, 2.0], [0.0, 0.0, 0.0]))
        # All six rewards: mean 1, squares 6; groups keep their own mean.
        batch = tensor([-1.0, -1.0, 2.0], [0.0, 0.0, 0.0]) / math.sqrt(6 / 5)
        torch.testing.assert_close(standardised(rewards, scale="batch", epsilon=0.0), batch)

    @pytest.mark.parametrize("scale", ["group", "batch", "none"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_equal_rewards_are_exactly_zero(self, scale: Any, dtype: torch.dtype) -> None:
        rewards = torch.full((2, 7), 0.1, dtype=dtype)
        assert (standardised(rewards, scale=scale, epsilon=0.0) == 0.0).all()
        rewards[1, 0] = 0.7
        assert (standardised(rewards, scale=scale, epsilon=0.0)[0] == 0.0).all()

    def test_affine_invariance_without_delta_and_its_price_with_delta(self) -> None:
        rewards = tensor([0.3, -1.0, 0.5, 2.0])
        torch.testing.assert_close(standardised(7 * rewards + 3, epsilon=0.0), standardised(rewards, epsilon=0.0))
        small = standardised(rewards / 10, epsilon=0.1)
        torch.testing.assert_close(small, standardised(rewards, epsilon=1.0))  # δ counts ten times as much

    @pytest.mark.parametrize("scale", ["group", "batch", "none"])
    def test_absent_responses_are_deleted(self, scale: Any) -> None:
        rewards, weight = tensor([0.3, math.nan, 0.5, 2.0]), tensor([1.0, 0.0, 1.0, 1.0])
        found = standardised(rewards, weight, scale=scale)
        kept = standardised(rewards[:, weight[0] > 0], scale=scale)
        torch.testing.assert_close(found[:, weight[0] > 0], kept)
        assert found[0, 1] == 0.0

    def test_a_lone_response_has_no_advantage(self) -> None:
        assert standardised(tensor([1.0, 5.0]), tensor([0.0, 1.0])).tolist() == [[0.0, 0.0]]

    def test_equal_rewards_reads_only_what_is_there(self) -> None:
        rewards = tensor([1.0, 2.0, 1.0], [1.0, 2.0, 1.0], [1.0, 2.0, 3.0])
        weight = tensor([1.0, 1.0, 1.0], [1.0, 0.0, 1.0], [0.0, 0.0, 0.0])
        assert equal_rewards(rewards).flatten().tolist() == [False, False, False]
        assert equal_rewards(rewards, weight).flatten().tolist() == [False, True, True]


def test_mean_so_far() -> None:
    there = torch.tensor([[True, True, False]])
    mean, count = mean_so_far(tensor(4.0)[0], tensor(2.0)[0], tensor([1.0, 3.0, math.nan]), there)
    assert (mean.item(), count.item()) == (3.0, 4.0)  # (4 + 4 + 1 + 3) / 4
