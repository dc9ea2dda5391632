"""What is measured of a policy: exact expectations over all responses, or means over fresh samples."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from sims.core.loop.checks import check_labels
from sims.core.loop.protocols import SampleRequest
from sims.core.loop.train import Training, Update
from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import Batch, pick, sequence_sum
from sims.core.objectives.divergences import entropy, kl_policy_ref
from sims.core.objectives.reductions import shares
from sims.environments.enumerable import EnumerableEnvironment
from sims.environments.token_bandit import TokenBanditEnvironment
from sims.policies.categorical import CategoricalPolicy
from sims.policies.causal import TransformerPolicy


class Evaluation(Protocol):
    """Measures the policy of a training at some updates, and once at the end."""

    def row(self) -> dict[str, Tensor]:
        """Numbers of the policy as it is now: name → (R,). Among them reward, gold, kl_policy_ref and entropy."""

    def closing(self) -> dict[str, Tensor]:
        """Arrays computed at the end; among them reference_reward (R,), and best_reward (R,), which no policy
        exceeds."""


class ExactEvaluation:
    """Sums over every response to every prompt."""

    def __init__(self, training: Training, environment: EnumerableEnvironment) -> None:
        self.policy: CategoricalPolicy = training.policy  # type: ignore[assignment]
        self.environment = environment
        self.logp_ref = self.policy.all_log_probs().detach()
        self.facts = environment.facts()

    @torch.no_grad()
    def row(self) -> dict[str, Tensor]:
        """Expected reward and gold reward, KL and entropy; and the probability of responses in no recorded pair, if
        there are recorded pairs."""
        logp = self.policy.all_log_probs()
        row = {
            "reward": self._mean(logp, self.environment.seen_rewards()),
            "gold": self._mean(logp, self.environment.all_rewards()),
            "kl_policy_ref": kl_policy_ref(logp, self.logp_ref).mean(-1),
            "entropy": entropy(logp).mean(-1),
        }
        if "covered" in self.facts:
            row["unseen_mass"] = (logp.exp() * ~self.facts["covered"]).sum(-1).mean(-1)
        return row

    def closing(self) -> dict[str, Tensor]:
        """logp_ref, logp_final: (R, X, N); rewards: (X, N) gold; and the environment's own arrays (`facts`)."""
        gold = self.environment.all_rewards()
        return {
            "reference_reward": self._mean(self.logp_ref, gold),
            "best_reward": gold.amax(-1).mean(-1).expand(self.logp_ref.shape[0]),
            "rewards": gold,
            "logp_ref": self.logp_ref,
            "logp_final": self.policy.all_log_probs().detach(),
            **self.facts,
        }

    @staticmethod
    def _mean(logp: Tensor, rewards: Tensor) -> Tensor:
        """Expected reward, mean over prompts: (R,). logp: (R, X, N); rewards: (X, N) or (R, X, N)."""
        return (logp.exp() * rewards).sum(-1).mean(-1)


class EvaluationNoise(Noise):
    """The streams of some runs under separate names: evaluation changes no run, and draws other samples than
    training."""

    def uniforms(self, stream: str, *shape: int) -> Tensor:
        return super().uniforms(f"evaluation {stream}", *shape)


class SampledEvaluation:
    """Draws responses, one per prompt. Rewards are means over them; KL and entropy are exact after each sampled prefix:
    by the chain rule E[Σ_t KL(π(·|y_<t)‖π_ref(·|y_<t))] = KL(π‖π_ref), and so for the entropy.

    The k-th evaluation of every arm draws from the same uniforms: arms of one seed are paired here too. The reference's
    reward is that of the evaluation before the first update.
    """

    def __init__(self, training: Training, environment: TokenBanditEnvironment, samples: int) -> None:
        self.policy: TransformerPolicy = training.policy  # type: ignore[assignment]
        self.reference = self.policy.clone()
        self.environment, self.samples = environment, samples
        self.noise = EvaluationNoise(training.noise.runs)
        self.reference_reward: Tensor | None = None

    @torch.no_grad()
    def row(self) -> dict[str, Tensor]:
        """Mean reward and gold reward of the samples, KL and entropy along them."""
        prompts = self.environment.prompts(self.samples, self.noise)
        (responses, mask, _), logp = self.policy.sample_with_log_probs(SampleRequest(prompts, 1, self.noise))
        labels = self.environment.label(prompts, responses, mask, None, self.noise)
        check_labels(f"{type(self.environment).__name__}.label", labels, responses)
        gold = labels.rewards if labels.gold is None else labels.gold
        logp_ref = self.reference.token_log_probs(prompts.tokens, responses)
        row = {
            "reward": labels.rewards.mean((-2, -1)),
            "gold": gold.mean((-2, -1)),
            "kl_policy_ref": sequence_sum(kl_policy_ref(logp, logp_ref), mask).mean((-2, -1)),
            "entropy": sequence_sum(entropy(logp), mask).mean((-2, -1)),
        }
        if self.reference_reward is None:
            self.reference_reward = row["gold"]
        return row

    @torch.no_grad()
    def closing(self) -> dict[str, Tensor]:
        """kl_of_best: (R,) the KL to the reference of always giving the best response."""
        best, lead = self.environment.best_responses(), self.noise.lead
        assert self.reference_reward is not None, "closing needs the row of update 0"
        prompts = torch.arange(len(best)).expand(*lead, -1)
        responses = best.unsqueeze(1).expand(*lead, -1, -1, -1)
        mask = self.environment.space.mask(responses)
        logp_ref = sequence_sum(self.reference.forward(Batch(prompts, responses, mask)).logp, mask)
        return {
            "reference_reward": self.reference_reward,
            "best_reward": self.environment.reward(prompts, responses).mean((-2, -1)),
            "kl_of_best": -logp_ref.mean((-2, -1)),
        }


def update_row(training: Training, update: Update | None, like: Tensor) -> dict[str, Tensor]:
    """Loss and gradient norm of the last update; for algorithms on pairs also the mean log-prob of the chosen and of
    the rejected responses of its batch, after it: (R,) each, NaN before the first update."""
    unknown = torch.full_like(like, torch.nan)
    row = {
        "loss": unknown if update is None else update.stats.loss,
        "grad_norm": unknown if update is None else update.stats.grad_norm,
    }
    if training.algorithm.label_pairing is not None:
        chosen, rejected = (unknown, unknown) if update is None else _pair_log_probs(training, update)
        row |= {"logp_chosen": chosen, "logp_rejected": rejected}
    return row


@torch.no_grad()
def _pair_log_probs(training: Training, update: Update) -> tuple[Tensor, Tensor]:
    batch = update.batch
    logp = sequence_sum(training.policy.forward(batch).logp, batch.mask)
    first, second = pick(logp, batch.need("pairs"))
    label = batch.need("pair_label")
    chosen = label * first + (1.0 - label) * second
    # Zero-weight pairs are ignored; 0/0 is NaN where all are. Contiguous: the last bits of a sum over an expanded
    # number depend on R.
    share = shares(batch.pair_weight, label).contiguous()
    share = share / share.sum((-2, -1), keepdim=True)
    return (share * chosen).sum((-2, -1)), (share * (first + second - chosen)).sum((-2, -1))
