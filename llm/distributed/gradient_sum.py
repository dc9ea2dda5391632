"""Gradients summed over processes while the backward pass still computes others.

Parameters are cut into buckets, the last ones first, as a backward pass reaches them in about that order (Li et al.
2020, "PyTorch Distributed", section 3.2). A bucket is sent as soon as its gradients are complete and the buckets before
it are sent: all processes send the same buckets in the same order, one without prompts too, which sends zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from .message import LARGE, Message

BUCKET = 25 << 20  # bytes of small gradients that are joined


class GradientSum:
    """Sums of the gradients of `parameters` over the processes of `group`; None: all."""

    def __init__(self, parameters: Sequence[Tensor], group: dist.ProcessGroup | None) -> None:
        self.parameters, self.group = list(parameters), group
        self.buckets = _buckets(self.parameters)
        self._begin()

    def _begin(self) -> None:
        self._complete: set[int] = set()
        self._sent: list[Message] = []

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Around the last backward pass of an update, which adds to `.grad`."""
        self._begin()
        hooks = [
            parameter.register_post_accumulate_grad_hook(lambda _, i=i: self._arrived(i))  # type: ignore[misc]
            for i, parameter in enumerate(self.parameters)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def finish(self) -> list[Tensor]:
        """The sums, in the order of `parameters`; zeros where there is no gradient. Takes them out of `.grad`."""
        self._complete = set(range(len(self.parameters)))
        self._send()
        found: dict[int, Tensor] = {}
        for bucket, message in zip(self.buckets, self._sent, strict=True):
            message.wait()
            found.update(zip(bucket, message.tensors, strict=True))
        for parameter in self.parameters:
            parameter.grad = None
        self._begin()
        return [found[i] for i in range(len(self.parameters))]

    def _arrived(self, i: int) -> None:
        self._complete.add(i)
        self._send()

    @torch.no_grad()
    def _send(self) -> None:
        """Every bucket whose turn it is, as far as gradients are complete."""
        while len(self._sent) < len(self.buckets) and self._complete.issuperset(self.buckets[len(self._sent)]):
            bucket = self.buckets[len(self._sent)]
            parameters = [self.parameters[i] for i in bucket]
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad.contiguous() for p in parameters]
            self._sent.append(Message(gradients, self.group))


def _buckets(parameters: Sequence[Tensor]) -> list[list[int]]:
    """Indices of parameters, the last first: each large one alone, small ones of one dtype together up to BUCKET, in
    the place of the last that joined, so that none waits for them."""
    found: list[list[int]] = []
    joint: list[int] = []
    size = 0
    for i in reversed(range(len(parameters))):
        parameter = parameters[i]
        if parameter.numel() >= LARGE:
            found.append([i])
            continue
        own = parameter.numel() * parameter.element_size()
        if joint and (parameter.dtype != parameters[joint[0]].dtype or size + own > BUCKET):
            found.append(joint)
            joint, size = [], 0
        joint.append(i)
        size += own
    return [*found, joint] if joint else found
