"""The responses of a pass as one sequence: the same log-probs, values, entropies and gradient, from fewer tokens."""

from __future__ import annotations

import pytest
import torch

from llm.models.loading import build_policy, load_tokenizer
from llm.models.policy import CausalLMPolicy
from llm.models.scoring import Scoring
from llm.models.spec import LanguageModelSpec
from sims.core.objectives.batch import OutputRequest
from sims.core.spec import SpecError
from tests.llm.model_matrix import policy_of
from tests.llm.models.test_group_by_length import batch

EVERYTHING = OutputRequest(values=True, entropy=True, prompt_logp=True)


def policy(model: str, free: bool) -> CausalLMPolicy:
    spec = LanguageModelSpec(model=model, critic="own", scoring=Scoring(padding_free=free, gradient_checkpointing=free))
    made = build_policy(spec, load_tokenizer(spec), True, torch.float64, torch.device("cpu"))
    assert made.language_model.critic is not None
    torch.nn.init.ones_(made.language_model.critic.weight)  # else every value is 0
    return made


@pytest.mark.parametrize("model", ["pythia", "mistral"])
def test_scores_and_gradient_are_those_of_padded_rows(model: str) -> None:
    found = []
    for free in (True, False):
        made, scored = policy(model, free), batch()
        scored.mask[0, 0, 1] = False  # a token inside a response that the policy did not choose
        outputs = made.forward(scored, EVERYTHING)
        assert outputs.values is not None and outputs.entropy is not None and outputs.prompt_logp is not None
        parts = (outputs.logp, outputs.values, outputs.entropy, outputs.prompt_logp)
        gradient = torch.autograd.grad(sum((part**2).sum() for part in parts), list(made.parameters()))
        found.append((*parts, *gradient))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_no_padding_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    made, scored, seen = policy("pythia", True), batch(), []
    backbone = made.language_model.backbone
    backbone.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["input_ids"].shape), with_kwargs=True)
    made.forward(scored)
    assert scored.prompt_mask is not None
    tokens = 2 * int(scored.prompt_mask.sum()) + int(scored.mask.sum()) - 14  # the last of 14 responses is not read
    assert seen == [(1, tokens)]


def test_an_architecture_that_mixes_rows_or_takes_no_positions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the proof at load, where transformers would not say a word."""
    with pytest.raises(ValueError, match="takes no positions: must be scored with padding_free = False"):
        free = policy_of("bloom").language_model
        free.scoring = Scoring(padding_free=True)
        tokens, there = (torch.ones(1, 3, dtype=kind) for kind in (torch.long, torch.bool))
        free(tokens, there, tokens, there, there)
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda positions: None)
    with pytest.raises(SpecError, match="it scores rows without padding between them with log-probs that are"):
        policy("mistral", True)
