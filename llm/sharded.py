"""One run whose weights are spread over processes: each holds a part, and all gather a block's to compute with it.

Weights, gradients and the optimiser's moments take 1/N of their memory on each of N processes, copies of the policy
(the reference, the sampler) too. Samples, losses and gradients are those of one process up to the rounding of sums.
ZeRO's third stage (Rajbhandari et al. 2020) by torch's `fully_shard`. What to know of it:

1. Matrices are sharded, by rows. Vectors (gains, biases, the critic's head: a thousandth of all) are whole everywhere.
2. A unit is a block of the transformer, gathered before it computes and dropped after; one more, the root, holds
   embeddings and head, and stays gathered while the head goes through its chunks of tokens.
3. To gather is a collective: all processes must call the module equally often. In an update each goes through as many
   micro-batches as the one with most, the missing ones with weight 0. Without gradient, whoever is done keeps company
   (`keep_company`) until all are: responses end at different times.
4. A copy of a policy is a set of weights, not a module: it is laid into the one module while it computes. So copies
   share a frozen base under adapters, and a copy costs its trained weights / N.
5. Under bfloat16, blocks are gathered in it and the root in the stored precision: what autocast computes with, no more.
   Weights are kept, and gradients summed over processes, in the stored precision.

accelerate's FSDP2 plugin is not used: it makes the head a unit of its own, so that each chunk of tokens is a
collective, of which processes have different numbers; it averages gradients; and it wants to own the optimiser.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.export import register_dataclass

from llm.distributed import DistributedLearner, Ranks
from llm.policy import CausalLMPolicy
from llm.scoring import LanguageModel, checkpoint_layers
from sims.core.algorithms import Algorithm, Targets
from sims.core.batch import Batch, Outputs
from sims.core.learner import narrow_targets
from sims.core.noise import Noise
from sims.core.protocols import Samples
from sims.core.spec import SpecError

register_dataclass(Outputs)  # or older versions of torch do not find the tensors in it that a gradient comes from
Weights = dict[str, Tensor]
# What `Training.state_dict` calls tensors that go with parameter i.
_BY_PARAMETER = re.compile(r"(?:policy|sampler|reference|learner\.mean|learner\.square)\.(\d+)")


def shard(module: LanguageModel, ranks: Ranks, device: torch.device) -> None:
    """Spread a module over the processes, in place; it is moved to the device. Each must have the same one."""
    if module.critic is not None and module.critic.backbone is not None:
        module.critic.backbone = copy.deepcopy(module.critic.backbone)  # two units cannot share a frozen base
    blocks = checkpoint_layers(module)
    if not blocks:
        raise SpecError("sharding", "full", f"{type(module.core).__name__} has no blocks that transformers names")
    half = torch.bfloat16 if module.scoring.precision == "bfloat16" else None
    vectors = {p for p in module.parameters() if p.dim() < 2}
    for vector in vectors:
        vector.data = vector.data.to(device)
    options: dict[str, Any] = {
        "mesh": DeviceMesh.from_group(ranks.group or dist.group.WORLD, device.type),
        "ignored_params": vectors,
        "reshard_after_forward": True,
    }
    reduce = None if half is None else torch.float32
    blockwise = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=reduce, cast_forward_inputs=False)
    for block in blocks:
        fully_shard(block, mp_policy=blockwise, **options)
    fully_shard(module, mp_policy=MixedPrecisionPolicy(cast_forward_inputs=False), **options)
    for unit in module.modules():
        if isinstance(unit, FSDPModule):
            # Sums: what a mean divides by was fixed on the whole minibatch.
            unit.set_gradient_divide_factor(1.0)
            unit.set_force_sum_reduction_for_comms(True)
    register_fsdp_forward_method(module, "next_logits")
    module.keeps_casts = False  # a weight that was cast may be another policy's by then


def local(x: Tensor) -> Tensor:
    """What this process holds of a tensor, in the same memory: its rows of a sharded one."""
    return x.detach().to_local() if isinstance(x, DTensor) else x.detach()


class SharedModule:
    """The module that all policies of a run compute with. weights: this process's, by name, of the policy laid in."""

    def __init__(self, module: LanguageModel, ranks: Ranks, device: torch.device) -> None:
        trained = [name for name, p in module.named_parameters() if p.requires_grad]
        shard(module, ranks, device)
        self.module, self.ranks, self.device = module, ranks, device
        self.idle(values=False)  # the first call of a sharded module settles where its weights are
        parameters = dict(module.named_parameters())
        self.sources = {name: parameters[name] for name in trained}
        self.weights: Weights = {name: local(p) for name, p in self.sources.items()}
        self.laid = self.weights

    @contextmanager
    def laid_in(self, weights: Weights) -> Iterator[None]:
        """The module computes with these weights, and they hold its own meanwhile."""
        before = self.laid
        if weights is not before:
            self._exchange(before)
            self._exchange(weights)
        self.laid = weights
        try:
            yield
        finally:
            self.laid = before
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

    def anyone(self, busy: bool) -> bool:
        """Whether any process still computes; each says so before every call of the module."""
        count = torch.tensor([int(busy)], device=self.device)
        self.ranks.sum([count])
        return bool(count)

    @torch.no_grad()
    def idle(self, values: bool) -> None:
        """Compute something of no use, for the others' collectives: all that a call without gradient has."""
        token, there = (torch.zeros((1, 1), dtype=kind, device=self.device) for kind in (torch.long, torch.bool))
        self.module(token, ~there, token, ~there, values=values)


