"""The one module that the sharded policies of a run compute with: see `llm.distributed.sharded`."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.export import register_dataclass

from llm.models.layers import checkpoint_layers
from llm.models.scoring import LanguageModel
from sims.core.objectives.batch import OutputRequest, Outputs
from sims.core.spec import SpecError

from .spread import Ranks

register_dataclass(Outputs)  # torch 2.11 needs this to find its tensors, which a gradient comes from
Weights = dict[str, Tensor]


def shard(module: LanguageModel, ranks: Ranks, device: torch.device) -> None:
    """Shard a module over the processes, in place, and move it to the device."""
    blocks = checkpoint_layers(module)
    if not blocks:
        raise SpecError("sharding", "full", f"{type(module.core).__name__} has no blocks that transformers names")
    vectors = {p for p in module.parameters() if p.dim() < 2}
    for vector in vectors:
        vector.data = vector.data if vector.is_meta else vector.data.to(device)
    options: dict[str, Any] = {
        "mesh": DeviceMesh.from_group(ranks.members, device.type),
        "ignored_params": vectors,
        "reshard_after_forward": True,
    }
    stored = MixedPrecisionPolicy(cast_forward_inputs=False)
    half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in blocks:
        fully_shard(block, mp_policy=half if module.scoring.precision == "bfloat16" else stored, **options)
    fully_shard(module, mp_policy=stored, **options)
    for unit in _units(module):
        # Sums, not means: losses are already divided by counts of the whole minibatch.
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)
    register_fsdp_forward_method(module, "next_logits")


def local(x: Tensor) -> Tensor:
    """What this process holds of a tensor, in the same memory: its rows of a sharded one."""
    return cast(DTensor, x.detach()).to_local() if isinstance(x, DTensor) else x.detach()


class SharedModule:
    """The module that all policies of a run compute with.

    It starts from the weights of the first process; those of the others are ignored, and may be on the device
    `meta`. weights: what this process holds of the trained ones, by name; sources: the module's own parameters for
    them, where gradients appear. gathers_to_sample: gather all weights once while responses are drawn.
    """

    def __init__(self, module: LanguageModel, ranks: Ranks, device: torch.device, gathers_to_sample: bool) -> None:
        if module.critic is not None and module.critic.backbone is not None:
            module.critic.backbone = copy.deepcopy(module.critic.backbone)  # two units cannot share a frozen base
        trained = [name for name, p in module.named_parameters() if p.requires_grad]
        whole = {name: x.detach() for name, x in _tensors(module).items()} if ranks.first else {}
        shard(module, ranks, device)
        if not ranks.first:
            module.to_empty(device=device)
        self.module, self.ranks, self.device = module, ranks, device
        self.gathers_to_sample, self.gathered = gathers_to_sample, False
        self.idle(values=False)  # the first call of a sharded module fixes the memory of its weights
        self._receive(whole)
        parameters = dict(module.named_parameters())
        self.sources = {name: parameters[name] for name in trained}
        self.weights: Weights = {name: local(p) for name, p in self.sources.items()}
        self.active = self.weights

    def _receive(self, whole: Weights) -> None:
        """Receive this process's part of the first one's tensors, one after another."""
        for name, x in _tensors(self.module).items():
            full = whole[name].to(self.device) if self.ranks.first else local(x).new_empty(x.shape)
            dist.broadcast(full, group=self.ranks.members, group_src=0)
            local(x).copy_(self._rows(x, full))

    def _rows(self, x: Tensor, full: Tensor) -> Tensor:
        """Of a full tensor, what this process holds of one like x."""
        if not isinstance(x, DTensor):
            return full
        start = self._start(x)
        return full[start : start + len(local(x))]

    def _start(self, x: DTensor) -> int:
        """Where this process's rows begin: all have equally many, but for those at the end."""
        return min(-(-len(x) // self.ranks.count) * self.ranks.rank, len(x))

    def part(self, name: str, full: Tensor) -> Tensor:
        """What this process holds of a full tensor that goes with parameter `name`."""
        return self._rows(self.sources[name], full)

    def full(self, name: str, part: Tensor) -> Tensor:
        """The inverse of `part`. A collective."""
        source = self.sources[name]
        return self.ranks.whole(part, self._start(source), len(source)) if isinstance(source, DTensor) else part

    @contextmanager
    def swapped_in(self, weights: Weights) -> Iterator[None]:
        """Inside the block the module computes with these weights; its own are kept in their memory."""
        before, self.active = self.active, weights
        if weights is not before:
            self._exchange(before)
            self._exchange(weights)
        try:
            yield
        finally:
            self.active = before
            if weights is not before:
                self._exchange(weights)
                self._exchange(before)

    @torch.no_grad()
    def _exchange(self, weights: Weights) -> None:
        for name, other in weights.items():
            if other is not self.weights[name]:
                held = other.clone()
                other.copy_(self.weights[name])
                self.weights[name].copy_(held)

    @contextmanager
    def whole_to_sample(self) -> Iterator[None]:
        """With `gathers_to_sample`: all weights are gathered once, so that calls need no collectives."""
        units = _units(self.module) if self.gathers_to_sample else []
        for unit in units:
            unit.set_reshard_after_forward(False, recurse=False)
            unit.unshard()
        self.gathered = self.gathers_to_sample
        try:
            yield
        finally:
            self.gathered = False
            for unit in units:
                unit.set_reshard_after_forward(True, recurse=False)
                unit.reshard()

    def any_busy(self, busy: bool) -> bool:
        """Whether any process still computes; each calls this before every call of the module."""
        if self.gathered:
            return busy
        count = torch.tensor([int(busy)], device=self.device)
        self.ranks.sum([count])
        return bool(count)

    @torch.no_grad()
    def idle(self, values: bool) -> None:
        """Call the module on one token and discard the result: the collectives of a call without gradient."""
        token, there = (torch.zeros((1, 1), dtype=kind, device=self.device) for kind in (torch.long, torch.bool))
        self.module(token, ~there, token, there, there, request=OutputRequest(values=values))


def _units(module: nn.Module) -> list[FSDPModule]:
    return [unit for unit in module.modules() if isinstance(unit, FSDPModule)]


def _tensors(module: nn.Module) -> Weights:
    """Parameters and buffers under all their names: tied ones may be separate tensors on other processes."""
    every = (module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False))
    return dict(itertools.chain(*every))
