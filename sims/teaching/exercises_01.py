"""Exercises of notebook 1: the optimum under a KL penalty."""

from __future__ import annotations

import numpy as np

from sims import exact

from .checking import Exercise, Problem


def _reference_and_rewards(random: np.random.Generator) -> Problem:
    responses = int(random.integers(4, 8))
    return {
        "logp_ref": exact.log_softmax(random.normal(size=responses)),
        "rewards": random.normal(size=responses),
        "beta": float(random.uniform(0.3, 0.8)),
    }


def _two_policies(random: np.random.Generator) -> Problem:
    responses = int(random.integers(4, 8))
    return {"logp": exact.log_softmax(random.normal(size=responses))} | {
        "logp_ref": exact.log_softmax(random.normal(size=responses))
    }


def _policies_and_beta(random: np.random.Generator) -> Problem:
    return _two_policies(random) | {"beta": float(random.uniform(0.3, 0.8))}


optimum = Exercise(
    problem=_reference_and_rewards,
    exact=exact.optimum,
    faults={
        "β is missing: the exponent is r/β, and yours is r.": lambda p, r, b: exact.optimum(p, r, 1.0),
        "β is on the wrong side: the exponent is r/β, and yours is r·β.": lambda p, r, b: exact.optimum(p, r, 1 / b),
        "The sign of the reward is wrong: your policy prefers the worst response.": lambda p, r, b: exact.optimum(
            p, -r, b
        ),
        "The normaliser Z is missing: your probabilities do not sum to 1.": lambda p, r, b: p + r / b,
        "The reference is missing: this is softmax(r/β).": lambda p, r, b: exact.log_softmax(r / b),
        "The reference counts 1/β times: only the reward is divided by β.": lambda p, r, b: exact.log_softmax(
            (p + r) / b
        ),
    },
    done="π* = π_ref·exp(r/β)/Z.",
)

kl = Exercise(
    problem=_two_policies,
    exact=exact.kl_policy_ref,
    faults={
        "The direction is reversed: this is KL(π_ref‖π).": exact.kl_ref_policy,
        "The sign is wrong: a KL is never negative.": lambda p, q: -exact.kl_policy_ref(p, q),
        "The log-ratio is averaged over responses as if all were equally likely: weigh it by π.": lambda p, q: (
            p - q
        ).mean(),
        "The weighed terms are divided by their number: an expectation under π is their sum.": lambda p, q: (
            np.exp(p) * (p - q)
        ).mean(),
        "The weights are missing: the log-ratio is summed, not averaged under π.": lambda p, q: (p - q).sum(),
        "The log-ratio is weighed by π_ref: the expectation is under π.": lambda p, q: (np.exp(q) * (p - q)).sum(),
        "This is the entropy of π: the reference does not occur.": lambda p, q: exact.entropy(p),
        "This is the cross-entropy −Σ π log π_ref: the entropy of π is not subtracted.": lambda p, q: (
            -(np.exp(p) * q).sum()
        ),
    },
    done="KL(π‖π_ref) = Σ π·(log π − log π_ref), an expectation under π.",
)


def _implied(logp: np.ndarray, logp_ref: np.ndarray, beta: float) -> np.ndarray:
    return beta * (logp - logp_ref)


implied_reward = Exercise(
    problem=_policies_and_beta,
    exact=_implied,
    measure=lambda answer, *arguments: np.asarray(answer(*arguments)) - np.asarray(answer(*arguments)).ravel()[0],
    faults={
        "β is missing: a log-ratio is r/β, up to a constant.": lambda p, q, b: p - q,
        "β is on the wrong side: the log-ratio is multiplied by β, not divided.": lambda p, q, b: (p - q) / b,
        "The sign is wrong: what π prefers more than π_ref does has the larger reward.": lambda p, q, b: b * (q - p),
        "The reference is missing: a response can be likely because it was likely before.": lambda p, q, b: b * p,
        "This is a ratio of probabilities: take its log.": lambda p, q, b: b * np.exp(p - q),
    },
    done="r = β·log(π*/π_ref) + β·log Z, and Z is the same for all responses to a prompt: rewards are known up to it.",
)
