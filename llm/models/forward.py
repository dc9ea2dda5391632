"""One forward pass of whatever architecture, from tokens to log-probs: its positions, its cache, and what it does
after its head."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
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
        **({"position_ids": positions} if takes(type(backbone).forward, "position_ids") else {}),
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
    if not takes(type(backbone).forward, "position_ids"):
        raise ValueError(f"{type(backbone).__name__} takes no positions: must be scored with padding_free = False")
    attends = str(getattr(getattr(backbone, "config", None), "_attn_implementation", None))
    told = attends == NAME or attends.startswith("flash_attention")
    rows = packed(tokens, attention, prompt if attends == NAME else 0, told)
    found = backbone(input_ids=rows.tokens, position_ids=rows.positions, use_cache=False, **rows.bounds)
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


def finished_head(head: nn.Module, config: Any) -> Callable[[Tensor], Tensor]:
    """From hidden states to logits: a head with what some architectures do after it, by their configuration: scale
    logits (Cohere, Granite, Falcon-H1), then bound them by c·tanh(logits/c) (Gemma). `check_parts` refuses a model that
    does anything else."""
    held = {name: value for name in (*_FACTORS, _DIVISOR, *_CAPS) if (value := getattr(config, name, None)) is not None}
    if not held:
        return head

    def finished(states: Tensor) -> Tensor:
        logits: Tensor = head(states)
        for name in _FACTORS:
            if held.get(name, 1.0) != 1.0:
                logits = logits * held[name]
        if held.get(_DIVISOR, 1.0) != 1.0:
            logits = logits / held[_DIVISOR]
        for name in _CAPS:
            if name in held:
                logits = held[name] * torch.tanh(logits / held[name])
        return logits

    return finished


_FACTORS, _DIVISOR = ("logit_scale", "lm_head_multiplier"), "logits_scaling"
_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")


def cache_keyword(model: nn.Module) -> str:
    """The keyword argument of a model for the key-value cache.

    transformers 5 deprecates `past_key_values`, and `cache_params` of state-space models, in favour of `cache`, which
    version 4 and the first ones of 5 do not know. ValueError for a state-space model of version 4, whose cache is of a
    kind of its own.
    """
    for name in ("cache", "past_key_values"):
        if takes(type(model).forward, name):
            return name
    if transformers.__version__.startswith("4."):
        raise ValueError(
            f"its cache is of a kind of its own in transformers {transformers.__version__}: needs 5 or later"
        )
    return "cache_params" if takes(type(model).forward, "cache_params") else "past_key_values"


@lru_cache
def takes(forward: Callable[..., Any], name: str) -> bool:
    """Whether a function has an argument of this name."""
    return name in inspect.signature(forward).parameters


def log_distribution(logits: Tensor, temperature: float) -> Tensor:
    """log softmax(logits / temperature) over the last axis, in float32 at least."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return (logits if temperature == 1.0 else logits / temperature).log_softmax(-1)


def chunked_log_probs(
    head: Callable[[Tensor], Tensor],
    states: Tensor,
    tokens: Tensor,
    chunk: int,
    temperature: float = 1.0,
    entropy: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """log π of each token, and the entropy of the distribution it was drawn from if asked for: (T,) both,
    differentiable.

    states: (T, H), the hidden state before each token; tokens: (T,). No more than `chunk` rows of logits exist at a
    time, in the backward pass too, which recomputes each chunk: a float32 block of T x V, at V = 50,304, would take
    most of the memory.
    """

    def of_chunk(states: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        logp = log_distribution(head(states), temperature)
        entropies = -(logp.exp() * logp).sum(-1) if entropy else None
        return logp.gather(-1, tokens.unsqueeze(-1)).squeeze(-1), entropies

    chunks = list(zip(states.split(chunk), tokens.split(chunk), strict=True))
    if len(chunks) == 1 or not torch.is_grad_enabled():
        parts = [of_chunk(*pair) for pair in chunks]
    else:
        parts = [checkpoint(of_chunk, *pair, use_reentrant=False, preserve_rng_state=False) for pair in chunks]
    logp, entropies = zip(*parts, strict=True)
    return torch.cat(logp), torch.cat(entropies) if entropy else None
