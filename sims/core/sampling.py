"""From uniforms to tokens, by inverting the cumulative distribution."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

_WIDEST = 4096  # beyond this many tokens the library's own search is faster than ours


def inverse_cdf(probabilities: Tensor, uniforms: Tensor, rows: Tensor | None = None) -> Tensor:
    """Draw from categorical laws: the first token whose cumulative probability exceeds the uniform.

    probabilities: (..., A), or (..., X, A) with rows: (..., S) saying which of the X laws each draw is from.
    uniforms: (..., S) float64 in [0, 1). Returns (..., S) int64. A token of probability 0 is never drawn.

    Sums and comparisons are in float64: in float32 over 50,304 tokens a fifth of the vocabulary is never drawn. The
    uniform is scaled by the total, so that a sum that misses 1 by rounding leaves no gap at the end.
    """
    cdf = probabilities.double().cumsum(-1)
    total = cdf[..., -1:]
    below = total * (1.0 - 2.0**-52)  # u·total may round up to the total, past the last token
    if rows is None:
        draw = torch.minimum(uniforms * total, below)
        if cdf.shape[-1] > _WIDEST or draw.shape[-1] < 8:
            return torch.searchsorted(cdf, draw, right=True)
        return _search(cdf, draw, None)
    draw = torch.minimum(uniforms * total.squeeze(-1).gather(-1, rows), below.squeeze(-1).gather(-1, rows))
    return _search(cdf.flatten(-2), draw, rows, cdf.shape[-1])


def _search(cdf: Tensor, draw: Tensor, rows: Tensor | None, width: int | None = None) -> Tensor:
    """How many entries of its row are <= each draw: a binary search with all draws in step.

    `torch.searchsorted` does the same one draw at a time, at twice the cost: its branches cannot be predicted.
    """
    width = width or cdf.shape[-1]
    size = max(2, 1 << (width - 1).bit_length())
    step = size // 2
    if rows is None:
        table = pad(cdf, (0, size - width), value=torch.inf)
        position = (table[..., step - 1 : step] <= draw) * step  # all draws start from the same entry: no gather needed
        step //= 2
    else:
        table = pad(cdf.unflatten(-1, (-1, width)), (0, size - width), value=torch.inf).flatten(-2)
        position = rows * size
    while step:
        position.add_(table[..., step - 1 :].gather(-1, position) <= draw, alpha=step)
        step //= 2
    return position if rows is None else position - rows * size
