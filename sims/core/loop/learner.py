"""One update: probes, shares, micro-batches, backward, gradient clipping, step; diverged runs are frozen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sims.core.algorithms import Algorithm, Targets
from sims.core.numerics.recorded import on_host
from sims.core.objectives.batch import Batch, Outputs, take_items, up_to_last

from .checks import check_shape
from .optimise import Optimiser, PerRunOptimiser
from .protocols import Policy


@dataclass(frozen=True, eq=False)
class UpdateStats:
    """What one update did, per run: loss before it, gradient norm before clipping, and whether the run is still
    alive."""

    loss: Tensor
    grad_norm: Tensor
    alive: Tensor


class Learner:
    """Trains the policies of all runs at once.

    micro_batch_size: prompts per forward pass; saves memory, changes no gradient. group_by_length: those of like length
    together, which saves padding; of one run. scored: is told each part of a minibatch, the policy's outputs on it from
    before the step, and its targets, so that metrics need no pass of their own.
    """

    adds_up = False  # whether a minibatch of one part, too, is computed by `add_gradient`

    def __init__(
        self,
        policy: Policy,
        optimiser: Optimiser,
        lead: tuple[int, ...],
        micro_batch_size: int | None = None,
        group_by_length: bool = False,
    ) -> None:
        self.policy, self.micro_batch_size, self.group_by_length = policy, micro_batch_size, group_by_length
        self.scored: Callable[[Batch, Outputs, Targets], None] | None = None
        self.parameters = list(policy.parameters())
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self.optimiser = self.new_optimiser(optimiser, lead)
        self.alive = torch.ones(lead, dtype=torch.bool, device=self.parameters[0].device if lead else "cpu")

    def new_optimiser(self, spec: Optimiser, lead: tuple[int, ...]) -> PerRunOptimiser:
        """The optimiser of `parameters`."""
        return PerRunOptimiser(self.parameters, lead, spec)

    def update(self, algorithm: Algorithm, batch: Batch, targets: Targets) -> UpdateStats:
        """One step on one minibatch. A run whose loss or gradient is not finite is frozen and marked as diverged."""
        targets = algorithm.at_update(batch, targets, self.score_probes(batch) if algorithm.needs_probes else None)
        gradients, loss = self.gradient(algorithm, batch, targets)
        norm = self.optimiser.grad_norm(gradients)
        self.alive = self.alive & ((loss + norm).abs() < torch.inf)
        # To read it would wait for an accelerator, which costs more than a masked step of stacked runs.
        everyone = (on_host(self.alive) or self.alive.dim() == 0) and bool(self.alive.all())
        self.optimiser.step(gradients, norm, None if everyone else self.alive)
        return UpdateStats(loss, norm, self.alive)

    def gradient(self, algorithm: Algorithm, batch: Batch, targets: Targets) -> tuple[list[Tensor], Tensor]:
        """Gradient of each parameter and the loss (lead), summed over the prompts of `batch`.

        targets: after `at_update` on the whole minibatch, so that a part of it gives its part of both sums.
        """
        whole = not self.adds_up and (self.micro_batch_size is None or self.micro_batch_size >= batch.size)
        gradients: list[Tensor] = []
        total: Tensor | None = None
        if self.group_by_length and not whole:
            batch, targets = by_length(batch, targets)
        for parameter in self.parameters:
            parameter.grad = None  # of a pass that was interrupted
        several = list(parts(batch, targets, self.micro_batch_size))
        for i, (part, constants) in enumerate(several):
            outputs = self.policy.forward(part, algorithm.output_request)
            loss = algorithm.loss(outputs, part, constants)
            if self.scored is not None:
                self.scored(part, outputs, constants)
            if loss.shape != part.responses.shape[:-2]:
                shape = tuple(part.responses.shape[:-2])
                check_shape(f"{type(algorithm).__name__}.loss", loss, shape, "each prompt's part of the loss")
            if whole:
                # Runs are independent: the gradient of the sum of their losses is each run's own. Of a sum, and not of
                # a vector with ones, for which PyTorch imports sympy.
                found = torch.autograd.grad(loss.sum(), self.parameters, allow_unused=True, materialize_grads=True)
                gradients = list(found)
            else:
                self.add_gradient(loss, last=i == len(several) - 1)
            part_loss = loss.detach().sum(-1)
            total = part_loss if total is None else total + part_loss
        assert total is not None
        return gradients if whole else self.take_gradients(), total

    def add_gradient(self, loss: Tensor, last: bool) -> None:
        """Add the gradient of a part's loss to `.grad` of the parameters as it is computed, so that no second gradient
        of all of them exists. last: whether no part follows."""
        torch.autograd.backward(loss.sum(), inputs=self.parameters)

    def take_gradients(self) -> list[Tensor]:
        """What the parts added up to, out of `.grad`."""
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        for parameter in self.parameters:
            parameter.grad = None
        return found

    def tensors(self) -> dict[str, Tensor]:
        """The optimiser's state and which runs are alive, by name."""
        moments = {"mean": self.optimiser.mean, "square": self.optimiser.square}
        found = {f"{name}.{i}": x for name, several in moments.items() for i, x in enumerate(several)}
        return found | {"alive": self.alive}

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor], steps: int) -> None:
        """Restore what `tensors` returned after `steps` steps."""
        self.optimiser.steps, self.alive = steps, tensors["alive"]
        for name, several in (("mean", self.optimiser.mean), ("square", self.optimiser.square)):
            for i, x in enumerate(several):
                x.copy_(tensors[f"{name}.{i}"])

    def score_probes(self, batch: Batch) -> Tensor:
        """log π of the batch's probes, without gradient: (..., B, K, L)."""
        if batch.probes is None:
            raise ValueError("batch.probes is missing: this algorithm needs it")
        with torch.no_grad():
            return self.policy.forward(batch.probes).logp


def parts(batch: Batch, targets: Targets, size: int | None) -> Iterator[tuple[Batch, Targets]]:
    """Slices of `size` prompts, in order, with their targets; the last may be smaller. None: the whole batch."""
    if size is None or size >= batch.size:
        yield batch, targets
        return
    for start in range(0, batch.size, size):
        yield narrow(batch, targets, start, min(size, batch.size - start))


def by_length(batch: Batch, targets: Targets) -> tuple[Batch, Targets]:
    """Prompts and their targets from the shortest to the longest, the longest response included. Of one run."""
    lengths = up_to_last(batch.mask).sum(-1).amax(-1)
    if batch.prompt_mask is not None:
        lengths = lengths + batch.prompt_mask.sum(-1)
    order = lengths.argsort(stable=True)
    return batch.gather(order), {name: take_items(x, order, 0) for name, x in targets.items()}


def narrow(batch: Batch, targets: Targets, start: int, length: int) -> tuple[Batch, Targets]:
    """Prompts `start` to `start + length` and their targets, as views."""
    axis = len(batch.lead)
    return batch.narrow(start, length), {name: x.narrow(axis, start, length) for name, x in targets.items()}
