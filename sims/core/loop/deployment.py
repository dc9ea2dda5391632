"""A loop that serves users: which samples are worth a label, and when a trained policy may replace the one in use."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sims.core.objectives.batch import Batch, take_items
from sims.core.schedule import Schedule
from sims.core.spec import Spec, SpecError, setting

from .labelling import implicit_reward
from .protocols import Environment, Policy, Prompts, SampleRequest, Samples

if TYPE_CHECKING:
    from sims.core.numerics.noise import Noise

CURATORS_SEE = 8  # fresh pairs for each that they choose


@dataclass(frozen=True)
class Deployment(Spec, kind="deployment"):
    """Which samples are labelled, and when the trained policy replaces the one that users get.

    Labels: of `label_candidates` prompts with two responses each, one is labelled, that of the smallest implicit
    margin |r̂_1 − r̂_2| under the sampler: the pair that the policy is least sure of (active learning by uncertainty).
    `curated_pairs`: the last pairs of a batch are chosen by curators, who know what is right: the first of
    `CURATORS_SEE` times as many fresh pairs that the environment's `curated` asks for, labelled by gold. Where fewer
    are found, the rest weigh nothing.

    Gates: at a sync, the trained policy replaces the sampler, which users get, only if it passes; else it is set back
    to the sampler, and training goes on from there, with the optimiser's moments as they are. `gate_comparisons`:
    head-to-head comparisons by the environment's labeller, with its noise and its bias. `gate_gold_loss`: the gold
    set, on which the policy may not be worse than the sampler by more than this.

    >>> sims.Deployment(gate_comparisons=64).gates
    True
    """

    label_candidates: int = setting(1, "prompts that are drawn for each that is labelled; 1: all are", at_least=1)
    curated_pairs: int = setting(
        0, "pairs of each batch that curators choose, and label by gold; 0: none", at_least=0, omit_default=True
    )
    gate_comparisons: int = setting(
        0, "comparisons of the trained policy with the one in use before it replaces it; 0: none", at_least=0
    )
    gate_win_rate: float = setting(
        0.5, "share of the comparisons that it must win (gate_comparisons > 0)", at_least=0, at_most=1
    )
    gate_gold_loss: float | None = setting(
        None, "largest loss on the gold set with which it may replace it; none: not checked", at_least=0
    )

    @property
    def gates(self) -> bool:
        """Whether a policy can be refused."""
        return self.gate_comparisons > 0 or self.gate_gold_loss is not None

    def check(self) -> None:
        if self.gate_comparisons == 0 and self.gate_win_rate != 0.5:
            raise SpecError("gate_win_rate", self.gate_win_rate, "only means something with gate_comparisons above 0")

    def check_schedule(self, schedule: Schedule) -> None:
        """Raise SpecError for a schedule in which labels are not chosen, or no policy is deployed."""
        for name, off in (("label_candidates", 1), ("curated_pairs", 0)):
            found, rule = getattr(self, name), ""
            if found != off and schedule.source != "policy":
                rule = f"must be {off} with source = {schedule.source}: only fresh samples are chosen from"
            elif found != off and schedule.num_generations != 2:
                rule = f"must be {off} with num_generations = {schedule.num_generations}: pairs are chosen"
            if rule:
                raise SpecError(name, found, rule)
        if self.curated_pairs >= schedule.batch_size:
            rule = f"must be below batch_size = {schedule.batch_size}, of which they are a part"
            raise SpecError("curated_pairs", self.curated_pairs, rule)
        if self.gates:
            period = schedule.sync_period
            if schedule.source != "policy" or math.isinf(period) or period <= schedule.updates_per_batch:
                rule = (
                    f"must be finite and above the {schedule.updates_per_batch} updates per batch, with source = "
                    "policy, for a gate to have a policy in use to compare with"
                )
                raise SpecError("sync_every_updates", schedule.sync_every_updates, rule)


class _OfGate:
    """The streams of some runs under other names: a gate changes no sample that training draws."""

    def __init__(self, noise: Noise) -> None:
        self.noise, self.lead, self.device = noise, noise.lead, noise.device

    def uniforms(self, stream: str, *shape: int) -> Tensor:
        return self.noise.uniforms(f"gate {stream}", *shape)


@torch.no_grad()
def least_certain(prompts: Prompts, samples: Samples, count: int, policy: Policy, reference: Policy) -> Tensor:
    """(..., count): indices of the prompts whose two responses have the smallest implicit margin; two that are the same
    come last. While policy and reference are equal, all margins are 0, and those drawn first are taken."""
    batch = Batch(prompts.tokens, samples.responses, samples.mask, prompts.mask)
    scores = implicit_reward(policy, reference, batch, 1.0)
    margin = (scores[..., 0] - scores[..., 1]).abs()
    same = (samples.responses[..., 0, :] == samples.responses[..., 1, :]).all(-1)
    margin = torch.where(same, torch.inf, margin)
    return margin.argsort(dim=-1, stable=True)[..., :count]


def take(x: Tensor, index: Tensor) -> Tensor:
    """The entries of a tensor (..., B, ...) at indices (..., count) of its axis of prompts."""
    axis = index.dim() - 1
    return take_items(x.expand(*index.shape[:-1], *x.shape[axis:]), index, axis)


@torch.no_grad()
def passes(rule: Deployment, policy: Policy, in_use: Policy, environment: Environment, noise: Noise) -> Tensor:
    """(lead): whether the trained policy may replace the one in use."""
    passed = torch.ones(noise.lead, dtype=torch.bool)
    if rule.gate_comparisons:
        own: Any = _OfGate(noise)
        prompts = environment.prompts(rule.gate_comparisons, own)
        drawn = [x.sample(SampleRequest(prompts, 1, own, name)) for x, name in ((policy, "new"), (in_use, "old"))]
        responses, mask, _ = (torch.cat(parts, dim=len(noise.lead) + 1) for parts in zip(*drawn, strict=True))
        labels = environment.label(prompts, responses, mask, "drawn", own)
        assert labels.pair_label is not None
        passed = passed & (labels.pair_label[..., 0].mean(-1) >= rule.gate_win_rate).cpu()
    if rule.gate_gold_loss is not None:
        score: Callable[[Policy], Tensor] | None = getattr(environment, "gold_set_score", None)
        if score is None:
            owner = type(environment).__name__
            raise SpecError("gate_gold_loss", rule.gate_gold_loss, f"must be none: {owner} has no gold_set_score")
        passed = passed & (score(policy) >= score(in_use) - rule.gate_gold_loss).cpu()
    return passed


@torch.no_grad()
def set_back(policy: Policy, in_use: Policy, where: Tensor) -> None:
    """Give the runs of `where` (lead) the parameters of the policy in use again."""
    for mine, theirs in zip(policy.parameters(), in_use.parameters(), strict=True):
        runs = where.to(mine.device).view(*where.shape, *[1] * (mine.dim() - where.dim()))
        mine.copy_(torch.where(runs, theirs, mine))
