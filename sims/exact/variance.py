"""Exact variance of policy-gradient estimators, without sampling: from moments, or by enumeration.

A batch is B prompts, each drawn uniformly from X, with K fresh responses each, and its gradient is the mean over the
prompts' groups: g = 1/B·Σ_b G_b. For each estimator, `Moments` holds E[G | x] and E[|G|² | x]; `batch_noise` derives
the variance for any batch size. Gradients are ascent directions, −∇L, with respect to the logits of a table with
separate rows per prompt. There is no clipping and no KL penalty: samples are fresh, and β is 0.

reinforce, ppo    means of K independent terms: their variance is that of one term, divided by K
rloo, dr_grpo     sample covariances of rewards and scores, whose variance is known in closed form
grpo              divides by the group's standard deviation; exact for rewards with few levels, by summing over counts
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache
from math import comb

import numpy as np
from scipy.special import gammaln

from sims.core.numerics.log_softmax import log_softmax

from .tables import prefix_nodes, token_logp

MOST_COMPOSITIONS = 1_000_000


@dataclass(frozen=True, eq=False)
class Answers:
    """A table policy on X prompts: N responses of up to L tokens, P logits per prompt.

    distribution, rewards: (X, N). scores: (X, N, L, P), gradient of each token's log-prob with respect to the prompt's
    own logits, 0 in masked slots. mask: (N, L). nodes: (N, L), number of the prefix before each token."""

    distribution: np.ndarray
    rewards: np.ndarray
    scores: np.ndarray
    mask: np.ndarray
    nodes: np.ndarray

    @property
    def mean_reward(self) -> float:
        """E[r] over prompts and responses, the limit of a running mean of rewards."""
        return float((self.distribution * self.rewards).sum(-1).mean())


def table_answers(logits: np.ndarray, rewards: np.ndarray, responses: np.ndarray, mask: np.ndarray) -> Answers:
    """`Answers` of a table policy. logits: (X, nodes, V); rewards: (X, N); responses, mask: (N, L)."""
    prompts, prefixes, vocabulary = logits.shape
    nodes = np.where(mask, prefix_nodes(responses, vocabulary), 0)
    # ∂ log π(v | n)/∂ logit(n, u) = 1[u = v] − π(u | n), and 0 for the logits of other prefixes.
    rows = np.eye(vocabulary)[responses] - np.exp(log_softmax(logits))[:, nodes]
    scores = np.eye(prefixes)[nodes][..., None] * rows[..., None, :] * mask[..., None, None]
    distribution = np.exp(token_logp(logits, responses, mask).sum(-1))
    return Answers(distribution, rewards, scores.reshape(prompts, *mask.shape, prefixes * vocabulary), mask, nodes)


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments of one prompt's group gradient G. mean: (X, P), E[G | x]; square: (X,), E[|G|² | x]."""

    mean: np.ndarray
    square: np.ndarray


@dataclass(frozen=True)
class Noise:
    """A batch's gradient g. signal: |E[g]|². within, between: the two parts of tr Cov(g), from the responses given the
    prompts, and from the choice of prompts.
    """

    signal: float
    within: float
    between: float

    @property
    def relative(self) -> float:
        """tr Cov(g)/|E[g]|²: independent of the estimator's scale, which is absorbed by the learning rate."""
        return (self.within + self.between) / self.signal


def batch_noise(moments: Moments, num_prompts: int) -> Noise:
    """The noise of batches of B prompts drawn uniformly, with replacement.

        tr Cov(g) = 1/B·[E_x(E[|G|² | x] − |E[G | x]|²) + E_x|E[G | x]|² − |E[G]|²]

    Prompts share no logits here, which makes the second part (X−1)/B·|E[g]|² for every estimator; in a network, where
    prompts share parameters, it is smaller.
    """
    prompts = len(moments.mean)
    pull = (moments.mean**2).sum(-1)
    signal = float(pull.sum()) / prompts**2
    within = float((moments.square - pull).mean()) / num_prompts
    return Noise(signal, within, (float(pull.mean()) - signal) / num_prompts)


