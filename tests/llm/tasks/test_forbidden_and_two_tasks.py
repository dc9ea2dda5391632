"""Forbidden words, and two tasks for one policy, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llm.embedded import language
from llm.embedded.language import build_tokenizer
from llm.tasks import Completions, ForbiddenWords, ModeLength, VerifiableAndRated
from llm.tasks.environment import TextEnvironment
from sims.core.numerics.noise import Noise
from sims.core.spec import SpecError

TOKENIZER = build_tokenizer()


@pytest.fixture(autouse=True)
def no_reward_model(monkeypatch):
    """None is fitted: it gives 7 for anything."""
    monkeypatch.setattr("llm.tasks.proxy.ProxyReward.reward", lambda self: lambda rows: [7.0] * len(rows))


def completions(*rows: tuple[str, str]) -> Completions:
    texts = [text for _, text in rows]
    lengths = [len(text.split()) for text in texts]
    return Completions([prompt for prompt, _ in rows], texts, [[5] * n + [2] for n in lengths], lengths, {})


def drawn(task, updates: int, batch: int = 2) -> list[str]:
    env = TextEnvironment(task, TOKENIZER, torch.device("cpu"))
    return [x.prompt for _ in range(updates) for x in env.prompts(batch, Noise.single(3)).examples]


def test_forbidden_words_are_whole_words_of_any_case():
    found = completions(("a", "Run and run"), ("a", "running rerun"), ("a", ""))
    assert ForbiddenWords(words=("run",)).reward()(found) == [0.0, 1.0, 1.0]
    assert ForbiddenWords(words=("run", "and"), dense=True).reward()(found) == [-3.0, 0.0, 0.0]


@pytest.mark.parametrize(("words", "said"), [((), "must have a word"), (("a.*",), "must be words")])
def test_words_that_are_none_are_refused(words, said):
    with pytest.raises(SpecError, match=said):
        ForbiddenWords(words=words)


def test_short_responses_are_free_of_verbs_more_often():
    """The numbers of the docstring; ±.03, of 1,500 draws of one seed."""
    rng = np.random.default_rng(0)
    found = [language.sample_document(rng) for _ in range(1500)]
    right = np.array(ForbiddenWords().reward()(completions(*found)))
    lengths = np.array([len(document.response.split()) for document in found])
    shares = right.mean(), right[lengths <= 13].mean(), right[lengths >= 19].mean()
    assert shares == pytest.approx((0.21, 0.45, 0.08), abs=0.03)


def test_gold_of_either_task_by_hand():
    """Two sums with plus, one right; one with minus, two tokens from a mode of 4."""
    task = VerifiableAndRated(mode=4)
    found = completions(
        ("one plus one cats :", "answer two ."),
        ("one plus one cats :", "answer six ."),
        ("one minus one cats :", "they sleep"),
    )
    assert task.gold()(found) == [1.0, 0.0, 0.5]
    # Means over all prompts of these are means over the task's own.
    assert task.measure(found) == {"gold_first": [1.5, 0.0, 0.0], "gold_second": [0.0, 0.0, pytest.approx(1.5)]}
    assert task.bounds_of_parts(12)["worst_second"] == 1 - (12 - 4) / 4
    assert task.reward()(found) == [1.0, 0.0, 7.0]


def test_prompts_come_in_the_order_of_the_tasks():
    def tasks(order: str) -> str:
        task = VerifiableAndRated(order=order, switch_after=4)
        return "".join("p" if " plus " in prompt else "m" for prompt in drawn(task, 6))

    assert tasks("verifiable_rated") == "ppppmmmmpppp"
    assert tasks("rated_verifiable") == "mmmmppppmmmm"
    assert tasks("mixed") == "pm" * 6
    assert tasks("rated") == "m" * 12
    held_out = TextEnvironment(VerifiableAndRated(), TOKENIZER, torch.device("cpu"), split="held_out")
    evaluated = [x.prompt for x in held_out.prompts(6, Noise.single(3)).examples]
    assert [" plus " in prompt for prompt in evaluated] == [True, False] * 3
    assert all(language.parse_prompt(prompt).split == "held_out" for prompt in evaluated)


def test_a_run_has_prompts_of_its_own_which_its_task_follows_from():
    task = VerifiableAndRated(switch_after=8)
    assert drawn(task, 4) == drawn(task.of_run(0), 4) != drawn(task.of_run(1), 4)


def test_the_first_prompts_of_the_language():
    first = language.all_prompts("train")[:3]
    assert set(drawn(ModeLength(data_split="train[:3]"), 6)) == set(first)
    for wrong in ("train[:0]", "train[3:]", "test"):
        with pytest.raises(SpecError, match=r"train\[:8\], of the language"):
            ModeLength(data_split=wrong)
