"""From uniforms to tokens, by inverting the cumulative distribution."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .recorded import on_host

_WIDEST = 4096  # above this many tokens torch.searchsorted is faster than `_search`
_FEWEST = 8  # and below this many draws per distribution
_BLOCK = 256  # tokens of a block of a wide distribution


def inverse_cdf(probabilities: Tensor, uniforms: Tensor, rows: Tensor | None = None) -> Tensor:
    """Draw from categorical distributions: the first token whose cumulative probability exceeds the uniform.

    probabilities: (..., A), or (..., X, A) with rows: (..., S), which of the X distributions each draw is from.
    uniforms: (..., S) float64 in [0, 1). Returns (..., S) int64. A token of probability 0 is never drawn.

    Sums and comparisons are in float64: in float32 over 50,304 tokens a fifth of the vocabulary is never drawn. The
    uniform is scaled by the total, so that a sum that misses 1 by rounding leaves no gap at the end.
    """
    if rows is None and probabilities.shape[-1] > _WIDEST and uniforms.shape[-1] < _FEWEST:
        return _by_blocks(probabilities, uniforms)
    cdf = probabilities.double().cumsum(-1)
    total = cdf[..., -1:]
    below = total * (1.0 - 2.0**-52)  # u·total may round up to the total, past the last token
    if rows is None:
        draw = torch.minimum(uniforms * total, below)
        if cdf.shape[-1] > _WIDEST or draw.shape[-1] < _FEWEST or not on_host(cdf):
            # Of a policy that diverged to NaN, still a token that there is.
            return torch.searchsorted(cdf, draw, right=True).clamp_(max=cdf.shape[-1] - 1)
    else:
        draw = torch.minimum(uniforms * total.squeeze(-1).gather(-1, rows), below.squeeze(-1).gather(-1, rows))
        if not on_host(cdf):
            return _search_anywhere(cdf, draw, rows)
    # From here on in NumPy: its comparisons cost a fifth of torch's, and each call half.
    distributions, draws = cdf.numpy().reshape(-1, cdf.shape[-1]), draw.numpy().reshape(-1, draw.shape[-1])
    if rows is not None:
        which = np.arange(0, len(distributions), cdf.shape[-2])[:, None] + rows.numpy().reshape(draws.shape)
        return torch.from_numpy(_search(distributions, draws, which)).view(draw.shape)
    which, each = np.arange(len(distributions)), probabilities.numpy().reshape(distributions.shape)
    likeliest = each.argmax(-1)
    if each[which, likeliest].mean() < 0.5:
        return torch.from_numpy(_search(distributions, draws, which[:, None])).view(draw.shape)
    return torch.from_numpy(_likeliest_first(distributions, draws, likeliest)).view(draw.shape)


def _by_blocks(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """`inverse_cdf` of wide distributions, with few draws from each: first a block of tokens, then a token of it.

    The vocabulary is read once, for the blocks' sums; a cumulative sum over all of it in float64 would move five times
    the bytes. The two orders of summation differ in the last bit of a sum.
    """
    blocks = torch.nn.functional.pad(probabilities, (0, -probabilities.shape[-1] % _BLOCK)).unflatten(-1, (-1, _BLOCK))
    ends = blocks.sum(-1, dtype=torch.float64).cumsum(-1)  # (..., N)
    draw = torch.minimum(uniforms * ends[..., -1:], ends[..., -1:] * (1.0 - 2.0**-52))
    block = torch.searchsorted(ends, draw, right=True).clamp_(max=ends.shape[-1] - 1)  # (..., S)
    before = ends.gather(-1, (block - 1).clamp(min=0)).masked_fill(block == 0, 0.0)
    chosen = blocks.gather(-2, block.unsqueeze(-1).expand(*block.shape, _BLOCK))
    cdf = chosen.double().cumsum(-1)  # (..., S, _BLOCK)
    # Below the block's own sum, whose last bit may be less than that of the differences of `ends`.
    inside = torch.minimum(draw - before, cdf[..., -1] * (1.0 - 2.0**-52)).unsqueeze(-1)
    token = block * _BLOCK + torch.searchsorted(cdf, inside, right=True).squeeze(-1)
    return token.clamp_(max=probabilities.shape[-1] - 1)


def _likeliest_first(cdf: np.ndarray, draws: np.ndarray, likeliest: np.ndarray) -> np.ndarray:
    """`_search` where most draws are the likeliest token, which takes two comparisons to test; only the rest is
    searched. cdf: (X, A); draws: (X, S); likeliest: (X,)."""
    which = np.arange(len(cdf))
    starts = np.where(likeliest > 0, cdf[which, likeliest - 1], 0.0)
    missed = (draws < starts[:, None]) | (draws >= cdf[which, likeliest][:, None])
    tokens = likeliest.repeat(draws.shape[1])
    rest = missed.ravel().nonzero()[0]
    tokens[rest] = _search(cdf, draws.ravel()[rest], rest // draws.shape[1])
    return tokens


def _search_anywhere(cdf: Tensor, draws: Tensor, rows: Tensor) -> Tensor:
    """`_search` in torch, on any device. cdf: (..., X, A); draws, rows: (..., S)."""
    width = cdf.shape[-1]
    size = max(2, 1 << (width - 1).bit_length())
    table = torch.nn.functional.pad(cdf, (0, size - width), value=torch.inf).flatten(-2)
    first = rows * size
    position, step = torch.zeros_like(first), size // 2
    while step:
        position = position + (table.gather(-1, first + position + (step - 1)) <= draws) * step
        step //= 2
    return position


def _search(cdf: np.ndarray, draws: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """How many entries of its row are <= each draw: a binary search, vectorised over all draws.

    cdf: (X, A); draws: any shape; rows: one that broadcasts to it. `searchsorted`, one draw at a time, takes several
    times as long, because of branch mispredictions.
    """
    distributions, width = cdf.shape
    size = max(2, 1 << (width - 1).bit_length())
    table = np.full((distributions, size), np.inf)
    table[:, :width] = cdf
    offset = rows * size
    position, step = np.zeros(draws.shape, dtype=np.int64) + offset, size // 2
    while step:
        # every position is in range; mode="clip" skips the check
        position += (table.ravel()[step - 1 :].take(position, mode="clip") <= draws).astype(np.int64) * step
        step //= 2
    position -= offset
    return position
