"""Every causal architecture of transformers, built tiny from its configuration class."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

VOCABULARY, PAD, BOS, EOS, POSITIONS = 64, 0, 1, 2, 64

# Sizes under the names that configurations have for them.
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "embed_dim", "word_embed_proj_dim", "embedding_size"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
    "num_key_value_heads": 2,
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "dff", "dim_ff"), 48),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim", "expert_ffn_hidden_size", "ffn_hidden_size"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 24),
    **dict.fromkeys(("head_dim", "attention_head_dim"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), POSITIONS),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk"), 2),
    **dict.fromkeys(("n_group", "topk_group"), 1),
    **dict.fromkeys(("linear_num_value_heads", "linear_num_key_heads"), 2),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("attention_dropout", "hidden_dropout", "dropout", "attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0),
}
# Multi-head latent attention has no head_dim, and a key-value head per head.
LATENT = {
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "num_key_value_heads": 4,
}
_NO_HEAD_DIM = ("falcon", *("deepseek_v2", "deepseek_v3", "minicpm3", "youtu", "longcat_flash", "axk1", "axk2"))
_MAMBA_2 = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 8}
OVERRIDES: dict[str, dict[str, Any]] = {
    "bamba": _MAMBA_2 | {"attn_layer_indices": [1]},
    "codegen": {"rotary_dim": 4},
    "falcon_h1": _MAMBA_2 | {"mamba_d_ssm": 64},
    "gptj": {"rotary_dim": 4},
    "kimi_linear": {"layer_types": ["linear_attention", "full_attention"]},
    "lfm3": {"layer_types": ["conv", "full_attention"]},
    "zaya": {"num_experts_per_tok": 1},
    "zamba": {"layer_types": ["mamba", "hybrid"], "mamba_dt_rank": 4},
    "zamba2": {"layer_types": ["mamba", "hybrid"]},
    "cohere_compass_text": {"layer_types": ["full_attention", "full_attention"]},
    "dots1": {"layer_types": ["full_attention", "full_attention"], "num_key_value_heads": 4},
    "qwen4_exp_text": {"layer_types": ["linear_attention", "full_attention"]},
    "reformer": {"is_decoder": True},
    "llama4_text": {"attention_chunk_size": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 4},
    "granitemoehybrid": _MAMBA_2 | {"layer_types": ["mamba", "attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 4, "mamba_dt_rank": 4},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "mamba": {"state_size": 4, "time_step_rank": 4},
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1, "chunk_size": 8},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "attention_window_size": 4, "lru_width": 32},
    **{
        name: {"layer_types": ["linear_attention", "full_attention"]}
        for name in ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "olmo_hybrid", "bailing_hybrid")
    },
    # A window shorter than the prompts, so that the cache lets go of tokens.
    **{
        name: {"sliding_window": 4}
        for name in ("mistral", "mixtral", "gemma2", "gemma3_text", "phi3", "starcoder2", "cohere2", "gpt_oss", "olmo3")
    },
}


def tiny_config(name: str, **changes: Any) -> PretrainedConfig:
    """The configuration of an architecture, in the sizes above."""
    config_class = type(AutoConfig.for_model(name))
    known = config_class()
    sizes = {key: value for key, value in SIZES.items() if hasattr(known, key)}
    if hasattr(known, "kv_lora_rank"):
        sizes |= {key: value for key, value in LATENT.items() if hasattr(known, key)}
    if name in _NO_HEAD_DIM or hasattr(known, "kv_lora_rank"):
        sizes.pop("head_dim", None)
    return config_class(**sizes | OVERRIDES.get(name, {}) | changes)


def build(name: str, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> PreTrainedModel:
    """A model of an architecture, with weights that are large enough for distributions far from even."""
    config = tiny_config(name, **changes)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).to(dtype)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()
