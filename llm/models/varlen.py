"""Attention of rows that lie behind one another in one sequence, by the flash attention that is in PyTorch itself.

With `padding_free` the rows of a pass are one sequence of T tokens (`packed`). Under sdpa transformers keeps them apart
by a mask of T × T, most of which is False; here the kernel is told where each row begins, and reads nothing else.
transformers has the same from the library flash-attn, which is compiled for each version of PyTorch.

Beyond that, a prompt is computed once for all of its responses: a row whose prompt is that of the row before has its
response's queries alone, and as keys those of the shared prompt too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from sims.core.spec import SpecError

NAME = "varlen"


def check_varlen(dtype: torch.dtype, device: torch.device) -> None:
    """SpecError where the kernel cannot compute: on another device than a GPU, or in more than 16 bits.

    dtype: that in which attention computes.
    """
    field = "attn_implementation"
    if device.type not in ("cuda", "meta"):
        raise SpecError(field, NAME, f"needs an NVIDIA GPU, not device = {device.type}: must be sdpa here")
    if dtype.itemsize != 2:
        raise SpecError(field, NAME, f"computes in half precision, not {dtype}: needs compute_precision = bfloat16")
    _kernel()


def varlen_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """softmax(q·kᵀ·scaling)·v within each row, causal; the attention function of a layer of transformers.

    query: (1, heads, T, D); key, value: (1, fewer heads, T, D); returns (1, T, heads, D). Without the bounds of
    `packed` among the options, as in sampling, it is sdpa's. ValueError for a bound of scores (softcap), sinks or
    biases, which the kernel has not.
    """
    if (starts := options.get("cu_seq_lens_q")) is None:
        return _sdpa()(module, query, key, value, attention_mask, **options)  # type: ignore[no-any-return]
    for name in ("softcap", "s_aux", "position_bias"):
        if options.get(name) is not None:
            raise ValueError(f"attn_implementation = {NAME}: has no {name}")
    groups = query.shape[1] // key.shape[1]
    # Autocast does not know the kernel, and rotary positions leave keys in float32.
    q, k, v = (_half(x[0].transpose(0, 1)) for x in (query, key, value))
    if (keys := options.get("keys_of_rows")) is not None:
        k, v = (_gathered(x, keys) for x in (k, v))
    if groups > 1:
        k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
    longest, window = options["max_length_q"], options.get("sliding_window")
    left = -1 if window is None or window >= longest else window - 1
    bounds = (starts, options["cu_seq_lens_k"], longest, options["max_length_k"])
    found = _kernel()(q, k, v, *bounds, scale=options.get("scaling"), window_size=(left, 0))
    return found.unsqueeze(0), None


def _gathered(x: Tensor, index: Tensor) -> Tensor:
    """x[index], whose gradient adds up what the responses to a prompt want of it, at least in float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))[index].to(x.dtype)


def _mask(*arguments: Any, **options: Any) -> Tensor | None:
    """sdpa's mask; none where no padding was named, as in a pass over rows that are kept apart by their bounds."""
    if options.get("attention_mask") is None:
        return None
    return AttentionMaskInterface()["sdpa"](*arguments, **options)  # type: ignore[no-any-return, index]


def _half(x: Tensor) -> Tensor:
    return x.to(torch.bfloat16) if x.dtype == torch.float32 else x


def _sdpa() -> Any:
    return AttentionInterface()["sdpa"]  # type: ignore[index]


def _kernel() -> Any:
    from torch.nn.attention.varlen import varlen_attn  # compiles nothing, but its import takes a while

    return varlen_attn


AttentionInterface.register(NAME, varlen_attention)
AttentionMaskInterface.register(NAME, _mask)
