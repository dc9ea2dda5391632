"""One run on several processes: each has a slice of the prompts, and all make the same update.

Quantities of a whole minibatch (the number of its tokens, the mean of its rewards) are computed before it is sliced, so
that any number of processes gives the gradient of one, whatever the lengths of the responses. Every process holds all
weights (llm.distributed.sharded splits them) and the whole batch of token ids; sampling and gradients are divided. The
random numbers are those of one process too: each draws all of them and uses its slice.

Started by `torchrun --nproc-per-node 2 -m llm ...`, or by any launcher that sets the same environment variables, as
`accelerate launch --multi_gpu --num_processes 2 -m llm ...` does, on the CPU too (its `--cpu` starts one process).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from typing import Generic, Literal, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from llm.models.settings import LanguageModelSettings
from sims.core.algorithms import Algorithm, Targets
from sims.core.loop.learner import Learner, narrow
from sims.core.loop.optimise import Optimiser
from sims.core.loop.protocols import Policy, Prompts, SampleRequest, Samples
from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import LOG_PROBS, Batch, OutputRequest, Outputs
from sims.core.spec import SpecError

from .gradient_sum import GradientSum
from .launcher import end_with_launcher
from .message import LARGE, Message

P = TypeVar("P", bound=Policy)
T = TypeVar("T")
Sharding = Literal["none", "update", "full"]  # where weights are split over processes (llm.distributed.sharded)
# How long processes wait for each other. torch's default on GPUs, ten minutes, would end a run whose first process
# saves or loads for longer. If a process dies, the launcher ends the others long before this.
_TIMEOUT = timedelta(hours=12)


@dataclass(frozen=True)
class Ranks:
    """The rank of this process among `count`. By default it is the only one, and nothing is communicated."""

    rank: int = 0
    count: int = 1
    group: dist.ProcessGroup | None = None

    @property
    def alone(self) -> bool:
        """Whether nothing is communicated. A single process with a `group` communicates with itself, to try NCCL."""
        return self.count == 1 and self.group is None

    @property
    def first(self) -> bool:
        """Whether this process is the one that prints and writes files."""
        return self.rank == 0

    @property
    def members(self) -> dist.ProcessGroup:
        """The group of all of them, where there are several."""
        return self.group or dist.group.WORLD  # type: ignore[return-value]

    def span(self, size: int) -> tuple[int, int]:
        """Start and length of this process's slice of `size` items; lengths differ by 1 at most and may be 0."""
        start = size * self.rank // self.count
        return start, size * (self.rank + 1) // self.count - start

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Each tensor becomes its sum over the processes, in place, the same bits on all."""
        if self.alone:
            return
        kinds: dict[torch.dtype, list[Tensor]] = {}
        for x in tensors:
            if x.numel() >= LARGE:
                Message([x], self.group).wait()
            else:
                kinds.setdefault(x.dtype, []).append(x)
        for small in kinds.values():
            Message(small, self.group).wait()

    def whole(self, part: Tensor, start: int, size: int) -> Tensor:
        """All slices put together: (size, ...), from every process's part (length, ...) that begins at `start`."""
        if self.alone:
            return part
        # A sum with zeros: slices of unequal length in one call, on any backend.
        numbers = part.new_zeros((size, *part.shape[1:]), dtype=torch.uint8 if part.dtype == torch.bool else None)
        numbers[start : start + len(part)] = part
        self.sum([numbers])
        return numbers.to(part.dtype)

    def in_turn(self, look: Callable[[], T], device: torch.device | str) -> T:
        """What `look` returns; the first process looks before the others, as what it finds damaged it may set aside.
        None goes on before all have looked."""
        found = [look()] if self.first else []
        self.sum([torch.zeros(1, device=device)])
        found = found or [look()]
        self.sum([torch.zeros(1, device=device)])
        return found[0]

    def check_same(self, name: str, x: Tensor) -> None:
        """RuntimeError on every process unless all have the same tensor, without which slices do not fit together.

        Compares a checksum of the bits, which misses one difference in 2⁶³.
        """
        if self.alone:
            return
        sums = torch.zeros(self.count, dtype=torch.int64, device=x.device)
        sums[self.rank] = _checksum(x)
        self.sum([sums])
        if not bool((sums == sums[0]).all()):
            odd = int((sums != sums[0]).nonzero()[0])
            raise RuntimeError(
                f"{name}: process {odd} has other values than process 0; were they started with the same seed?"
            )


