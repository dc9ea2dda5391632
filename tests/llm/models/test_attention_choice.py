"""`attn_implementation`: given to transformers, and refused early where its library is not there."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from llm.__main__ import main
from llm.models.loading import load_model
from llm.models.spec import LanguageModelSpec


def test_it_is_what_transformers_computes_with() -> None:
    models = [
        load_model(LanguageModelSpec(attn_implementation=name), torch.float32, torch.device("cpu"))
        for name in (None, "eager")
    ]
    assert [model.config._attn_implementation for model in models] == ["sdpa", "eager"]  # type: ignore[union-attr]
    tokens = torch.arange(5).unsqueeze(0)
    with torch.no_grad():
        torch.testing.assert_close(*(model(tokens).logits for model in models), atol=1e-4, rtol=1e-4)


def test_a_missing_library_is_named_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["train", "--attn-implementation", "flash_attention_2", "--dry-run"]) == 2
    assert "attn_implementation = 'flash_attention_2': needs the library flash_attn" in capsys.readouterr().err