class ShardedModel:
    """What a policy sees of the shared module: a `LanguageModel` with weights of its own."""

    def __init__(self, shared: SharedModule, weights: Weights) -> None:
        self.shared, self.weights = shared, weights
        self.model, self.core, self.new_cache = shared.module.model, shared.module.core, shared.module.new_cache
        self.autocast = shared.module.autocast

    def __call__(self, *args: Any, **options: Any) -> Outputs:
        if torch.is_grad_enabled():  # the learner sees to it that all processes call equally often
            if self.weights is not self.shared.laid:
                raise RuntimeError(
                    "a copy of a sharded policy has no gradient: its weights are in the module too briefly"
                )
            return self.shared.module(*args, **options)  # type: ignore[no-any-return]
        with self.laid_in():
            self.shared.anyone(busy=True)
            return self.shared.module(*args, **options)  # type: ignore[no-any-return]

    def next_logits(self, *args: Any) -> Tensor:
        with self.laid_in():
            self.shared.anyone(busy=True)
            return self.shared.module.next_logits(*args)

    @contextmanager
    def laid_in(self) -> Iterator[None]:
        with self.shared.laid_in(self.weights):
            yield


def keep_company(models: Sequence[ShardedModel], values: bool = False) -> None:
    """Call the module with the others until all are done. models: those that take turns in what the others compute.

    What this process computes is of no use, but its rows are: the others gather them.
    """
    for model in itertools.cycle(models):
        if not model.shared.anyone(busy=False):
            return
        with model.laid_in():
            model.shared.idle(values)


