"""Maximum likelihood with weights that grow exponentially with the reward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from sims.core.losses.likelihood import exponential_weights
from sims.core.objectives.advantages import group_mean, mean_so_far
from sims.core.objectives.batch import Batch, over
from sims.core.schedule import Schedule
from sims.core.spec import SpecError, setting

from .base import State, Targets, present
from .likelihood import LikelihoodAlgorithm


@dataclass(frozen=True)
class RWR(LikelihoodAlgorithm, kind="rwr"):
    """Reward-weighted regression: L = −min(e^{r/β}, weight_clip)·ℓ, averaged over the responses.

    Its population minimiser on samples of μ is μ·e^{r/β}/Z, the KL-regularised optimum around μ, as long as no weight
    is clipped.

    >>> sims.run(sims.RWR(beta=1.0), sims.BanditR1(), updates=20, runs=2)
    Result(rwr on bandit_r1: 2 runs of 20 updates, ...)
    """

    on_policy: ClassVar[bool] = True
    sample_reuse: ClassVar[bool] = True
    source: ClassVar[str] = "Peters & Schaal 2007; Tajwar et al. 2024"

    beta: float = setting(1.0, "temperature of the weights e^{r/beta}", above=0, per_run=True)
    weight_clip: float = setting(
        20.0, "weights are clipped from above at this value", above=0, infinite=True, per_run=True
    )

    def targets(self, batch: Batch, state: State) -> tuple[Targets, State]:
        rewards = batch.need("rewards")
        scale = exponential_weights(rewards, over(self.beta, rewards), over(self.weight_clip, rewards))
        return {"scale": scale}, state


@dataclass(frozen=True)
class AWR(LikelihoodAlgorithm, kind="awr"):
    """Advantage-weighted regression: L = −min(e^{(r−b)/β}, weight_clip)·ℓ, averaged over the responses.

    Differs from rwr in: (1) a baseline b, so that the clip and the scale of the loss do not depend on a constant in the
    rewards. The paper's b is a learned state value; here it is the mean of all rewards of earlier batches (0 at first),
    which only scales the loss, or the mean of the prompt's own group. On samples of μ, unclipped, the population
    minimiser is rwr's, μ·e^{r/β}/Z; under the group's mean, which includes a response's own reward, β becomes
    β·K/(K−1).

    >>> sims.run(sims.AWR(beta=1.0), sims.BanditR1(), updates=20, runs=2)
    Result(awr on bandit_r1: 2 runs of 20 updates, ...)
    """

    on_policy: ClassVar[bool] = True
    sample_reuse: ClassVar[bool] = True
    source: ClassVar[str] = "Peng et al. 2019"

    beta: float = setting(1.0, "temperature of the weights e^{(r-b)/beta}", above=0, per_run=True)
    weight_clip: float = setting(
        20.0, "weights are clipped from above at this value", above=0, infinite=True, per_run=True
    )
    baseline: Literal["running_mean", "group_mean"] = setting(
        "running_mean", "baseline: the mean of all earlier batches' rewards, or of the prompt's responses"
    )

    def check_schedule(self, schedule: Schedule) -> None:
        if self.baseline == "group_mean" and schedule.num_generations < 2:
            raise SpecError(
                "num_generations", schedule.num_generations, "must be at least 2 with baseline = group_mean"
            )

    def initial_state(self, lead: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> State:
        if self.baseline == "group_mean":
            return {}
        zeros = torch.zeros(lead, dtype=dtype, device=device)
        return {"reward_mean": zeros, "reward_count": zeros.clone()}

    def targets(self, batch: Batch, state: State) -> tuple[Targets, State]:
        rewards = batch.need("rewards")
        if self.baseline == "group_mean":
            baseline = group_mean(rewards, batch.weight)
        else:
            baseline, count = state["reward_mean"][..., None, None], state["reward_count"]
            mean, count = mean_so_far(state["reward_mean"], count, rewards, present(batch))
            state = {"reward_mean": mean, "reward_count": count}
        scale = exponential_weights(rewards - baseline, over(self.beta, rewards), over(self.weight_clip, rewards))
        return {"scale": scale}, state
