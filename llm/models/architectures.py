"""Small transformers with random weights, in the shape of Pythia, Mistral or GPT-2."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
import transformers
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from sims.core.spec import SpecError

Architecture = Literal["pythia", "mistral", "gpt2"]
_INITIAL_SD = 0.08  # of the weights; 0.02, made for widths in the thousands, learns more slowly at width 64


def build_model(
    architecture: str,
    vocab_size: int,
    hidden: int = 64,
    layers: int = 4,
    heads: int = 4,
    max_positions: int = 128,
    *,
    seed: int = 0,
    pad: int = 0,
    bos: int = 1,
    eos: int = 2,
) -> PreTrainedModel:
    """A causal language model with random weights in float32, dropout off, in evaluation mode.

    pythia: GPT-NeoX (rotary on a quarter of each head, parallel residual); mistral: rotary, RMS norm, gated MLP, one
    key-value head per two heads if their number is even, no sliding window; gpt2: learned positions, tied embeddings.
    pad, bos, eos: token ids, by default those of `llm.embedded.language`. Raises SpecError for an invalid shape.
    """
    check_shape(architecture, hidden, heads)
    common: dict[str, Any] = {"vocab_size": vocab_size, "pad_token_id": pad, "bos_token_id": bos, "eos_token_id": eos}
    common["initializer_range"] = _INITIAL_SD
    llama_like = common | {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": max_positions,
        "attention_dropout": 0.0,
    }
    config: PretrainedConfig
    if architecture == "pythia":
        config = transformers.GPTNeoXConfig(**llama_like, intermediate_size=4 * hidden, hidden_dropout=0.0)
    elif architecture == "mistral":
        config = transformers.MistralConfig(
            **llama_like,
            intermediate_size=8 * math.ceil(hidden / 3),  # three matrices of 8/3 are as much as two of 4
            num_key_value_heads=heads // 2 if heads % 2 == 0 else heads,
            head_dim=hidden // heads,
            sliding_window=None,
        )
    else:
        config = transformers.GPT2Config(
            **common,
            n_embd=hidden,
            n_layer=layers,
            n_head=heads,
            n_positions=max_positions,
            attn_pdrop=0.0,
            embd_pdrop=0.0,
            resid_pdrop=0.0,
        )
    with torch.random.fork_rng(devices=[]):  # initialisation draws from the global generator and nothing else
        torch.default_generator.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def check_shape(architecture: str, hidden: int, heads: int) -> None:
    """Raise SpecError for an unknown architecture, or a width that the heads do not divide."""
    if architecture not in get_args(Architecture):
        raise SpecError("architecture", architecture, f"must be one of {', '.join(get_args(Architecture))}")
    if hidden % heads or (hidden // heads) % 8:
        raise SpecError(
            "hidden",
            hidden,
            f"must be a multiple of 8 × heads = {8 * heads}: rotary positions take a quarter of a head, in pairs",
        )
