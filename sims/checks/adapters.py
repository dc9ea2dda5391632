"""This package's own algorithms as plain functions of the families, so that they are checked like anybody's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sims.core.algorithms import Algorithm
from sims.core.objectives.batch import Batch, Outputs
from sims.core.objectives.divergences import KL_ESTIMATORS

from .claims import ALGORITHMS


def as_function(algorithm: Algorithm) -> Callable[..., Tensor]:
    """The loss of one minibatch that is collected, aimed at and updated on once, as the family of the algorithm has it.

    ValueError for an algorithm of none of the families.

    >>> loss = sims.checks.as_function(sims.DPO(beta=0.1))
    >>> loss(*(torch.tensor([-1.0]) for _ in range(4)))  # log 2
    tensor(0.6931)
    """
    makers = {
        "pair": _pair,
        "unpaired": _unpaired,
        "group": _group,
        "actor_critic": _actor_critic,
        "likelihood": _likelihood,
    }
    for family, kinds in ALGORITHMS.items():
        if algorithm.kind in kinds:
            function = makers[family](algorithm)
            function.__name__ = algorithm.kind
            return function
    raise ValueError(f"{algorithm.kind} is in none of the families: {', '.join(makers)}")


def estimator(name: str) -> Callable[..., Tensor]:
    """This package's estimator of a divergence, k2 or k3, of whole responses, as the token family has it."""
    of = KL_ESTIMATORS[name]

    def divergence(logps: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
        return of(torch.where(mask, logps - reference, 0.0).sum(-1))

    divergence.__name__ = name
    return divergence


def _loss(algorithm: Algorithm, batch: Batch, outputs: Outputs) -> Tensor:
    state = algorithm.initial_state((), outputs.logp.dtype, outputs.logp.device)
    targets, _ = algorithm.targets(batch, state)
    targets = algorithm.at_update(batch, targets, None)
    return algorithm.loss(outputs, batch, targets).sum()


def _batch(mask: Tensor, **fields: Tensor) -> Batch:
    """Ids mean nothing here."""
    made = Batch(torch.arange(len(mask)), torch.zeros_like(mask, dtype=torch.int64), mask)
    return made.replace(**fields)


def _pair(algorithm: Algorithm) -> Callable[..., Tensor]:
    def loss(chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor) -> Tensor:
        logp, logp_ref = (
            torch.stack(pair, dim=-1).unsqueeze(-1)
            for pair in ((chosen, rejected), (reference_chosen, reference_rejected))
        )
        batch = _batch(
            torch.ones_like(logp, dtype=torch.bool),
            logp_ref=logp_ref,
            pairs=torch.tensor([[0, 1]]).expand(len(logp), 1, 2),
            pair_label=torch.ones(len(logp), 1, dtype=logp.dtype),
        )
        return _loss(algorithm, batch, Outputs(logp))

    return loss


def _unpaired(algorithm: Algorithm) -> Callable[..., Tensor]:
    def loss(logps: Tensor, reference_logps: Tensor, desirable: Tensor, kl: Tensor) -> Tensor:
        logp, logp_ref = (x[:, None, None] for x in (logps, reference_logps))
        good = desirable.to(logp.dtype)[:, None]
        batch = _batch(torch.ones_like(logp, dtype=torch.bool), logp_ref=logp_ref, desirable=good)
        share = torch.full_like(good, 1.0 / len(good))
        anchor = kl.clamp(min=0.0).expand(good.shape)
        return algorithm.loss(Outputs(logp), batch, {"share": share, "anchor": anchor, "desirable": good}).sum()

    return loss


def _group(algorithm: Algorithm) -> Callable[..., Tensor]:
    def loss(logps: Tensor, old_logps: Tensor, reference_logps: Tensor, mask: Tensor, rewards: Tensor) -> Tensor:
        if rewards.shape[-1] < algorithm.min_generations:
            raise ValueError(f"{algorithm.kind} needs {algorithm.min_generations} responses per prompt")
        batch = _batch(mask, logp_sampler=old_logps, logp_ref=reference_logps, rewards=rewards)
        return _loss(algorithm, batch, Outputs(logps))

    return loss


def _actor_critic(algorithm: Algorithm) -> Callable[..., Tensor]:
    """Its reward is one per response: the sum over its tokens, which is where it is anyway."""

    def loss(
        logps: Tensor, old_logps: Tensor, values: Tensor, old_values: Tensor, rewards: Tensor, mask: Tensor
    ) -> Tensor:
        batch = _batch(
            mask[:, None],
            logp_sampler=old_logps[:, None],
            rewards=torch.where(mask, rewards, 0.0).sum(-1, keepdim=True),
            values=old_values[:, None],
        )
        return _loss(algorithm, batch, Outputs(logps[:, None], values[:, None]))

    return loss


def _likelihood(algorithm: Algorithm) -> Callable[..., Tensor]:
    def loss(logps: Tensor, mask: Tensor) -> Tensor:
        batch = _batch(mask[:, None], rewards=torch.zeros(len(mask), 1, dtype=logps.dtype))
        return _loss(algorithm, batch, Outputs(logps[:, None]))

    return loss
