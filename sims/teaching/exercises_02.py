"""Exercises of notebook 2: the score, a group's baseline, and the baseline with the least noise."""

from __future__ import annotations

import numpy as np

from sims import exact
from sims.exact import variance

from .checking import Exercise, Problem


def _policy(random: np.random.Generator) -> np.ndarray:
    return np.exp(exact.log_softmax(random.normal(size=int(random.integers(4, 8)))))


def _policy_and_response(random: np.random.Generator) -> Problem:
    pi = _policy(random)
    return {"pi": pi, "y": int(random.integers(len(pi)))}


def _policy_and_rewards(random: np.random.Generator) -> Problem:
    pi = _policy(random)
    return {"pi": pi, "rewards": random.normal(1.0, 1.0, size=len(pi))}


def _score(pi: np.ndarray, y: int) -> np.ndarray:
    """Its own chain rule: the gradient of ℓ(y) is that of a loss whose weight is 1 on y and 0 elsewhere."""
    responses = np.arange(len(pi))[:, None]
    one = np.ones_like(responses, dtype=bool)
    return exact.chain_rule(np.eye(len(pi))[y][None], np.log(pi)[None, None], responses, one)[0, 0]


score = Exercise(
    problem=_policy_and_response,
    exact=_score,
    faults={
        "Only y's own logit moves in yours: the softmax's normaliser gives −π for all.": lambda p, y: np.eye(len(p))[y],
        "The sign is wrong: a higher logit of y makes y likelier.": lambda p, y: p - np.eye(len(p))[y],
        "π is added: the normaliser is subtracted, 1[i = y] − π(i).": lambda p, y: np.eye(len(p))[y] + p,
        "This is the gradient of π(y), not of log π(y): divide by π(y).": lambda p, y: p[y] * (np.eye(len(p))[y] - p),
        "This is the derivative by the probability, 1/π(y): it is asked for by the logits.": lambda p, y: (
            np.eye(len(p))[y] / p[y]
        ),
        "All responses but y are left out: −π(i) stands at the others too.": lambda p, y: np.eye(len(p))[y] * (1 - p),
    },
    done="∂log π(y)/∂z = 1[i = y] − π(i), which sums to 0: no direction moves all logits.",
)

leave_one_out = Exercise(
    problem=lambda random: {"rewards": random.normal(size=int(random.integers(3, 7)))},
    exact=lambda r: np.array([r[k] - np.delete(r, k).mean() for k in range(len(r))]),
    faults={
        "The own reward is in the mean: this is (K−1)/K of the right advantage, as in Dr. GRPO.": lambda r: (
            r - r.mean()
        ),
        "The sum of the others is divided by K: there are K−1 of them.": lambda r: r - (r.sum() - r) / len(r),
        "The sum of the others is subtracted, not their mean.": lambda r: r - (r.sum() - r),
        "The sign is wrong: a better response than the others has a positive advantage.": lambda r: (
            (r.mean() - r) * len(r) / (len(r) - 1)
        ),
        "This is divided by the group's standard deviation, as in GRPO: RLOO does not.": lambda r: (
            (r - r.mean()) / r.std(ddof=1)
        ),
        "This is divided by the group's standard deviation (ddof 0): RLOO does not.": lambda r: (
            (r - r.mean()) / r.std()
        ),
    },
    done="r_k − mean of the others = K/(K−1)·(r_k − mean of all): unbiased, as the others know nothing of y_k.",
)


def _squares(pi: np.ndarray) -> np.ndarray:
    return ((np.eye(len(pi)) - pi) ** 2).sum(1)


def _least(pi: np.ndarray, rewards: np.ndarray) -> float:
    """From the exact noise of three baselines: it is a parabola in b, whose lowest point three points tell."""
    responses = np.arange(len(pi))[:, None]
    answers = variance.table_answers(
        np.log(pi)[None, None], rewards[None], responses, np.ones_like(responses, dtype=bool)
    )
    low, middle, high = (float(variance.reinforce(answers, 1, b).square[0]) for b in (-1.0, 0.0, 1.0))
    return (low - high) / (2 * (low - 2 * middle + high))


best_baseline = Exercise(
    problem=_policy_and_rewards,
    exact=_least,
    faults={
        "This is the mean reward: good, not the best. Weigh each reward by |∇log π|² too.": lambda p, r: p @ r,
        "This is the mean over responses as if all were equally likely.": lambda p, r: r.mean(),
        "The weights are not divided by their sum.": lambda p, r: (p * _squares(p)) @ r,
        "The weights are the lengths of the scores: it must be their squares.": lambda p, r: (
            (p * _squares(p) ** 0.5) @ r / (p @ _squares(p) ** 0.5)
        ),
        "π is missing from the weights: they are π·|∇log π|².": lambda p, r: _squares(p) @ r / _squares(p).sum(),
        "This weighs by π², not by π·|∇log π|².": lambda p, r: (p**2) @ r / (p**2).sum(),
        "The score's square is that of its own logit, (1−π)²: sum over all logits.": lambda p, r: (
            (p * (1 - p) ** 2) @ r / (p @ (1 - p) ** 2)
        ),
    },
    done="b* = E[r·|∇log π|²]/E[|∇log π|²].",
)
