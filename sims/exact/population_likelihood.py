"""Population weights of the maximum-likelihood algorithms."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from .population import (
    Population,
    batch_shares,
    expect_over_batches,
    expect_over_groups,
    expect_over_responses,
    population,
)
from .population_contrastive import paired_slots
from .population_policy_gradient import batch_token_shares, penalised_rewards, response_token_shares
from .quantities import best_of_n

if TYPE_CHECKING:
    from sims.core.algorithms.best_of_n import BestOfN, BestOfNNegative, SuperHF
    from sims.core.algorithms.filtering import RAFT, RejectionSampling, ReST
    from sims.core.algorithms.likelihood import SFT, PrefFT
    from sims.core.algorithms.reward_weighted import AWR, RWR


@population("sft")
def sft_weights(algorithm: SFT, problem: Population) -> np.ndarray:
    """−μ(y)·(share of each token): (X, N, L). Prompts are numbers here, without tokens."""
    if algorithm.reduction == "token_mean":
        return expect_over_batches(problem, lambda batches: -batch_token_shares(problem, batches, "token_mean"))
    share = np.broadcast_to(response_token_shares(problem, algorithm.reduction), (problem.prompts, *problem.mask.shape))
    return expect_over_responses(problem, lambda k: -share)


@population("pref_ft")
def pref_ft_weights(algorithm: PrefFT, problem: Population) -> np.ndarray:
    """−P(y is in a pair and preferred in it), by pairs."""
    rows = np.arange(problem.prompts)[:, None]

    def batch_weights(batches: np.ndarray) -> np.ndarray:
        pairs, weight = paired_slots(problem.rewards[rows, batches], algorithm.pairing, problem.correct_above)
        share = batch_shares(weight)
        first, second = (np.take_along_axis(batches, pairs[..., side], axis=-1) for side in (0, 1))
        won = problem.label[rows, first, second]
        slots = np.arange(batches.shape[-1])
        total = np.zeros(batches.shape)
        for side, chance in ((0, won), (1, 1.0 - won)):
            total -= ((share * chance)[..., None] * (pairs[..., side, None] == slots)).sum(-2)
        return total

    return expect_over_batches(problem, batch_weights)


@population("best_of_n")
def best_of_n_weights(algorithm: BestOfN, problem: Population) -> np.ndarray:
    """−P(y is the best of K draws of μ), by order statistics."""
    return -best_of_n(np.log(problem.shared_distribution), problem.rewards, problem.generations) / problem.prompts


@population("best_of_n_negative")
def best_of_n_negative_weights(algorithm: BestOfNNegative, problem: Population) -> np.ndarray:
    """−1 for the best of a group; for the worst, or the rest, β times the derivative of the negative term: 1 for ℓ and
    ρ, π/(1 − π) for −log(1 − π)."""
    probability = np.exp(problem.logp.sum(-1))

    def group_weights(x: int, groups: np.ndarray) -> np.ndarray:
        rewards, likely = problem.rewards[x, groups], probability[x, groups]
        top, bottom = rewards.max(-1, keepdims=True), rewards.min(-1, keepdims=True)
        best, rest = rewards == top, rewards < top
        if algorithm.negatives == "worst":
            rest = rest & (rewards == bottom)
        count = 1 if algorithm.negatives == "sum_of_rest" else np.maximum(rest.sum(-1, keepdims=True), 1)
        slope = likely / (1.0 - likely) if algorithm.form == "log_complement" else 1.0
        open_ = likely > algorithm.gate * np.where(best, likely, 0.0).max(-1, keepdims=True)
        return algorithm.beta * slope * (rest & open_) / count - best / best.sum(-1, keepdims=True)

    return expect_over_groups(problem, group_weights)


@population("superhf")
def superhf_weights(algorithm: SuperHF, problem: Population) -> np.ndarray:
    """P(y is the best of K draws of μ)·(−1 + β(1 − e^{−ρ_t})): (X, N, L)."""
    best = best_of_n(np.log(problem.shared_distribution), problem.rewards, problem.generations) / problem.prompts
    return best[..., None] * (algorithm.beta * -np.expm1(problem.logp_ref - problem.logp) - 1.0)


@population("rejection_sampling")
def rejection_sampling_weights(algorithm: RejectionSampling, problem: Population) -> np.ndarray:
    """−P(y is kept), by its share among those kept."""
    return kept_weights(problem, problem.rewards, algorithm.keep, algorithm.top)


@population("raft")
def raft_weights(algorithm: RAFT, problem: Population) -> np.ndarray:
    """As rejection_sampling, ranked by r − βρ."""
    scores = penalised_rewards(algorithm.beta, problem)[0]
    return kept_weights(problem, scores, algorithm.keep, algorithm.top)


@population("rest")
def rest_weights(algorithm: ReST, problem: Population) -> np.ndarray:
    """As rejection_sampling over all prompts, with a smaller share from pass to pass."""
    quantile = algorithm.quantiles[min(problem.epoch, len(algorithm.quantiles) - 1)]
    return kept_weights(problem, problem.rewards, 1.0 - quantile, "over_all_prompts")


def kept_weights(problem: Population, scores: np.ndarray, keep: float, top: str) -> np.ndarray:
    """−E[share] of each response, where one is kept if fewer than ⌈keep·count⌉ score higher. scores, result: (X, N)."""
    rows = np.arange(problem.prompts)[:, None]

    def batch_weights(batches: np.ndarray) -> np.ndarray:
        drawn = scores[rows, batches]
        rivals = drawn if top == "per_prompt" else drawn.reshape(len(drawn), 1, -1)
        wanted = math.ceil(round(keep * rivals.shape[-1], 6))
        beaten_by = (rivals[..., None, :] > drawn[..., :, None]).sum(-1)
        kept = (beaten_by < wanted).astype(float)
        if top == "per_prompt":
            return -batch_shares(kept)
        return -kept / kept.sum((1, 2), keepdims=True)

    return expect_over_batches(problem, batch_weights)


@population("rwr")
def rwr_weights(algorithm: RWR, problem: Population) -> np.ndarray:
    """−μ(y)·min(e^{r(y)/β}, clip)."""
    imitated = np.minimum(np.exp(problem.rewards / algorithm.beta), algorithm.weight_clip)
    return expect_over_responses(problem, lambda k: -imitated)


@population("awr")
def awr_weights(algorithm: AWR, problem: Population) -> np.ndarray:
    """−μ(y)·min(e^{(r(y)−b)/β}, clip), b the mean reward of earlier batches, or of the group of y."""

    def imitated(advantages: np.ndarray) -> np.ndarray:
        return np.minimum(np.exp(advantages / algorithm.beta), algorithm.weight_clip)

    if algorithm.baseline == "running_mean":
        return expect_over_responses(problem, lambda k: -imitated(problem.rewards - problem.state["reward_mean"]))

    def group_weights(x: int, groups: np.ndarray) -> np.ndarray:
        rewards = problem.rewards[x, groups]
        return -imitated(rewards - rewards.mean(-1, keepdims=True)) / problem.generations

    return expect_over_groups(problem, group_weights)
