"""Algorithms that imitate responses, chosen or weighted by their reward. Only best_of_n_negative pushes any down."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..advantages import group_mean, mean_so_far
from ..batch import Batch, Outputs, masked, over, pick, sequence_sum
from ..divergences import k1, k3
from ..losses.likelihood import exponential_weights, likelihood_loss, unlikelihood_loss
from ..reductions import shares, token_shares
from ..schedule import Schedule
from ..spec import SpecError, setting
from .base import Algorithm, PairAlgorithm, State, Targets, present, response_shares

Top = Literal["per_prompt", "over_all_prompts"]


@dataclass(frozen=True)
class SFT(Algorithm, kind="sft"):
    """Supervised fine-tuning: imitate every response, L = −ℓ, whatever its reward.

    Where libraries disagree:

    - `include_prompt`: the prompt's own tokens are imitated too, each time a response follows them. TRL trains on
      completions alone where a data set tells them from prompts, and on all tokens of plain text. It takes a policy
      that scores prompts (`Outputs.prompt_logp`); a prompt's first token, which nothing predicts, does not count.
    - `reduction`: the papers' −ℓ sums over a response's tokens; TRL and transformers take one mean over all tokens of
      the minibatch (token_mean), in which long responses weigh more.
    """

    source: ClassVar[str] = "Ouyang et al. 2022"

    include_prompt: bool = setting(False, "imitate the prompt's tokens too; needs a policy that scores prompts")
    reduction: Literal["sequence_sum", "sequence_mean", "token_mean"] = setting(
        "sequence_sum", "how tokens become one number"
    )

    @property
    def needs_prompt_logp(self) -> bool:
        return self.include_prompt

    def tokens(self, batch: Batch) -> Tensor:
        """What is imitated: (..., B, K, L) bool, or (..., B, K, P + L) with the prompt in front."""
        if not self.include_prompt:
            return batch.mask
        if batch.prompts.dim() != batch.mask.dim() - 1:
            raise ValueError("include_prompt = True: must be False here, where prompts are numbers and have no tokens")
        prompt = torch.ones_like(batch.prompts, dtype=torch.bool) if batch.prompt_mask is None else batch.prompt_mask
        predicted = prompt & (prompt.cumsum(-1) > 1)
        return torch.cat([_per_response(predicted, batch) & present(batch).unsqueeze(-1), batch.mask], dim=-1)

    def at_update(self, batch: Batch, targets: Targets, probe_logp: Tensor | None) -> Targets:
        tokens = self.tokens(batch)
        share = token_shares(batch.weight, tokens, _float_like(batch).expand(tokens.shape), self.reduction)
        return {**targets, "share": share}

    def loss(self, outputs: Outputs, batch: Batch, targets: Targets) -> Tensor:
        logp = outputs.logp
        if self.include_prompt:
            if outputs.prompt_logp is None:
                raise ValueError("include_prompt = True: must be False for a policy that gives no prompt_logp")
            logp = torch.cat([_per_response(outputs.prompt_logp, batch), logp], dim=-1)
        return (targets["share"] * likelihood_loss(masked(logp, self.tokens(batch)))).sum((-2, -1))


def _per_response(x: Tensor, batch: Batch) -> Tensor:
    """(..., B, P), repeated for each response: (..., B, K, P)."""
    return x.unsqueeze(-2).expand(*batch.mask.shape[:-1], x.shape[-1])


def _float_like(batch: Batch) -> Tensor:
    """A zero of the batch's floating point, which demonstrations without rewards need not say."""
    known = [x for x in (batch.rewards, batch.logp_sampler, batch.weight) if x is not None]
    return torch.zeros((), dtype=known[0].dtype if known else torch.get_default_dtype(), device=batch.mask.device)


