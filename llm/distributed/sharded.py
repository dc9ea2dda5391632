"""One run whose weights are sharded over processes: each holds a part, and gathers a block's weights to compute.

Weights, gradients and the optimiser's moments take 1/N of their memory on each of N processes, copies of the policy
(the reference, the sampler) too. Samples, losses and gradients are those of one process up to the rounding of sums.
ZeRO's third stage (Rajbhandari et al. 2020) by torch's `fully_shard`. Its properties:

1. Matrices are sharded, by rows. Vectors (gains, biases, the critic's head: a thousandth of all) are whole everywhere.
2. A unit is a block of the transformer, gathered before it computes and freed after; one more, the root, holds
   embeddings and head, and stays gathered while the head computes its chunks of tokens.
3. Gathering is a collective: all processes must call the module equally often. In an update each computes as many
   micro-batches as the process with most, additional ones with weight 0. Without gradient, a process that is done
   goes on calling the module until all are (`call_until_all_done`): responses end at different times.
4. A copy of a policy is a set of weights, not a module: they are swapped into the one module while it computes. So
   copies share a frozen base under adapters, and a copy costs its trained weights / N.
5. Under bfloat16, blocks are gathered in it and the root in the stored precision: what autocast computes with.
   Weights are stored, and gradients summed over processes, in the stored precision.

accelerate's FSDP2 plugin is not used: it makes the head a unit of its own, so that each chunk of tokens is a
collective, of which processes have different numbers; it averages gradients; and it must wrap the optimiser. This
needs torch 2.7 or later, and was run on 2.11 and 2.13, on CPUs.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from llm.models.policy import CausalLMPolicy
from sims.core.algorithms import Algorithm, Targets
from sims.core.loop.learner import by_length, narrow
from sims.core.loop.optimise import Optimiser, PerRunOptimiser
from sims.core.loop.protocols import SampleRequest, Samples
from sims.core.objectives.batch import LOG_PROBS, Batch, OutputRequest, Outputs

from .shared_module import SharedModule, Weights, local
from .spread import DistributedLearner, Ranks

# Names in `Training.state_dict` of tensors that belong to parameter i.
_BY_PARAMETER = re.compile(r"(?:policy|sampler|reference|labeller|learner\.mean|learner\.square)\.(\d+)")


class ShardedModel:
    """The shared module with the weights of one policy: to the policy, a `LanguageModel`."""

    def __init__(self, shared: SharedModule, weights: Weights) -> None:
        self.shared, self.weights = shared, weights
        module = shared.module
        self.model, self.core, self.positions = module.model, module.core, module.positions
        self.new_cache, self.computing = module.new_cache, module.computing

    def __call__(self, *arguments: Any, **options: Any) -> Outputs:
        if not torch.is_grad_enabled():
            return self._in_step(self.shared.module, *arguments, **options)  # type: ignore[no-any-return]
        if self.weights is not self.shared.active:
            raise RuntimeError("a copy of a sharded policy has no gradient: its weights are in the module too briefly")
        return self.shared.module(*arguments, **options)  # type: ignore[no-any-return]

    def next_logits(self, *arguments: Any) -> Tensor:
        return self._in_step(self.shared.module.next_logits, *arguments)  # type: ignore[no-any-return]

    def _in_step(self, call: Any, *arguments: Any, **options: Any) -> Any:
        with self.shared.swapped_in(self.weights):
            self.shared.any_busy(busy=True)
            return call(*arguments, **options)


def call_until_all_done(models: Sequence[ShardedModel], values: bool = False) -> None:
    """Call the module with the other processes until all are done. models: those that these call in turn.

    The results are discarded, but the others gather the weights that this process holds.
    """
    for model in itertools.cycle(models):
        if not model.shared.any_busy(busy=False):
            return
        with model.shared.swapped_in(model.weights):
            model.shared.idle(values)


class ShardedPolicy(CausalLMPolicy):
    """A policy that holds its part of the weights. Each process must make every call, as `SpreadPolicy` does.

    Made from a policy, whose module it shards; see `SharedModule`. `parameters` are what this process holds.
    """

    language_model: ShardedModel  # type: ignore[assignment]

    def __init__(
        self, policy: CausalLMPolicy, ranks: Ranks, device: torch.device, gathers_to_sample: bool = False
    ) -> None:
        self.__dict__.update(policy.__dict__)
        ends = [policy.eos_token_ids]  # some are in the model's files, which only the first process has read
        dist.broadcast_object_list(ends, group=ranks.members, group_src=0)
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

    def sample(self, request: SampleRequest) -> Samples:
        if request.blend is not None:  # two policies' weights are in the module in turn
            drawn = super().sample(request)
            call_until_all_done([self.language_model, request.blend[0].language_model])
            return drawn
        with self.shared.swapped_in(self._trainable), self.shared.whole_to_sample():
            drawn = super().sample(request)
            call_until_all_done([self.language_model])
            return drawn

    def forward(self, batch: Batch, request: OutputRequest = LOG_PROBS) -> Outputs:
        with nullcontext() if torch.is_grad_enabled() else self.shared.swapped_in(self._trainable):
            found = super().forward(batch, request)
            if not torch.is_grad_enabled():  # with gradient, the learner makes all call equally often
                call_until_all_done([self.language_model], request.values)
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


class ShardedOptimiser(PerRunOptimiser):
    """Steps this process's shards. sources: the module's parameters that they are shards of."""

    def __init__(self, shards: Sequence[Tensor], spec: Optimiser, sources: Sequence[Tensor], ranks: Ranks) -> None:
        super().__init__(shards, (), spec)
        self.sources, self.ranks = sources, ranks

    def grad_norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """The norm of the whole gradient: sharded rows of all processes, and replicated vectors once."""
        square = torch.zeros((), dtype=torch.float64, device=gradients[0].device)
        for gradient, source in zip(gradients, self.sources, strict=True):
            if isinstance(source, DTensor) or self.ranks.first:
                square += gradient.square().sum()
        self.ranks.sum([square])
        return square.sqrt().to(gradients[0].dtype)


class ShardedLearner(DistributedLearner):
    """A learner whose gradient and moments are sharded as the weights are."""

    policy: ShardedPolicy

    def new_optimiser(self, spec: Optimiser, lead: tuple[int, ...]) -> PerRunOptimiser:
        return ShardedOptimiser(self.parameters, spec, self.sources, self.policy.shared.ranks)

    def check_parameters(self) -> None:
        """Nothing to compare: all weights come from the first process."""

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
        # Where no prompt is left, the first again with weight 0, for the other processes' collectives.
        own = narrow(batch, targets, start if length > 0 else 0, max(length, 1))
        if self.group_by_length:
            own = by_length(*own)
        for done in range(0, most, size):
            count = min(size, length - done)
            at, weight = (done, 1.0) if count > 0 else (0, 0.0)
            part, its_targets = narrow(*own, at, max(count, 1))
            outputs = self.policy.forward(part, algorithm.output_request)
            loss = weight * algorithm.loss(outputs, part, its_targets).sum()
            if self.scored is not None and weight > 0:
                self.scored(part, outputs, its_targets)
            loss.backward()  # adds to .grad; torch.autograd.grad would bypass the sums over processes
            total += loss.detach()
        gradients = []
        for source, parameter in zip(self.sources, self.parameters, strict=True):
            gradients.append(torch.zeros_like(parameter) if source.grad is None else local(source.grad))
            source.grad = None
        vectors = [g for g, source in zip(gradients, self.sources, strict=True) if not isinstance(source, DTensor)]
        self.ranks.sum([*vectors, total])
        return gradients, total
