"""A policy after supervised fine-tuning on the chosen responses of recorded pairs, which is then the reference."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sims.core.algorithms import find_algorithm
from sims.core.loop.learner import Learner
from sims.core.loop.optimise import Optimiser
from sims.core.loop.protocols import EnvironmentSpec, PolicySpec
from sims.core.loop.train import Training
from sims.core.numerics.noise import Noise
from sims.core.schedule import Schedule
from sims.core.spec import SpecError, setting
from sims.environments.enumerable import EnumerableSpec

from .categorical import CategoricalPolicy
from .table import Table


@dataclass(frozen=True)
class FineTuned(PolicySpec, kind="fine_tuned"):
    """`base` after supervised fine-tuning on the chosen responses (pref_ft): the first stage of Rafailov et al. 2023,
    and Xu et al.'s remedy for a reference that is far from the data.

    >>> policy = sims.FineTuned(sims.Table(), sft_updates=10)
    >>> sims.run(sims.DPO(), sims.Contextual(), policy, updates=20, runs=2, source="dataset", batch_size=48)
    Result(dpo on contextual: 2 runs of 20 updates, ...)
    """

    base: PolicySpec = setting(Table(), None)  # not a command-line option: it has options of its own
    sft_updates: int = setting(100, "updates of supervised fine-tuning on the chosen responses", at_least=1)
    sft_batch_size: int = setting(64, "recorded pairs per fine-tuning update", at_least=1)
    sft_learning_rate: float = setting(1e-2, "learning rate of the fine-tuning (adam)", above=0)

    def check_environment(self, environment: EnvironmentSpec) -> None:
        self.base.check_environment(environment)
        if not getattr(environment, "has_data", False):
            rule = f"needs recorded responses, and {environment.kind} has none"
            raise SpecError("policy", "fine_tuned", rule)

    def build(self, environment: EnumerableSpec, noise: Noise, critic: bool, dtype: torch.dtype) -> CategoricalPolicy:
        policy: CategoricalPolicy = self.base.build(environment, noise, critic, dtype)
        # Separate streams, so that the training after this stage draws the same numbers as without it.
        own = noise.from_start()
        learner = Learner(policy, Optimiser(learning_rate=self.sft_learning_rate), own.lead)
        schedule = Schedule(batch_size=self.sft_batch_size, source="dataset")
        data = environment.without_reward_model.build(dtype, own)
        for _ in Training(policy, data, find_algorithm("pref_ft")(), schedule, learner, own).train(self.sft_updates):
            pass
        for parameter in policy.parameters():
            parameter.requires_grad_(False)
        return policy
