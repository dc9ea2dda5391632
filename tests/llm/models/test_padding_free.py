"""The responses of a pass as one sequence: the same log-probs, values, entropies and gradient, from fewer tokens."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llm.__main__ import main
from llm.models import varlen
from llm.models.loading import build_policy, load_tokenizer
from llm.models.policy import CausalLMPolicy
from llm.models.settings import Scoring
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


def within_rows(q: Tensor, k: Tensor, v: Tensor, *bounds: Any, scale: float, window_size: tuple[int, int]) -> Tensor:
    """What `torch.nn.attention.varlen.varlen_attn` computes on a GPU, row by row: the last query is at the last key.
    q, k, v: (T, heads, D)."""
    starts, key_starts, longest, longest_keys = bounds
    assert int(starts.diff().max()) <= longest and int(key_starts.diff().max()) <= longest_keys
    found = []
    for own, (start, end) in zip(pairwise(starts.tolist()), pairwise(key_starts.tolist()), strict=True):
        queries, keys = own[1] - own[0], end - start
        age = torch.arange(keys - queries, keys)[:, None] - torch.arange(keys)
        seen = (age >= 0) & ((age <= window_size[0]) if window_size[0] >= 0 else True)
        scores = torch.einsum("qhd,khd->hqk", q[own[0] : own[1]], k[start:end]) * scale
        found.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, -torch.inf).softmax(-1), v[start:end]))
    return torch.cat(found)


@pytest.mark.parametrize("request_", [OutputRequest(values=True), EVERYTHING], ids=["shared prompts", "every prompt"])
@pytest.mark.parametrize("model", ["pythia", "mistral"])
def test_pytorchs_flash_attention_is_told_where_rows_begin(
    model: str, request_: OutputRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(varlen, "_kernel", lambda: within_rows)
    found, read = [], []
    for free in (True, False):
        made, scored = policy(model, free), batch()
        made.language_model.core.set_attn_implementation("varlen")  # padded rows are sdpa's
        made.language_model.backbone.register_forward_pre_hook(
            lambda _, __, given: read.append(given["input_ids"].numel()), with_kwargs=True
        )
        outputs = made.forward(scored, request_)
        parts = [x for x in vars(outputs).values() if x is not None]
        gradient = torch.autograd.grad(sum((part**2).sum() for part in parts), list(made.parameters()))
        found.append((*parts, *gradient))
    close = 1e-10 if model == "pythia" else 1e-5  # Mistral's norms compute in float32, and sum in another order
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=close, atol=close * max(1.0, float(theirs.detach().abs().max())))
    assert scored.prompt_mask is not None
    own = int(scored.mask.sum()) - 14  # the last of 14 responses is not read
    times = 2 if request_.prompt_logp else 1  # a prompt's own log-probs are of each row
    shared_first = 7 if request_.prompt_logp else 0
    assert abs(read[0] - own - times * int(scored.prompt_mask.sum())) <= shared_first


def test_a_sliding_window_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "_kernel", lambda: within_rows)
    found = []
    for free in (True, False):
        made = policy("mistral", free)
        made.language_model.core.set_attn_implementation("varlen" if free else "sdpa")
        made.language_model.core.config.sliding_window = 3
        for layer in made.language_model.backbone.layers:  # type: ignore[union-attr]
            layer.self_attn.sliding_window = 3  # type: ignore[union-attr]
        found.append(made.forward(batch()).logp)
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)


def test_where_it_cannot_compute_it_is_refused_before_anything_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm.training.run.load_tokenizer", lambda *_: pytest.fail("a tokenizer was loaded"))
    words = ["train", "--attn-implementation", "varlen", "--device", "cpu", "--output", str(tmp_path / "run")]
    assert main(words) == 2
    assert "'varlen': only means something with padding_free = True" in capsys.readouterr().err
    assert main([*words, "--padding-free"]) == 2
    assert "'varlen': needs an NVIDIA GPU, not device = cpu: must be sdpa here" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    with pytest.raises(SpecError, match=r"computes in half precision, not torch\.float32"):
        varlen.check_varlen(torch.float32, torch.device("meta"))
