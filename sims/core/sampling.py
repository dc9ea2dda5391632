"""From uniforms to tokens, by inverting the cumulative distribution."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

_WIDEST = 4096  # beyond this many tokens the library's own search is faster than ours
_FEWEST = 8  # and below this many draws a law


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
    if rows is not None:
        draw = torch.minimum(uniforms * total.squeeze(-1).gather(-1, rows), below.squeeze(-1).gather(-1, rows))
        return _search(cdf, draw, rows)
    draw = torch.minimum(uniforms * total, below)
    if cdf.shape[-1] > _WIDEST or draw.shape[-1] < _FEWEST:
        return torch.searchsorted(cdf, draw, right=True)
    return _likeliest_first(probabilities, cdf, draw)


def _likeliest_first(probabilities: Tensor, cdf: Tensor, draw: Tensor) -> Tensor:
    """`inverse_cdf` with one law for many draws: once a policy has made up its mind, most draws are its first choice,
    which takes two comparisons to see; the rest is searched for."""
    first = probabilities.argmax(-1, keepdim=True)
    starts = pad(cdf, (1, 0)).gather(-1, first)
    missed = (draw < starts) | (draw >= cdf.gather(-1, first))
    places = missed.flatten().nonzero().squeeze(-1)
    if 2 * len(places) > draw.numel():
        return _search(cdf.unsqueeze(-2), draw, torch.zeros((), dtype=torch.int64).expand(draw.shape))
    laws, width = places // draw.shape[-1], cdf.shape[-1]
    found = _search(cdf.reshape(1, -1, width), draw.take(places).unsqueeze(0), laws.unsqueeze(0))
    return first.expand(draw.shape).contiguous().put_(places, found.squeeze(0))


def _search(cdf: Tensor, draw: Tensor, rows: Tensor) -> Tensor:
    """How many entries of its row are <= each draw: a binary search with all draws in step.

    cdf: (..., X, A); draw, rows: (..., S); returns (..., S). `torch.searchsorted` does the same one draw at a time, at
    twice the cost: its branches cannot be predicted.
    """
    size = max(2, 1 << (cdf.shape[-1] - 1).bit_length())
    table = pad(cdf, (0, size - cdf.shape[-1]), value=torch.inf).flatten(-2)
    offset = rows * size
    position, step = offset.clone(), size // 2
    while step:
        position.add_(table[..., step - 1 :].gather(-1, position) <= draw, alpha=step)
        step //= 2
    return position - offset