@dataclass(frozen=True)
class PrefFT(PairAlgorithm, kind="pref_ft"):
    """Preferred fine-tuning, or Best-of-2: imitate the preferred response of each pair, L = −ℓ_w.

    Differs from DPO, whose pairs it takes, in: (1) nothing is pushed down; (2) no reference. It differs from best_of_n
    with K = 2 in that labels choose, with their noise, and not rewards.
    """

    negative_gradient: ClassVar[bool] = False
    source: ClassVar[str] = "Tajwar et al. 2024; Tang et al. 2024"

    @property
    def needs_reference(self) -> bool:
        return False

    def loss(self, outputs: Outputs, batch: Batch, targets: Targets) -> Tensor:
        first, second = pick(likelihood_loss(sequence_sum(outputs.logp, batch.mask)), batch.need("pairs"))
        label = batch.need("pair_label")
        return (targets["share"] * (label * first + (1.0 - label) * second)).sum(-1)


@dataclass(frozen=True)
class LikelihoodAlgorithm(Algorithm):
    """−Σ share·scale·ℓ: which responses count is `weight`, how hard each is imitated is `scale`."""

    def at_update(self, batch: Batch, targets: Targets, probe_logp: Tensor | None) -> Targets:
        return {**targets, "share": response_shares(batch, targets)}

    def response_loss(self, outputs: Outputs, batch: Batch) -> Tensor:
        """What a response costs: −ℓ, (..., B, K)."""
        return likelihood_loss(sequence_sum(outputs.logp, batch.mask))

    def loss(self, outputs: Outputs, batch: Batch, targets: Targets) -> Tensor:
        loss = self.response_loss(outputs, batch)
        if "scale" in targets:
            loss = targets["scale"] * loss
        return (targets["share"] * loss).sum(-1)


@dataclass(frozen=True)
class BestOfN(LikelihoodAlgorithm, kind="best_of_n"):
    """Imitate the best of each prompt's K responses: L = −ℓ(argmax_k r_k). Ties share the weight equally.

    On samples of π_ref it fits the best-of-n law, whose KL to the reference is at most log n − (n−1)/n, with equality
    for continuous rewards (`sims.exact.best_of_n`).
    """

    min_generations: ClassVar[int] = 2
    on_policy: ClassVar[bool] = True
    source: ClassVar[str] = "Stiennon et al. 2020; Tajwar et al. 2024"

    def targets(self, batch: Batch, state: State) -> tuple[Targets, State]:
        there = present(batch)
        rewards = batch.need("rewards").masked_fill(~there, -float("inf"))
        best = (rewards == rewards.amax(-1, keepdim=True)) & there
        return {"weight": best.to(rewards.dtype)}, state


