"""Scores of a record, and the optima that they refer to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from sims import exact

from .experiment import Experiment
from .store import Record


def best_reward(record: Record) -> float:
    """The largest expected gold reward that any policy can have: the best response's, averaged over prompts."""
    return float(record.arrays["best_reward"].mean())


def scores(record: Record) -> np.ndarray:
    """(runs, points): (gold − reference's) / (largest gold − reference's): 0 is the reference policy, 1 the largest
    reward.

    The gold reward is the one for evaluation: the reward itself, unless it is learned. A run that diverged scores 0
    from then on, as one would use the reference instead."""
    arrays = record.arrays
    return _score(arrays, arrays["gold"])


def deployed_scores(record: Record) -> np.ndarray:
    """(runs, points): as `scores`, of the policy that users get, which is the sampler's of the last sync."""
    return _score(record.arrays, record.arrays["deployed_gold"])


def _score(arrays: Mapping[str, np.ndarray], gold: np.ndarray) -> np.ndarray:
    if "best_now" in arrays:  # rewards drift
        reference, best = arrays["reference_now"], arrays["best_now"]
    else:
        reference, best = arrays["reference_reward"][:, None], arrays["best_reward"][:, None]
    with np.errstate(divide="ignore", invalid="ignore"):  # NaN where all responses have one reward
        score = (gold - reference) / (best - reference)
    died = arrays["diverged_at"][:, None]
    return np.where((died >= 0) & (arrays["updates"] >= died), 0.0, score)


def part_scores(record: Record, name: str) -> np.ndarray:
    """(runs, points): `scores` by one of the parts that gold is the mean of, "first" or "second"; 0 is the reference,
    1 the most that this part alone can have."""
    arrays = record.arrays
    gold, best = arrays[f"gold_{name}"], arrays[f"best_{name}"][:, None]
    died = arrays["diverged_at"][:, None]
    score = (gold - gold[:, :1]) / (best - gold[:, :1])
    return np.where((died >= 0) & (arrays["updates"] >= died), 0.0, score)


def final_scores(record: Record) -> np.ndarray:
    """(runs,): the score at the end."""
    return scores(record)[:, -1]


def mean_scores(record: Record) -> np.ndarray:
    """(runs,): the score averaged over the evaluations after the start. It tells arms apart that end at one bound."""
    return np.asarray(scores(record)[:, 1:].mean(1))


def fall(record: Record) -> np.ndarray:
    """(runs,): how far the score at the end is below the best evaluation's."""
    found = scores(record)
    return np.asarray(found.max(-1) - found[:, -1])


def kl_of_best_response(record: Record) -> float:
    """KL to the reference of always giving the best response, in nats; the policy of largest reward."""
    if "kl_of_best" in record.arrays:
        return float(record.arrays["kl_of_best"].mean())
    logp_ref = record.arrays["logp_ref"]
    best = np.broadcast_to(record.arrays["rewards"].argmax(-1), logp_ref.shape[:-1])[..., None]
    return float(-np.take_along_axis(logp_ref, best, -1).mean())


def greedy_logp(record: Record) -> np.ndarray:
    """Log-probs of always giving the best response, or one of the best: (X, N)."""
    rewards = record.arrays["rewards"].astype(float)
    distribution = np.where(rewards == rewards.max(-1, keepdims=True), 0.0, -np.inf)
    return distribution - np.log(np.exp(distribution).sum(-1, keepdims=True))


def target_beta(experiment: Experiment) -> float | None:
    """The β for which π_ref·e^{r/β}/Z, r the gold reward, is the optimum of the experiment's objective; None if there
    is none.

    Policy gradients with the KL in the reward: their β. DPO: β times the label temperature, without flips; with
    noiseless labels its loss has no minimum, and with recorded pairs responses in no pair are undetermined. With a
    changing reference, drifting or learned rewards or implicit labels the optimum is another distribution.
    """
    algorithm, environment, schedule = experiment.algorithm, experiment.environment, experiment.schedule
    if schedule.reference != "fixed" or any(getattr(environment, name, False) for name in ("has_proxy", "drifts")):
        return None
    if experiment.labelling.labels == "implicit":
        return None
    if algorithm.kind in ("reinforce", "rloo", "ppo"):
        plain = {
            "kl_in": "reward",
            "kl_estimator": "k1",
            "target_kl": None,
            "gamma": 1.0,
        }  # other values, of PPO, change the objective
        exact_kl = all(getattr(algorithm, name, value) == value for name, value in plain.items())
        return algorithm.beta if exact_kl and algorithm.beta > 0 else None  # type: ignore[attr-defined]
    temperature, flips = (getattr(environment, name, 0.0) for name in ("label_temperature", "flip_rate"))
    labelled = temperature > 0 and flips == 0 and schedule.source != "dataset"
    if algorithm.kind == "dpo" and labelled and not algorithm.length_normalised:  # type: ignore[attr-defined]
        return algorithm.beta * temperature  # type: ignore[attr-defined, no-any-return]
    return None


@dataclass(frozen=True, eq=False)
class Optimum:
    """An exact optimum: means over runs and prompts, as for a record's curves.

    label: its name in tables. kl_policy_ref, entropy: nats, NaN where they are not known. logp: (R, X, N) float64,
    log-probs of all responses, None where these cannot be listed.
    """

    label: str
    reward: float
    score: float
    kl_policy_ref: float
    entropy: float
    logp: np.ndarray | None = field(repr=False)


def optima(record: Record, experiment: Experiment) -> list[Optimum]:
    """The policy of largest reward, where known; and the optimum under the experiment's KL penalty, if any
    (`target_beta`).

    Where responses cannot be listed, or rewards drift, only the largest reward is known: that of always giving a best
    response.
    """
    if "logp_ref" not in record.arrays or "best_now" in record.arrays:
        best = best_reward(record)
        kl, entropy = (kl_of_best_response(record), 0.0) if "kl_of_best" in record.arrays else (np.nan, np.nan)
        return [] if np.isnan(best) else [Optimum("largest reward", best, 1.0, kl, entropy, None)]
    logp_ref = record.arrays["logp_ref"].astype(float)
    rewards = record.arrays["rewards"].astype(float)
    distributions = {"largest reward": np.broadcast_to(greedy_logp(record), logp_ref.shape)}
    beta = target_beta(experiment)
    if beta is not None:
        of_beta = exact.optimum(logp_ref, np.broadcast_to(rewards, logp_ref.shape), beta)
        distributions[f"π* at β = {beta:g}"] = of_beta
    reference = exact.expected_reward(logp_ref, rewards).mean()
    found = []
    for label, logp in distributions.items():
        reward = exact.expected_reward(logp, rewards).mean()
        with np.errstate(divide="ignore", invalid="ignore"):
            score = float((reward - reference) / (best_reward(record) - reference))
        kl = float(exact.kl_policy_ref(logp, logp_ref).mean())
        found.append(Optimum(label, float(reward), score, kl, float(exact.entropy(logp).mean()), logp))
    return found
