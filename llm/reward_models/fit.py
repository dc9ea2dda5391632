"""Fitting a reward model to labelled pairs: settings and the training loop."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llm.distributed.spread import Ranks
from sims.core.algorithms.reward_model import RewardModelLoss
from sims.core.loop.optimise import Optimiser, PerRunOptimiser
from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import Batch, pick
from sims.core.objectives.reductions import pair_weights, shares
from sims.core.spec import Spec, setting

from .calibration import ordered_rightly
from .model import RewardModel


@dataclass(frozen=True)
class RewardTraining(Spec, kind="reward_training"):
    """How a reward model is fitted: for one epoch, as a second one over-fits large models (Stiennon et al. 2020)."""

    batch_size: int = setting(32, "prompts per update, each with all its pairs", at_least=1)
    epochs: int = setting(1, "passes over the pairs", at_least=1)
    learning_rate: float = setting(
        1e-3, "constant learning rate of Adam; about 1e-5 for models of billions of parameters", above=0
    )
    weight_decay: float = setting(0.0, "decoupled weight decay (AdamW)", at_least=0)
    max_grad_norm: float | None = setting(1.0, "gradients are clipped to this norm; none: no clipping", above=0)
    micro_batch_size: int | None = setting(
        None, "prompts per forward and backward pass; none: all. Less memory, same gradient", at_least=1
    )
    seed: int = setting(0, "seed of the order of the pairs, and of a new head", at_least=0)

    def optimiser(self) -> Optimiser:
        return Optimiser(
            learning_rate=self.learning_rate, weight_decay=self.weight_decay, max_grad_norm=self.max_grad_norm
        )

    def updates(self, prompts: int) -> int:
        """Number of updates for so many prompts; the last one of an epoch may have fewer prompts."""
        return self.epochs * math.ceil(prompts / self.batch_size)


@dataclass(frozen=True)
class FitUpdate:
    """One update: its number from 1, the loss and the share of pairs ordered rightly before it, the gradient's norm."""

    update: int
    loss: float
    accuracy: float
    grad_norm: float


def fit(
    model: RewardModel,
    batch: Batch,
    loss: RewardModelLoss | None = None,
    training: RewardTraining | None = None,
    margin: Tensor | None = None,
    ranks: Ranks | None = None,
) -> Iterator[FitUpdate]:
    """`Fit` from its start to its end; the iterator yields after each update."""
    yield from Fit(model, batch, loss, training, margin, ranks).train()


class Fit:
    """Trains a reward model in place on a batch's pairs, and can be stopped and restored bit for bit.

    margin: (B, Q), how much better the winner was rated (Touvron et al. 2023). ranks: the processes that share each
    minibatch; all must have the same arguments. Raises ValueError for a batch without pairs.
    """

    between_batches = True  # at every moment that a caller sees: an update has a minibatch of its own

    def __init__(
        self,
        model: RewardModel,
        batch: Batch,
        loss: RewardModelLoss | None = None,
        training: RewardTraining | None = None,
        margin: Tensor | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.model, self.batch = model, batch
        self.loss, self.training, self.ranks = loss or RewardModelLoss(), training or RewardTraining(), ranks or Ranks()
        label = batch.need("pair_label")
        weight = pair_weights(batch.weight, batch.need("pairs"), batch.pair_weight)
        self.weight = torch.ones_like(label) if weight is None else weight
        self.margin = torch.zeros_like(label) if margin is None else margin
        if self.margin.shape != label.shape:
            raise ValueError(f"margin of shape {tuple(self.margin.shape)}: must be {tuple(label.shape)}, one per pair")
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimiser = PerRunOptimiser(self.parameters, (), self.training.optimiser())

    @property
    def updates(self) -> int:
        """Updates done."""
        return self.optimiser.steps

    @property
    def total(self) -> int:
        """Updates in all."""
        return self.training.updates(self.batch.size)

    def train(self) -> Iterator[FitUpdate]:
        """Go through the updates that are left. FloatingPointError for a loss or gradient that is not finite, before
        weights change."""
        noise, number = Noise.single(self.training.seed), 0
        for _ in range(self.training.epochs):
            order = noise.uniforms("reward order", self.batch.size).argsort()
            for index in order.split(self.training.batch_size):
                number += 1
                if number > self.updates:
                    yield self._update(number, index)

    def _update(self, number: int, index: Tensor) -> FitUpdate:
        part, margin = self.batch.gather(index), self.margin[index]
        share = shares(self.weight[index], self.batch.need("pair_label")[index])
        gradients, numbers = _gradient(
            self.model, self.parameters, part, share, margin, self.loss, self.training, self.ranks
        )
        norm = self.optimiser.grad_norm(gradients)
        value, accuracy = numbers.tolist()
        if not math.isfinite(value + float(norm)):
            found = f"update {number}: loss = {value:g}, gradient norm = {float(norm):g}"
            raise FloatingPointError(f"{found}: must be finite; lower learning_rate")
        self.optimiser.step(gradients, norm)
        return FitUpdate(number, value, accuracy, float(norm))

    def _tensors(self) -> dict[str, Tensor]:
        named: dict[str, Sequence[Tensor]] = {"model": self.parameters}
        named |= {"mean": self.optimiser.mean, "square": self.optimiser.square}
        return {f"{name}.{i}": x.detach() for name, several in named.items() for i, x in enumerate(several)}

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """The state for resuming, between two updates."""
        return self._tensors(), {"updates": self.updates}

    @torch.no_grad()
    def load_state_dict(self, tensors: dict[str, Tensor], numbers: dict[str, int]) -> None:
        """Continue from the `state_dict` of a fit of the same settings on the same pairs."""
        self.optimiser.steps = numbers["updates"]
        for name, x in self._tensors().items():
            x.copy_(tensors[name])


def _gradient(
    model: RewardModel,
    parameters: list[nn.Parameter],
    batch: Batch,
    share: Tensor,
    margin: Tensor,
    loss: RewardModelLoss,
    training: RewardTraining,
    ranks: Ranks,
) -> tuple[list[Tensor], Tensor]:
    """Gradients, and (loss, accuracy) (2,): sums over the minibatch, weighted by the pairs' shares of it (B, Q)."""
    gradients = [torch.zeros_like(p) for p in parameters]
    numbers = torch.zeros(2, dtype=torch.float64, device=model.device)
    start, length = ranks.span(batch.size)
    size = training.micro_batch_size or batch.size
    for at in range(start, start + length, size):
        rows = slice(at, min(at + size, start + length))
        part = batch.narrow(at, rows.stop - at)
        scores = model(part.prompts, part.prompt_mask, part.responses, part.mask)
        device = scores.device
        first, second = pick(scores, part.need("pairs").to(device))
        label, own_share = part.need("pair_label").to(device), share[rows].to(device)
        value = (own_share * loss.pair_losses(first, second, label, margin[rows].to(device))).sum()
        found = torch.autograd.grad(value, parameters)
        torch._foreach_add_(gradients, found)
        right = (own_share * ordered_rightly((first - second).detach(), label)).sum()
        numbers += torch.stack([value.detach(), right]).double()
    ranks.sum([*gradients, numbers])
    return gradients, numbers
