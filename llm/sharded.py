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

register_dataclass(Outputs)  # or torch 2.11 does not find the tensors in it that a gradient comes from
Weights = dict[str, Tensor]
# What `Training.state_dict` calls tensors that go with parameter i.
_BY_PARAMETER = re.compile(r"(?:policy|sampler|reference|learner\.mean|learner\.square)\.(\d+)")


def shard(module: LanguageModel, ranks: Ranks, device: torch.device) -> None:
    """Spread a module over the processes, in place, and move it to the device."""
    blocks = checkpoint_layers(module)
    if not blocks:
        raise SpecError("sharding", "full", f"{type(module.core).__name__} has no blocks that transformers names")
    vectors = {p for p in module.parameters() if p.dim() < 2}
    for vector in vectors:
        vector.data = vector.data if vector.is_meta else vector.data.to(device)
    options: dict[str, Any] = {
        "mesh": DeviceMesh.from_group(_group(ranks), device.type),
        "ignored_params": vectors,
        "reshard_after_forward": True,
    }
    stored = MixedPrecisionPolicy(cast_forward_inputs=False)
    half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in blocks:
        fully_shard(block, mp_policy=half if module.scoring.precision == "bfloat16" else stored, **options)
    fully_shard(module, mp_policy=stored, **options)
    for unit in _units(module):
        # Sums: what a mean divides by was fixed on the whole minibatch.
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)
    register_fsdp_forward_method(module, "next_logits")


def local(x: Tensor) -> Tensor:
    """What this process holds of a tensor, in the same memory: its rows of a sharded one."""
    return x.detach().to_local() if isinstance(x, DTensor) else x.detach()


