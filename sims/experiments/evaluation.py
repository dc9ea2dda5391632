"""What is measured at an evaluation: of the policy, exactly or from samples; of the pairs that it was trained on.

The numbers of a record are defined in `record_schema`. Where they can be obtained in several ways, each way is a
function here, and an environment names the one that its records use (`EnvironmentSpec.estimators`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from sims.core.loop.checks import check_labels
from sims.core.loop.protocols import SampleRequest
from sims.core.loop.train import Training, Update
from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import Batch, OutputRequest, pick, sequence_sum
from sims.core.objectives.divergences import entropy, k1, kl_policy_ref
from sims.core.objectives.reductions import shares
from sims.core.spec import undefined
from sims.environments.drifting import DriftingEnvironment
from sims.environments.enumerable import EnumerableEnvironment
from sims.environments.token_bandit import TokenBanditEnvironment
from sims.policies.categorical import CategoricalPolicy
from sims.policies.causal import TransformerPolicy

Row = dict[str, Tensor]


class Evaluation:
    """Measures something of a training in progress, at each evaluation point; a subclass says what.

    Numbers are tensors with one entry per run: shape (R,), or () where there is no axis of runs.
    """

    def row(self, update: Update | None = None) -> Row:
        """Numbers by name, as the policy is now. update: the last one; None before the first."""
        raise undefined(self, "row", "numbers by name, one per run")

    def start(self, update: Update) -> Row:
        """Numbers of the start that are known only with the first batch, which the first update brings."""
        return {}

    def closing(self) -> Row:
        """Arrays of the run as a whole, computed at the end: (R, ...), or shared by all runs."""
        return {}


# Whole responses in nats, one number per response (..., B, K); their mean under the policy is KL or entropy.


def kl_of_responses(logp: Tensor, logp_ref: Tensor, mask: Tensor) -> Tensor:
    """log π(y) − log π_ref(y) of the policy's samples: signed; its mean under π is KL(π‖π_ref). All (..., B, K, L)."""
    return k1(sequence_sum(logp - logp_ref, mask))


def kl_after_prefixes(logp: Tensor, logp_ref: Tensor, mask: Tensor) -> Tensor:
    """Σ_t KL(π(·|y_<t)‖π_ref(·|y_<t)) along the policy's samples, never negative; its mean under π is KL(π‖π_ref), by
    the chain rule. logp, logp_ref: (..., B, K, L, V), of every token after each prefix; mask: (..., B, K, L)."""
    return sequence_sum(kl_policy_ref(logp, logp_ref), mask)


def entropy_after_prefixes(token_entropy: Tensor, mask: Tensor) -> Tensor:
    """Σ_t H(π(·|y_<t)) along the policy's samples; its mean under π is H(π), by the chain rule. token_entropy, mask:
    (..., B, K, L)."""
    return sequence_sum(token_entropy, mask)


def explained(values: Tensor, rewards: Tensor, mask: Tensor) -> Tensor:
    """The explained variance of a critic: 1 − Var(r − V)/Var(r), over all prefixes of all responses of a run.

    1 where values are what the response ends with, up to a constant; 0 for one value of all; below it for worse. It is
    at most what a perfect critic explains: 0 where a response is one token. NaN where all rewards are equal. values,
    mask: (..., B, K, L); rewards: (..., B, K), paid at the last token.
    """
    returns = rewards.unsqueeze(-1).expand_as(values)
    count = mask.sum((-3, -2, -1), keepdim=True)

    def variance(x: Tensor) -> Tensor:
        mean = torch.where(mask, x, 0.0).sum((-3, -2, -1), keepdim=True) / count
        return torch.where(mask, (x - mean).square(), 0.0).sum((-3, -2, -1))

    whole = variance(returns)
    return torch.where(whole > 0, 1.0 - variance(returns - values) / whole, torch.nan)


