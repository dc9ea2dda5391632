"""Accuracy of predicted preferences, and calibration of their probabilities."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sims.core.losses.reward_model import labelled_bradley_terry_loss


@dataclass(frozen=True)
class Bin:
    """Pairs whose winner was predicted with a probability from `low` to `high`: how many, that probability on
    average, and how often the prediction was right; None where there are no pairs."""

    low: float
    high: float
    pairs: float
    confidence: float | None = None
    accuracy: float | None = None


@dataclass(frozen=True)
class HeldOut:
    """A scorer on pairs that it was not trained on.

    accuracy: share of pairs ordered as labelled, a tie counting ½. accuracy_low, accuracy_high: its 95 % interval
    (Wilson 1927), as if pairs were independent: pairs that share a prompt make it too narrow. log_loss: mean
    −log P(label), in nats; a coin toss has log 2. calibration_error: Σ_bins share·|confidence − accuracy| (ECE, Guo et
    al. 2017), biased upwards by about the bins' own sampling error when there are few pairs.
    """

    pairs: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    log_loss: float
    calibration_error: float
    bins: tuple[Bin, ...]


def calibration(difference: Tensor, label: Tensor, weight: Tensor | None = None, bins: int = 10) -> HeldOut:
    """Measures of r_1 − r_2 against `label`, the probability that the first is preferred; `weight` of each pair. All of
    one shape.

    The probability of the predicted winner, σ(|r_1 − r_2|), is at least ½: `bins` of equal width cover [½, 1].
    """
    if bins < 1:
        raise ValueError(f"bins = {bins}: must be at least 1")
    d, p = difference.double().flatten(), label.double().flatten()
    w = torch.ones_like(d) if weight is None else weight.double().flatten()
    total = float(w.sum())
    if total <= 0:
        raise ValueError("pairs: all weights are 0, so nothing can be measured")
    if not bool(d[w > 0].isfinite().all()):
        raise FloatingPointError("scores: a difference is not finite: lower learning_rate")
    d, p, w = d[w > 0], p[w > 0], w[w > 0]
    right, confidence = ordered_rightly(d, p), d.abs().sigmoid()
    index = ((confidence - 0.5) * 2 * bins).long().clamp(max=bins - 1)
    found, error = [], 0.0
    for i in range(bins):
        inside, (low, high) = index == i, (0.5 + 0.5 * i / bins, 0.5 + 0.5 * (i + 1) / bins)
        count = float(w[inside].sum())
        if count == 0:
            found.append(Bin(low, high, 0.0))
            continue
        confident, accurate = (float((w * x)[inside].sum()) / count for x in (confidence, right))
        found.append(Bin(low, high, count, confident, accurate))
        error += count / total * abs(confident - accurate)
    loss = labelled_bradley_terry_loss(d, p)
    accuracy = float((w * right).sum()) / total
    return HeldOut(total, accuracy, *wilson(accuracy, total), float((w * loss).sum()) / total, error, tuple(found))


def wilson(share: float, count: float) -> tuple[float, float]:
    """The 95 % interval of a probability, from the share of `count` independent trials that succeeded.

    All probabilities p with |share − p| ≤ z·√(p(1 − p)/count); within [0, 1] also where the share is 0 or 1.
    """
    z = 1.959963984540054  # the normal distribution's 97.5 % quantile
    centre, stretch = (share + z * z / (2 * count)), 1 + z * z / count
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, (centre - half) / stretch), min(1.0, (centre + half) / stretch)


def ordered_rightly(difference: Tensor, label: Tensor) -> Tensor:
    """The probability that the order of the pair is the sign of the difference; ½ for a difference of 0. Any shape."""
    return 0.5 + torch.sign(difference) * (label - 0.5)
