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
REACHED = 0.9  # share of the runs whose sweep must have evaluations on either side of a level
SHARES = 12  # levels of KL relative to the largest of a run's sweep, each a factor of √2 below the next


def pooled(records: Sequence[Record]) -> np.ndarray:
    """(runs, levels): the mean score of all evaluations of all records at a level of KL; see `reached` for the levels
    that can be compared. Tang et al. 2024 pool all settings and checkpoints of a sweep in this way."""
    kl, score = _points(records)
    return _by_level(np.searchsorted(EDGES, kl) - 1, score, len(LEVELS))


def pooled_by_share(records: Sequence[Record]) -> np.ndarray:
    """(runs, SHARES): the same by the KL's share of the largest that the run's own sweep comes to, which is the last
    level: how far a sweep goes differs from problem to problem."""
    kl, score = _points(records)
    below = np.floor(-2.0 * np.log2(kl / kl.max(1, keepdims=True)))  # of the largest itself 0
    return _by_level(SHARES - 1 - below.astype(int), score, SHARES)


def _points(records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray]:
    """KL and score of all evaluations but the start: (runs, records · points) both."""
    kl = np.concatenate([record.arrays["kl_policy_ref"][:, 1:].astype(float) for record in records], axis=1)
    return np.maximum(kl, 1e-12), np.concatenate([scores(record)[:, 1:].astype(float) for record in records], axis=1)


def _by_level(level: np.ndarray, score: np.ndarray, count: int) -> np.ndarray:
    """(runs, count): mean scores; of levels that a run's evaluations miss, between those on either side, or the
    nearest."""
    found = np.zeros((len(level), count))
    for run, (levels, each) in enumerate(zip(level, score, strict=True)):
        inside = (levels >= 0) & (levels < count)
        number = np.bincount(levels[inside], minlength=count)
        total = np.bincount(levels[inside], weights=each[inside], minlength=count)
        there = number > 0
        if there.any():
            found[run] = np.interp(np.arange(count), np.flatnonzero(there), total[there] / number[there])
    return found


def reached(records: Sequence[Record]) -> slice:
    """The levels on either side of which the sweeps of REACHED of the runs have evaluations: beyond them a run's score
    would be that of another KL."""
    kl, _ = _points(records)
    low = (kl.min(1)[:, None] < EDGES[None, 1:]).mean(0) >= REACHED
    high = (kl.max(1)[:, None] >= EDGES[None, :-1]).mean(0) >= REACHED
    levels = np.flatnonzero(low & high)
    return slice(int(levels[0]), int(levels[-1]) + 1) if len(levels) else slice(0, 1)


def shared(one: slice, other: slice) -> slice:
    """The levels of both; of none, the one between."""
    first, last = max(one.start, other.start), min(one.stop, other.stop)
    return slice(first, max(last, first + 1))


def fall(paths: np.ndarray) -> np.ndarray:
    """(runs,): by how much a score falls from its peak to the last point; negative where it goes on rising.

    paths: (runs, points), without the start. The peak is the point before the last at which the mean over the other
    half of the runs is largest, so that choosing it flatters nothing.
    """
    found = np.empty(len(paths))
    for half in (0, 1):
        peak = int(paths[1 - half :: 2, : max(1, paths.shape[1] - 1)].mean(0).argmax())
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
