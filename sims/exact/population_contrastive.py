"""Population weights of the algorithms on pairs, and of KTO."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from .population import Population, batch_shares, expect_over_batches, population, sigmoid

if TYPE_CHECKING:
    from sims.core.algorithms.contrastive import (
        DPO,
        IPO,
        KTO,
        ConservativeDPO,
        DPOWithNLL,
        GroupDPO,
        PairsWithLikelihood,
        RobustDPO,
        SLiC,
    )
    from sims.core.algorithms.online_contrastive import XPO, NashMD
    from sims.core.algorithms.reference_free import CPO, ORPO, SimPO

# Pairings that do not depend on rewards: the slots they compare, (Q, 2), each at most once.
FIXED_SLOTS: dict[str, Callable[[int], np.ndarray]] = {
    "drawn": lambda generations: np.arange(generations).reshape(-1, 2),
    "halves": lambda generations: np.arange(generations).reshape(2, -1).T,
}


@population("dpo")
def dpo_weights(algorithm: DPO, problem: Population) -> np.ndarray:
    """Slope of −log σ(βh): −β·σ(−βh)."""
    beta, scale = algorithm.beta, score_scale(algorithm, problem)
    ratio = problem.log_ratio * scale
    return pair_weights(problem, algorithm.pairing, ratio, lambda h: -beta * sigmoid(-beta * h)) * scale


@population("ipo")
def ipo_weights(algorithm: IPO, problem: Population) -> np.ndarray:
    """Slope of (h − 1/(2β))²: 2(h − 1/(2β))."""
    target, scale = 1.0 / (2.0 * algorithm.beta), score_scale(algorithm, problem)
    ratio = problem.log_ratio * scale
    return pair_weights(problem, algorithm.pairing, ratio, lambda h: 2.0 * (h - target)) * scale


@population("kto")
def kto_weights(algorithm: KTO, problem: Population) -> np.ndarray:
    """Slopes of λ_D·σ(−β(ρ − z)) and λ_U·σ(β(ρ − z)): ∓λβ·σ(d)·σ(−d) with d = β(ρ − z).

    z is the mean of ρ over each prompt with the next prompt's responses, at least 0; of responses 2q and 2q + 1 each is
    desirable with the probability of being preferred to the other.
    """
    rows = np.arange(problem.prompts)[:, None]
    ratio = problem.log_ratio

    def batch_weights(batches: np.ndarray) -> np.ndarray:
        mismatched = ratio[rows, np.roll(batches, -1, axis=1)]
        anchor = np.maximum(mismatched.mean((1, 2)), 0.0)[:, None, None]
        distance = algorithm.beta * (ratio[rows, batches] - anchor)
        bell = algorithm.beta * sigmoid(distance) * sigmoid(-distance)
        first, second = batches[..., 0::2], batches[..., 1::2]
        won = problem.label[rows, first, second]
        good = np.stack([won, 1.0 - won], axis=-1).reshape(batches.shape)
        weights = -algorithm.desirable_weight * good + algorithm.undesirable_weight * (1.0 - good)
        return weights * bell / np.prod(batches.shape[1:])

    return expect_over_batches(problem, batch_weights)


@population("cdpo")
def cdpo_weights(algorithm: ConservativeDPO, problem: Population) -> np.ndarray:
    """Slope of −(1 − ε) log σ(βh) − ε log σ(−βh): β(ε·σ(βh) − (1 − ε)·σ(−βh))."""
    beta, wrong, scale = algorithm.beta, algorithm.label_smoothing, score_scale(algorithm, problem)

    def slope(h: np.ndarray) -> np.ndarray:
        return beta * (wrong * sigmoid(beta * h) - (1.0 - wrong) * sigmoid(-beta * h))

    return pair_weights(problem, algorithm.pairing, problem.log_ratio * scale, slope) * scale


@population("robust_dpo")
def robust_dpo_weights(algorithm: RobustDPO, problem: Population) -> np.ndarray:
    """Slope of (−(1 − ε) log σ(βh) + ε log σ(−βh))/(1 − 2ε): −β(σ(−βh) + ε/(1 − 2ε))."""
    beta, wrong, scale = algorithm.beta, algorithm.label_smoothing, score_scale(algorithm, problem)

    def slope(h: np.ndarray) -> np.ndarray:
        # (1 − ε)σ(−z) + ε σ(z) = (1 − 2ε)σ(−z) + ε, for σ(z) + σ(−z) = 1
        return -beta * (sigmoid(-beta * h) + wrong / (1.0 - 2.0 * wrong))

    return pair_weights(problem, algorithm.pairing, problem.log_ratio * scale, slope) * scale


@population("slic")
def slic_weights(algorithm: SLiC, problem: Population) -> np.ndarray:
    """Slope of max(0, 1 − βh): −β below h = 1/β, else 0."""
    beta, scale = algorithm.beta, score_scale(algorithm, problem)
    ratio = problem.log_ratio * scale
    return pair_weights(problem, algorithm.pairing, ratio, lambda h: np.where(beta * h < 1.0, -beta, 0.0)) * scale


@population("group_dpo")
def group_dpo_weights(algorithm: GroupDPO, problem: Population) -> np.ndarray:
    """DPO's, over correct × incorrect."""
    return dpo_weights(algorithm, problem)