@dataclass(frozen=True)
class BestOfNNegative(BestOfN, kind="best_of_n_negative"):
    """Best-of-N with a negative gradient: L = −ℓ(argmax_k r_k) + β·Σ_k d_k·f(ℓ_k), d_k > 0 for less good responses.

    `negatives` says which are pushed down, and `form` how:

        worst          d = 1 for argmin_k r_k, ties share         log_prob        f = ℓ
        mean_of_rest   d = 1/n for each of the n not the best     log_ratio       f = ρ = ℓ − ℓ_ref, for the best too
        sum_of_rest    d = 1 for each of them                     log_complement  f = −log(1 − e^ℓ)

    The six variants of the released code are these three with log_prob, the last two with log_ratio, and sum_of_rest
    with log_complement. Differs from that code in: (1) ties: a response as good as the best is imitated and never
    pushed down, there all but the first are; (2) mean_of_rest with log_ratio divides by n, there, by a slip, it sums;
    (3) `gate` is 0.01 in its token bandit, 0 in its 1-D bandit, and absent from log_complement.

    ℓ_ref is a constant: log_ratio has the gradient of log_prob, and another loss. With both, ℓ_k falls without bound,
    as nothing ends the push: it is β·d_k whatever ℓ_k is. One of log_complement fades with e^ℓ.
    """

    negative_gradient: ClassVar[bool] = True
    source: ClassVar[str] = "Tajwar et al. 2024, released code"

    beta: float = setting(0.05, "weight of what pushes down, the best one's being 1", at_least=0, per_run=True)
    negatives: Literal["worst", "mean_of_rest", "sum_of_rest"] = setting("worst", "which responses are pushed down")
    form: Literal["log_prob", "log_ratio", "log_complement"] = setting("log_prob", "what of them is lowered")
    gate: float = setting(
        0.0, "leave alone what is less likely than this share of the likeliest best response", at_least=0, below=1
    )

    @property
    def needs_reference(self) -> bool:
        return self.form == "log_ratio"

    def targets(self, batch: Batch, state: State) -> tuple[Targets, State]:
        targets, state = super().targets(batch, state)
        rest = present(batch) & (targets["weight"] == 0)
        if self.negatives == "worst":
            rewards = batch.need("rewards").masked_fill(~rest, float("inf"))
            rest = rest & (rewards == rewards.amin(-1, keepdim=True))
        down = rest.to(targets["weight"].dtype)
        if self.negatives != "sum_of_rest":
            down = down / down.sum(-1, keepdim=True).clamp(min=1.0)
        return {**targets, "down": down}, state

    def response_loss(self, outputs: Outputs, batch: Batch) -> Tensor:
        return likelihood_loss(self._score(outputs, batch))

    def _score(self, outputs: Outputs, batch: Batch) -> Tensor:
        """ℓ, or with log_ratio ρ: (..., B, K)."""
        logp = outputs.logp - batch.need("logp_ref") if self.needs_reference else outputs.logp
        return sequence_sum(logp, batch.mask)

    def _negative_loss(self, outputs: Outputs, batch: Batch, best: Tensor) -> Tensor:
        """f, or 0 behind the gate: (..., B, K). best: (..., B, K), above 0 for those that are imitated."""
        score = self._score(outputs, batch)
        if self.form == "log_complement":
            # A response without a token is certain, and nothing that a policy does could make it less so.
            score = unlikelihood_loss(score.masked_fill(~batch.mask.any(-1), -float("inf")))
        if self.gate > 0:
            logp = sequence_sum(outputs.logp.detach(), batch.mask)
            least = logp.masked_fill(best == 0, -float("inf")).amax(-1, keepdim=True) + math.log(self.gate)
            score = torch.where(logp > least, score, 0.0)
        return score

    def loss(self, outputs: Outputs, batch: Batch, targets: Targets) -> Tensor:
        share = targets["share"].sum(-1)  # of the prompt: the best responses' shares add up to it
        pushed = (targets["down"] * self._negative_loss(outputs, batch, targets["weight"])).sum(-1)
        return super().loss(outputs, batch, targets) + over(self.beta, 1) * share * pushed


@dataclass(frozen=True)
class SuperHF(BestOfN, kind="superhf"):
    """Supervised fine-tuning on the best, with a leash: L = −ℓ(argmax_k r_k) + β·Σ_t k3(ρ_t) of that response.

    Differs from best_of_n in: (1) the KL term. As in the authors' code it is KL(π_ref‖π), and only on the filtered
    responses, so that it pulls where training goes and not where the policy is. The code sums over the vocabulary at
    each token; k3 of the tokens that were chosen needs log-probs alone, and has the same gradient in expectation if
    tokens were drawn from π, which filtered ones are not.
    """

    source: ClassVar[str] = "Mukobi et al. 2023"

    beta: float = setting(0.35, "weight of KL(reference || policy) on the filtered responses", at_least=0, per_run=True)

    @property
    def needs_reference(self) -> bool:
        return isinstance(self.beta, Tensor) or self.beta > 0

    def response_loss(self, outputs: Outputs, batch: Batch) -> Tensor:
        loss = super().response_loss(outputs, batch)
        if not self.needs_reference:
            return loss
        ratio = masked(outputs.logp - batch.need("logp_ref"), batch.mask)
        return loss + over(self.beta, 2) * k3(ratio).sum(-1)


def best_share(scores: Tensor, there: Tensor, keep: float | Tensor, top: Top) -> Tensor:
    """Which responses are among the best: (..., B, K) bool. scores, there: (..., B, K); keep: a share in (0, 1].

    per_prompt: the ⌈keep·K⌉ best of each prompt; over_all_prompts: the ⌈keep·B·K⌉ best of the batch, so that easy
    prompts crowd out hard ones. Ties with the last that is kept are kept. Only what is `there` counts.
    """
    scores = scores.masked_fill(~there, -float("inf"))
    if top == "per_prompt":
        ranked, count = scores, there.sum(-1, keepdim=True)
    else:
        ranked, count = scores.flatten(-2).unsqueeze(-2), there.sum((-2, -1), keepdim=True)
    # 0.07 · 100 is 7.000000000000001 in floating point, and means 7.
    last = torch.ceil(over(keep, 2) * count.double() - 1e-6).long() - 1
    threshold = ranked.sort(-1, descending=True).values.gather(-1, last.clamp(min=0))
    return (scores >= threshold) & there


