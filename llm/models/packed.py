"""Rows of tokens as one sequence without padding, in which a prompt stands once for the responses that follow it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True)
class Packed:
    """One sequence of T tokens.

    tokens, positions: (1, T), the positions counted within each row. place: (N, S), where in the sequence a row's token
    is; any number for padding. bounds: what a kernel is told of the rows, under the names that transformers takes for
    flash attention: cu_seq_lens_q and _k, (N + 1,) int32, the queries (keys) before each row, and all; max_length_q and
    _k, S, which is at least the longest row and is known without a wait for the device; keys_of_rows, which keys the
    rows have, one row after another, where they are not the sequence itself.
    """

    tokens: Tensor
    positions: Tensor
    place: Tensor
    bounds: dict[str, Any]


def packed(tokens: Tensor, attention: Tensor, shared: int = 0, told: bool = True) -> Packed:
    """Rows (N, S) without their padding, one after another. attention: (N, S), False on padding.

    shared: how many of the first columns a row has in common with the row before, where all of them are equal, padding
    too: they then stand once. told: whether the attention is told where rows begin; else there are no bounds.
    """
    kept = attention
    source = torch.arange(len(tokens), device=tokens.device)
    if shared:
        read = tokens[:, :shared].masked_fill(~attention[:, :shared], -1)
        begins = pad((read[1:] != read[:-1]).any(-1), (1, 0), value=True)
        source = source.masked_fill(~begins, 0).cummax(0).values  # the first row with this prompt
        kept = torch.cat([attention[:, :shared] & begins[:, None], attention[:, shared:]], -1)
    place = kept.flatten().cumsum(0).view_as(kept) - 1
    place = torch.cat([place[source, :shared], place[:, shared:]], -1)
    positions = (attention.long().cumsum(-1) - 1)[kept]
    one, bounds = tokens[kept], dict[str, Any]()
    if told:
        longest, keys = tokens.shape[1], place[attention]
        bounds = {"cu_seq_lens_q": _starts(kept), "cu_seq_lens_k": _starts(attention)}
        bounds |= {"max_length_q": longest, "max_length_k": longest}
        if len(keys) != len(one):
            bounds["keys_of_rows"] = keys
    return Packed(one.unsqueeze(0), positions.unsqueeze(0), place, bounds)


def _starts(there: Tensor) -> Tensor:
    return pad(there.sum(-1, dtype=torch.int32).cumsum(0, dtype=torch.int32), (1, 0))
