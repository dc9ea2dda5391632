"""Problems whose every response can be listed: a table holds the reward of each response to each prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from ..core.noise import Noise
from ..core.preferences import Labeller
from ..space import TokenSpace
from .toy import RewardJudge, ToyEnvironment


@dataclass(frozen=True)
class EnumerableSpec(ToyEnvironment):
    """Settings of a problem that is a table of rewards and a data policy."""

    @property
    def full_support(self) -> bool:
        """Whether the data policy gives every response some probability."""
        return True

    @property
    def without_reward_model(self) -> Self:
        """The same problem and data, with gold rewards."""
        return self

    def rewards(self) -> np.ndarray:
        """(X, N) float64, in the order of `space.all_responses`."""
        raise NotImplementedError

    def reference_logp(self, noise: Noise | None = None) -> np.ndarray:
        """(X, nodes, V) float64, or (R, X, nodes, V) where runs differ: log-probs of each token after each prefix
        under the policy that training starts from. noise: the runs, for problems that are drawn a run."""
        raise NotImplementedError

    def build(self, dtype: torch.dtype, noise: Noise) -> EnumerableEnvironment:
        """The environment that these settings describe."""
        return EnumerableEnvironment(self.space, torch.from_numpy(self.rewards()).to(dtype), self.labeller)


class EnumerableEnvironment(RewardJudge):
    """Looks rewards up. The learner sees the gold reward, unless a subclass puts another in its place.

    rewards: (X, N), one for each prompt and response.
    """

    def __init__(self, space: TokenSpace, rewards: Tensor, labeller: Labeller) -> None:
        super().__init__(labeller)
        self.space, self.rewards = space, rewards
        self.num_prompts = rewards.shape[0]
        responses, _ = space.all_responses
        table = rewards.new_full((rewards.shape[0], space.vocabulary**space.length), torch.nan)
        table[:, space.code(responses)] = rewards
        self._table = table.flatten()
        self._width = table.shape[1]

    def reward(self, prompts: Tensor, responses: Tensor) -> Tensor:
        """(..., B, K) rewards of responses (..., B, K, L); padding must be EOS."""
        code = self.space.code(responses)
        if self.num_prompts > 1:
            code = code + (prompts * self._width).unsqueeze(-1)
        return self._table.take(code)

    def all_prompts(self) -> Tensor:
        """(X,) prompt ids."""
        return torch.arange(self.num_prompts)

    def all_responses(self) -> tuple[Tensor, Tensor]:
        """Every response and its mask: (N, L) both."""
        return self.space.all_responses

    def all_rewards(self) -> Tensor:
        """(X, N) gold rewards."""
        return self.rewards

    def seen_rewards(self) -> Tensor:
        """What the learner sees of each response: (X, N), or (R, X, N) where every run sees its own."""
        return self.rewards

    def facts(self) -> dict[str, Tensor]:
        """What a record should keep of problems that were drawn a run: name → (R, ...)."""
        return {}
