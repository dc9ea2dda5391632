"""Tiny random causal LMs of three shapes, and log-probs from them in the plainest way: no padding, cache or chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from llm.models.decoding import Decoding
from llm.models.policy import CausalLMPolicy
from llm.models.settings import Scoring

SHAPES = ("gpt_neox", "mistral", "gpt2")
VOCABULARY, EOS, PAD = 13, 2, 0
POSITIONS = 32


def tiny_model(
    shape: str, seed: int = 0, dtype: torch.dtype = torch.float64, vocabulary: int = VOCABULARY, **changes: Any
) -> PreTrainedModel:
    """Two layers of width 16. Weights are large enough for distributions that are far from even and differ between
    positions."""
    common = {"vocab_size": vocabulary, "pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": EOS}
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": POSITIONS}
    if shape == "gpt2":
        config = transformers.GPT2Config(
            **common, **{"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32} | changes
        )
    elif shape == "mistral":
        more = {"intermediate_size": 24, "num_key_value_heads": 1, "head_dim": 8, "sliding_window": None}
        config = transformers.MistralConfig(**common, **sizes | more | changes)
    else:
        config = transformers.GPTNeoXConfig(**common, **sizes | {"intermediate_size": 32} | changes)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config).double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.to(dtype).eval()


def tiny_policy(shape: str | PreTrainedModel = "gpt_neox", **settings: Any) -> CausalLMPolicy:
    """A policy on a tiny model; settings go to `Decoding`, `Scoring` or the policy, wherever they belong."""
    model = tiny_model(shape) if isinstance(shape, str) else shape
    parts = {cls: {n: settings.pop(n) for n in cls.hints() if n in settings} for cls in (Decoding, Scoring)}
    decoding = Decoding(**{"max_new_tokens": 8} | parts[Decoding])
    arguments = {"eos_token_ids": (EOS,), "pad_token_id": PAD} | settings
    return CausalLMPolicy(model, decoding=decoding, scoring=Scoring(**parts[Scoring]), **arguments)


def plain_distributions(
    model: PreTrainedModel, prompt: Sequence[int], response: Sequence[int], temperature: float
) -> Tensor:
    """log π over the vocabulary before each token of one response: (len(response), V)."""
    ids = torch.tensor([[*prompt, *response]])
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, len(prompt) - 1 : -1]
    return (logits / temperature).log_softmax(-1)


def plain_log_probs(
    model: PreTrainedModel, prompt: Sequence[int], response: Sequence[int], temperature: float = 1.0
) -> Tensor:
    """log π of each token of one response: (len(response),)."""
    distributions = plain_distributions(model, prompt, response, temperature)
    return distributions.gather(-1, torch.tensor(response).unsqueeze(-1)).squeeze(-1)


def pad_left(rows: Sequence[Sequence[int]], value: int = PAD, extra: int = 0) -> tuple[Tensor, Tensor]:
    """Rows as one tensor (B, P) padded on the left, and its mask."""
    width = max(map(len, rows)) + extra
    mask = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows])
    return torch.tensor([[value] * (width - len(row)) + list(row) for row in rows]), mask


def pad_right(rows: Sequence[Sequence[int]], value: int = PAD, extra: int = 0) -> tuple[Tensor, Tensor]:
    """Rows as one tensor (B, L) padded on the right, and its mask."""
    width = max(map(len, rows)) + extra
    mask = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows])
    return torch.tensor([list(row) + [value] * (width - len(row)) for row in rows]), mask
