"""A judge with a table: the reward of every response to every prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..core.algorithms import Algorithm
from ..core.batch import Batch
from ..core.experiment import EnvironmentSpec
from ..core.noise import Noise
from ..core.preferences import Labeller, Pairing, choose_pairs
from ..core.protocols import Judgement
from ..core.schedule import Schedule
from ..core.spec import SpecError, setting
from ..space import TokenSpace


@dataclass(frozen=True)
class ToyEnvironment(EnvironmentSpec):
    """Settings that every toy environment has; `build` makes the environment."""

    executor: ClassVar[str] = "sims.execute:execute"

    num_prompts: int = setting(1, "number of different prompts (X)", at_least=1)
    label_temperature: float = setting(0.0, "scale on which the labeller tells rewards apart; 0: noiseless", at_least=0)
    flip_rate: float = setting(0.0, "probability that a label is turned round", at_least=0, at_most=0.5)
    correct_above: float = setting(0.5, "rewards above it count as correct (pairing = correct_incorrect)")

    def check_experiment(self, algorithm: Algorithm, schedule: Schedule) -> None:
        if schedule.source == "dataset":
            raise SpecError("source", "dataset", "must be policy or pool: toy environments hold no recorded data")
        if getattr(algorithm, "include_prompt", False):
            raise SpecError("include_prompt", True, "must be false: the prompts of toy environments are numbers")

    @property
    def space(self) -> TokenSpace:
        """The responses."""
        raise NotImplementedError

    def rewards(self) -> np.ndarray:
        """(X, N) float64, in the order of `space.all_responses`."""
        raise NotImplementedError

    def reference_logp(self) -> np.ndarray:
        """(X, nodes, V) float64: log-probs of each token after each prefix under the data policy."""
        raise NotImplementedError

    def build(self, dtype: torch.dtype) -> EnumerableEnvironment:
        """The environment that these settings describe."""
        labeller = Labeller(self.label_temperature, self.flip_rate, self.correct_above)
        return EnumerableEnvironment(self.space, torch.from_numpy(self.rewards()).to(dtype), labeller)


class EnumerableEnvironment:
    """Draws prompts uniformly, looks rewards up, and labels pairs by them. The learner sees the gold reward.

    rewards: (X, N), one for each prompt and response.
    """

    def __init__(self, space: TokenSpace, rewards: Tensor, labeller: Labeller) -> None:
        self.space, self.rewards, self.labeller = space, rewards, labeller
        responses, _ = space.all_responses
        table = rewards.new_full((rewards.shape[0], space.vocabulary**space.length), torch.nan)
        table[:, space.code(responses)] = rewards
        self._table = table.flatten()
        self._width = table.shape[1]

    def prompts(self, batch_size: int, noise: Noise) -> Tensor:
        """(..., B) prompt ids, each prompt as likely as the others."""
        count = self.rewards.shape[0]
        if count == 1:
            return torch.zeros((*noise.lead, batch_size), dtype=torch.int64)
        return (noise.uniforms("prompts", batch_size) * count).long().clamp(max=count - 1)

    def reward(self, prompts: Tensor, responses: Tensor) -> Tensor:
        """(..., B, K) rewards of responses (..., B, K, L); padding must be EOS."""
        code = self.space.code(responses)
        if self.rewards.shape[0] > 1:
            code = code + (prompts * self._width).unsqueeze(-1)
        return self._table.take(code)

    def judge(
        self, prompts: Tensor, responses: Tensor, mask: Tensor, pairing: Pairing | None, noise: Noise
    ) -> Judgement:
        """Rewards; and if a pairing is asked for, its pairs and their labels."""
        rewards = self.reward(prompts, responses)
        if pairing is None:
            return Judgement(rewards=rewards, gold=rewards)
        pairs, weight = choose_pairs(rewards, pairing, self.labeller.correct_above)
        first, second = rewards.gather(-1, pairs[..., 0]), rewards.gather(-1, pairs[..., 1])
        # Drawn even where they are not used: a noiseless labeller then shares its noise with a noisy one.
        uniforms = noise.uniforms("labels", *pairs.shape[len(noise.lead) :])
        return Judgement(rewards, rewards, pairs, self.labeller.label(first, second, uniforms), weight)

    def recorded(self, batch_size: int, noise: Noise) -> Batch:
        """Toy environments hold no data."""
        raise SpecError("source", "dataset", "this environment has no recorded data; it knows policy and pool")

    def all_prompts(self) -> Tensor:
        """(X,) prompt ids."""
        return torch.arange(self.rewards.shape[0])

    def all_responses(self) -> tuple[Tensor, Tensor]:
        """Every response and its mask: (N, L) both."""
        return self.space.all_responses

    def all_rewards(self) -> Tensor:
        """(X, N) gold rewards."""
        return self.rewards
