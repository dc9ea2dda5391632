"""Decoding a token at a time, with the cache in one of two forms.

dynamic  keys and values grow by a token at each step; responses that have ended leave the batch. Works for every model.
static   keys and values have room for the whole response from the start, and nothing that a step reads or writes moves
         in memory. On a GPU the step is captured once as a CUDA graph and replayed, one call instead of hundreds of
         kernels launched by the host; responses that have ended are computed along until all have.

Both give the same distributions up to the rounding of sums, which `llm.models.proof` checks when a model is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from sims.core.spec import SpecError

from .decoding import CacheKind
from .forward import hidden_states, takes
from .scoring import LanguageModel
from .varlen import NAME as VARLEN

_ALIGNED = 8  # slots are a multiple of this: fused attention wants aligned masks


class Steps(Protocol):
    """The distributions of next tokens, step by step, of some rows."""

    shrinks: bool  # whether rows that have ended can leave

    def first(self) -> Tensor:
        """Logits after the prompts: (N, V)."""

    def next(self, tokens: Tensor) -> Tensor:
        """Logits after one more token of each row. tokens: (N,)."""

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only, given as indices."""


class DynamicSteps:
    """Steps with a cache that grows. prompts, mask: (N, P), padded on the left; most: tokens that may follow."""

    shrinks = True

    def __init__(self, model: LanguageModel, prompts: Tensor, mask: Tensor, most: int) -> None:
        self.model, self.prompts, self.mask, self.cache = model, prompts, mask, model.new_cache()

    def first(self) -> Tensor:
        return self.model.next_logits(self.prompts, self.mask, self.cache)

    def next(self, tokens: Tensor) -> Tensor:
        self.mask = pad(self.mask, (0, 1), value=True)
        return self.model.next_logits(tokens.unsqueeze(-1), self.mask, self.cache)

    def keep(self, rows: Tensor) -> None:
        self.mask = self.mask[rows]
        self.cache.reorder_cache(rows)  # type: ignore[arg-type]  # recurrent states too, unlike batch_select_indices


class StaticSteps:
    """Steps with a cache of fixed size, as a CUDA graph on a GPU; the same arguments.

    Under autocast the graph holds the half-precision weights that it was captured with: use it within one autocast
    context, between two updates."""

    shrinks = False

    def __init__(self, model: LanguageModel, prompts: Tensor, mask: Tensor, most: int) -> None:
        self.model, self.prompts, self.mask = model, prompts, mask
        width = prompts.shape[1]
        self.size = -(-(width + most) // _ALIGNED) * _ALIGNED
        self.slot = torch.full((1,), width, device=prompts.device)  # of the next token
        layers = DynamicCache(config=model.core.config).layers
        self.cache = Cache(layers=[_FixedLayer(self.slot, self.size, model.attention_dtype) for _ in layers])
        self.token = torch.zeros_like(prompts[:, :1])
        self.position = mask.sum(-1, keepdim=True)  # real tokens only
        there = pad(mask, (0, self.size - width), value=False)[:, None, None]
        self.attended = there if _attention(model) in ("sdpa", VARLEN) else _additive(there, model)
        self.graph: Any = None
        self.logits = torch.empty(0)

    def first(self) -> Tensor:
        return self.model.next_logits(self.prompts, self.mask, self.cache)  # type: ignore[arg-type]

    def next(self, tokens: Tensor) -> Tensor:
        self.token.copy_(tokens.unsqueeze(-1))
        if self.token.is_cuda and self.graph is None:
            self._capture()
        if self.graph is None:
            self._step()
        else:
            self.graph.replay()
        return self.logits

    def keep(self, rows: Tensor) -> None:
        raise NotImplementedError("rows cannot leave a cache of fixed size")

    def _step(self) -> None:
        """Compute `logits` from `token`; only tensors of this object are read and written."""
        self.attended.index_fill_(-1, self.slot, self.attended.dtype == torch.bool)  # True, or 0 of an additive mask
        with self.model.computing(self.token.device):
            states = hidden_states(self.model.backbone, self.token, self.attended, self.cache, self.position)  # type: ignore[arg-type]
            self.logits = self.model.logits(states[:, -1])
        self.slot.add_(1)
        self.position.add_(1)

    def _capture(self) -> None:
        """Record one step. It runs once before, on a stream of its own, as what it does at first cannot be captured."""
        held = [(x, x.clone()) for x in (self.slot, self.position)]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self._step()
        torch.cuda.current_stream().wait_stream(side)
        for x, before in held:  # the step is made once more, by the graph, and writes the same again
            x.copy_(before)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self._step()


class _FixedLayer(DynamicLayer):
    """Keys and values of one layer: (N, heads, size, width). slot: (1,), where the next token's go; dtype: what they
    are stored in, by that of the given."""

    def __init__(self, slot: Tensor, size: int, dtype: Callable[[torch.dtype], torch.dtype]) -> None:
        super().__init__()
        self.slot, self.size, self.dtype_for = slot, size, dtype

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write the new ones and return all there are. At first, those of the prompts, which are all."""
        if not self.is_initialized or self.keys is None or self.values is None:
            self.keys, self.values = self._room(key_states), self._room(value_states)
            self.is_initialized = True
            return key_states, value_states
        self.keys.index_copy_(2, self.slot, key_states.to(self.keys.dtype))
        self.values.index_copy_(2, self.slot, value_states.to(self.values.dtype))
        return self.keys, self.values

    def _room(self, x: Tensor) -> Tensor:
        room = x.new_zeros((*x.shape[:2], self.size, x.shape[3]), dtype=self.dtype_for(x.dtype))
        room[:, :, : x.shape[2]] = x
        return room


STEPS: dict[CacheKind, Any] = {"dynamic": DynamicSteps, "static": StaticSteps}


def _attention(model: LanguageModel) -> str:
    return str(getattr(model.core.config, "_attn_implementation", None))


def _additive(there: Tensor, model: LanguageModel) -> Tensor:
    """The mask as eager attention takes it: 0, or the least number, which is added to scores."""
    dtype = next(model.backbone.parameters()).dtype
    return torch.zeros_like(there, dtype=dtype).masked_fill(~there, torch.finfo(dtype).min)


def check_static(model: LanguageModel, longest: int | None) -> None:
    """SpecError for a model that cannot decode with a static cache. longest: prompt and response; None: not checked."""
    field, name = "cache_implementation", type(model.core).__name__
    if not takes(type(model.backbone).forward, "position_ids"):
        raise SpecError(field, "static", f"must be dynamic for {name}: it is not told positions")
    if (kind := _attention(model)) not in ("sdpa", "eager", VARLEN):
        raise SpecError(field, "static", f"needs attn_implementation = sdpa or eager: {name} has {kind}")
    layers = DynamicCache(config=model.core.config).layers
    if not layers or not all(isinstance(layer, DynamicLayer) for layer in layers):
        raise SpecError(field, "static", f"must be dynamic for {name}: it has states that are not keys and values")
    windows = [window for layer in layers if (window := getattr(layer, "sliding_window", None)) is not None]
    if windows and longest is not None and longest > min(windows):
        rule = f"must be dynamic for {name}, or prompt and response within its window of {min(windows)} tokens"
        raise SpecError(field, "static", rule)
