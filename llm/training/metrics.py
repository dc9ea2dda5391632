"""Metrics of an update, under TRL's names where TRL has them."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor

from llm.tasks.environment import response_lengths
from sims.core.loop.collect import Collector
from sims.core.loop.protocols import Policy, SampleRequest, Samples
from sims.core.loop.train import Update
from sims.core.objectives.batch import Batch, pick, sequence_sum

from .evaluation import by_label
from .run import Run

Row = dict[str, float]


@torch.no_grad()
def update_metrics(run: Run, update: Update) -> Row:
    """Metrics of one update.

    Of the collected batch, under the distribution that drew it: reward, reward_std (over responses), gold,
    completions/… in tokens before EOS (clipped_ratio: the share that never ended), kl (nats per response, mean of Σ_t
    log π_sampler − log π_ref, which is unbiased for KL(π_sampler‖π_ref) while top_p = 1) and entropy (nats per token,
    mean of −log π_sampler; TRL takes it over the vocabulary). Of the policy after the update, on pairs: logps/… and
    rewards/… (β times the log-ratio to the reference, β = 1 for algorithms without), and rewards/accuracies; for
    clipped algorithms clip_ratio/region_mean, the share of tokens whose ratio to the sampler is out of the clip range.
    Recorded data have no sampler, hence neither kl nor entropy: evaluations have both. Of a watched sampler's last
    draw: sampling/… (`sampler_mismatch`)."""
    batch, algorithm = update.batch, run.experiment.algorithm
    row: Row = {
        "update": update.number,
        "samples": update.samples,
        "staleness": update.staleness,
        "loss": float(update.stats.loss),
        "grad_norm": float(update.stats.grad_norm),
        "learning_rate": float(run.training.learner.optimiser.spec.learning_rate),
    }
    lengths = response_lengths(batch.responses, batch.mask, run.policy.eos_token_ids).double()
    row |= {
        "completions/mean_length": float(lengths.mean()),
        "completions/min_length": float(lengths.min()),
        "completions/max_length": float(lengths.max()),
        "completions/clipped_ratio": float((lengths == batch.mask.sum(-1)).double().mean()),
    }
    if batch.rewards is not None:
        row |= {"reward": float(batch.rewards.mean()), "reward_std": float(batch.rewards.std(correction=0))}
    if batch.gold is not None:
        row["gold"] = float(batch.gold.mean())
    logp_ref = batch.logp_ref
    if logp_ref is None and (batch.logp_sampler is not None or batch.pairs is not None):
        logp_ref = run.training.reference.policy.forward(batch).logp
    if batch.logp_sampler is not None and logp_ref is not None:
        row["kl"] = float(sequence_sum(batch.logp_sampler - logp_ref, batch.mask).mean())
        row["entropy"] = float(-batch.logp_sampler[batch.mask].double().mean())
    row |= getattr(run.training.collector.sampler, "mismatch", {})
    epsilon = getattr(algorithm, "epsilon", None)
    if batch.pairs is None and epsilon is None:
        return row
    logp = run.policy.forward(batch).logp
    if epsilon is not None and batch.logp_sampler is not None:
        ratio = (logp - batch.logp_sampler)[batch.mask].exp()
        high = getattr(algorithm, "epsilon_high", None) or epsilon
        row["clip_ratio/region_mean"] = float(((ratio < 1 - epsilon) | (ratio > 1 + high)).double().mean())
    if batch.pairs is not None and batch.pair_label is not None and logp_ref is not None:
        whole, ref = sequence_sum(logp, batch.mask), sequence_sum(logp_ref, batch.mask)
        chosen, rejected = by_label(*pick(whole, batch.pairs), batch.pair_label)
        beta = getattr(algorithm, "beta", 1.0)
        better, worse = by_label(*pick(beta * (whole - ref), batch.pairs), batch.pair_label)
        row |= {
            "logps/chosen": float(chosen.mean()),
            "logps/rejected": float(rejected.mean()),
            "rewards/chosen": float(better.mean()),
            "rewards/rejected": float(worse.mean()),
            "rewards/margins": float((better - worse).mean()),
            "rewards/accuracies": float((better > worse).double().mean()),
        }
    return row


class WatchedSampler:
    """A sampler whose log-probs are compared with its own model's at every draw, before an update changes the weights.

    A stale sampler is compared under the weights that it sampled with. So the numbers show how far two computations of
    one distribution differ, and nothing of staleness.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.mismatch: Row = {}

    @classmethod
    def watch(cls, collector: Collector) -> Self:
        """Watch the sampler of a collector from now on."""
        collector.sampler = watched = cls(collector.sampler)
        return watched

    @torch.no_grad()
    def sample(self, request: SampleRequest) -> Samples:
        """The sampler's `sample`. A mixture with another policy (blend) is not compared: no single model has it."""
        drawn, prompts = self.policy.sample(request), request.prompts
        if request.blend is None:
            logp = self.policy.forward(Batch(prompts.tokens, drawn.responses, drawn.mask, prompts.mask)).logp
            self.mismatch = sampler_mismatch(drawn.logp, logp, drawn.mask)
        return drawn

    def __getattr__(self, name: str) -> Any:
        return getattr(self.policy, name)


def sampler_mismatch(logp_sampler: Tensor, logp_trainer: Tensor, mask: Tensor) -> Row:
    """How far the trainer's log-probs are from the sampler's of the same tokens: (B, K, L) all.

    Mean and largest |log π_trainer − log π_sampler| over tokens, in nats, and π_trainer/π_sampler over responses, which
    is 1 where the two agree; TRL clips this ratio, here it is not clipped. With top_p < 1 both include the mass that
    the sampler truncated, as in TRL: the trainer scores under the full distribution.
    """
    difference = (logp_trainer - logp_sampler).double()
    tokens = difference[mask].abs()
    ratio = sequence_sum(difference, mask).exp()
    return {
        "sampling/sampling_logp_difference/mean": float(tokens.mean()),
        "sampling/sampling_logp_difference/max": float(tokens.max()),
        "sampling/importance_sampling_ratio/min": float(ratio.min()),
        "sampling/importance_sampling_ratio/mean": float(ratio.mean()),
        "sampling/importance_sampling_ratio/max": float(ratio.max()),
    }
