"""Architectures of transformers against `generate` and a plain forward pass, or refused in one line: docs/models.md."""

from __future__ import annotations

import pytest
import torch
import transformers

from llm.models.scoring import LanguageModel
from tests.llm.model_matrix import DOCS, NAMES, check_draws, check_greedy, outcome, policy_of, table

FEW = ("gpt2", "gemma2", "bloom", "mamba")  # learned positions; soft caps and a window; ALiBi; states, no cache of keys


@pytest.mark.parametrize("name", FEW)
def test_sampler_and_scorer_equal_generate_and_a_plain_forward(name: str):
    refused = outcome(name).refused
    if name == "mamba" and transformers.__version__.startswith("4."):  # where its cache is one of its own
        assert refused is not None and "its cache is of a kind of its own" in refused
    else:
        assert refused is None


@pytest.mark.parametrize("name", ["bert-generation", "gemma3", "rwkv", "roberta"])
def test_an_architecture_that_does_not_fit_is_refused_in_one_line(name: str):
    assert outcome(name).refused is not None


def test_the_comparison_sees_a_wrong_log_prob(monkeypatch: pytest.MonkeyPatch):
    policy = policy_of("gpt2")
    own = policy.language_model.logits
    check_draws(policy)
    monkeypatch.setattr(policy.language_model, "logits", lambda states: own(states) * 1.001)
    with pytest.raises(AssertionError, match="not close"):
        check_draws(policy)


def test_the_comparison_sees_a_wrong_token(monkeypatch: pytest.MonkeyPatch):
    policy, own = policy_of("gpt2", temperature=1e-4), LanguageModel.next_logits
    check_greedy(policy)
    monkeypatch.setattr(LanguageModel, "next_logits", lambda *args: own(*args).roll(1, -1))
    with pytest.raises(AssertionError, match="prompt 0"):
        check_greedy(policy)


@pytest.mark.long
def test_the_table_of_architectures_is_what_they_do():
    """The committed table, line by line, where the version that it was made with is installed; else that all work or
    are refused."""
    torch.set_num_threads(1)
    outcomes = [outcome(name) for name in NAMES]
    held = DOCS.read_text()
    if f"transformers {transformers.__version__}:" in held:
        assert [line.split(" | ")[:2] for line in table(outcomes).splitlines() if line.startswith("| ")] == [
            line.split(" | ")[:2] for line in held.splitlines() if line.startswith("| ")
        ]
        works = {line.split(" | ")[0] for line in held.splitlines() if line.endswith("| ✓ |")}
        assert works == {f"| {found.name}" for found in outcomes if found.refused is None}
