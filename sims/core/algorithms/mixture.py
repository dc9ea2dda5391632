"""Several losses on one batch, added up with weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from sims.core.objectives.batch import Batch, OutputRequest, Outputs
from sims.core.objectives.preferences import Pairing
from sims.core.schedule import Schedule
from sims.core.spec import SpecError, setting

from .base import Algorithm, SlotDistribution, State, Targets
from .contrastive import DPO
from .likelihood import PrefFT

V = TypeVar("V")


@dataclass(frozen=True)
class Mixture(Algorithm, kind="mixture"):
    """A weighted sum of losses: L = Σ_i w_i·L_i, each algorithm's own, on the same samples, rewards and labels.

    It needs what any of its losses needs, and as many responses per prompt as the most demanding. Targets and state are
    kept apart, so that the gradient is exactly Σ_i w_i·∇L_i; only clipping and the optimiser see the sum. Losses that
    want other samples or other pairs than each other have no common batch, and are refused. TRL's
    `loss_type=["sigmoid", "sft"]` with `loss_weights` is `losses` = dpo and pref_ft; TRL gives all losses one β, here
    each has its own.

    >>> mixture = sims.Mixture(losses=(sims.DPO(beta=0.1), sims.GRPO(beta=0.0)), loss_weights=(1.0, 0.5))
    >>> sims.run(mixture, sims.BanditR1(), updates=20, runs=2)
    Result(mixture on bandit_r1: 2 runs of 20 updates, ...)
    """

    # Of the default losses, for the table of algorithms; an instance has those of its own losses.
    min_generations: ClassVar[int] = 2
    negative_gradient: ClassVar[bool] = True
    source: ClassVar[str] = "Lanchantin et al. 2025; TRL"

    losses: tuple[Algorithm, ...] = setting(
        (DPO(), PrefFT()), "the algorithms whose losses are added, each with its settings: dpo:beta=0.1,grpo:beta=0"
    )
    loss_weights: tuple[float, ...] = setting((1.0, 1.0), "weight of each loss")

    def check(self) -> None:
        """SpecError for losses that cannot be added; and the class variables that follow from the losses."""
        if not self.losses:
            raise SpecError("losses", self.losses, "must have at least one algorithm")
        if len(self.loss_weights) != len(self.losses):
            rule = f"must have {len(self.losses)} numbers, one for each of {self._listed()}"
            raise SpecError("loss_weights", self.loss_weights, rule)
        if min(self.loss_weights) < 0 or max(self.loss_weights) == 0:
            raise SpecError("loss_weights", self.loss_weights, "must be numbers >= 0, and one above 0")
        pairings = [(loss.kind, loss.label_pairing) for loss in self.losses if loss.label_pairing is not None]
        if len({pairing for _, pairing in pairings}) > 1:
            found = ", ".join(f"{kind} has {pairing}" for kind, pairing in pairings)
            raise SpecError("losses", self._listed(), f"must agree on the pairing of responses: {found}")
        distributions = [(loss.kind, loss.slot_distributions(2)) for loss in self.losses]
        if len({slots for _, slots in distributions}) > 1:
            found = ", ".join(f"{kind} {_drawn(slots)}" for kind, slots in distributions)
            raise SpecError("losses", self._listed(), f"must agree on who draws the responses of a pair: {found}")
        for name, of in _OF_THE_LOSSES.items():
            object.__setattr__(self, name, of(getattr(loss, name) for loss in self.losses))

    def _listed(self) -> str:
        return ", ".join(loss.kind for loss in self.losses)

    @property
    def needs_reference(self) -> bool:
        return any(loss.needs_reference for loss in self.losses)

    @property
    def label_pairing(self) -> Pairing | None:
        return next((loss.label_pairing for loss in self.losses if loss.label_pairing is not None), None)

    def check_schedule(self, schedule: Schedule) -> None:
        for loss in self.losses:
            loss.check_schedule(schedule)

    @cached_property
    def output_request(self) -> OutputRequest:
        requests = [loss.output_request for loss in self.losses]
        wanted = {name: any(getattr(each, name) for each in requests) for name in ("values", "entropy", "prompt_logp")}
        return OutputRequest(**wanted)

    def slot_distributions(self, num_generations: int) -> tuple[SlotDistribution, ...]:
        return self.losses[0].slot_distributions(num_generations)

    def each(self, named: dict[str, V]) -> Iterator[tuple[int, Algorithm, dict[str, V]]]:
        """Number, algorithm, and its own part of targets or state, whose names have the number in front."""
        for i, loss in enumerate(self.losses):
            start = f"{i}."
            yield i, loss, {name[len(start) :]: x for name, x in named.items() if name.startswith(start)}

    def initial_state(self, lead: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> State:
        return _numbered({i: loss.initial_state(lead, dtype, device) for i, loss in enumerate(self.losses)})

    def targets(self, batch: Batch, state: State) -> tuple[Targets, State]:
        found = {i: loss.targets(batch, own) for i, loss, own in self.each(state)}
        return tuple(_numbered({i: both[side] for i, both in found.items()}) for side in (0, 1))  # type: ignore[return-value]

    def at_epoch(self, batch: Batch, targets: Targets, epoch: int) -> Targets:
        return _numbered({i: loss.at_epoch(batch, own, epoch) for i, loss, own in self.each(targets)})

    def at_update(self, batch: Batch, targets: Targets, probe_logp: Tensor | None) -> Targets:
        return _numbered({i: loss.at_update(batch, own, probe_logp) for i, loss, own in self.each(targets)})

    def loss(self, outputs: Outputs, batch: Batch, targets: Targets) -> Tensor:
        parts = [self.loss_weights[i] * loss.loss(outputs, batch, own) for i, loss, own in self.each(targets)]
        return sum(parts[1:], start=parts[0])


_OF_THE_LOSSES: dict[str, Callable[..., Any]] = {
    "min_generations": max,
    **dict.fromkeys(("needs_critic", "needs_probes", "needs_rewards", "penalises_reward"), any),
    **dict.fromkeys(("on_policy", "negative_gradient"), any),
    **dict.fromkeys(("sample_reuse", "single_labels"), all),
}


def _numbered(named: dict[int, dict[str, Any]]) -> dict[str, Any]:
    return {f"{i}.{name}": x for i, own in named.items() for name, x in own.items()}


def _drawn(slots: tuple[SlotDistribution, ...]) -> str:
    return " and ".join(f"{slot.name} {slot.share:g}" if slot.name == "mixture" else slot.name for slot in slots)