@population("dpo_nll")
def dpo_nll_weights(algorithm: DPOWithNLL, problem: Population) -> np.ndarray:
    """DPO's slope, and −α for each time that a response is the chosen one."""
    beta = algorithm.beta
    pairs = pair_weights(problem, algorithm.pairing, problem.log_ratio, lambda h: -beta * sigmoid(-beta * h))
    return pairs - algorithm.alpha * chosen_shares(algorithm, problem)


@population("cpo")
def cpo_weights(algorithm: CPO, problem: Population) -> np.ndarray:
    """As dpo_nll, with ℓ for ρ."""
    beta, logp = algorithm.beta, problem.logp.sum(-1)
    pairs = pair_weights(problem, algorithm.pairing, logp, lambda h: -beta * sigmoid(-beta * h))
    return pairs - algorithm.alpha * chosen_shares(algorithm, problem)


@population("simpo")
def simpo_weights(algorithm: SimPO, problem: Population) -> np.ndarray:
    """Slope of −log σ(βh − γ) by ℓ̄: −β·σ(γ − βh)."""
    beta, gamma, mean = algorithm.beta, algorithm.gamma, problem.logp.sum(-1) / problem.lengths
    pairs = pair_weights(problem, algorithm.pairing, mean, lambda h: -beta * sigmoid(gamma - beta * h))
    return pairs / problem.lengths


@population("orpo")
def orpo_weights(algorithm: ORPO, problem: Population) -> np.ndarray:
    """Slope of −β log σ(h) by the log-odds, −β·σ(−h), times d logit(p)/d log p = 1/(1 − p); and −1 for the chosen."""
    beta, mean = algorithm.beta, problem.logp.sum(-1) / problem.lengths
    rest = -np.expm1(mean)
    pairs = pair_weights(problem, algorithm.pairing, mean - np.log(rest), lambda h: -beta * sigmoid(-h))
    return pairs / rest / problem.lengths - chosen_shares(algorithm, problem)


@population("xpo")
def xpo_weights(algorithm: XPO, problem: Population) -> np.ndarray:
    """DPO's, and +α times the probability under the second half of the slots."""
    half = problem.generations // 2
    return dpo_weights(algorithm, problem) + algorithm.alpha * problem.distribution[half:].mean(0) / problem.prompts


@population("nash_md")
def nash_md_weights(algorithm: NashMD, problem: Population) -> np.ndarray:
    """μ(y)·(−(P(y ≻ opponent) − ½) + β·ρ(y)), μ being the distribution of the first half of the slots."""
    half = problem.generations // 2
    own, opponent = problem.distribution[:half], problem.distribution[half:]
    preferred = np.einsum("xij,qxj->qxi", problem.label, opponent)
    weights = own * (algorithm.beta * problem.log_ratio - (preferred - 0.5))
    return weights.mean(0) / problem.prompts


