"""A proxy reward: what it is fitted to, what it is measured by, and that runs have proxies of their own."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from llm.embedded import language
from llm.tasks import ProxyReward
from llm.tasks.environment import TextEnvironment
from llm.tasks.proxy import _encoder
from sims.core.numerics.noise import Noise
from sims.core.spec import SpecError

TASK = ProxyReward(recorded_prompts=256, proxy_epochs=1)
CPU = torch.device("cpu")


def environment(task: ProxyReward) -> TextEnvironment:
    return TextEnvironment(task, language.build_tokenizer(), CPU, pairing="drawn")


def test_recorded_pairs_have_the_annotators_labels_and_gold_rewards_not_the_proxys() -> None:
    """Noiseless, the chosen response is the one whose length is nearer to the mode: the proxy makes mistakes there."""
    env = environment(TASK.replace(annotator_temperature=0.0))
    batch = env.recorded(256, Noise.single(0))
    assert batch.gold is not None and batch.rewards is not None and batch.pair_label is not None
    lengths = (batch.mask.sum(-1) - 1).double()
    assert torch.equal(batch.gold.double(), -(lengths - TASK.mode).abs())
    assert bool((batch.gold[:, 0] >= batch.gold[:, 1]).all()) and bool((batch.pair_label == 1).all())
    mistaken = (batch.rewards[:, 0] < batch.rewards[:, 1]) & (batch.gold[:, 0] > batch.gold[:, 1])
    assert 0 < int(mistaken.sum()) < 0.4 * len(mistaken)


def test_the_annotator_prefers_by_bradley_terry() -> None:
    """Of pairs with a gap of d tokens the nearer one is chosen with probability σ(d/T). z < 5 by chance in all but 6e-7
    of seeds, and the seed is fixed."""
    rows = TASK.replace(recorded_prompts=1500).recorded_rows(_encoder())
    gold = np.array([[-abs(len(ids) - 1 - TASK.mode) for ids in row.completion_ids] for row in rows], dtype=float)
    gap = np.abs(gold[:, 0] - gold[:, 1])
    right = (gold[:, 0] > gold[:, 1])[gap > 0]
    chance = 1 / (1 + np.exp(-gap[gap > 0] / TASK.annotator_temperature))
    z = (right.sum() - chance.sum()) / math.sqrt((chance * (1 - chance)).sum())
    assert abs(z) < 5 and right.mean() < 0.9


def test_each_run_has_its_own_pairs_and_the_same_seed_gives_the_same_proxy() -> None:
    one, again, other = TASK.of_run(1), TASK.replace(proxy_seed=1), TASK.of_run(2)
    assert one == again and one.proxy() is again.proxy()
    first, second = (task.recorded_rows(_encoder()) for task in (one, other))
    assert [row.prompt for row in first] != [row.prompt for row in second]
    weights = [next(task.proxy().parameters()) for task in (one, other)]
    assert not torch.equal(*weights)


def test_the_proxy_orders_held_out_pairs_better_than_chance() -> None:
    """256 pairs: .6 is 3.2 standard errors above a coin, 7e-4; the seed is fixed."""
    assert 0.6 < TASK.accuracy() < 0.95


def test_other_data_are_refused() -> None:
    with pytest.raises(SpecError, match="learned_reward takes a reward model on other data"):
        replace(TASK, data="rows.jsonl")
