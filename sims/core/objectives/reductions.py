"""How the losses of many tokens, responses or pairs are averaged.

Every unit gets its *share* of the minibatch before the minibatch is cut into micro-batches or spread over ranks, so
that neither changes the loss. Weight 0 is the same as leaving the response out.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

TokenReduction = Literal["sequence_sum", "sequence_mean", "token_mean", "constant_length"]


def shares(weight: Tensor | None, like: Tensor) -> Tensor:
    """Each unit's share of a mean over prompts of means over a prompt's units.

        share_bu = w_bu / Σ_u w_bu / #{prompts with weight > 0}

    weight: (..., B, U), >= 0, or None when every unit is present; like: any tensor of that shape.
    Returns (..., B, U), which sums to 1 over B and U (to 0 if every weight is 0).
    """
    if weight is None:
        prompts, units = like.shape[-2:]
        return like.new_full((), 1.0 / (prompts * units)).expand(like.shape)
    total = weight.sum(-1, keepdim=True)
    present = (total > 0).sum(-2, keepdim=True).clamp(min=1)
    return weight / torch.where(total > 0, total, 1.0) / present


def pair_weights(weight: Tensor | None, pairs: Tensor, pair_weight: Tensor | None) -> Tensor | None:
    """Weight of each pair: its own, and 0 when one of its responses is absent.

    weight: (..., B, K); pairs: (..., B, Q, 2); pair_weight: (..., B, Q); returns (..., B, Q), None if all weigh 1.
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

    sequence_sum: Σ_t per response, averaged over responses and prompts. The unbiased policy gradient.
    sequence_mean: mean over tokens per response (GRPO): tokens of short responses weigh more.
    token_mean: one mean over all tokens of the minibatch (DAPO): long responses weigh more.
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
            raise ValueError("constant_length = None: must be given, as padding does not determine it")
        return share / float(constant_length)
    return share
