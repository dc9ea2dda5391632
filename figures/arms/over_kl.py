"""Gold reward against the distance from the reference: scores pooled over a sweep, falls from a peak, exact frontiers,
and the fit of Gao et al. 2023."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sims import exact
from sims.experiments.measures import scores
from sims.experiments.record_file import Record

EDGES = np.geomspace(0.05, 12.8, 17)  # of the levels of KL, in nats: each a factor of √2
LEVELS = np.sqrt(EDGES[1:] * EDGES[:-1])
REACHED = 0.9  # share of the runs whose sweep must go as far as a level


def pooled(records: Sequence[Record]) -> np.ndarray:
    """(runs, levels): the mean score of all evaluations of all records, but the start, whose KL is in a level; between
    levels that a run's evaluations miss interpolated over log KL, and constant beyond them. Tang et al. 2024 pool all
    settings and checkpoints of a sweep in this way. Without the level, a run that never leaves [0.05, 12.8] nats is
    NaN."""
    kl = np.concatenate([record.arrays["kl_policy_ref"][:, 1:].astype(float) for record in records], axis=1)
    score = np.concatenate([scores(record)[:, 1:].astype(float) for record in records], axis=1)
    level = np.searchsorted(EDGES, kl) - 1
    found = np.full((len(kl), len(LEVELS)), np.nan)
    for run, (levels, each) in enumerate(zip(level, score, strict=True)):
        inside = (levels >= 0) & (levels < len(LEVELS))
        count = np.bincount(levels[inside], minlength=len(LEVELS))
        total = np.bincount(levels[inside], weights=each[inside], minlength=len(LEVELS))
        there = count > 0
        if there.any():
            found[run] = np.interp(np.arange(len(LEVELS)), np.flatnonzero(there), total[there] / count[there])
    return found


def reached(records: Sequence[Record]) -> int:
    """The highest level of KL to which the sweep of REACHED of the runs goes."""
    furthest = np.max([record.arrays["kl_policy_ref"].max(1) for record in records], axis=0)
    shares = (furthest[:, None] >= EDGES[None, :-1]).mean(0)
    return int(np.flatnonzero(shares >= REACHED).max(initial=0))


def fall(paths: np.ndarray) -> np.ndarray:
    """(runs,): by how much a score falls from its peak to the last point; negative where it goes on rising.

    paths: (runs, points), without the start. The peak is the point before the last at which the mean over the other
    half of the runs is largest, so that choosing it flatters nothing.
    """
    found = np.empty(len(paths))
    for half in (0, 1):
        peak = int(paths[1 - half :: 2, :-1].mean(0).argmax())
        found[half::2] = paths[half::2, peak] - paths[half::2, -1]
    return found


@dataclass(frozen=True)
class Frontier:
    """A family of distributions, from the reference on: means over problems. kl: nats; gold and proxy: in the unit of
    the score, from the reference's reward to the largest, each of its own reward; all (points,)."""

    kl: np.ndarray
    gold: np.ndarray
    proxy: np.ndarray


def frontier(record: Record, of: str, family: str) -> Frontier:
    """Exact, for the problems of a record with tables. of: "rewards", gold, or "learned_rewards". family: "rl", the
    optimum ∝ π_ref·e^{r/β} over β; "best of n" over n."""
    arrays = record.arrays
    logp_ref, gold = arrays["logp_ref"].astype(float), arrays["rewards"].astype(float)
    gold = np.broadcast_to(gold, logp_ref.shape)
    learned = arrays["learned_rewards"].astype(float) if "learned_rewards" in arrays else gold
    aim = gold if of == "rewards" else learned
    if family == "rl":
        drawn = [exact.optimum(logp_ref, aim, beta) for beta in np.geomspace(30.0, 0.03, 25)]
    else:
        with np.errstate(divide="ignore"):
            drawn = [np.log(exact.best_of_n(logp_ref, aim, int(n))) for n in 2 ** np.arange(1, 12)]
    kl = np.array([exact.kl_policy_ref(logp, logp_ref).mean() for logp in drawn])
    return Frontier(kl, *(np.array([_score(logp, logp_ref, r) for logp in drawn]) for r in (gold, learned)))


def _score(logp: np.ndarray, logp_ref: np.ndarray, rewards: np.ndarray) -> float:
    reference = exact.expected_reward(logp_ref, rewards).mean(-1)
    best = rewards.max(-1).mean(-1)
    return float(((exact.expected_reward(logp, rewards).mean(-1) - reference) / (best - reference)).mean())


@dataclass(frozen=True)
class Fit:
    """Gao et al.'s fit of a gold score. curve: of d = √KL; error: root mean square, as a share of the largest score."""

    alpha: float
    beta: float
    error: float
    curve: Callable[[np.ndarray], np.ndarray]


def gao_fit(kl: np.ndarray, gold: np.ndarray, family: str) -> Fit:
    """Least squares of d·(α − β·d) for best of n, and of d·(α − β·log d) for RL, with d = √KL. kl, gold: (points,).

    Gao et al. 2023 fit reward models of language; nothing says that the form holds elsewhere, hence the error.
    """

    def basis(d: np.ndarray) -> np.ndarray:
        return np.stack([d, -d * (d if family == "best of n" else np.log(d))], axis=-1)

    (alpha, beta), *_ = np.linalg.lstsq(basis(np.sqrt(kl)), gold, rcond=None)
    error = np.sqrt(((basis(np.sqrt(kl)) @ [alpha, beta] - gold) ** 2).mean()) / np.abs(gold).max()
    return Fit(float(alpha), float(beta), float(error), lambda d: basis(d) @ np.array([alpha, beta]))
