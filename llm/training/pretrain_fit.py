"""The updates of pretraining: AdamW on documents that are drawn anew for every update."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

_WARMUP = 0.05  # of the updates


@dataclass(frozen=True)
class PretrainUpdate:
    """One update: its number from 1, the training loss before it, the gradient's norm before clipping, and its rate."""

    update: int
    loss: float
    grad_norm: float
    learning_rate: float


class PretrainFit:
    """Trains a model in place, and can be stopped and restored bit for bit.

    loss: of one batch, drawn from the generator that it is given, a scalar. rng: that generator, whose state is saved.
    The rate rises linearly over 5 % of the `total` updates, then falls along a cosine to 0.
    """

    between_batches = True  # at every moment that a caller sees: an update has a batch of its own

    def __init__(
        self,
        model: PreTrainedModel,
        loss: Callable[[np.random.Generator], Tensor],
        rng: np.random.Generator,
        total: int,
        learning_rate: float,
        weight_decay: float,
    ) -> None:
        self.model, self.loss, self.rng, self.total, self.learning_rate = model, loss, rng, total, learning_rate
        self.optimiser = torch.optim.AdamW(
            model.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=weight_decay
        )
        self.updates, self._seconds_before, self._started = 0, 0.0, time.process_time()

    @property
    def cpu_seconds(self) -> float:
        """Processor time of this fit, that before it was stopped included."""
        return self._seconds_before + time.process_time() - self._started

    def factor(self) -> float:
        """The factor on the peak rate for the next update."""
        warmup = max(1, round(_WARMUP * self.total))
        return min((self.updates + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * self.updates / self.total))

    def train(self) -> Iterator[PretrainUpdate]:
        """Go through the updates that are left. FloatingPointError for a loss or gradient that is not finite, before
        weights change."""
        parameters = list(self.model.parameters())
        while self.updates < self.total:
            loss, rate = self.loss(self.rng), self.learning_rate * self.factor()
            self.optimiser.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            value = float(loss.detach())
            if not math.isfinite(value + float(norm)):
                found = f"update {self.updates + 1}: loss = {value:g}, gradient norm = {float(norm):g}"
                raise FloatingPointError(f"{found}: must be finite; lower learning_rate")
            self.optimiser.param_groups[0]["lr"] = rate
            self.optimiser.step()
            self.updates += 1
            yield PretrainUpdate(self.updates, value, float(norm), rate)

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """The state for resuming, between two updates."""
        tensors = {f"model.{i}": p.detach() for i, p in enumerate(self.model.parameters())}
        for i, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"adam.{i}.{name}": x for name, x in state.items()}
        generator = self.rng.bit_generator.state
        numbers = {"updates": self.updates, "cpu_milliseconds": int(1000 * self.cpu_seconds)}
        return tensors, numbers | {f"rng.{name}": generator["state"][name] for name in ("state", "inc")} | {
            f"rng.{name}": generator[name] for name in ("has_uint32", "uinteger")
        }

    @torch.no_grad()
    def load_state_dict(self, tensors: dict[str, Tensor], numbers: dict[str, int]) -> None:
        """Continue from the `state_dict` of a fit of the same settings."""
        state: dict[int, dict[str, Tensor]] = {}
        for name, x in tensors.items():
            part, index, *field = name.split(".")
            if part == "adam":
                state.setdefault(int(index), {})[field[0]] = x
        for i, parameter in enumerate(self.model.parameters()):
            parameter.copy_(tensors[f"model.{i}"])
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": state})
        self.updates, self._seconds_before = numbers["updates"], numbers["cpu_milliseconds"] / 1000
        self._started = time.process_time()
        self.rng.bit_generator.state = {
            "bit_generator": type(self.rng.bit_generator).__name__,
            "state": {name: numbers[f"rng.{name}"] for name in ("state", "inc")},
            **{name: numbers[f"rng.{name}"] for name in ("has_uint32", "uinteger")},
        }
