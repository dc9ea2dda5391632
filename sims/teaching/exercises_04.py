"""Exercises of notebook 4: weights on responses, best of n, and the two directions of the KL."""

from __future__ import annotations

import numpy as np

from sims import exact
from sims.exact.kl_dynamics import descent

from .checking import Exercise, Problem


def _distribution(random: np.random.Generator, responses: int) -> np.ndarray:
    return np.exp(exact.log_softmax(random.normal(size=responses)))


def _weights_and_policy(random: np.random.Generator) -> Problem:
    responses = int(random.integers(4, 8))
    return {"weights": random.normal(size=responses), "p": _distribution(random, responses)}


def _draws(random: np.random.Generator) -> Problem:
    """Two of the responses are equally good."""
    responses = int(random.integers(4, 8))
    rewards = random.permutation(np.append(np.arange(responses - 1), 1)).astype(float)
    return {"p": _distribution(random, responses), "rewards": rewards, "n": int(random.integers(2, 6))}


def _policy_and_target(random: np.random.Generator) -> Problem:
    responses = int(random.integers(4, 8))
    return {"p": _distribution(random, responses), "q": _distribution(random, responses)}


gradient_on_logits = Exercise(
    problem=_weights_and_policy,
    exact=lambda weights, p: weights - p * weights.sum(),
    faults={
        "This is the weight itself: a logit also lowers all other responses, through the normaliser.": lambda w, p: w,
        "This is p·(w − Σ p·w): the weights are multiplied by p, as rewards of the policy's own draws would be.": (
            lambda w, p: p * (w - (p * w).sum())
        ),
        "The normaliser's part is w − p·mean(w): the weights are summed, not averaged.": lambda w, p: w - p * w.mean(),
        "Yours is w − p·(Σ p·w): the weights are averages over draws already, so that p·Σ w is subtracted.": (
            lambda w, p: w - p * (p @ w)
        ),
        "Every logit is lowered alike: response y loses its share p(y) of Σ w.": lambda w, p: w - w.mean(),
        "The normaliser's part has the wrong sign.": lambda w, p: w + p * w.sum(),
        "This is p·w: the weights on log-probs are taken for weights on probabilities.": lambda w, p: p * w,
    },
    done="∂L/∂z = w − p·Σw: if the weights do not sum to 0, the policy's own p pays, or gains, the rest.",
)


def _ties_always_win(p: np.ndarray, rewards: np.ndarray, n: int) -> np.ndarray:
    """Each response's chance that none of n draws beats it, times its share: ties counted for each."""
    below_or_equal = np.array([p[rewards <= r].sum() for r in rewards])
    return below_or_equal**n - (below_or_equal - p) ** n


def _whole_level(p: np.ndarray, rewards: np.ndarray, n: int) -> np.ndarray:
    """Each response's chance that the best draw is as good as it is."""
    return np.array([p[rewards <= r].sum() ** n - p[rewards < r].sum() ** n for r in rewards])


best_of_n = Exercise(
    problem=_draws,
    exact=lambda p, rewards, n: exact.best_of_n(np.log(p), rewards, n),
    faults={
        "Equally good responses: within one level of reward the winner is distributed as p itself.": _ties_always_win,
        "Equally good responses: yours is the probability of their whole level, of which each has a share, p over the "
        "level's mass.": _whole_level,
        "This is p^n, normalised, the probability that all draws are the same response: rewards do not occur.": (
            lambda p, r, n: p**n / (p**n).sum()
        ),
        "This is the best of n − 1 draws.": lambda p, r, n: exact.best_of_n(np.log(p), r, n - 1),
        "This is the worst of n draws.": lambda p, r, n: exact.best_of_n(np.log(p), -r, n),
        "This is p·e^r, normalised: best of n counts ranks only, and never a reward's size.": lambda p, r, n: np.exp(
            exact.optimum(np.log(p), r, 1.0)
        ),
        "This always takes the best response: with n draws it may not be among them.": lambda p, r, n: np.eye(len(p))[
            r.argmax()
        ],
        "This is P(no draw is better), (Σ p over r ≤ r_y)^n, for each y: subtract P(all draws are worse), and share it "
        "within the level.": lambda p, r, n: np.array([p[r <= own].sum() for own in r]) ** n,
    },
    done="p(y)/p(level)·[P(r ≤ r_y)^n − P(r < r_y)^n]: what imitating the best of n descends towards.",
)

reverse_kl_gradient = Exercise(
    problem=_policy_and_target,
    exact=lambda p, q: descent("reverse", "logits", p, q),
    faults={
        "This is the gradient of the forward KL, KL(q‖p): p − q.": lambda p, q: descent("forward", "logits", p, q),
        "The factor p is missing: this is the natural gradient, log(p/q) − KL.": lambda p, q: descent(
            "reverse", "natural", p, q
        ),
        "KL(p‖q) is not subtracted: a gradient on logits sums to 0.": lambda p, q: p * np.log(p / q),
        "This is p·(log(p/q) + 1), the derivative by p times p: the softmax's normaliser is missing.": lambda p, q: (
            p * (np.log(p / q) + 1)
        ),
        "This is the derivative by p, log(p/q) + 1: the logits come one step further down the chain.": lambda p, q: (
            np.log(p / q) + 1
        ),
        "p and q are exchanged in the log: log(p/q), not log(q/p).": lambda p, q: (
            descent("reverse", "logits", p, q) * -1.0
        ),
    },
    done="p·(log(p/q) − KL(p‖q)): damped by p, and so nearly blind to what the policy nearly lacks.",
)
