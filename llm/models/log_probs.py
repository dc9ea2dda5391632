"""Log-probs of tokens from hidden states, a chunk of them at a time.

Log-probs of T tokens over a vocabulary of V need a float32 block of T x V, which at V = 50,304 takes most of the
memory. Here only tokens that the policy chose go through the head, a chunk of them at a time, and the backward pass
recomputes each chunk instead of keeping it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


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
    time, in the backward pass too, which recomputes each chunk.
    """
    arguments = list(zip(states.split(chunk), tokens.split(chunk), strict=True))
    if len(arguments) == 1 or not torch.is_grad_enabled():
        parts = [_log_probs(head, *pair, temperature, entropy) for pair in arguments]
    else:
        parts = [
            checkpoint(_log_probs, head, *pair, temperature, entropy, use_reentrant=False, preserve_rng_state=False)
            for pair in arguments
        ]
    logp, entropies = zip(*parts, strict=True)
    return torch.cat(logp), torch.cat(entropies) if entropy else None


def _log_probs(
    head: Callable[[Tensor], Tensor], states: Tensor, tokens: Tensor, temperature: float, entropy: bool
) -> tuple[Tensor, Tensor | None]:
    logp = log_distribution(head(states), temperature)
    entropies = -(logp.exp() * logp).sum(-1) if entropy else None
    return logp.gather(-1, tokens.unsqueeze(-1)).squeeze(-1), entropies