def angle(a: np.ndarray, b: np.ndarray) -> float:
    """Degrees between two gradients of the same shape; neither may be 0."""
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    # arccos(a·b) loses half of the digits where the two are close to each other.
    return float(np.degrees(2.0 * np.arctan2(np.linalg.norm(a - b), np.linalg.norm(a + b))))


def reward_gradient(answers: Answers) -> np.ndarray:
    """∇E[r | x] of each prompt, (X, P): the mean of an unbiased estimator."""
    return np.einsum("xn,xnlp->xp", answers.distribution * answers.rewards, answers.scores)


def reinforce(answers: Answers, generations: int, baseline: float = 0.0) -> Moments:
    """G = 1/K·Σ_k (r_k − b)·∇ℓ_k with a fixed baseline b; the running mean tends to `answers.mean_reward`."""
    return independent_terms(answers, generations, (answers.rewards - baseline)[..., None])


def ppo(answers: Answers, generations: int, values: np.ndarray, lam: float = 0.95) -> Moments:
    """G = 1/K·Σ_k Σ_t A_t·∇ℓ_t, A the generalised advantage estimate of a terminal reward, γ = 1; on the first update.

    values: (X, N, L), the critic's value of the prefix before each token. With exact values (`true_values`) the mean is
    ∇E[r] for every λ; with others only for λ = 1 or responses of one token.
    """
    following = np.zeros_like(answers.rewards)
    last = np.ones(len(answers.mask), bool)
    advantage, steps = np.zeros_like(following), []
    for t in reversed(range(answers.mask.shape[1])):
        here = answers.mask[:, t]
        reward = np.where(last & here, answers.rewards, 0.0)
        advantage = np.where(here, reward + following - values[..., t] + lam * advantage, 0.0)
        following, last = np.where(here, values[..., t], 0.0), last & ~here
        steps.append(advantage)
    return independent_terms(answers, generations, np.stack(steps[::-1], axis=-1))


def true_values(answers: Answers) -> np.ndarray:
    """V(prefix) = E[r | prefix], the perfect critic, by the prefix before each token: (X, N, L), 0 in masked slots."""
    same = (answers.nodes[:, :, None, None] == answers.nodes) & answers.mask  # [n, l, m, k]: y_m passes it at token k
    passes = same.any(-1).astype(np.float64)
    mass = np.einsum("nlm,xm->xnl", passes, answers.distribution)
    total = np.einsum("nlm,xm->xnl", passes, answers.distribution * answers.rewards)
    return np.where(answers.mask, total / mass, 0.0)


def independent_terms(answers: Answers, generations: int, advantages: np.ndarray) -> Moments:
    """G = 1/K·Σ_k f(y_k): E|G|² = |E f|² + (E|f|² − |E f|²)/K, f = Σ_t A_t·∇ℓ_t. advantages: (X, N, L) or (X, N, 1)."""
    terms = (advantages[..., None] * answers.scores).sum(2)
    mean = np.einsum("xn,xnp->xp", answers.distribution, terms)
    pull = (mean**2).sum(-1)
    return Moments(mean, pull + ((answers.distribution * (terms**2).sum(-1)).sum(-1) - pull) / generations)


def rloo(answers: Answers, generations: int) -> Moments:
    """G = 1/K·Σ_k (r_k − mean of the others)·s_k, the sample covariance of rewards and scores s = ∇ℓ (ddof 1).

        E[|G|²] = |c|² + E[(r − μ)²|s|²]/K − (K−2)/(K(K−1))·|c|² + σ²·E[|s|²]/(K(K−1)),    c = ∇E[r]

    The variance of a sample covariance (Kendall and Stuart, chapter 13), summed over the logits; E[s] = 0. ValueError
    for fewer than 2 responses.
    """
    if generations < 2:
        raise ValueError(f"generations: {generations}: must be at least 2: leave-one-out needs others")
    distribution, lengths = answers.distribution, (answers.scores.sum(2) ** 2).sum(-1)
    deviation = answers.rewards - (distribution * answers.rewards).sum(-1, keepdims=True)
    mean = reward_gradient(answers)
    pull = (mean**2).sum(-1)
    mixed = (distribution * deviation**2 * lengths).sum(-1)
    apart = (distribution * deviation**2).sum(-1) * (distribution * lengths).sum(-1)
    pairs = generations * (generations - 1)
    return Moments(mean, pull + mixed / generations + (apart - (generations - 2) * pull) / pairs)


