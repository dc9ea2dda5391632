"""Exercises of notebook 8: a KL penalty that works as a loss, a mask, and a denominator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sims import exact
from sims.core.objectives.divergences import k2
from sims.environments.space import TokenSpace

from .checking import Exercise, Problem


def _two_tables(random: np.random.Generator) -> Problem:
    responses = int(random.integers(4, 8))
    return {"logp": random.normal(size=responses), "logp_ref": exact.log_softmax(random.normal(size=responses))}


def expected_gradient(answer: Callable[[Tensor, Tensor], Any], logits: np.ndarray, logp_ref: np.ndarray) -> np.ndarray:
    """E_π[∇ answer] by the logits of a softmax: each response's loss is weighed by how often it is drawn."""
    table = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    logp = table.log_softmax(-1)
    loss = torch.as_tensor(answer(logp, torch.tensor(logp_ref)))
    if loss.shape != logp.shape:
        raise ValueError(f"it returned the shape {tuple(loss.shape)}: one number for each of {len(logits)} samples")
    total = (logp.detach().exp() * loss).sum()
    if not total.requires_grad:
        raise ValueError("what it returned has no gradient: is something detached?")
    return torch.autograd.grad(total, table)[0].numpy()


kl_penalty = Exercise(
    problem=_two_tables,
    exact=lambda logp, logp_ref: k2(logp - logp_ref),  # whose mean gradient is the KL's: a test sums over all responses
    measure=expected_gradient,
    faults={
        "The expected gradient is 0: this is k1. Its value is the KL, and as a loss it does nothing.": lambda p, q: (
            p - q
        ),
        "This is k3: as a loss it descends the other direction, KL(π_ref‖π).": lambda p, q: torch.expm1(q - p) + p - q,
        "The sign is wrong: this pays the policy for leaving the reference.": lambda p, q: -k2(p - q),
        "The factor ½ is missing: the gradient of ρ² is twice the KL's.": lambda p, q: (p - q) ** 2,
        "This is the entropy's part, ½(log π)²: the reference does not occur.": lambda p, q: k2(p),
        "The samples are weighed by π once more: they are drawn from π already.": lambda p, q: p.exp() * (p - q),
    },
    done="½ρ² has the KL's gradient in its mean: ρ·∇log π, the policy gradient of a reward −ρ.",
)


def _padded(random: np.random.Generator) -> Problem:
    responses, _ = TokenSpace(3, 4, eos=True).all_responses
    rows = random.choice(len(responses), size=8, replace=False)
    # A row of nothing but EOS, one that ends, and one that fills the whole length are always there.
    return {"responses": np.concatenate([responses.numpy()[rows], [[0, 0, 0, 0], [1, 2, 0, 0], [1, 2, 1, 2]]])}


mask = Exercise(
    problem=_padded,
    exact=lambda responses: TokenSpace(3, 4, eos=True).mask(torch.from_numpy(responses)),
    faults={
        "EOS is masked: the policy chose it, and will never learn to stop.": lambda r: r != 0,
        "Padding is trained on: everything is true.": lambda r: np.ones_like(r),
        "The mask begins one token late: a response that ends at once has no token left.": lambda r: np.concatenate(
            [np.zeros_like(r[:, :1]), np.cumsum(r == 0, axis=1)[:, :-1] == 0], axis=1
        ),
        "The mask goes one token too far: the first padding behind EOS is in it.": lambda r: (
            np.cumsum(np.cumsum(r == 0, axis=1) > 0, axis=1) <= 2
        ),
        "This is the padding: turn it round.": lambda r: np.cumsum(r == 0, axis=1) - (r == 0) > 0,
    },
    done="True up to and including the first EOS.",
)


def _micro_batches(random: np.random.Generator) -> Problem:
    count = int(random.integers(2, 5))
    lengths = [random.integers(1, 6, size=2) for _ in range(count)]
    masks = [(np.arange(5) < length[:, None]).astype(float) for length in lengths]
    return {"losses": [random.normal(size=m.shape) for m in masks], "masks": masks}


def _token_mean(losses: list[np.ndarray], masks: list[np.ndarray]) -> float:
    """All at once, without any micro-batch."""
    return float(np.average(np.concatenate(losses), weights=np.concatenate(masks)))


accumulated = Exercise(
    problem=_micro_batches,
    exact=_token_mean,
    faults={
        "This is a mean of means: each micro-batch divides by its own number of tokens.": lambda x, m: np.mean(
            [np.average(a, weights=b) for a, b in zip(x, m, strict=True)]
        ),
        "Each micro-batch is divided by its own number of tokens, and the sum by nothing.": lambda x, m: sum(
            np.average(a, weights=b) for a, b in zip(x, m, strict=True)
        ),
        "The padding is counted: the denominator is the size of the arrays.": lambda x, m: (
            sum((a * b).sum() for a, b in zip(x, m, strict=True)) / sum(a.size for a in x)
        ),
        "The padding is averaged too: the mask is not used.": lambda x, m: np.concatenate(x).mean(),
        "Nothing is divided: this is the sum.": lambda x, m: sum((a * b).sum() for a, b in zip(x, m, strict=True)),
        "This is the mean over responses of their means: short ones weigh more per token.": lambda x, m: np.mean(
            np.concatenate([(a * b).sum(1) / b.sum(1) for a, b in zip(x, m, strict=True)])
        ),
        "The number of tokens is that of the last micro-batch alone.": lambda x, m: (
            sum((a * b).sum() for a, b in zip(x, m, strict=True)) / m[-1].sum()
        ),
    },
    done="One denominator, counted over the whole batch before it is cut.",
)
