"""Exercises of notebook 6: the slope that fits a reward model, the win rate, and best-of-n by a proxy."""

from __future__ import annotations

import numpy as np
import torch

from sims import exact
from sims.core.losses.reward_model import labelled_bradley_terry_loss

from .checking import Exercise, Problem


def _scores_and_pairs(random: np.random.Generator) -> Problem:
    """Pairs of responses by number, the first of which was preferred; some response is in several of them."""
    responses, pairs = int(random.integers(4, 7)), int(random.integers(6, 10))
    first = random.integers(responses, size=pairs)
    second = (first + random.integers(1, responses, size=pairs)) % responses
    return {"scores": random.normal(size=responses), "chosen": first, "rejected": second}


def _slope(scores: np.ndarray, chosen: np.ndarray, rejected: np.ndarray) -> np.ndarray:
    """By automatic differentiation of the package's loss."""
    given = torch.from_numpy(scores).requires_grad_()
    difference = given[torch.from_numpy(chosen)] - given[torch.from_numpy(rejected)]
    labelled_bradley_terry_loss(difference, torch.ones_like(difference)).sum().backward()
    return np.asarray(given.grad)


def _added(pull: np.ndarray, scores: np.ndarray, chosen: np.ndarray, rejected: np.ndarray) -> np.ndarray:
    """−pull at the chosen response of each pair, +pull at the rejected one."""
    found = np.zeros_like(scores)
    np.add.at(found, chosen, -pull)
    np.add.at(found, rejected, pull)
    return found


def _surprise(scores: np.ndarray, chosen: np.ndarray, rejected: np.ndarray) -> np.ndarray:
    """1 − σ(s_w − s_l): the probability that the scores give to the other outcome."""
    return 1.0 / (1.0 + np.exp(scores[chosen] - scores[rejected]))


def _last_pair_only(scores: np.ndarray, chosen: np.ndarray, rejected: np.ndarray) -> np.ndarray:
    pull, found = _surprise(scores, chosen, rejected), np.zeros_like(scores)
    found[chosen] -= pull
    found[rejected] += pull
    return found


def _chosen_alone(scores: np.ndarray, chosen: np.ndarray, rejected: np.ndarray) -> np.ndarray:
    found = np.zeros_like(scores)
    np.add.at(found, chosen, -_surprise(scores, chosen, rejected))
    return found


fitting_slope = Exercise(
    problem=_scores_and_pairs,
    exact=_slope,
    faults={
        "This is σ of the margin: a pair pulls by how *surprising* its label is, 1 − σ.": lambda s, w, x: _added(
            1.0 - _surprise(s, w, x), s, w, x
        ),
        "Every pair pulls alike: the pull is 1 − σ(margin), less where the scores agree already.": lambda s, w, x: (
            _added(np.ones(len(w)), s, w, x)
        ),
        "Only the chosen responses are pulled: the loss is of a difference, and the rejected ones go the other way.": (
            _chosen_alone
        ),
        "A response that stands in several pairs has only one of their pulls: with `found[chosen] -= …` NumPy writes "
        "once for each index; use np.add.at.": _last_pair_only,
        "This is the mean over pairs: the sum is asked for.": lambda s, w, x: _slope(s, w, x) / len(w),
    },
    done="Σ over pairs of ∓(1 − σ(s_w − s_l)): a response in no pair has slope 0: nothing is known of it, and "
    "nothing is learned.",
)


def _two_policies_and_rewards(random: np.random.Generator) -> Problem:
    """Rewards of a few levels, so that there are ties."""
    responses = int(random.integers(4, 8))
    policies = {name: exact.log_softmax(random.normal(size=responses)) for name in ("logp", "logp_other")}
    return policies | {"rewards": np.append(random.integers(0, 3, size=responses - 2), [0.0, 2.0])}


def _wins(p: np.ndarray, q: np.ndarray, won: np.ndarray) -> float:
    return float(np.exp(p) @ won @ np.exp(q))


win_rate = Exercise(
    problem=_two_policies_and_rewards,
    exact=exact.win_rate,
    faults={
        "Ties are lost: they count one half.": lambda p, q, r: _wins(p, q, r[:, None] > r),
        "Ties are won: they count one half.": lambda p, q, r: _wins(p, q, r[:, None] >= r),
        "The two policies are exchanged: it is the first that wins.": lambda p, q, r: exact.win_rate(q, p, r),
        "This is the difference of the expected rewards: a win counts the same, however large.": lambda p, q, r: (
            np.exp(p) @ r - np.exp(q) @ r
        ),
        "This is the probability of a noisy label, σ(r − r'): the better response always wins here.": lambda p, q, r: (
            _wins(p, q, exact.preference_matrix(r, temperature=1.0))
        ),
        "Responses are compared with themselves: the two are drawn independently, so that all pairs count.": (
            lambda p, q, r: (np.exp(p) * (p > q)).sum()
        ),
        "All pairs of responses are counted alike: weigh them by π(y)·μ(y').": lambda p, q, r: exact.preference_matrix(
            r, temperature=0.0
        ).mean(),
    },
    done="Σ π(y)·μ(y')·([r > r'] + ½[r = r']): linear in each policy, and blind to *how much* better a response is.",
)


def _two_rewards(random: np.random.Generator) -> Problem:
    responses = int(random.integers(4, 8))
    return {
        "logp": exact.log_softmax(random.normal(size=responses)),
        "proxy": random.normal(size=responses),
        "gold": random.uniform(size=responses),
        "n": int(random.integers(2, 6)),
    }


def _best_by(logp: np.ndarray, by: np.ndarray, worth: np.ndarray, n: int) -> float:
    return float(exact.best_of_n(logp, by, n) @ worth)


best_by_proxy = Exercise(
    problem=_two_rewards,
    exact=lambda logp, proxy, gold, n: _best_by(logp, proxy, gold, n),
    faults={
        "This is the best by gold: whoever chooses sees the proxy alone.": lambda p, s, g, n: _best_by(p, g, g, n),
        "This is the proxy's expectation: gold is asked for.": lambda p, s, g, n: _best_by(p, s, s, n),
        "This is the best of n − 1.": lambda p, s, g, n: _best_by(p, s, g, n - 1),
        "This is the best of n + 1.": lambda p, s, g, n: _best_by(p, s, g, n + 1),
        "This is the worst of n by the proxy: its probability is that all others are *above*.": lambda p, s, g, n: (
            _best_by(p, -s, g, n)
        ),
        "This is the mean gold of the n: only the one with the largest proxy is kept.": lambda p, s, g, n: (
            np.exp(p) @ g
        ),
        "P(largest of n ≤ s) is not yet the probability of s: subtract that of everything below.": lambda p, s, g, n: (
            (np.where(s <= s[:, None], np.exp(p), 0.0).sum(-1) ** n) @ g
        ),
    },
    done="Σ gold(y)·[F(s_y)^n − F(below s_y)^n], F by the proxy: n is how hard the proxy is pushed.",
)
