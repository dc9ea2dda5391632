"""Exercises of notebook 9: the rate of the chosen log-prob, a negative estimate of the KL, and a rare response."""

from __future__ import annotations

import numpy as np

from sims import exact

from .checking import Exercise, Problem


def _features_and_policy(random: np.random.Generator) -> Problem:
    responses = int(random.integers(3, 7))
    return {"phi": random.normal(size=(responses, 3)), "pi": np.exp(exact.log_softmax(random.normal(size=responses)))}


def _chosen_rate(phi: np.ndarray, pi: np.ndarray) -> float:
    """By the exact chain rule: the gradient of ℓ(chosen) by the logits, along what the step does to the logits."""
    responses = np.arange(len(pi))[:, None]
    weight = np.eye(len(pi))[0][None]
    by_logits = exact.chain_rule(weight, np.log(pi)[None, None], responses, np.ones_like(responses, dtype=bool))[0, 0]
    return float(by_logits @ (phi @ (phi[0] - phi[1])))


chosen_rate = Exercise(
    problem=_features_and_policy,
    exact=_chosen_rate,
    faults={
        "The normaliser is forgotten: this is the logit's change, not the log-prob's.": lambda f, p: (
            f[0] @ (f[0] - f[1])
        ),
        "The sign is wrong: the step goes along φ_w − φ_l.": lambda f, p: (f[0] - p @ f) @ (f[1] - f[0]),
        "The mean of the features is unweighted: it is an expectation under π.": lambda f, p: (
            (f[0] - f.mean(0)) @ (f[0] - f[1])
        ),
        "This is the change of the margin: the chosen response's own is asked for.": lambda f, p: (
            (f[0] - f[1]) @ (f[0] - f[1])
        ),
        "This is the rejected response's rate.": lambda f, p: (f[1] - p @ f) @ (f[0] - f[1]),
        "This is the rate of π, not of log π: divide by π(chosen).": lambda f, p: p[0] * (f[0] - p @ f) @ (f[0] - f[1]),
    },
    done="(φ_w − E φ)·(φ_w − φ_l): negative where the chosen response is nearer to the rejected one than to the rest.",
)


def _two_policies(random: np.random.Generator) -> Problem:
    responses = int(random.integers(5, 9))
    logits = random.normal(size=responses)
    # The first two are moved up and down by so much that each problem has both signs.
    push = np.concatenate([[1.0, -1.0], random.normal(0.0, 0.5, size=responses - 2)])
    return {"logp": exact.log_softmax(logits + push), "logp_ref": exact.log_softmax(logits)}


negative_k1 = Exercise(
    problem=_two_policies,
    exact=lambda p, q: exact.expected_reward(p, (p < q).astype(float)),
    faults={
        "This is how often it is positive.": lambda p, q: np.exp(p)[p > q].sum(),
        "Responses are counted as if all were equally likely: weigh them by π.": lambda p, q: (p < q).mean(),
        "Responses are counted, not their probability.": lambda p, q: (p < q).sum(),
        "They are weighed by π_ref: the samples are the policy's.": lambda p, q: np.exp(q)[p < q].sum(),
        "Log-probs are added: it is the probabilities that add up.": lambda p, q: p[p < q].sum(),
        "This is the mean of the negative part of k1: its probability is asked for.": lambda p, q: (
            np.exp(p) * (p - q)
        )[p < q].sum(),
    },
    done="The policy's mass on what it gives less often than the reference does.",
)


def _rare(random: np.random.Generator) -> Problem:
    return {
        "mass": float(10 ** random.uniform(-4, -3)),
        "samples": int(random.integers(100, 1000)),
        "seeds": int(random.integers(2, 6)),
    }


seen_by_any = Exercise(
    problem=_rare,
    exact=lambda mass, samples, seeds: -np.expm1(samples * seeds * np.log1p(-mass)),
    faults={
        "This is the expected number of sightings, which can exceed 1.": lambda m, n, s: m * n * s,
        "This is the probability for one seed.": lambda m, n, s: 1 - (1 - m) ** n,
        "This is the probability that none sees it.": lambda m, n, s: (1 - m) ** (n * s),
        "Probabilities of several seeds do not add up: one minus the product of their misses.": lambda m, n, s: (
            s * (1 - (1 - m) ** n)
        ),
        "This is the probability that every seed sees it.": lambda m, n, s: (1 - (1 - m) ** n) ** s,
    },
    done="1 − (1 − p)^(samples·seeds).",
)
