"""One forward pass of whatever architecture: its positions, its cache, and what it does after its head."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import DynamicCache

from .packed import packed
from .varlen import NAME


def hidden_states(
    backbone: nn.Module,
    tokens: Tensor,
    attention: Tensor,
    cache: DynamicCache | None = None,
    positions: Tensor | None = None,
) -> Tensor:
    """The last layer's states of `tokens`: (N, S, H). tokens: (N, S); attention: (N, at least S).

    Positions count real tokens only, so that padding on the left changes nothing, whether positions are learned or
    rotary. positions: (N, S), if they are known; attention is then the mask of scores, (N, 1, S, slots).
    """
    if positions is None:
        positions = (attention.long().cumsum(-1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        if cache is not None and _is_recurrent(cache):  # it masks the tokens that it is given, not those it has read
            attention = attention[:, -tokens.shape[1] :]
        attention = attention.long()
    return backbone(  # type: ignore[no-any-return]
        input_ids=tokens,
        attention_mask=attention,
        # A model without them has no positions (state spaces) or counts them by its mask (ALiBi).
        **({"position_ids": positions} if takes(backbone, "position_ids") else {}),
        use_cache=cache is not None,
        **({} if cache is None else {cache_keyword(backbone): cache}),
    ).last_hidden_state


def padding_free_states(
    backbone: nn.Module, tokens: Tensor, attention: Tensor, prompt: int = 0
) -> tuple[Tensor, Tensor]:
    """The last layer's states of the tokens that are there, row after row, (T, H), and where in them those of each row
    are, (N, S).

    tokens, attention: (N, S), attention False on padding. The rows are one sequence in which positions start again with
    each; transformers keeps the rows apart by that, where an architecture is written so (`proof` looks), and flash
    attention is told where each begins. prompt: how many columns are the prompt's, which under `varlen` is computed
    once for the rows that share it. ValueError for an architecture that takes no positions.
    """
    if not takes(backbone, "position_ids"):
        raise ValueError(f"{type(backbone).__name__} takes no positions: must be scored with padding_free = False")
    attends = str(getattr(getattr(backbone, "config", None), "_attn_implementation", None))
    rows = packed(tokens, attention, prompt if attends == NAME else 0)
    bounds = rows.bounds if attends == NAME or attends.startswith("flash_attention") else {}
    found = backbone(input_ids=rows.tokens, position_ids=rows.positions, use_cache=False, **bounds)
    return found.last_hidden_state[0], rows.place


def _is_recurrent(cache: DynamicCache) -> bool:
    """Whether a cache holds states alone, and no keys and values (Mamba)."""
    layers = getattr(cache, "is_linear", ())  # since transformers 5
    return bool(layers) and all(layers)


def max_positions(config: Any) -> int | None:
    """The longest sequence that a model accepts, in tokens; None where its configuration names no limit."""
    for name in ("max_position_embeddings", "max_seq_len"):  # the second: MPT
        if isinstance(most := getattr(config, name, None), int):
            return most
    return None


def finish_logits(logits: Tensor, config: Any) -> Tensor:
    """What some architectures do after their head, by their configuration: scale logits (Cohere, Granite, Falcon-H1),
    then bound them by c·tanh(logits/c) (Gemma). `check_parts` refuses a model that does anything else."""
    for name in ("logit_scale", "lm_head_multiplier"):
        if (factor := getattr(config, name, None)) not in (None, 1.0):
            logits = logits * factor
    if (divisor := getattr(config, "logits_scaling", None)) not in (None, 1.0):
        logits = logits / divisor
    for name in ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap"):
        if (cap := getattr(config, name, None)) is not None:
            logits = cap * torch.tanh(logits / cap)
    return logits


def cache_keyword(model: nn.Module) -> str:
    """The keyword argument of a model for the key-value cache.

    transformers 5 deprecates `past_key_values`, and `cache_params` of state-space models, in favour of `cache`, which
    version 4 and the first ones of 5 do not know. ValueError for a state-space model of version 4, whose cache is of a
    kind of its own.
    """
    for name in ("cache", "past_key_values"):
        if takes(model, name):
            return name
    if transformers.__version__.startswith("4."):
        raise ValueError(
            f"its cache is of a kind of its own in transformers {transformers.__version__}: needs 5 or later"
        )
    return "cache_params" if takes(model, "cache_params") else "past_key_values"


def takes(model: nn.Module, keyword: str) -> bool:
    """Whether a model's forward has an argument of this name."""
    return keyword in _keywords(type(model).forward)


@lru_cache
def _keywords(forward: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters)