class ExactEvaluation(Evaluation):
    """Sums over every response to every prompt."""

    def __init__(self, training: Training, environment: EnumerableEnvironment) -> None:
        self.policy: CategoricalPolicy = training.policy  # type: ignore[assignment]
        self.environment = environment
        self.logp_ref = self.policy.all_log_probs().detach()

    @torch.no_grad()
    def row(self, update: Update | None = None) -> Row:
        """Expected reward and gold reward, KL and entropy; and what the environment measures besides."""
        logp = self.policy.all_log_probs()
        return {
            "reward": self.environment.mean(logp.exp() * self.environment.seen_rewards()),
            "gold": self.environment.mean(logp.exp() * self.environment.all_rewards()),
            "kl_policy_ref": kl_policy_ref(logp, self.logp_ref).mean(-1),
            "entropy": entropy(logp).mean(-1),
            **self.environment.measures(logp, self.logp_ref),
        }

    def closing(self) -> Row:
        """logp_ref, logp_final: (R, X, N); rewards: (X, N) gold; best_mass_ref, best_mass_final: (R,), of the best
        response of each prompt; and the environment's own arrays (`facts`)."""
        gold, logp_final = self.environment.all_rewards(), self.policy.all_log_probs().detach()
        best = gold.argmax(-1).expand(self.logp_ref.shape[:-1]).unsqueeze(-1)

        def mass(logp: Tensor) -> Tensor:
            return self.environment.weighted(logp.gather(-1, best).squeeze(-1).exp())

        return {
            "reference_reward": self.environment.mean(self.logp_ref.exp() * gold),
            "best_reward": self.environment.weighted(gold.amax(-1)).expand(self.logp_ref.shape[0]),
            "rewards": gold,
            "logp_ref": self.logp_ref,
            "logp_final": logp_final,
            "best_mass_ref": mass(self.logp_ref),
            "best_mass_final": mass(logp_final),
            **self.environment.facts(),
        }


class DeployedEvaluation(Evaluation):
    """The policy that users get, which is the sampler's, of the last sync: where rewards drift, it may fall behind."""

    def __init__(self, training: Training, environment: DriftingEnvironment) -> None:
        self.collector, self.environment = training.collector, environment

    @torch.no_grad()
    def row(self, update: Update | None = None) -> Row:
        """deployed_gold, and with a gold set deployed_gold_set; refused, how often a gate has refused the trained
        policy."""
        sampler: CategoricalPolicy = self.collector.sampler  # type: ignore[assignment]
        gold = self.environment.mean(sampler.all_log_probs().exp() * self.environment.all_rewards())
        row = {"deployed_gold": gold, "refused": self.collector.refused.to(gold)}
        return row | (
            {"deployed_gold_set": self.environment.gold_set_score(sampler)} if self.environment.gold_prompts else {}
        )


class EvaluationNoise(Noise):
    """The streams of some runs under separate names: evaluation changes no run, and draws other samples than
    training."""

    def uniforms(self, stream: str, *shape: int) -> Tensor:
        return super().uniforms(f"evaluation {stream}", *shape)