class ShardedPolicy(CausalLMPolicy):
    """A policy that holds its part of the weights. Each process must make every call, as `SpreadPolicy` does.

    Made from a policy that has whole weights, the same on all processes, whose module it takes over. `parameters` are
    this process's rows.
    """

    def __init__(self, policy: CausalLMPolicy, ranks: Ranks, device: torch.device) -> None:
        self.__dict__.update(policy.__dict__)
        self.shared = SharedModule(policy.language_model, ranks, device)
        self._hold(self.shared.weights)

    def _hold(self, weights: Weights) -> None:
        self._trainable = weights
        self.language_model = ShardedModel(self.shared, weights)  # type: ignore[assignment]

    def clone(self) -> Self:
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._hold({name: x.detach().clone() for name, x in self._trainable.items() if not name.startswith("critic.")})
        return twin

    def sample(
        self,
        prompts: Tensor,
        num_generations: int,
        noise: Noise,
        stream: str = "responses",
        blend: tuple[Self, float | Tensor] | None = None,
        prompt_mask: Tensor | None = None,
    ) -> Samples:
        # Weights stay in for the whole of it, where no other's are needed in between.
        with self.language_model.laid_in() if blend is None else nullcontext():  # type: ignore[operator]
            drawn = super().sample(prompts, num_generations, noise, stream, blend, prompt_mask)
            keep_company([self.language_model] if blend is None else [self.language_model, blend[0].language_model])
        return drawn

    def forward(
        self,
        prompts: Tensor,
        responses: Tensor,
        mask: Tensor,
        values: bool = False,
        entropy: bool = False,
        prompt_mask: Tensor | None = None,
        prompt_logp: bool = False,
    ) -> Outputs:
        found = super().forward(prompts, responses, mask, values, entropy, prompt_mask, prompt_logp)
        if not torch.is_grad_enabled():
            keep_company([self.language_model], values)
        return found

    def rows(self, name: str) -> tuple[int, int]:
        """Where this process's rows of a parameter start, and how many there are in all."""
        size, ranks = self.shared.sources[name].shape[0], self.shared.ranks
        return min(-(-size // ranks.count) * ranks.rank, size), size

    def whole(self, name: str, part: Tensor) -> Tensor:
        """The full tensor of what each process holds a part of, like parameter `name`. A collective."""
        if not isinstance(self.shared.sources[name], DTensor):
            return part
        return self.shared.ranks.whole(part.detach().contiguous(), *self.rows(name))

    def part(self, name: str, whole: Tensor) -> Tensor:
        """What this process holds of a full tensor."""
        if not isinstance(self.shared.sources[name], DTensor):
            return whole
        start, _ = self.rows(name)
        return whole[start : start + len(self.shared.weights[name])]

    def gather_state(self, tensors: Weights) -> Weights:
        """A state of `Training` with full tensors, on the CPU of the first process; nothing elsewhere. A collective."""
        names, found = list(self._trainable), {}
        for name, x in tensors.items():
            match = _BY_PARAMETER.fullmatch(name)
            full = self.whole(names[int(match[1])], x) if match else x
            if self.shared.ranks.first:
                found[name] = full.cpu()
        return found

    def cut_state(self, tensors: Weights) -> Weights:
        """This process's part of a state with full tensors."""
        names = list(self._trainable)
        matches = {name: _BY_PARAMETER.fullmatch(name) for name in tensors}
        return {name: self.part(names[int(m[1])], tensors[name]) if m else tensors[name] for name, m in matches.items()}

    def model_weights(self) -> Weights:
        """The model's whole weights by their names in it, on the CPU of the first process; of a model with adapters
        theirs alone, which is what is saved. A collective."""
        names = {id(p): name for name, p in self.shared.sources.items()}
        named = self.model.state_dict(keep_vars=True)  # two names may stand for one tensor
        held: dict[int, Tensor] = {}
        for x in named.values():
            if id(x) in names and id(x) not in held:
                whole = self.whole(names[id(x)], local(x))
                held[id(x)] = whole.cpu() if self.shared.ranks.first else whole[:0]
        frozen = {name for name, x in named.items() if isinstance(x, nn.Parameter) and id(x) not in held}
        return {name: held.get(id(x), x) for name, x in named.items() if name not in frozen}


class ShardedLearner(DistributedLearner):
    """A learner whose gradient and moments are spread as the weights are."""

    policy: ShardedPolicy

    def check_parameters(self) -> None:
        """Parts differ; they were cut from what `shard` was given."""

    def gradient(self, algorithm: Algorithm, batch: Batch, targets: Targets) -> tuple[list[Tensor], Tensor]:
        """This process's rows of the gradient of the whole minibatch, and its loss."""
        self.check_batch(batch)
        start, length = self.ranks.span(batch.size)
        most = -(-batch.size // self.ranks.count)  # prompts of the longest slice
        size = self.micro_batch_size or most
        total = torch.zeros((), dtype=torch.float64, device=self.parameters[0].device)
        for done in range(0, most, size):
            count = min(size, length - done)
            # Where nothing is left, some prompt of no weight, for the others' collectives.
            at, weight = (start + done, 1.0) if count > 0 else (0, 0.0)
            part = batch.narrow(at, max(count, 1))
            loss = algorithm.loss(self.forward(algorithm, part), part, narrow_targets(targets, batch, part, at))
            (weight * loss.sum()).backward()
            total += weight * loss.detach().sum()
        sources = self.policy.shared.sources.values()
        gradients = [
            torch.zeros_like(x) if p.grad is None else local(p.grad)
            for x, p in zip(self.parameters, sources, strict=True)
        ]
        for source in sources:
            source.grad = None
        self.ranks.sum([*(g for g, p in zip(gradients, sources, strict=True) if not isinstance(p, DTensor)), total])
        return gradients, total

    def grad_norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """Of the whole gradient: rows of all processes, and what all have alike once."""
        sources = self.policy.shared.sources.values()
        square = torch.zeros((), dtype=torch.float64, device=gradients[0].device)
        for gradient, source in zip(gradients, sources, strict=True):
            if isinstance(source, DTensor) or self.ranks.first:
                square += gradient.square().sum()
        self.ranks.sum([square])
        return square.sqrt().to(gradients[0].dtype)
