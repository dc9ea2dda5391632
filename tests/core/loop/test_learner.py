"""A learner steps on what is finite, loss and gradient both, and freezes and marks every other run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from sims.core.loop.learner import Learner
from sims.core.loop.optimise import Optimiser
from sims.core.objectives.batch import Batch, Outputs


class Line:
    """A policy of one number per run, (..., 1), which is its log-prob of anything."""

    def __init__(self, start: Tensor) -> None:
        self.number = start.clone().unsqueeze(-1)

    def parameters(self) -> list[Tensor]:
        return [self.number]

    def forward(self, batch: Batch, request: Any) -> Outputs:
        return Outputs(logp=self.number[..., None, None].expand(batch.mask.shape))


# Losses of the log-prob; at 0 each is finite or not, and its gradient likewise.
LOSSES = {
    "infinite gradient": lambda x: x.sqrt(),  # loss 0
    "gradient that is no number": lambda x: torch.where(x > 0, x, x.sqrt() * 0),  # loss 0, gradient 0·∞
    "infinite loss": lambda x: x + torch.where(x > 0, 0.0, torch.inf),  # gradient 1
}


@pytest.mark.parametrize("micro_batch_size", [None, 1])
@pytest.mark.parametrize("what", LOSSES)
@pytest.mark.parametrize("start", [(4.0, 0.0, 9.0), (0.0,)])
def test_nothing_steps_on_a_loss_or_gradient_that_is_not_finite(
    start: tuple[float, ...], what: str, micro_batch_size: int | None
) -> None:
    lead = (3,) if len(start) == 3 else ()
    numbers = torch.tensor(start, dtype=torch.float64).reshape(lead)
    policy: Any = Line(numbers)
    algorithm: Any = SimpleNamespace(
        needs_probes=False,
        output_request=None,
        at_update=lambda batch, targets, probes: targets,
        loss=lambda outputs, batch, targets: LOSSES[what](outputs.logp.sum((-2, -1))),
    )
    shape = (*lead, 2, 1, 1)
    batch = Batch(
        prompts=torch.zeros(*lead, 2, dtype=torch.long),
        responses=torch.zeros(shape, dtype=torch.long),
        mask=torch.ones(shape, dtype=torch.bool),
    )
    learner = Learner(policy, Optimiser(method="sgd", learning_rate=0.1), lead, micro_batch_size)
    stats = learner.update(algorithm, batch, {})
    assert torch.equal(stats.alive, numbers > 0) and bool((stats.loss.isfinite() | (what == "infinite loss")).all())
    moved = policy.number.detach().squeeze(-1) != numbers
    assert torch.equal(moved, numbers > 0)