@dataclass(frozen=True)
class RejectionSampling(LikelihoodAlgorithm, kind="rejection_sampling"):
    """Rejection sampling: imitate the best share of the responses, L = −mean ℓ over those kept. Ties are kept.

    `top` = per_prompt takes the ⌈keep·K⌉ best of each prompt (Llama 2: the best one); over_all_prompts takes the
    ⌈keep·B·K⌉ best of the batch, as one flat mean, which prefers easy prompts. Compare it with SFT on as many
    responses taken at random.
    """

    min_generations: ClassVar[int] = 2
    on_policy: ClassVar[bool] = True
    source: ClassVar[str] = "Touvron et al. 2023"

    keep: float = setting(0.25, "share of the responses that are imitated", above=0, at_most=1, per_run=True)
    top: Top = setting("per_prompt", "among which responses the best are sought")

    def scores(self, batch: Batch) -> Tensor:
        """What responses are ranked by: (..., B, K)."""
        return batch.need("rewards")

    def targets(self, batch: Batch, state: State) -> tuple[Targets, State]:
        scores = self.scores(batch)
        if self.top == "per_prompt" and scores.shape[-1] < 2:
            raise ValueError("num_generations = 1: must be at least 2 with top = per_prompt, which compares responses")
        kept = best_share(scores, present(batch), self.keep, self.top)
        return {"weight": kept.to(scores.dtype)}, state

    def at_update(self, batch: Batch, targets: Targets, probe_logp: Tensor | None) -> Targets:
        if self.top == "per_prompt":
            return super().at_update(batch, targets, probe_logp)
        return {**targets, "share": flat_shares(targets["weight"])}


def flat_shares(weight: Tensor) -> Tensor:
    """Each response's share of one mean over the minibatch, from whatever prompt it comes. (..., B, K) both."""
    flat = weight.flatten(-2).unsqueeze(-2)
    return shares(flat, flat).reshape(weight.shape)


@dataclass(frozen=True)
class RAFT(RejectionSampling, kind="raft"):
    """Reward-ranked fine-tuning: rejection sampling from the current policy, again and again.

    Differs from rejection_sampling in: (1) it is a loop: each batch is drawn from the policy that the last one left,
    and gone through several times; (2) by default it keeps a fifth of the whole batch, as its code does
    (collection strategy "top"); its documentation says the best of each prompt (per_prompt, the code's "local");
    (3) `beta` ranks by r − βρ, the paper's extension by a KL penalty.
    """

    min_generations: ClassVar[int] = 1
    sample_reuse: ClassVar[bool] = True
    penalises_reward: ClassVar[bool] = True
    source: ClassVar[str] = "Dong et al. 2023"

    keep: float = setting(0.2, "share of the responses that are imitated", above=0, at_most=1, per_run=True)
    top: Top = setting("over_all_prompts", "among which responses the best are sought")
    beta: float = setting(0.0, "weight of the log-ratio to the reference in the ranking", at_least=0, per_run=True)

    @property
    def needs_reference(self) -> bool:
        return isinstance(self.beta, Tensor) or self.beta > 0

    def check_schedule(self, schedule: Schedule) -> None:
        if self.top == "per_prompt" and schedule.num_generations < 2:
            raise SpecError("num_generations", schedule.num_generations, "must be at least 2 with top = per_prompt")

    def scores(self, batch: Batch) -> Tensor:
        if not self.needs_reference:
            return batch.need("rewards")
        ratio = sequence_sum(k1(batch.ratio_to_reference()), batch.mask)
        return batch.need("rewards") - over(self.beta, 2) * ratio


