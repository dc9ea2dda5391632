"""Responses that are right or wrong: how often, by their length, and the two rewards that say so."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sims.core.numerics.noise import Noise
from sims.core.spec import SpecError
from sims.environments import VerifiableTree

TREE = VerifiableTree(num_prompts=400, vocabulary=3, max_length=4, right_short=0.8, right_long=0.2)


def test_short_responses_are_right_more_often() -> None:
    """Of 400 prompts: a share of n responses is 6 standard deviations from its p with a probability below 1e-8."""
    tokens, right = TREE.space.all_responses[1].sum(-1).numpy(), TREE.rewards()
    for length, p in zip((1, 2, 3, 4), (0.8, 0.6, 0.4, 0.2), strict=True):
        shares = right[:, tokens == length]
        assert abs(shares.mean() - p) < 6 * np.sqrt(p * (1 - p) / shares.size)


def test_the_dense_reward_calls_the_same_responses_right() -> None:
    right, dense = TREE.rewards(), TREE.replace(reward="dense").rewards()
    assert set(np.unique(right)) == {0.0, 1.0}
    assert np.array_equal(dense > 0.5, right == 1.0)
    assert dense.min() >= 0 and dense.max() <= 1 and len(np.unique(dense)) == dense.size
    with pytest.raises(SpecError, match="structure = 'path': must be response"):
        TREE.replace(structure="path")


def test_it_measures_the_expected_length_before_eos() -> None:
    """Of a uniform policy over tokens: Σ_t P(no EOS among the first t tokens) = ⅔ + ⅔² + ⅔³ + ⅔⁴."""
    environment = TREE.build(torch.float64, Noise.of(0, 1))
    logp = -np.log(3.0) * TREE.space.all_responses[1].sum(-1).double().expand(1, TREE.num_prompts, -1)
    expected = sum((2 / 3) ** t for t in (1, 2, 3, 4))
    assert environment.measures(logp, logp)["length"].tolist() == pytest.approx([expected], abs=1e-12)