class SampledEvaluation(Evaluation):
    """Draws responses, one per prompt. Rewards are means over them; KL and entropy are exact after each sampled prefix.

    The k-th evaluation of every arm draws from the same uniforms: arms of one seed are paired here too. The reference's
    reward is that of the evaluation before the first update. critic: whether the policy has one, to be measured too.
    """

    def __init__(
        self, training: Training, environment: TokenBanditEnvironment, samples: int, critic: bool = False
    ) -> None:
        self.policy: TransformerPolicy = training.policy  # type: ignore[assignment]
        self.reference = self.policy.clone()
        self.environment, self.samples, self.critic = environment, samples, critic
        self.noise = EvaluationNoise(training.noise.runs, training.noise.generator, training.noise.device)
        self.reference_reward: Tensor | None = None

    @torch.no_grad()
    def row(self, update: Update | None = None) -> Row:
        """Mean reward and gold reward of the samples, KL and entropy along them, and what a critic explains of them."""
        prompts = self.environment.prompts(self.samples, self.noise)
        (responses, mask, _), logp = self.policy.sample_with_log_probs(SampleRequest(prompts, 1, self.noise))
        labels = self.environment.label(prompts, responses, mask, None, self.noise)
        check_labels(f"{type(self.environment).__name__}.label", labels, responses)
        gold = labels.rewards if labels.gold is None else labels.gold
        logp_ref = self.reference.token_log_probs(prompts.tokens, responses)
        row = {
            "reward": labels.rewards.mean((-2, -1)),
            "gold": gold.mean((-2, -1)),
            "kl_policy_ref": kl_after_prefixes(logp, logp_ref, mask).mean((-2, -1)),
            "entropy": entropy_after_prefixes(entropy(logp), mask).mean((-2, -1)),
        }
        if self.critic:
            batch = Batch(prompts.tokens, responses, mask)
            values = self.policy.forward(batch, OutputRequest(values=True)).values
            assert values is not None
            row["values_explained"] = explained(values, labels.rewards, mask)
        if self.reference_reward is None:
            self.reference_reward = row["gold"]
        return row

    @torch.no_grad()
    def closing(self) -> Row:
        """kl_of_best: (R,) the KL to the reference of always giving the best response."""
        best, lead = self.environment.best_responses(), self.noise.lead
        assert self.reference_reward is not None, "closing needs the row of update 0"
        prompts = torch.arange(len(best), device=best.device).expand(*lead, -1)
        responses = best.unsqueeze(1).expand(*lead, -1, -1, -1)
        mask = self.environment.space.mask(responses)
        logp_ref = sequence_sum(self.reference.forward(Batch(prompts, responses, mask)).logp, mask)
        return {
            "reference_reward": self.reference_reward,
            "best_reward": self.environment.reward(prompts, responses).mean((-2, -1)),
            "kl_of_best": -logp_ref.mean((-2, -1)),
        }


class PairEvaluation(Evaluation):
    """Log-probs of the chosen and of the rejected responses of the last update's batch, after that update; nothing for
    algorithms without pairs."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.unknown = unknown_number(training)

    @torch.no_grad()
    def row(self, update: Update | None = None) -> Row:
        """logp_chosen, logp_rejected; NaN before the first update."""
        if self.training.algorithm.label_pairing is None:
            return {}
        if update is None:
            return dict.fromkeys(("logp_chosen", "logp_rejected"), self.unknown)
        logp = self.training.policy.forward(update.batch).logp
        chosen, rejected = mean_pair_log_probs(sequence_sum(logp, update.batch.mask), update.batch)
        return {"logp_chosen": chosen, "logp_rejected": rejected}


def unknown_number(training: Training) -> Tensor:
    """NaN for each run."""
    parameter = training.learner.parameters[0]
    return torch.full(training.noise.lead, torch.nan, dtype=parameter.dtype, device=parameter.device)


def mean_pair_log_probs(logp: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """log π of the chosen and of the rejected response, nats per response, mean over a batch's pairs: (...,) both.

    Both responses of a pair count as chosen by the label's probability: of a tie, each counts half. Pairs weigh as in
    the loss; NaN where all have weight 0. logp: (..., B, K), of its whole responses.
    """
    first, second = pick(logp, batch.need("pairs"))
    label = batch.need("pair_label")
    chosen = label * first + (1.0 - label) * second
    # Zero-weight pairs are ignored; 0/0 is NaN where all are. Contiguous: the last bits of a sum over an expanded
    # number depend on R.
    share = shares(batch.pair_weight, label).contiguous()
    share = share / share.sum((-2, -1), keepdim=True)
    return (share * chosen).sum((-2, -1)), (share * (first + second - chosen)).sum((-2, -1))
