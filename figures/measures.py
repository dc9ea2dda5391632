"""Numbers read off records: scores, gaps, optima."""

from __future__ import annotations

import numpy as np

from sims import exact
from sims.core.store import Record


def best_reward(record: Record) -> float:
    """The largest expected reward that any policy can have: the mean over prompts of the best response's."""
    return float(record.arrays["rewards"].max(-1).mean())


def scores(record: Record) -> np.ndarray:
    """(runs, points): (reward − reference's) / (largest reward − reference's): 0 is the reference, 1 cannot be beaten.

    A run that diverged scores 0 from then on: one would throw it away and serve the reference.
    """
    reward = record.arrays["reward"]
    reference = record.arrays["reference_reward"][:, None]
    score = (reward - reference) / (best_reward(record) - reference)
    died = record.arrays["diverged_at"][:, None]
    return np.where((died >= 0) & (record.arrays["updates"] >= died), 0.0, score)


def final_scores(record: Record) -> np.ndarray:
    """(runs,): the score at the end."""
    return scores(record)[:, -1]


def kl_of_best_response(record: Record) -> float:
    """KL to the reference of always giving the best response: the most that reward can ask for, in nats."""
    best = record.arrays["rewards"].argmax(-1)
    logp = np.take_along_axis(
        record.arrays["logp_ref"], best[None, :, None].repeat(len(record.arrays["logp_ref"]), 0), -1
    )
    return float(-logp.mean())


def optimum_frontier(record: Record, betas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """KL and score of π* ∝ π_ref·e^{r/β} for each β: no policy scores more at that KL. Uses the first run's
    reference."""
    logp_ref, rewards = record.arrays["logp_ref"][0].astype(float), record.arrays["rewards"].astype(float)
    reference = exact.expected_reward(logp_ref, rewards).mean()
    best = rewards.max(-1).mean()
    kls, points = [], []
    for beta in betas:
        optimum = exact.kl_optimum(logp_ref, rewards, float(beta))
        kls.append(exact.kl_policy_ref(optimum, logp_ref).mean())
        points.append((exact.expected_reward(optimum, rewards).mean() - reference) / (best - reference))
    return np.array(kls), np.array(points)
