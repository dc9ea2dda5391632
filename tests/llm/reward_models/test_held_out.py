"""Held-out pairs of a reward model: whole prompts, and a count of those that are trained on."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from llm.__main__ import main
from llm.data.held_out import split_by_prompt
from llm.data.whole import repeated
from llm.embedded.language import all_prompts, build_tokenizer
from llm.reward_models.data import RewardData, load_rows
from sims.core.spec import SpecError

TOKENIZER = build_tokenizer()


def written(folder, name: str, prompts, copies: int = 1) -> str:
    rows = [{"prompt": prompt, "chosen": "they sleep .", "rejected": "they run ."} for prompt in prompts]
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows * copies))
    return str(folder / name)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_copies_of_a_pair_stay_together(tmp_path, share):
    data = RewardData(data=written(tmp_path, "pairs.jsonl", all_prompts("train")[:40], copies=5), held_out_share=share)
    for seed in range(3):
        rows, held_out = load_rows(data, TOKENIZER, seed)
        assert len(rows) + len(held_out) == 200 and len(held_out) == 200 * share
        assert set(Counter(row.prompt for row in held_out).values()) == {5}
        assert repeated(held_out, rows) == 0


def test_rows_of_different_prompts_are_split_as_rows(tmp_path):
    """The draw that it was before prompts had several rows."""
    data = RewardData(data=written(tmp_path, "pairs.jsonl", all_prompts("train")[:30]), held_out_share=0.1)
    rows, held_out = load_rows(data, TOKENIZER, 7)
    order = [f"line {1 + i}" for i in np.random.default_rng(7).permutation(30)]
    assert [row.where for row in held_out + rows] == order and len(held_out) == 3


def test_a_prompt_with_most_of_the_rows_is_trained_on(tmp_path):
    first, second = all_prompts("train")[:2]
    data = RewardData(data=written(tmp_path, "pairs.jsonl", (*[first] * 95, *[second] * 5)), held_out_share=0.01)
    for seed in range(3):
        assert {row.prompt for row in load_rows(data, TOKENIZER, seed)[1]} == {second}


def test_rows_of_one_prompt_are_split_as_rows_and_counted(tmp_path):
    data = RewardData(data=written(tmp_path, "pairs.jsonl", all_prompts("train")[:1], copies=9))
    rows, held_out = load_rows(data, TOKENIZER, 0)
    assert (len(rows), len(held_out), repeated(held_out, rows)) == (8, 1, 1)
    with pytest.raises(SpecError, match=r"held_out_share = 0.99: leaves none of 9 rows to train on"):
        split_by_prompt(rows + held_out, 0.99, 0)


def test_an_overlap_with_named_held_out_data_is_counted(tmp_path, capsys):
    known, new = all_prompts("train")[:4], all_prompts("train")[4:6]
    options = ["--data", written(tmp_path, "train.jsonl", known), "--output", str(tmp_path / "model")]
    held_out = written(tmp_path, "held_out.jsonl", (*known[:3], *new))
    assert main(["reward", *options, "--held-out-data", held_out]) == 0
    assert "held out: 3 of 5 pairs have a prompt that is trained on\n" in capsys.readouterr().err
    assert json.loads((tmp_path / "model" / "report.json").read_text())["held_out_pairs_with_a_training_prompt"] == 3
