"""Metrics of an update, under TRL's names where TRL has them."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor

from llm.reward_models.calibration import ordered_rightly
from llm.tasks.environment import TextBatch, TextEnvironment, response_lengths
from sims.core.algorithms import Algorithm
from sims.core.algorithms.base import Targets
from sims.core.loop.collect import Collector
from sims.core.loop.protocols import Policy, SampleRequest, Samples
from sims.core.loop.train import Update
from sims.core.objectives.batch import Batch, Outputs, pick, sequence_sum

from .evaluation import weights_of_pairs
from .run import Run, RunDiverged

Row = dict[str, float]


class UpdateMetrics:
    """Metrics of updates, from what an update computes anyway: no pass of the model is made for them.

    with_kl: score every batch under the reference, too, where the algorithm does not.
    """

    def __init__(self, run: Run, with_kl: bool = False) -> None:
        self.run, self.with_kl = run, with_kl
        self.has_gold = run.environment.has_gold or run.experiment.labelling.labels == "implicit"
        # Of the last update, on this process: log-probs from before it, and targets.
        self.parts: list[tuple[Batch, Tensor, Targets]] = []
        run.training.learner.scored = self._scored

    def _scored(self, part: Batch, outputs: Outputs, targets: Targets) -> None:
        self.parts.append((part, outputs.logp.detach(), targets))

    def forget(self) -> None:
        """Let go of an update that is not logged."""
        self.parts.clear()

    @torch.no_grad()
    def row(self, update: Update) -> Row:
        """Metrics of the last update; each process must call it.

        Of the collected batch, under the distribution that drew it: reward, reward_std (over responses), gold where it
        is another reward, completions/… in tokens before EOS (clipped_ratio: the share that never ended), entropy (nats
        per token, mean of −log π_sampler; TRL takes it over the vocabulary) and, where the reference scored it, kl
        (nats per response, mean of Σ_t log π_sampler − log π_ref, which is unbiased for KL(π_sampler‖π_ref) while
        top_p = 1). Of the policy before the update, on its minibatch, as in TRL: logps/… of pairs; rewards/… (β times
        the log-ratio to the reference, β = 1 for algorithms without) and rewards/accuracies where the reference scored
        them: of a tie, half of each response, no margin and accuracy ½, as in the loss (TRL has no ties, and counts
        equal rewards as wrong); for clipped algorithms clip_ratio/region_mean, the share of tokens that the loss clips:
        whose ratio to the sampler is above the clip range while their advantage is positive, or below it while it is
        negative (of CISPO, which clips weights, out of it).
        Recorded data have no sampler, hence neither kl nor entropy: evaluations have both. Of a watched sampler's last
        draw: sampling/… (`sampler_mismatch`)."""
        batch, run = self._rewarded(update), self.run
        found: dict[str, Any] = {
            "loss": update.stats.loss,
            "grad_norm": update.stats.grad_norm,
            "learning_rate": run.training.learner.optimiser.spec.learning_rate,
        }
        found |= _of_the_batch(batch, run.environment)
        if batch.gold is not None and self.has_gold:
            found["gold"] = batch.gold.mean()
        logp_ref = batch.logp_ref
        if batch.logp_sampler is not None and logp_ref is None and self.with_kl:
            logp_ref = run.training.reference.policy.forward(batch).logp
        if batch.logp_sampler is not None and logp_ref is not None:
            found["kl"] = sequence_sum(batch.logp_sampler - logp_ref, batch.mask).mean()
        found |= self._of_the_policy(batch)
        self.forget()
        device = batch.responses.device
        numbers = [torch.as_tensor(x, dtype=torch.float64, device=device) for x in found.values()]
        values = torch.stack(numbers).tolist()  # one copy from the device, not one each
        row: Row = {"update": update.number, "samples": update.samples, "staleness": int(update.staleness)}
        row |= dict(zip(found, values, strict=True))
        return row | getattr(run.training.collector.sampler, "mismatch", {})

    def _rewarded(self, update: Update) -> Batch:
        """An update's batch, with rewards of recorded responses, which are computed for updates that are logged alone
        where the algorithm needs none. RunDiverged for one that is not finite."""
        batch = update.batch
        if batch.rewards is not None or not isinstance(batch, TextBatch):
            return batch
        try:
            rewards, gold = self.run.environment.score(batch.examples, batch.responses, batch.mask)
        except FloatingPointError as error:
            raise RunDiverged(f"update {update.number}: {error}") from error
        return batch.replace(rewards=rewards, gold=gold)

    def _of_the_policy(self, batch: Batch) -> dict[str, Tensor]:
        """Means over the parts of the last update, of all processes. batch: whole, for the names."""
        algorithm = self.run.experiment.algorithm
        zeros = torch.zeros_like(batch.mask[:1], dtype=torch.float32)
        names = list(_of_a_part(batch.narrow(0, 1), zeros, {"advantages": zeros}, algorithm))
        sums = torch.zeros(len(names), 2, dtype=torch.float64, device=batch.responses.device)
        for part, logp, targets in self.parts:
            found = _of_a_part(part, logp, targets, algorithm)
            for i, name in enumerate(names):
                values, weight = found[name]
                sums[i] += torch.stack([(values * weight).double().sum(), weight.double().sum()])
        self.run.ranks.sum([sums])
        return dict(zip(names, (sums[:, 0] / sums[:, 1]).unbind(), strict=True))


def _of_the_batch(batch: Batch, environment: TextEnvironment) -> dict[str, Tensor]:
    """What is known of a batch when it is collected."""
    lengths = response_lengths(batch.responses, batch.mask, environment.eos_token_ids).double()
    found = {
        "completions/mean_length": lengths.mean(),
        "completions/min_length": lengths.min(),
        "completions/max_length": lengths.max(),
        "completions/clipped_ratio": (~environment.ended(batch.responses, batch.mask)).double().mean(),
    }
    if batch.rewards is not None:
        found |= {"reward": batch.rewards.mean(), "reward_std": batch.rewards.std(correction=0)}
    if batch.logp_sampler is not None:
        found["entropy"] = -batch.logp_sampler[batch.mask].double().mean()
    return found


def _of_a_part(part: Batch, logp: Tensor, targets: Targets, algorithm: Algorithm) -> dict[str, tuple[Tensor, Tensor]]:
    """What an update knows of the policy before it, by name: values, and weights of their shape. logp: (B, K, L)."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    epsilon = getattr(algorithm, "epsilon", None)
    if epsilon is not None and part.logp_sampler is not None:
        own_ratio = getattr(algorithm, "log_ratio", None)  # GSPO's and RLOO's are the response's
        log_ratio = logp - part.logp_sampler if own_ratio is None else own_ratio(logp, part)
        high = getattr(algorithm, "epsilon_high", None) or epsilon
        below, above = log_ratio.exp() < 1 - epsilon, log_ratio.exp() > 1 + high
        if not getattr(algorithm, "clips_weights", False):
            advantages = targets["advantages"]  # of tokens, or of responses
            advantages = advantages if advantages.dim() == logp.dim() else advantages.unsqueeze(-1)
            below, above = below & (advantages < 0), above & (advantages > 0)
        found["clip_ratio/region_mean"] = ((below | above) & part.mask, part.mask)
    if part.pairs is None or part.pair_label is None:
        return found
    label = part.pair_label
    weight = weights_of_pairs(part)

    def note(kind: str, values: Tensor) -> tuple[Tensor, Tensor]:
        first, second = pick(values, part.need("pairs"))
        better = label * first + (1 - label) * second  # of a tie, half of each, as in the loss
        found[f"{kind}/chosen"], found[f"{kind}/rejected"] = (better, weight), (first + second - better, weight)
        return first, second

    whole = sequence_sum(logp, part.mask)
    note("logps", whole)
    if part.logp_ref is not None:
        beta = getattr(algorithm, "beta", 1.0)
        first, second = note("rewards", beta * (whole - sequence_sum(part.logp_ref, part.mask)))
        found["rewards/margins"] = ((2 * label - 1) * (first - second), weight)
        found["rewards/accuracies"] = (ordered_rightly(first - second, label).double(), weight)
    return found


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
