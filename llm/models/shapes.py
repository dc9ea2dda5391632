"""Shapes of models on the hub, as their config.json has them: `--dry-run` needs no network access for these."""

from __future__ import annotations

from typing import Any

_PYTHIA_1_4B = {
    "vocab_size": 50304,
    "hidden_size": 2048,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 8192,
    "max_position_embeddings": 2048,
}
_MISTRAL_7B = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
}
_QWEN_1_5B = {
    "vocab_size": 151936,
    "hidden_size": 1536,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "intermediate_size": 8960,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "EleutherAI/pythia-1.4b": ("gpt_neox", _PYTHIA_1_4B),
    "tlc4418/pythia_1.4b_sft_policy": ("gpt_neox", _PYTHIA_1_4B),
    "mistralai/Mistral-7B-v0.1": ("mistral", _MISTRAL_7B),
    "HuggingFaceH4/mistral-7b-sft-beta": ("mistral", _MISTRAL_7B),
    "Qwen/Qwen2.5-1.5B-Instruct": ("qwen2", _QWEN_1_5B),
    "Ray2333/reward-model-Mistral-7B-instruct-Unified-Feedback": ("mistral", _MISTRAL_7B),
}
