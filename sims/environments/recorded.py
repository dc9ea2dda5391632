"""Environments with recorded pairs: what they cover, and gold rewards or rewards learned from them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import Batch
from sims.core.objectives.preferences import Labeller

from .enumerable import EnumerableEnvironment
from .learned_reward import LearnedReward
from .space import TokenSpace


def of_problem(noise: Noise) -> Noise:
    """Streams of the same runs, from their start, on the CPU: a run's environment is the same each time
    it is built."""
    return noise.from_start(device="cpu")


def normals(noise: Noise, stream: str, *shape: int) -> np.ndarray:
    """Standard normal numbers of a stream, (R, *shape), float64, by Box and Muller from two uniforms each."""
    uniforms = noise.uniforms(stream, *shape, 2).numpy()
    return np.asarray(np.sqrt(-2.0 * np.log1p(-uniforms[..., 0])) * np.cos(2.0 * np.pi * uniforms[..., 1]))


def cells_of(prompts: Tensor, responses: Tensor, table: Tensor) -> Tensor:
    """(R, D, 2), the places in a flattened table (..., X, N) of pairs of responses, (R, D, 2) as indices, to prompts
    (R, D)."""
    return prompts.unsqueeze(-1) * table.shape[-1] + responses


def at_cells(table: Tensor, cells: Tensor) -> Tensor:
    """Entries of each run's table (R, X, N) at `cells_of`."""
    return table.flatten(1).gather(1, cells.flatten(1)).view(cells.shape)


class RecordedEnvironment(EnumerableEnvironment):
    """The recorded pairs of each run, and gold rewards or rewards learned from the pairs.

    gold: (X, N), or (R, X, N) where runs differ; covered: (R, X, N) bool, the responses in some pair; data: D pairs
    per run; learned: what the learner sees in place of gold, None: gold.
    """

    def __init__(
        self,
        space: TokenSpace,
        gold: Tensor,
        labeller: Labeller,
        covered: Tensor,
        data: Batch,
        learned: LearnedReward | None,
    ) -> None:
        super().__init__(space, gold, labeller)
        self.covered, self.data, self.learned = covered, data, learned
        self._seen = None if learned is None else EnumerableEnvironment(space, learned.scores, labeller)
        self.gold = None if learned is None else super().reward

    def reward(self, prompts: Tensor, responses: Tensor) -> Tensor:
        return super().reward(prompts, responses) if self._seen is None else self._seen.reward(prompts, responses)

    def seen_rewards(self) -> Tensor:
        return self.rewards if self.learned is None else self.learned.scores

    def recorded(self, batch_size: int, noise: Noise) -> Batch:
        """Recorded pairs drawn uniformly, with replacement; all of them, once each, if batch_size is their number."""
        if batch_size == self.data.size:
            return self.data
        index = (noise.uniforms("recorded pairs", batch_size) * self.data.size).long().clamp(max=self.data.size - 1)
        return self.data.gather(index)

    def facts(self) -> dict[str, Tensor]:
        """covered: (R, X, N); and of a reward model learned_rewards (R, X, N), its loss and its accuracy (R,)."""
        found = {"covered": self.covered}
        if self.learned is not None:
            found["learned_rewards"] = self.learned.scores
            found |= {"reward_model_loss": self.learned.loss, "reward_model_accuracy": self.learned.accuracy}
        return found

    def measures(self, logp: Tensor, logp_ref: Tensor) -> dict[str, Tensor]:
        """unseen_mass: the probability of responses in no recorded pair."""
        return {"unseen_mass": (logp.exp() * ~self.covered).sum(-1).mean(-1)}


def of_pairs(prompts: Tensor, responses: Tensor, rewards: Tensor, mask: Tensor, label: Tensor) -> Batch:
    """Recorded pairs as a batch. prompts: (R, D); responses, mask: (R, D, 2, L); rewards: (R, D, 2), gold; label:
    (R, D, 1), the probability that the first is preferred."""
    return Batch(
        prompts=prompts,
        responses=responses,
        mask=mask,
        rewards=rewards,
        gold=rewards,
        pairs=torch.arange(2).expand(*prompts.shape, 1, 2),
        pair_label=label,
    )
