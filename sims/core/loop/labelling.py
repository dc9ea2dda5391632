"""Where rewards and labels come from: the environment, or the policy's own implicit reward."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sims.core.objectives.batch import Batch, sequence_sum
from sims.core.schedule import Schedule
from sims.core.spec import Spec, SpecError, setting

from .protocols import Policy


@dataclass(frozen=True)
class Labelling(Spec, kind="labelling"):
    """Source of the rewards that the learner sees, and by which pairs are labelled. The gold reward stays the
    environment's, and so does the labeller that turns rewards into labels.

    implicit: r̂ (`implicit_reward`) of the policy as it was at the last sync (`implicit_policy` = sampler), or of a
    copy made once, when the first batch is labelled so (frozen), against the run's reference. While policy and
    reference are equal, as at the start, every pair is a tie and labels carry no information; `implicit_after_updates`
    first trains on the environment's labels. Chen et al. 2024 (DICE) bootstrap from a policy that DPO has tuned; Yuan
    et al. 2024 prompt the policy as an LLM judge instead.

    Noiseless labels of r̂ keep the sign of every margin and increase its size: they sharpen the policy. Bradley–Terry
    labels of temperature τ under DPO's β have their minimum at ∝ π_ref·(π_label/π_ref)^κ, κ = implicit_beta/(τβ): at κ
    = 1 every policy is its own minimum.

    >>> sims.Labelling(labels="implicit", implicit_after_updates=50).implicit_policy
    'sampler'
    """

    labels: Literal["environment", "implicit"] = setting(
        "environment",
        "source of rewards and labels: the environment, or the policy's implicit reward, beta log pi/pi_ref",
    )
    implicit_beta: float = setting(
        0.1, "beta of the implicit reward; matters if labels have a temperature or the loss uses rewards", above=0
    )
    implicit_policy: Literal["sampler", "frozen"] = setting(
        "sampler", "policy that labels: the sampler, synced with it, or a copy frozen after implicit_after_updates"
    )
    implicit_after_updates: int = setting(
        0, "updates on the environment's rewards and labels before the implicit reward replaces them",
        at_least=0,
    )  # fmt: skip

    def check(self) -> None:
        if self.labels == "environment":
            for name in ("implicit_beta", "implicit_policy", "implicit_after_updates"):
                if getattr(self, name) != self.__dataclass_fields__[name].default:
                    raise SpecError(name, getattr(self, name), "only means something when labels = implicit")
        elif self.implicit_policy == "frozen" and self.implicit_after_updates == 0:
            rule = "must be at least 1 with implicit_policy = frozen: at the start policy and reference are equal"
            raise SpecError("implicit_after_updates", 0, rule)

    def check_schedule(self, schedule: Schedule) -> None:
        """Raise SpecError for a schedule in which an implicit reward could not be used or would always be 0."""
        if self.labels == "environment":
            return
        if schedule.source != "policy":
            raise SpecError("source", schedule.source, "must be policy: labels = implicit labels fresh samples")
        if self.implicit_policy == "sampler" and math.isinf(schedule.sync_period):
            rule = (
                "must be finite with implicit_policy = sampler, which else stays equal to the reference; or use frozen"
            )
            raise SpecError("sync_every_updates", schedule.sync_period, rule)
        if self.implicit_policy == "frozen" and schedule.reference != "fixed":
            rule = "must be fixed with implicit_policy = frozen: its rewards are relative to the reference at that time"
            raise SpecError("reference", schedule.reference, rule)


@torch.no_grad()
def implicit_reward(policy: Policy, reference: Policy, batch: Batch, beta: float) -> Tensor:
    """r̂ = β·(log π − log π_ref), summed over the tokens of each response: (..., B, K). Rafailov et al. 2023, eq. 5.

    It lacks β·log Z(x), which is the same for all responses to a prompt: only differences within a prompt are
    meaningful. Exactly 0 where the two policies are equal.
    """
    ratio = policy.forward(batch).logp - reference.forward(batch).logp
    return beta * sequence_sum(ratio, batch.mask.to(ratio.device))
