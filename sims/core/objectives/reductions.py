"""How the losses of many tokens, responses or pairs become one number.

Every unit gets its *share* of the minibatch before the minibatch is cut into micro-batches or spread over ranks, so
that cutting changes nothing. A share counts only what is there: to give a response the weight 0 is to delete it.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

TokenReduction = Literal["sequence_sum", "sequence_mean", "token_mean", "constant_length"]


def shares(weight: Tensor | None, like: Tensor) -> Tensor:
    """Each unit's share of a mean over prompts of means over a prompt's units.

        share_bu = w_bu / Σ_u w_bu / #{prompts with any weight}

    weight: (..., B, U), >= 0, or None when every unit is there; like: any tensor of that shape.
    Returns (..., B, U), which sums to 1 over B and U (to 0 if nothing is there).
    """
    if weight is None:
        prompts, units = like.shape[-2:]
        return like.new_full((), 1.0 / (prompts * units)).expand(like.shape)
    total = weight.sum(-1, keepdim=True)
    present = (total > 0).sum(-2, keepdim=True).clamp(min=1)
    return weight / torch.where(total > 0, total, 1.0) / present


def pair_weights(weight: Tensor | None, pairs: Tensor, pair_weight: Tensor | None) -> Tensor | None:
    """Weight of each pair: its own, and 0 when one of its responses is absent.

    weight: (..., B, K); pairs: (..., B, Q, 2); pair_weight: (..., B, Q); returns (..., B, Q), None if all pairs count.
    """
    if weight is None:
        return pair_weight
    present = (weight > 0).to(weight.dtype)
    both = present.gather(-1, pairs[..., 0]) * present.gather(-1, pairs[..., 1])
    return both if pair_weight is None else both * pair_weight


def token_shares(
    weight: Tensor | None, mask: Tensor, like: Tensor, reduction: TokenReduction, constant_length: int | None = None
) -> Tensor:
    """Each token's share of the minibatch. weight: (..., B, K) or None; mask, like: (..., B, K, L), returns the same.

    sequence_sum: a response counts Σ_t, responses and prompts are averaged. The policy gradient proper.
    sequence_mean: a response counts its mean over its tokens (GRPO): short ones weigh more a token.
    token_mean: one mean over all tokens of the minibatch (DAPO): long ones weigh more a response.
    constant_length: Σ_t divided by `constant_length`, the same for every response (Dr. GRPO).
    """
    tokens = mask.to(like.dtype)
    if reduction == "token_mean":
        counted = tokens if weight is None else tokens * weight.unsqueeze(-1)
        total = counted.sum((-3, -2, -1), keepdim=True)
        return counted / torch.where(total > 0, total, 1.0)
    share = shares(weight, like[..., 0]).unsqueeze(-1) * tokens
    if reduction == "sequence_mean":
        return share / tokens.sum(-1, keepdim=True).clamp(min=1.0)
    if reduction == "constant_length":
        if constant_length is None:
            raise ValueError("constant_length = None: must be given, for the padding of a batch says nothing about it")
        return share / float(constant_length)
    return share
