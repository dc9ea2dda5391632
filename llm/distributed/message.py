"""One message of a sum over processes: a large tensor alone, or small ones joined."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

# Entries of a tensor that is sent alone; smaller ones are joined, as a message costs more than its content.
LARGE = 1 << 20


class Message:
    """On its way when it is made. tensors: of one dtype, each of which becomes its sum over the processes of `group`
    (None: all) in `wait`."""

    def __init__(self, tensors: Sequence[Tensor], group: dist.ProcessGroup | None) -> None:
        self.tensors = tensors
        alone = len(tensors) == 1 and tensors[0].is_contiguous()  # and is summed where it is
        self._joint = None if alone else torch.cat([x.reshape(-1) for x in tensors])
        sent = tensors[0] if self._joint is None else self._joint
        self._work = dist.all_reduce(sent, group=group, async_op=True)

    def wait(self) -> None:
        """Until the sums are there."""
        self._work.wait()
        if self._joint is not None:
            for x, total in zip(self.tensors, self._joint.split([x.numel() for x in self.tensors]), strict=True):
                x.copy_(total.view_as(x))
