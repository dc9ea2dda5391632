"""A reward model fitted to recorded pairs: Bradley–Terry scores from a table or a network, with early stopping."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sims.core.algorithms.reward_model import RewardModelLoss
from sims.core.loop.optimise import Optimiser, PerRunOptimiser
from sims.core.numerics.networks import initial_layers, output
from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import Batch
from sims.core.spec import Spec, setting


@dataclass(frozen=True)
class RewardModel(Spec, kind="toy_reward_model"):
    """How scores are fitted: full batches, Adam, each run until its mean loss is `stop_at_loss`."""

    form: Literal["table", "mlp"] = setting(
        "table", "one free score per response, or a network with the prompt as input"
    )
    hidden: tuple[int, ...] = setting((64, 64), "widths of the network's hidden layers")
    stop_at_loss: float = setting(0.1, "early stopping: mean Bradley-Terry loss of a run", above=0)
    most_steps: int = setting(2000, "largest number of training steps", at_least=1)
    learning_rate: float = setting(1e-2, "learning rate (adam)", above=0)


@dataclass(frozen=True, eq=False)
class LearnedReward:
    """scores: (R, X, N), of mean 0 over the responses of a prompt, which the loss does not determine; loss: (R,) at the
    end; accuracy: (R,) share of the training pairs ordered as labelled."""

    scores: Tensor
    loss: Tensor
    accuracy: Tensor


def fit(model: RewardModel, data: Batch, shape: tuple[int, int], noise: Noise, dtype: torch.dtype) -> LearnedReward:
    """Fit to recorded pairs. data: prompts (R, D), responses (R, D, 2, 1), pair_label (R, D, 1); shape: (X, N)."""
    prompts, responses = shape
    lead = noise.lead
    eye = torch.eye(prompts, dtype=dtype).expand(*lead, prompts, prompts)
    if model.form == "table":
        parameters = [torch.zeros((*lead, prompts, responses), dtype=dtype)]
    else:
        parameters = initial_layers(noise, (prompts, *model.hidden, responses), dtype)
    cells = data.prompts.unsqueeze(-1) * responses + data.responses[..., 0]
    objective = RewardModelLoss()

    def scores() -> Tensor:
        return parameters[0] if model.form == "table" else output(eye, parameters)

    def pairs() -> tuple[Tensor, Tensor]:
        found = scores().flatten(1).gather(1, cells.flatten(1)).view(cells.shape)
        return found[..., :1], found[..., 1:]

    def losses() -> Tensor:
        return objective.pair_losses(*pairs(), data.need("pair_label")).mean((-2, -1))

    optimiser = PerRunOptimiser(parameters, lead, Optimiser(learning_rate=model.learning_rate))
    for parameter in parameters:
        parameter.requires_grad_(True)
    for _ in range(model.most_steps):
        loss = losses()
        training = loss.detach() > model.stop_at_loss
        if not bool(training.any()):
            break
        gradients = torch.autograd.grad(loss.sum(), parameters)
        optimiser.step(gradients, optimiser.grad_norm(gradients), training)
    with torch.no_grad():
        first, second = pairs()
        right = ((first > second) == (data.need("pair_label") > 0.5)).to(dtype).mean((-2, -1))
        table = scores()
        return LearnedReward(table - table.mean(-1, keepdim=True), losses(), right)
