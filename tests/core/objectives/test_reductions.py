"""Each token's share of a minibatch, by hand: weights are numbers, and not only there or absent."""

from __future__ import annotations

import pytest
import torch

from sims.core.objectives.reductions import TokenReduction, token_shares

# Two prompts with two responses each, of 1 and 2, and of 2 and 1 tokens; the last response is absent.
MASK = torch.tensor([[[1, 0], [1, 1]], [[1, 1], [1, 0]]], dtype=torch.bool)
WEIGHT = torch.tensor([[1.0, 0.5], [0.25, 0.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        # 1·1 + ½·2 + ¼·2 = 2.5 tokens in all
        ("token_mean", [[[1 / 2.5, 0], [0.5 / 2.5, 0.5 / 2.5]], [[0.25 / 2.5, 0.25 / 2.5], [0, 0]]]),
        # ⅔ and ⅓ of the first of two prompts, all of the second
        ("sequence_sum", [[[1 / 3, 0], [1 / 6, 1 / 6]], [[1 / 2, 1 / 2], [0, 0]]]),
        ("sequence_mean", [[[1 / 3, 0], [1 / 12, 1 / 12]], [[1 / 4, 1 / 4], [0, 0]]]),
        ("constant_length", [[[1 / 12, 0], [1 / 24, 1 / 24]], [[1 / 8, 1 / 8], [0, 0]]]),
    ],
)
def test_shares_of_weighted_responses(reduction: TokenReduction, expected: list) -> None:
    found = token_shares(WEIGHT, MASK, torch.zeros(2, 2, 2, dtype=torch.float64), reduction, 4)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-15)