def chosen_shares(algorithm: PairsWithLikelihood, problem: Population) -> np.ndarray:
    """Expected share of each response's ℓ among the chosen ones, normalised as in the algorithm: (X, N)."""
    rows = np.arange(problem.prompts)[:, None]

    def batch_weights(batches: np.ndarray) -> np.ndarray:
        pairs, weight = paired_slots(problem.rewards[rows, batches], algorithm.pairing, problem.correct_above)
        members = [np.take_along_axis(batches, pairs[..., side], axis=-1) for side in (0, 1)]
        won = problem.label[rows, *members]
        total = np.zeros(batches.shape)
        outcome, prompt = np.arange(len(batches))[:, None, None], rows[None]
        tokens = np.zeros((len(batches), 1, 1))
        for side, chosen in ((0, won), (1, 1.0 - won)):
            length = problem.lengths[members[side]]
            tokens += (weight * chosen * length).sum((1, 2), keepdims=True)
            share = weight if algorithm.nll_reduction == "token_mean" else batch_shares(weight)
            each = share * chosen / (length if algorithm.nll_reduction == "sequence_mean" else 1.0)
            np.add.at(total, (outcome, prompt, pairs[..., side]), each)
        if algorithm.nll_reduction != "token_mean":
            return total
        return np.divide(total, tokens, out=np.zeros_like(total), where=tokens > 0)

    return expect_over_batches(problem, batch_weights)


def score_scale(algorithm: DPO | IPO, problem: Population) -> np.ndarray:
    """Factor of a response's log-ratio in the margin: (N,)."""
    return 1.0 / problem.lengths if algorithm.length_normalised else np.ones(problem.responses)


def pair_weights(
    problem: Population, pairing: str, score: np.ndarray, slope: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """∂/∂score(y) of the expected loss p·f(h) + (1 − p)·f(−h), h = score of the first − of the second: (X, N).

    score: (X, N); slope: f′. The chosen response's derivative is f′, the rejected one's −f′.
    """
    margin = score[:, :, None] - score[:, None, :]
    pull = problem.label * slope(margin) - (1.0 - problem.label) * slope(-margin)  # ∂/∂h, (X, N, N)
    if pairing in FIXED_SLOTS:
        first, second = (problem.distribution[slots] for slots in FIXED_SLOTS[pairing](problem.generations).T)
        total = (first * np.einsum("xij,qxj->qxi", pull, second)).sum(0)
        total -= (second * np.einsum("xij,qxi->qxj", pull, first)).sum(0)
        return total / (len(first) * problem.prompts)
    return expect_over_batches(problem, lambda batches: pair_batch_weights(problem, pairing, pull, batches))


def pair_batch_weights(problem: Population, pairing: str, pull: np.ndarray, batches: np.ndarray) -> np.ndarray:
    """∂L/∂score of each response of each batch, when `pull` (X, N, N) is that of a pair. batches, result: (G, X, K)."""
    rows = np.arange(problem.prompts)[:, None]
    pairs, weight = paired_slots(problem.rewards[rows, batches], pairing, problem.correct_above)
    first = np.take_along_axis(batches, pairs[..., 0], axis=-1)
    second = np.take_along_axis(batches, pairs[..., 1], axis=-1)
    pulls = batch_shares(weight) * pull[rows, first, second]
    total = np.zeros(batches.shape)
    outcome, prompt = np.arange(len(batches))[:, None, None], rows[None]
    np.add.at(total, (outcome, prompt, pairs[..., 0]), pulls)
    np.add.at(total, (outcome, prompt, pairs[..., 1]), -pulls)
    return total


def paired_slots(rewards: np.ndarray, pairing: str, correct_above: float) -> tuple[np.ndarray, np.ndarray]:
    """Which slots are compared, (G, X, Q, 2), and the weights of these pairs, (G, X, Q). rewards: (G, X, K)."""
    generations = rewards.shape[-1]
    if pairing == "best_worst":
        pairs = np.stack([rewards.argmax(-1), rewards.argmin(-1)], axis=-1)[..., None, :]
        return pairs, (np.ptp(rewards, axis=-1) > 0)[..., None].astype(float)
    every = np.array(list(combinations(range(generations), 2)))
    slots = FIXED_SLOTS[pairing](generations) if pairing in FIXED_SLOTS else every
    pairs = np.broadcast_to(slots, (*rewards.shape[:-1], *slots.shape))
    weight = np.ones(pairs.shape[:-1])
    if pairing == "correct_incorrect":
        correct = rewards > correct_above
        weight = (correct[..., slots[:, 0]] != correct[..., slots[:, 1]]).astype(float)
    return pairs, weight
