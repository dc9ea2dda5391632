"""A copy of a policy that takes no memory of the device: for a reference that only evaluations ask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Self

import torch
from torch import Tensor

from sims.core.loop.protocols import SampleRequest, Samples
from sims.core.objectives.batch import LOG_PROBS, Batch, OutputRequest, Outputs

from .decoding import Decoding
from .policy import CausalLMPolicy


class Aside:
    """Weights in the machine's memory, which change places with the policy's own for the time of a call.

    The numbers are those of `policy.clone()`, from the policy's own module; a call copies all trained weights four
    times between device and machine, seconds for a model of billions. Without gradient and without critic.
    """

    def __init__(self, policy: CausalLMPolicy) -> None:
        self.policy = policy
        self.weights = {
            name: p.detach().to("cpu", copy=True)
            for name, p in policy.named_parameters().items()
            if not name.startswith("critic.")
        }

    @property
    def decoding(self) -> Decoding:
        """The policy's."""
        return self.policy.decoding

    @torch.no_grad()
    def sample(self, request: SampleRequest) -> Samples:
        with self._exchanged():
            return self.policy.sample(request)

    @torch.no_grad()
    def forward(self, batch: Batch, request: OutputRequest = LOG_PROBS) -> Outputs:
        with self._exchanged():
            return self.policy.forward(batch, request)

    def parameters(self) -> Sequence[Tensor]:
        return list(self.weights.values())

    def named_parameters(self) -> dict[str, Tensor]:
        return dict(self.weights)

    @torch.no_grad()
    def copy_from(self, other: CausalLMPolicy | Self) -> None:
        theirs = other.named_parameters()
        for name, mine in self.weights.items():
            mine.copy_(theirs[name])

    @contextmanager
    def _exchanged(self) -> Iterator[None]:
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        own = self.policy.named_parameters()
        for name, waiting in self.weights.items():
            held = own[name].detach().clone()
            own[name].detach().copy_(waiting)
            waiting.copy_(held)
