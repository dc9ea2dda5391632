"""Checks of rewards and labels before they are used: shapes, floating point, ranges, no NaN.

Without them a mistake in an environment shows up elsewhere: as an index out of range in the losses, or as runs that
all diverge. What an environment gives, drawn or recorded, is checked in the first batch, and rewards for NaN in each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sims.core.objectives.preferences import Pairing
from sims.core.spec import SpecError

if TYPE_CHECKING:
    from sims.core.objectives.batch import Batch

    from .protocols import Labels

PER_RESPONSE = "one number per response"


def check_shape(name: str, found: object, expected: tuple[int, ...], meaning: str) -> None:
    """Raise SpecError unless `found` is a tensor of this shape. name: "Class.method: field"; meaning: of one entry."""
    if not isinstance(found, Tensor):
        raise SpecError(name, found, f"must be a tensor of shape {expected}, {meaning}")
    if tuple(found.shape) != expected:
        raise SpecError(f"{name}: shape", tuple(found.shape), f"must be {expected}, {meaning}")


def check_numbers(name: str, found: Tensor, low: float, high: float, rule: str, weight: Tensor | None = None) -> None:
    """Raise SpecError unless a tensor is floating point and its entries lie in [low, high], which NaN does not; entries
    of weight 0 are ignored. The error names the first bad entry."""
    if not found.is_floating_point():
        raise SpecError(f"{name}: dtype", str(found.dtype), "must be the policy's floating point, as torch.float32")
    if found.numel() == 0:
        return
    smallest, largest = torch.aminmax(found.detach())  # both are NaN if any entry is
    if low <= float(smallest) and float(largest) <= high:
        return
    wrong = ~((found >= low) & (found <= high))
    for where in (wrong if weight is None else wrong & (weight > 0)).nonzero().tolist()[:1]:
        raise SpecError(f"{name}{where}", found[tuple(where)].item(), rule)


def check_labels(
    source: str,
    labels: Labels | Batch,
    responses: Tensor,
    pairing: Pairing | None = None,
    rewarded: bool = True,
) -> None:
    """Raise SpecError for rewards and labels of the wrong shape or range.

    source: "Class.method" that returned them. responses: (..., B, K, L). pairing: the requested pairing.
    rewarded: whether the rewards are the environment's own; others are not checked for NaN, and may be missing.
    """
    shape, lead = tuple(responses.shape[:-1]), responses.dim() - 2
    for name in ("rewards", "gold", "desirable"):
        value = getattr(labels, name)
        if value is None and (name != "rewards" or not rewarded):
            continue
        check_shape(f"{source}: {name}", value, shape, f"{PER_RESPONSE}, as responses are {tuple(responses.shape)}")
    if rewarded:
        _check_finite(f"{source}: rewards", labels.rewards)
    if labels.gold is not None and (labels.gold is not labels.rewards or not rewarded):
        _check_finite(f"{source}: gold", labels.gold)
    if labels.desirable is not None:
        check_numbers(f"{source}: desirable", labels.desirable, 0.0, 1.0, "must be a probability, in [0, 1]")
    if pairing is None:
        return
    if labels.pairs is None or labels.pair_label is None:
        if labels.desirable is not None:  # enough for algorithms on single responses, such as KTO
            return
        missing = "pairs" if labels.pairs is None else "pair_label"
        raise SpecError(f"{source}: {missing}", None, f"must be given: the algorithm needs pairing = {pairing}")
    count = labels.pairs.shape[lead] if labels.pairs.dim() > lead else 0
    of_pairs = (*shape[:-1], count)
    check_shape(f"{source}: pairs", labels.pairs, (*of_pairs, 2), "two indices of a prompt's responses per pair")
    check_shape(f"{source}: pair_label", labels.pair_label, of_pairs, "one probability per pair")
    if labels.pair_weight is not None:
        check_shape(f"{source}: pair_weight", labels.pair_weight, of_pairs, "one weight per pair")
    rule = "must be the probability that the first is preferred, in [0, 1]"
    check_numbers(f"{source}: pair_label", labels.pair_label, 0.0, 1.0, rule, labels.pair_weight)


def _check_finite(name: str, value: Tensor | None) -> None:
    assert value is not None
    largest = torch.finfo(value.dtype).max if value.is_floating_point() else 0.0
    check_numbers(name, value, -largest, largest, "must be finite: one such reward would end its run")
