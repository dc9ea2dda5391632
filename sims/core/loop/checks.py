"""What an environment says of responses, checked before anything learns from it: shapes, and that numbers are numbers.

A mistake in an environment would surface far away: as an index out of range in the losses, or as runs that all
diverge. The checks read each reward and label once, about one percent of the time of the smallest experiments.
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
    """Refuse, with SpecError, what is no tensor of this shape. name: "Class.method: what"; meaning: of an entry."""
    if not isinstance(found, Tensor):
        raise SpecError(name, found, f"must be a tensor of shape {expected}, {meaning}")
    if tuple(found.shape) != expected:
        raise SpecError(f"{name}: shape", tuple(found.shape), f"must be {expected}, {meaning}")


def check_numbers(name: str, found: Tensor, low: float, high: float, rule: str, weight: Tensor | None = None) -> None:
    """Refuse, with SpecError, a tensor that is not floating point, or has an entry that is not from low to high, NaN
    among them; where weight is 0 anything may stand. The error names the first such entry."""
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
    whose: str,
    said: Labels | Batch,
    responses: Tensor,
    pairing: Pairing | None = None,
    rewarded: bool = True,
) -> None:
    """Refuse, with SpecError, rewards and labels that nothing could learn from.

    whose: "Class.method" that returned them. responses: (..., B, K, L). pairing: which pairs were asked for.
    rewarded: whether the rewards are the environment's own; others are not read for NaN, as they are no fault of its.
    """
    shape, lead = tuple(responses.shape[:-1]), responses.dim() - 2
    for name in ("rewards", "gold", "desirable"):
        value = getattr(said, name)
        if value is None and name != "rewards":
            continue
        check_shape(f"{whose}: {name}", value, shape, f"{PER_RESPONSE}, as responses are {tuple(responses.shape)}")
    if rewarded:
        _check_finite(f"{whose}: rewards", said.rewards)
    if said.gold is not None and (said.gold is not said.rewards or not rewarded):
        _check_finite(f"{whose}: gold", said.gold)
    if said.desirable is not None:
        check_numbers(f"{whose}: desirable", said.desirable, 0.0, 1.0, "must be a probability, in [0, 1]")
    if pairing is None:
        return
    if said.pairs is None or said.pair_label is None:
        if said.desirable is not None:  # whoever learns from single responses needs no pairs
            return
        missing = "pairs" if said.pairs is None else "pair_label"
        raise SpecError(f"{whose}: {missing}", None, f"must be given: the algorithm asks for pairing = {pairing}")
    count = said.pairs.shape[lead] if said.pairs.dim() > lead else 0
    of_pairs = (*shape[:-1], count)
    check_shape(f"{whose}: pairs", said.pairs, (*of_pairs, 2), "two places among a prompt's responses per pair")
    check_shape(f"{whose}: pair_label", said.pair_label, of_pairs, "one probability per pair")
    if said.pair_weight is not None:
        check_shape(f"{whose}: pair_weight", said.pair_weight, of_pairs, "one weight per pair")
    rule = "must be the probability that the first is preferred, in [0, 1]"
    check_numbers(f"{whose}: pair_label", said.pair_label, 0.0, 1.0, rule, said.pair_weight)


def _check_finite(name: str, value: Tensor | None) -> None:
    assert value is not None
    largest = torch.finfo(value.dtype).max if value.is_floating_point() else 0.0
    check_numbers(name, value, -largest, largest, "must be finite: one such reward would end its run")