@dataclass(frozen=True)
class ReST(LikelihoodAlgorithm, kind="rest"):
    """Reinforced self-training: grow a batch once, then improve on less and better of it: L = −mean ℓ over r >= τ_i.

    Grow is the collection; improve step i is the schedule's i-th pass over the batch (`epochs`), whose threshold τ_i is
    that quantile of all the batch's rewards, a run's own. Passes beyond the last quantile keep it. Differs from raft
    in: (1) the threshold rises from pass to pass, so that the set shrinks and is overfitted in the end; (2) the paper
    lowers the learning rate along with it, which is the optimiser's business and is not done here.
    """

    on_policy: ClassVar[bool] = True
    sample_reuse: ClassVar[bool] = True
    source: ClassVar[str] = "Gulcehre et al. 2023"

    quantiles: tuple[float, ...] = setting(
        (0.5, 0.7, 0.8, 0.9), "rising thresholds of the improve steps, as quantiles of the batch's rewards"
    )

    def check(self) -> None:
        rising = all(a < b for a, b in zip(self.quantiles, self.quantiles[1:], strict=False))
        if not self.quantiles or not rising or self.quantiles[0] < 0 or self.quantiles[-1] >= 1:
            raise SpecError("quantiles", self.quantiles, "must be one or more numbers in [0, 1), each above the last")

    def targets(self, batch: Batch, state: State) -> tuple[Targets, State]:
        return self.at_epoch(batch, {}, 0), state

    def at_epoch(self, batch: Batch, targets: Targets, epoch: int) -> Targets:
        rewards = batch.need("rewards")
        keep = 1.0 - self.quantiles[min(epoch, len(self.quantiles) - 1)]
        kept = best_share(rewards, present(batch), keep, "over_all_prompts")
        return {**targets, "weight": kept.to(rewards.dtype)}

    def at_update(self, batch: Batch, targets: Targets, probe_logp: Tensor | None) -> Targets:
        return {**targets, "share": flat_shares(targets["weight"])}


@dataclass(frozen=True)
class RWR(LikelihoodAlgorithm, kind="rwr"):
    """Reward-weighted regression: L = −min(e^{r/β}, weight_clip)·ℓ, averaged over the responses.

    Its population minimiser on samples of μ is μ·e^{r/β}/Z, the KL-regularised optimum around μ, as long as no weight
    is clipped.
    """

    on_policy: ClassVar[bool] = True
    sample_reuse: ClassVar[bool] = True
    source: ClassVar[str] = "Peters & Schaal 2007; Tajwar et al. 2024"

    beta: float = setting(1.0, "temperature of the weights e^{r/beta}", above=0, per_run=True)
    weight_clip: float = setting(20.0, "largest weight", above=0, infinite=True, per_run=True)

    def targets(self, batch: Batch, state: State) -> tuple[Targets, State]:
        scale = exponential_weights(batch.need("rewards"), over(self.beta, 2), over(self.weight_clip, 2))
        return {"scale": scale}, state


@dataclass(frozen=True)
class AWR(LikelihoodAlgorithm, kind="awr"):
    """Advantage-weighted regression: L = −min(e^{(r−b)/β}, weight_clip)·ℓ, averaged over the responses.

    Differs from rwr in: (1) a baseline b, so that the clip and the scale of the loss do not depend on the rewards'
    level. The paper's b is a learned value of the state; here it is the mean of all rewards of earlier batches (0 at
    first), which only scales the loss, or the mean of the prompt's own group. On samples of μ, unclipped, the
    population minimiser is rwr's, μ·e^{r/β}/Z; under the group's mean, which holds the own reward, β becomes
    β·K/(K−1).
    """

    on_policy: ClassVar[bool] = True
    sample_reuse: ClassVar[bool] = True
    source: ClassVar[str] = "Peng et al. 2019"

    beta: float = setting(1.0, "temperature of the weights e^{(r-b)/beta}", above=0, per_run=True)
    weight_clip: float = setting(20.0, "largest weight", above=0, infinite=True, per_run=True)
    baseline: Literal["running_mean", "group_mean"] = setting("running_mean", "what is subtracted from the reward")

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
        scale = exponential_weights(rewards - baseline, over(self.beta, 2), over(self.weight_clip, 2))
        return {"scale": scale}, state