def dr_grpo(answers: Answers, generations: int) -> Moments:
    """RLOO times (K−1)/K, as a response's own reward is in the mean; constant_length is 1."""
    own, share = rloo(answers, generations), (generations - 1) / generations
    return Moments(share * own.mean, share**2 * own.square)


def grpo(answers: Answers, generations: int, ddof: int = 1, std_epsilon: float = 1e-4) -> Moments:
    """G = 1/K·Σ_k (r_k − mean)/(deviation + δ)·∇ℓ_k/|y_k|, 0 where all rewards are equal.

    Advantages depend on the rewards alone, so the sum over groups is one over counts: how many of the K rewards have
    each of m levels; (K+m−1 over m−1) counts, each with its multinomial probability, given which the responses of a
    level are independent. ValueError if there are too many counts.
    """
    moments = [_grpo_of_one(answers, x, generations, ddof, std_epsilon) for x in range(len(answers.distribution))]
    return Moments(np.stack([mean for mean, _ in moments]), np.array([square for _, square in moments]))


def _grpo_of_one(answers: Answers, x: int, generations: int, ddof: int, delta: float) -> tuple[np.ndarray, float]:
    distribution, terms = answers.distribution[x], answers.scores[x].sum(1) / answers.mask.sum(-1, keepdims=True)
    levels, level = np.unique(answers.rewards[x], return_inverse=True)
    counts = compositions(generations, len(levels))
    member = distribution * (level == np.arange(len(levels))[:, None])  # (m, N)
    chance = member.sum(-1)
    centres = member @ terms / chance[:, None]
    spread = member @ (terms**2).sum(-1) / chance - (centres**2).sum(-1)

    ways = gammaln(generations + 1) - gammaln(counts + 1).sum(-1)
    probability = np.exp(ways + counts @ np.log(chance))
    deviation = levels - (counts @ levels)[:, None] / generations
    scale = np.sqrt((counts * deviation**2).sum(-1, keepdims=True) / (generations - ddof)) + delta
    mixed = (counts > 0).sum(-1, keepdims=True) > 1
    advantages = np.divide(deviation, scale, out=np.zeros_like(deviation), where=mixed)

    pull = advantages * counts / generations  # (counts, m): coefficient of each level's mean gradient
    scatter = (advantages / generations) ** 2 * counts
    square = np.einsum("cl,lm,cm->c", pull, centres @ centres.T, pull, optimize=True) + scatter @ spread
    return probability @ pull @ centres, float(probability @ square)


@lru_cache(maxsize=32)
def compositions(total: int, parts: int) -> np.ndarray:
    """All ways to write `total` as an ordered sum of `parts` counts: (ways, parts), each row sums to total."""
    ways = comb(total + parts - 1, parts - 1)
    if ways > MOST_COMPOSITIONS:
        raise ValueError(f"rewards: {parts} levels: {ways} counts of {total}: must be {MOST_COMPOSITIONS} at most")
    # Stars and bars: a count is the number of stars between two bars.
    bars = np.array(list(itertools.combinations(range(total + parts - 1), parts - 1)), dtype=np.int64)
    edges = np.pad(bars.reshape(ways, parts - 1), ((0, 0), (1, 1)), constant_values=((0, 0), (-1, total + parts - 1)))
    counts = np.diff(edges, axis=1) - 1
    counts.flags.writeable = False  # it is cached
    return counts