class SharedModule:
    """The module that all policies of a run compute with.

    It starts from the weights of the first process; those of the others are not looked at, and may be on the device
    `meta`. weights: what this process holds of the trained ones, by name; sources: the module's own parameters for
    them, where gradients appear. gathers_to_sample: be whole, once for all tokens, while responses are drawn.
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
        self.idle(values=False)  # the first call of a sharded module settles where its weights are
        self._receive(whole)
        parameters = dict(module.named_parameters())
        self.sources = {name: parameters[name] for name in trained}
        self.weights: Weights = {name: local(p) for name, p in self.sources.items()}
        self.laid = self.weights

    def _receive(self, whole: Weights) -> None:
        """Take this process's part of the first one's tensors, one after another."""
        group = _group(self.ranks)
        for name, x in _tensors(self.module).items():
            full = whole[name].to(self.device) if self.ranks.first else local(x).new_empty(x.shape)
            dist.broadcast(full, dist.get_global_rank(group, 0), group)
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
    def laid_in(self, weights: Weights) -> Iterator[None]:
        """The module computes with these weights, and they hold its own meanwhile."""
        before, self.laid = self.laid, weights
        if weights is not before:
            self._exchange(before)
            self._exchange(weights)
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

    @contextmanager
    def whole_to_sample(self) -> Iterator[None]:
        """Where that was asked for: gathered once, so that calls are no collectives."""
        units = list(_units(self.module)) if self.gathers_to_sample else []
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

    def anyone(self, busy: bool) -> bool:
        """Whether any process still computes; each says so before every call of the module."""
        if self.gathered:
            return busy
        count = torch.tensor([int(busy)], device=self.device)
        self.ranks.sum([count])
        return bool(count)

    @torch.no_grad()
    def idle(self, values: bool) -> None:
        """Compute something of no use, with all the collectives that a call without gradient has."""
        token, there = (torch.zeros((1, 1), dtype=kind, device=self.device) for kind in (torch.long, torch.bool))
        self.module(token, ~there, token, ~there, values=values)


class ShardedModel:
    """What one policy sees of the shared module: a `LanguageModel` with weights of its own."""

    def __init__(self, shared: SharedModule, weights: Weights) -> None:
        self.shared, self.weights = shared, weights
        self.model, self.core = shared.module.model, shared.module.core
        self.new_cache, self.autocast = shared.module.new_cache, shared.module.autocast

    def __call__(self, *arguments: Any, **options: Any) -> Outputs:
        if not torch.is_grad_enabled():
            return self._in_step(self.shared.module, *arguments, **options)  # type: ignore[no-any-return]
        if self.weights is not self.shared.laid:
            raise RuntimeError("a copy of a sharded policy has no gradient: its weights are in the module too briefly")
        return self.shared.module(*arguments, **options)  # type: ignore[no-any-return]

    def next_logits(self, *arguments: Any) -> Tensor:
        return self._in_step(self.shared.module.next_logits, *arguments)  # type: ignore[no-any-return]

    def _in_step(self, call: Any, *arguments: Any, **options: Any) -> Any:
        with self.shared.laid_in(self.weights):
            self.shared.anyone(busy=True)
            return call(*arguments, **options)


def keep_company(models: Sequence[ShardedModel], values: bool = False) -> None:
    """Call the module with the others until all are done. models: those that take turns in what the others compute.

    What this process computes is of no use, but its rows are: the others gather them.
    """
    for model in itertools.cycle(models):
        if not model.shared.anyone(busy=False):
            return
        with model.shared.laid_in(model.weights):
            model.shared.idle(values)


class ShardedPolicy(CausalLMPolicy):
    """A policy that holds its part of the weights. Each process must make every call, as `SpreadPolicy` does.

    Made from a policy whose module it takes over; see `SharedModule`. `parameters` are what this process holds.
    """

    language_model: ShardedModel  # type: ignore[assignment]

    def __init__(
        self, policy: CausalLMPolicy, ranks: Ranks, device: torch.device, gathers_to_sample: bool = False
    ) -> None:
        self.__dict__.update(policy.__dict__)
        ends = [policy.eos_token_ids]  # part of them stands with the weights, which only the first process has read
        dist.broadcast_object_list(ends, dist.get_global_rank(_group(ranks), 0), _group(ranks))
        (self.eos_token_ids,) = ends
        self.shared = SharedModule(policy.language_model, ranks, device, gathers_to_sample)
        self._hold(self.shared.weights)

    def _hold(self, weights: Weights) -> None:
        self._trainable = weights
        self.language_model = ShardedModel(self.shared, weights)

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
        if blend is not None:  # two policies' weights take turns in the module
            drawn = super().sample(prompts, num_generations, noise, stream, blend, prompt_mask)
            keep_company([self.language_model, blend[0].language_model])
            return drawn
        with self.shared.laid_in(self._trainable), self.shared.whole_to_sample():
            drawn = super().sample(prompts, num_generations, noise, stream, None, prompt_mask)
            keep_company([self.language_model])
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
        with nullcontext() if torch.is_grad_enabled() else self.shared.laid_in(self._trainable):
            found = super().forward(prompts, responses, mask, values, entropy, prompt_mask, prompt_logp)
            if not torch.is_grad_enabled():  # else the learner sees to it that all call equally often
                keep_company([self.language_model], values)
        return found

    def full_state(self, tensors: Weights) -> Weights:
        """A state of `Training` with full tensors, on the CPU of the first process; none elsewhere. A collective."""
        names, found = list(self._trainable), {}
        for name, x in tensors.items():
            match = _BY_PARAMETER.fullmatch(name)
            full = self.shared.full(names[int(match[1])], x) if match else x
            if self.shared.ranks.first:
                found[name] = full.cpu()
        return found

    def part_of_state(self, tensors: Weights) -> Weights:
        """What this process holds of a state with full tensors."""
        names = list(self._trainable)
        matches = {name: _BY_PARAMETER.fullmatch(name) for name in tensors}
        return {
            name: self.shared.part(names[int(m[1])], tensors[name]) if m else tensors[name]
            for name, m in matches.items()
        }

    def model_weights(self) -> Weights:
        """The model's full weights by their names in it, on the CPU of the first process; of a model with adapters
        theirs alone, which is what is saved. A collective."""
        names = {id(p): name for name, p in self.shared.sources.items()}
        named = self.model.state_dict(keep_vars=True)  # two names may stand for one tensor
        held: dict[int, Tensor] = {}
        for x in named.values():
            if id(x) in names and id(x) not in held:
                full = self.shared.full(names[id(x)], local(x))
                held[id(x)] = full.cpu() if self.shared.ranks.first else full[:0]
        frozen = {name for name, x in named.items() if isinstance(x, nn.Parameter) and id(x) not in held}
        return {name: held.get(id(x), x) for name, x in named.items() if name not in frozen}


class ShardedLearner(DistributedLearner):
    """A learner whose gradient and moments are spread as the weights are."""

    policy: ShardedPolicy

    def check_parameters(self) -> None:
        """Nothing to compare: all are parts of the first process's."""

    @property
    def sources(self) -> list[Tensor]:
        """The module's own parameters, in the order of `parameters`."""
        return list(self.policy.shared.sources.values())

    def gradient(self, algorithm: Algorithm, batch: Batch, targets: Targets) -> tuple[list[Tensor], Tensor]:
        """What this process holds of the gradient of the whole minibatch, and the minibatch's loss."""
        self.check_batch(batch)
        start, length = self.ranks.span(batch.size)
        most = -(-batch.size // self.ranks.count)  # prompts of the longest slice
        size = self.micro_batch_size or most
        total = torch.zeros((), dtype=torch.float64, device=batch.responses.device)
        for done in range(0, most, size):
            count = min(size, length - done)
            # Where no prompt is left, the first once more, with no weight: for the others' collectives.
            at, weight = (start + done, 1.0) if count > 0 else (0, 0.0)
            part = batch.narrow(at, max(count, 1))
            loss = algorithm.loss(self.forward(algorithm, part), part, narrow_targets(targets, batch, part, at))
            loss = weight * loss.sum()
            loss.backward()  # adds to .grad; torch.autograd.grad would bypass the sums over processes
            total += loss.detach()
        gradients = []
        for source, parameter in zip(self.sources, self.parameters, strict=True):
            gradients.append(torch.zeros_like(parameter) if source.grad is None else local(source.grad))
            source.grad = None
        vectors = [g for g, source in zip(gradients, self.sources, strict=True) if not isinstance(source, DTensor)]
        self.ranks.sum([*vectors, total])
        return gradients, total

    def grad_norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """Of the whole gradient: the rows of all processes, and once what all have alike."""
        square = torch.zeros((), dtype=torch.float64, device=gradients[0].device)
        for gradient, source in zip(gradients, self.sources, strict=True):
            if isinstance(source, DTensor) or self.ranks.first:
                square += gradient.square().sum()
        self.ranks.sum([square])
        return square.sqrt().to(gradients[0].dtype)


def _group(ranks: Ranks) -> dist.ProcessGroup:
    return ranks.group or dist.group.WORLD  # type: ignore[return-value]


def _units(module: nn.Module) -> list[FSDPModule]:
    return [unit for unit in module.modules() if isinstance(unit, FSDPModule)]


def _tensors(module: nn.Module) -> Weights:
    """By all names that they have: on some processes two may be one tensor, on others not any more."""
    every = (module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False))
    return dict(itertools.chain(*every))