def check_processes(expected: int | None) -> int:
    """How many processes run (the launcher's WORLD_SIZE, else 1); SpecError if that is not `expected`.

    Otherwise too few processes would give a slower run without notice, and too many would overwrite each other's files.
    """
    running = int(os.environ.get("WORLD_SIZE", "1"))
    if expected is not None and expected != running:
        count = f"only {running} runs" if running == 1 else f"{running} run"
        raise SpecError(
            "processes", expected, f"{count}; start them with torchrun --nproc-per-node {expected} -m llm ..."
        )
    return running


def first_launched() -> bool:
    """Whether this process is the first of those that a launcher started, before they have joined, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def check_sharding(sharding: Sharding, processes: int, spec: LanguageModelSettings) -> None:
    """SpecError for sharding over one process, of a quantised base, or of layers that are compiled."""
    if sharding != "none" and processes == 1:
        raise SpecError(
            "sharding", sharding, "needs several processes; start them with torchrun --nproc-per-node 2 -m llm ..."
        )
    if sharding != "none" and spec.base_precision == "nf4":
        raise SpecError("sharding", sharding, "must be none with base_precision = nf4, whose weights cannot be split")
    if sharding != "none" and spec.scoring.torch_compile:
        raise SpecError("sharding", sharding, "must be none with torch_compile = True")


@contextmanager
def joined(processes: int | None = None, device: str = "cpu", backend: str | None = None) -> Iterator[Ranks]:
    """Join the process group that the launcher started, and leave it at the end.

    processes: their expected number; None: as many as run. device: `cuda` takes the GPU of LOCAL_RANK as the current
    one. backend: None takes gloo on the CPU and nccl on GPUs. Errors: SpecError when another number runs, or when a
    process has no GPU of its own; ConnectionError when another process has ended.
    """
    running = check_processes(processes)
    if device == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise SpecError("device", device, f"process {local} has no GPU: there are {torch.cuda.device_count()}")
        torch.cuda.set_device(local)
    if running == 1:
        yield Ranks()
        return
    end_with_launcher()
    dist.init_process_group(backend or ("nccl" if device == "cuda" else "gloo"), timeout=_TIMEOUT)
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "/gloo/" in str(error)):
            raise
        raise ConnectionError(
            "another process of this run has ended: it was killed, or it failed and said why"
        ) from error
    finally:
        if dist.is_initialized():  # vLLM destroys the group when it stops
            dist.destroy_process_group()


class DistributedLearner(Learner):
    """A learner whose minibatch is sliced over processes. Each must be given the same whole minibatch and targets."""

    def __init__(
        self,
        policy: Policy,
        optimiser: Optimiser,
        ranks: Ranks,
        micro_batch_size: int | None = None,
        group_by_length: bool = False,
    ) -> None:
        super().__init__(policy, optimiser, (), micro_batch_size, group_by_length)
        self.ranks, self.adds_up = ranks, not ranks.alone
        self.check_parameters()

    @cached_property
    def _sum(self) -> GradientSum:
        return GradientSum(self.parameters, self.ranks.group)

    def check_parameters(self) -> None:
        """RuntimeError if processes start from different weights."""
        for i, parameter in enumerate(self.parameters):
            self.ranks.check_same(f"parameter {i}", parameter.detach())

    def check_batch(self, batch: Batch) -> None:
        """RuntimeError if processes have different batches."""
        self.ranks.check_same("batch.responses", batch.responses)
        self.ranks.check_same("batch.mask", batch.mask)

    def gradient(self, algorithm: Algorithm, batch: Batch, targets: Targets) -> tuple[list[Tensor], Tensor]:
        """The sums over the whole minibatch, the same on every process."""
        self.check_batch(batch)
        start, length = self.ranks.span(batch.size)
        if length > 0:
            gradients, loss = super().gradient(algorithm, *narrow(batch, targets, start, length))
        else:
            gradients, loss = self.take_gradients(), self.parameters[0].new_zeros(())
        loss = loss.double()  # one dtype on all processes, an idle one included
        self.ranks.sum([loss])
        return gradients, loss

    def add_gradient(self, loss: Tensor, last: bool) -> None:
        with self._sum.sending() if last and self.adds_up else nullcontext():
            super().add_gradient(loss, last)

    def take_gradients(self) -> list[Tensor]:
        """The sums over all processes; those of the last part were sent while it was computed."""
        return self._sum.finish() if self.adds_up else super().take_gradients()

    def score_probes(self, batch: Batch) -> Tensor:
        if batch.probes is None:
            return super().score_probes(batch)
        return SpreadPolicy(self.policy, self.ranks).forward(batch.probes).logp


class SpreadPolicy(Generic[P]):
    """A policy for the training loop: each process samples and scores its slice, and all get the whole batch.

    The learner is given `policy` itself, because nothing here has a gradient. Numbers are those of one process, up
    to the rounding of sums, which depends on the shape of a tensor.
    """

    def __init__(self, policy: P, ranks: Ranks) -> None:
        self.policy, self.ranks = policy, ranks

    def sample(self, request: SampleRequest) -> Samples:
        """The policy's `sample`. Errors: SpecError for fewer prompts than processes."""
        prompts, blend, count = request.prompts, request.blend, len(request.prompts.tokens)
        start, length = self._span(count)
        mask = None if prompts.mask is None else prompts.mask.narrow(0, start, length)
        own = replace(
            request,
            prompts=Prompts(prompts.tokens.narrow(0, start, length), mask),
            noise=_SliceOfNoise(request.noise, count, start, length),
            blend=None if blend is None else (blend[0].policy, blend[1]),
        )
        return Samples(*(self.ranks.whole(x, start, count) for x in self.policy.sample(own)))

    @torch.no_grad()
    def forward(self, batch: Batch, request: OutputRequest = LOG_PROBS) -> Outputs:
        """The policy's `forward`, without gradient."""
        start, length = self._span(batch.size)
        own = self.policy.forward(batch.narrow(start, length), request)

        def whole(x: Tensor | None) -> Tensor | None:
            return None if x is None else self.ranks.whole(x, start, batch.size)

        logp = self.ranks.whole(own.logp, start, batch.size)
        return Outputs(logp, whole(own.values), whole(own.entropy), whole(own.prompt_logp))

    def _span(self, prompts: int) -> tuple[int, int]:
        if prompts < self.ranks.count:
            raise SpecError("batch_size", prompts, f"must be at least the number of processes, {self.ranks.count}")
        return self.ranks.span(prompts)

    def parameters(self) -> Sequence[Tensor]:
        return self.policy.parameters()

    def copy_from(self, other: Self) -> None:
        self.policy.copy_from(other.policy)

    def blend_from(self, other: Self, rate: float) -> None:
        self.policy.blend_from(other.policy, rate)

    def clone(self) -> Self:
        return type(self)(self.policy.clone(), self.ranks)


class _SliceOfNoise(Noise):
    """Uniforms whose first axis counts prompts: all are drawn, as in one process, and this slice is returned."""

    def __init__(self, noise: Noise, size: int, start: int, length: int) -> None:
        self.noise, self.size, self.start, self.length = noise, size, start, length
        self.runs, self.lead = noise.runs, noise.lead

    def uniforms(self, stream: str, *shape: int) -> Tensor:
        return self.noise.uniforms(stream, self.size, *shape[1:])[self.start : self.start + self.length]


def _checksum(x: Tensor) -> Tensor:
    """A sum of the tensor's 8-byte words, or bytes where they do not fill words, each times an odd number of its own,
    modulo 2⁶⁴."""
    raw = x.contiguous().reshape(-1).view(torch.uint8)
    words = raw.view(torch.int64) if raw.numel() % 8 == 0 else raw.long()
    odd = 2 * torch.arange(len(words), device=x.device) + 1
    mixed = words * odd * 0x9E3779B97F4A7C1
    return (mixed ^ (mixed >> 29)).sum()
