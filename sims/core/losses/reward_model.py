"""Losses of reward models: scores r(x, y) in, one loss per pair out."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def bradley_terry_loss(difference: Tensor, margin: float | Tensor = 0.0) -> Tensor:
    """−log σ(r_w − r_l − m). Any shape. Bradley & Terry 1952; margin m: Touvron et al. 2023 (Llama 2).

    difference: r_w − r_l, one per pair; margin: how much better the winner was rated, broadcastable. Scores are
    determined up to a constant per prompt, which only `centring_loss` fixes.

    >>> sims.losses.bradley_terry_loss(torch.tensor([0.0, 1.0]))  # log 2, log(1 + 1/e)
    tensor([0.6931, 0.3133])
    """
    return -logsigmoid(difference - margin)


def labelled_bradley_terry_loss(difference: Tensor, label: Tensor, margin: float | Tensor = 0.0) -> Tensor:
    """p·(−log σ(d − m)) + (1 − p)·(−log σ(−d − m)) for d = r_1 − r_2 and p the probability that the first wins.

    difference, label: (..., Q), returns the same; the margin is the winner's, whichever that is. Without margin the
    minimum is at σ(d) = p: soft labels are fitted as probabilities.

    >>> sims.losses.labelled_bradley_terry_loss(torch.tensor(1.0), label=torch.tensor(0.0))  # log(1 + e)
    tensor(1.3133)
    """
    return label * bradley_terry_loss(difference, margin) + (1.0 - label) * bradley_terry_loss(-difference, margin)


def smoothed(label: Tensor, label_smoothing: float | Tensor) -> Tensor:
    """(1 − ε)·p + ε·(1 − p): label smoothing; a label is taken to be right with probability 1 − ε. Any shape.

    >>> sims.losses.smoothed(torch.tensor([0.0, 1.0]), label_smoothing=0.1)
    tensor([0.1000, 0.9000])
    """
    return (1.0 - label_smoothing) * label + label_smoothing * (1.0 - label)


def centring_loss(first: Tensor, second: Tensor) -> Tensor:
    """(r_1 + r_2)². Any shape. Eisenstein et al. 2023; TRL's `center_rewards_coefficient` is its weight.

    Draws the mean score of a pair to 0, which the likelihood does not determine; its gradient by the difference is 0.

    >>> sims.losses.centring_loss(torch.tensor(3.0), torch.tensor(-1.0))
    tensor(4.)
    """
    return (first + second).square()


def aggregate_aspects(label: Tensor, present: Tensor | None = None) -> Tensor:
    """One label from several aspects (helpful, honest, ...): the mean of their probabilities.

    label: (..., Q, A), probability that the first of a pair is preferred in each aspect; present: (..., Q, A) bool,
    where an aspect was labelled, None: everywhere. Returns (..., Q), ½ where no aspect was labelled; absent entries,
    NaN included, are ignored. It differs from the label of the mean score: each aspect contributes a preference, not a
    difference of scores.

    >>> sims.losses.aggregate_aspects(torch.tensor([1.0, 1.0, 0.0, 0.0]))
    tensor(0.5000)
    """
    if present is None:
        return label.mean(-1)
    total = torch.where(present, label, 0.0).sum(-1)
    count = present.sum(-1)
    return torch.where(count > 0, total / count.clamp(min=1), 0.5)
