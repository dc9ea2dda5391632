"""What is measured of a fixed pool of pairs, where responses can be listed."""

from __future__ import annotations

import torch
from torch import Tensor

from sims.core.loop.train import Training, Update
from sims.core.objectives.batch import Batch
from sims.environments.enumerable import EnumerableEnvironment
from sims.policies.categorical import CategoricalPolicy

from .evaluation import Evaluation, Row, mean_pair_log_probs, unknown_number


def has_pool_of_pairs(training: Training) -> bool:
    """Whether a training draws a fixed pool, once, and an algorithm on pairs goes through it."""
    return training.schedule.source == "pool" and training.algorithm.label_pairing is not None


class PoolEvaluation(Evaluation):
    """Log-probs of all pairs of the pool, and the probability of the responses that are in none of their prompt's."""

    def __init__(self, training: Training, environment: EnumerableEnvironment) -> None:
        self.training, self.environment = training, environment
        self.policy: CategoricalPolicy = training.policy  # type: ignore[assignment]
        self.logp_ref = self.policy.all_log_probs().detach()
        self.index: Tensor | None = None  # (R, P, K): which of all responses each response of the pool is
        self.paired: Tensor | None = None  # (R, X, N): whether a response to a prompt is in a pair

    @torch.no_grad()
    def row(self, update: Update | None = None) -> Row:
        """pool_logp_chosen, pool_logp_rejected; NaN until the pool is drawn."""
        if self.index is None:
            return dict.fromkeys(("pool_logp_chosen", "pool_logp_rejected"), unknown_number(self.training))
        return self._log_probs(self.policy.all_log_probs())

    def start(self, update: Update) -> Row:
        space, pool = self.environment.space, self._pool()
        responses, _ = self.environment.all_responses()
        place = torch.zeros(space.vocabulary**space.length, dtype=torch.int64, device=responses.device)
        place[space.code(responses)] = torch.arange(len(responses), device=responses.device)
        self.index = place[space.code(pool.responses)]
        self.paired = self._paired(pool, self.index)
        return self._log_probs(self.logp_ref)

    @torch.no_grad()
    def closing(self) -> Row:
        """unpaired_mass_ref, unpaired_mass_final: under the initial policy, and now."""
        return {
            "unpaired_mass_ref": self._unpaired_mass(self.logp_ref),
            "unpaired_mass_final": self._unpaired_mass(self.policy.all_log_probs()),
        }

    def _pool(self) -> Batch:
        pool = self.training.collector.pool
        assert pool is not None, "the first update draws the pool"
        return pool

    def _paired(self, pool: Batch, index: Tensor) -> Tensor:
        pairs = pool.need("pairs")
        counts = pairs[..., 0] >= 0 if pool.pair_weight is None else pool.pair_weight > 0  # (R, P, Q)
        found = torch.zeros_like(self.logp_ref, dtype=torch.bool)
        prompts = pool.prompts.unsqueeze(-1).expand_as(counts)
        runs = torch.arange(len(found), device=found.device)[:, None, None].expand_as(counts)
        for side in (0, 1):
            found[runs[counts], prompts[counts], index.gather(-1, pairs[..., side])[counts]] = True
        return found

    def _log_probs(self, logp: Tensor) -> Row:
        """logp: (R, X, N), of all responses."""
        assert self.index is not None
        pool = self._pool()
        of_prompts = logp.gather(-2, pool.prompts.unsqueeze(-1).expand(*pool.prompts.shape, logp.shape[-1]))
        chosen, rejected = mean_pair_log_probs(of_prompts.gather(-1, self.index), pool)
        return {"pool_logp_chosen": chosen, "pool_logp_rejected": rejected}

    def _unpaired_mass(self, logp: Tensor) -> Tensor:
        assert self.paired is not None, "closing needs the first update, which draws the pool"
        mass, there = (logp.exp() * ~self.paired).sum(-1), self.paired.any(-1)
        return (mass * there).sum(-1) / there.sum(-1)
