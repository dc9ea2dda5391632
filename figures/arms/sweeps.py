"""What the figures that sweep a schedule share: equal grids, schedules, and effects of claims that nothing is lost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from figures.committed import Point
from figures.lab import FINAL_RUNS, product
from sims import exact
from sims.core.algorithms.clipped import PPO
from sims.core.algorithms.mixture import Mixture
from sims.core.schedule import Schedule
from sims.experiments.experiment import Experiment
from sims.experiments.measures import best_reward
from sims.experiments.store import Record
from sims.statistics.intervals import Interval

# Offline, contrastive losses gain from steps far larger than most arms want on fresh samples.
LEARNING_RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
BETAS, CLIP_RANGES = (0.03, 0.3), (0.1, 0.4)
# Runs of every point, and how many of the best are run again.
TUNING: dict[str, Any] = {"tuning_runs": 4, "finalists": 3}
POINTS = len(LEARNING_RATES) * len(BETAS)
# For captions.
ROUNDS = f"{TUNING['tuning_runs']} runs each, and {FINAL_RUNS} more of the best {TUNING['finalists']}"
TRIED = f"{POINTS} points ({ROUNDS}) of learning rate ({LEARNING_RATES[0]:g} … {LEARNING_RATES[-1]:g})"
MINIBATCH, GENERATIONS = 4, 4  # an update's prompts, and responses per prompt
SAMPLES_AN_UPDATE = MINIBATCH * GENERATIONS


def equal_grid(arm: Experiment, lowest: float = LEARNING_RATES[0], highest: float = LEARNING_RATES[-1]) -> list[Point]:
    """As many points for any arm: learning rate × its β or clip range, or twice as many learning rates.

    All cover the same learning rates, but for an arm whose best lay at an end, which may be given other ends: then its
    rates are spread evenly between them. PPO and RLOO go without a KL penalty, so β is not theirs to tune. Where every
    update has fresh samples of its own, PPO's ratio is 1 and its clip range does nothing: such an arm gets learning
    rates alone.
    """
    own = (lowest, highest) != (LEARNING_RATES[0], LEARNING_RATES[-1])
    rates = spread(lowest, highest, len(LEARNING_RATES)) if own else LEARNING_RATES
    if isinstance(arm.algorithm, PPO) and arm.schedule.sync_period > 1:
        return product(learning_rate=rates, epsilon=CLIP_RANGES)
    if getattr(arm.algorithm, "beta", 0.0) > 0:
        return product(learning_rate=rates, beta=BETAS)
    return product(learning_rate=spread(lowest, highest, POINTS))


def spread_grid(arm: Experiment, lowest: float, highest: float, betas: Sequence[float], count: int) -> list[Point]:
    """So many points: learning rate × β for an algorithm that has one, else learning rates alone, between given ends.

    With three values or more, β has ends too, and `gating.edges` sees an arm that took one.
    """
    names = ["beta"] if hasattr(arm.algorithm, "beta") else []
    if isinstance(arm.algorithm, Mixture):  # of the first loss that has one
        names = [f"{loss.kind}.beta" for loss in arm.algorithm.losses if hasattr(loss, "beta")][:1]
    if not names:
        return product(learning_rate=spread(lowest, highest, count))
    return product(learning_rate=spread(lowest, highest, count // len(betas)), **{names[0]: betas})


def spread(lowest: float, highest: float, count: int) -> tuple[float, ...]:
    """So many values, evenly on a logarithmic scale, by two digits."""
    return tuple(float(f"{x:.2g}") for x in np.geomspace(lowest, highest, count))


def at_the_edge(records: Mapping[str, Record], called: str = "arms") -> str:
    """How many records took the largest learning rate of `equal_grid`: there a figure may show less than there is."""
    edge = sum(record.spec["optimiser"]["learning_rate"] == LEARNING_RATES[-1] for record in records.values())
    return (
        f"{edge} of the {len(records)} {called} took the largest learning rate tried, {LEARNING_RATES[-1]:g}, and "
        "might reach more with a larger one."
    )


def batch_schedule(samples: float) -> Schedule:
    """So many samples are drawn by one policy, then used once, 16 per update. inf: by the initial policy for ever.

    A batch of B samples is the sync period s = B/16: drawing 16 at a time from a sampler that is renewed every s
    updates gives the same stream (tests/figures/test_sweeps.py), but for the age of PPO's critic.
    """
    if math.isinf(samples):
        return Schedule(batch_size=MINIBATCH, num_generations=GENERATIONS, sync_every_updates=math.inf)
    prompts = int(samples) // GENERATIONS
    return Schedule(batch_size=prompts, num_generations=GENERATIONS, minibatch_size=MINIBATCH)


def largest(effects: Sequence[Interval]) -> Interval:
    """The largest of several effects. Its upper end is above the truth whenever every effect's is."""
    ends = {name: max(getattr(effect, name) for effect in effects) for name in ("estimate", "low", "high")}
    return replace(effects[0], **ends)


def best_arm(arms: dict[str, np.ndarray]) -> str:
    """The name of the arm with the largest mean. arms: (runs,) each."""
    return max(arms, key=lambda name: float(arms[name].mean()))


def crossfit_best(arms: np.ndarray) -> np.ndarray:
    """Scores of the best arm, chosen on the other half of the runs, so that choosing it flatters nothing: (runs,).

    arms: (arms, runs). Even runs are scored at the arm that is best in the mean over the odd ones, and odd by even.
    """
    scores = np.empty(arms.shape[1])
    for half in (0, 1):
        chosen = arms[:, 1 - half :: 2].mean(1).argmax()
        scores[half::2] = arms[chosen, half::2]
    return scores


def tables(record: Record) -> tuple[np.ndarray, np.ndarray]:
    """log π_ref and gold rewards of every response, in float64: (runs, X, N) both."""
    logp_ref = record.arrays["logp_ref"].astype(float)
    return logp_ref, np.broadcast_to(record.arrays["rewards"].astype(float), logp_ref.shape)


def exact_score(record: Record, distribution: np.ndarray) -> float:
    """Score of a policy of which all probabilities are known, mean over runs. distribution: log-probs (runs, X, N)."""
    logp_ref, rewards = tables(record)
    reward, reference = (exact.expected_reward(x, rewards).mean() for x in (distribution, logp_ref))
    return float((reward - reference) / (best_reward(record) - reference))
