"""What a monitor of a weekly loop looks at, and what it says: growth of length, fall of entropy, exploits of a flaw in
the labels, and the ROC curve of an alarm. Records are of runs on `Drifting`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from sims.core.spec import from_json
from sims.experiments.measures import scores
from sims.experiments.store import Record
from sims.statistics.bounded import bounded_interval
from sims.statistics.gates import Gate
from sims.statistics.intervals import Interval, mean_interval

LONGER, FLATTER, FALLEN = 0.3, 0.5, 0.1  # alarms: length +30 %, entropy below half; and what counts as a fall in score
NATS = 1.0  # from the reference, where exploits are compared at equal KL
COARSEST = 0.5  # nats between the two evaluations around it: half of the way that is compared

Alarm = Callable[[Record], np.ndarray]  # (runs,) 0 or 1


def exploit(record: Record) -> np.ndarray:
    """(runs, points): what the labellers' flaw likes, of what is sampled."""
    return np.asarray(record.arrays["exploit"].astype(float))


def over_updates(record: Record) -> np.ndarray:
    """(runs,): the exploit, mean over the evaluations, without the start."""
    return np.asarray(exploit(record)[:, 1:].mean(1))


def growth(record: Record) -> np.ndarray:
    """(runs,): by how much responses have grown at the end, as a share of their length at the start."""
    length = record.arrays["length"].astype(float)
    return np.asarray(length[:, -1] / length[:, 0] - 1.0)


def has_grown(record: Record) -> np.ndarray:
    """(runs,) 0 or 1: responses 30 % longer at the end, at a higher reward as the learner sees it."""
    reward = record.arrays["reward"]
    return ((growth(record) >= LONGER) & (reward[:, -1] > reward[:, 0])).astype(float)


def warned(record: Record) -> np.ndarray:
    """(runs,) 0 or 1: entropy below half of its start, a week or more before the score first fell by a tenth below its
    best so far; where it never does, at any time."""
    return (lost(record) > 1.0 - FLATTER).astype(float)


def lost(record: Record) -> np.ndarray:
    """(runs,): the largest share of the entropy at the start that was lost a week or more before the score first fell
    by a tenth below its best so far; where it never does, by a week before the end."""
    entropy = record.arrays["entropy"].astype(float)
    points = np.arange(entropy.shape[1])
    last = np.minimum(falls_at(record), len(points) - 1) - _points_a_week(record)
    share = 1.0 - entropy / entropy[:, :1]
    return np.asarray(np.where(points <= last[:, None], share, 0.0).max(1))


def falls_at(record: Record) -> np.ndarray:
    """(runs,): the first evaluation at which the score is a tenth below its best so far; one beyond the last: never."""
    found = scores(record)
    fallen = found < np.maximum.accumulate(found, axis=1) - FALLEN
    return np.where(fallen, np.arange(found.shape[1]), found.shape[1]).min(1)


def _points_a_week(record: Record) -> int:
    weeks = from_json(record.spec["environment"]).cycles
    return max(1, (len(record.arrays["updates"]) - 1) // weeks)


def at_nats(record: Record) -> np.ndarray:
    """(runs,): the exploit where the mean KL to the reference is a nat, between the two evaluations around it; at the
    end where it never is."""
    kl, found = _mean_kl(record), exploit(record)
    if kl.max() < NATS:
        return np.asarray(found[:, -1])
    after = int((kl >= NATS).argmax())
    share = (NATS - kl[after - 1]) / (kl[after] - kl[after - 1])
    return np.asarray((1.0 - share) * found[:, after - 1] + share * found[:, after])


def resolved(records: Mapping[str, Record]) -> Gate:
    """Whether arms walk to a nat, rather than leap over it: where one update crosses COARSEST nats there, an equal KL
    compares the sizes of updates, which are learning rates, and not what is learned on the way."""
    steps = {name: _across(_mean_kl(record)) for name, record in records.items()}
    said = "; ".join(f"{name} crosses it by {step:.2g} nats" for name, step in steps.items())
    if max(steps.values()) <= COARSEST:
        return Gate("resolution", True, said)
    why = f"{said}, more than {COARSEST:g} between two evaluations; a smaller learning rate, or the same for all arms,"
    return Gate("resolution", False, f"{why} would open it")


def _mean_kl(record: Record) -> np.ndarray:
    return np.asarray(record.arrays["kl_policy_ref"].astype(float).mean(0))


def _across(kl: np.ndarray) -> float:
    """Nats between the two evaluations around a nat; inf where it is never reached."""
    after = int((kl >= NATS).argmax())
    return float(kl[after] - kl[after - 1]) if after else np.inf


def roc(wrong: np.ndarray, right: np.ndarray) -> tuple[list[tuple[float, float]], float]:
    """The rates (false alarms, alarms) of every threshold of a number per run, where something is wrong and where
    nothing is; and the area below them, the probability that the first number is larger, ties by half."""
    steps = np.concatenate([[np.inf], np.unique(np.concatenate([wrong, right]))[::-1], [-np.inf]])
    rates = [(float((right >= t).mean()), float((wrong >= t).mean())) for t in steps]
    return rates, float((wrong[:, None] > right).mean() + 0.5 * (wrong[:, None] == right).mean())


def above_chance(wrong: np.ndarray, right: np.ndarray) -> Interval:
    """The area below the ROC curve − ½, with its interval, of runs that are paired (same problem, same noise).

    The area is the mean of u_i = P(wrong_i > right) + P(wrong > right_i) − area, which vary from run to run as the area
    does (DeLong, DeLong & Clarke-Pearson 1988, here paired within a run); ties count by half. Where all runs are told
    apart they do not vary, and their mean is bounded as that of any numbers between −1 and 2. In between, and close to
    that end, the interval is too short.
    """
    larger = np.sign(wrong[:, None] - right) / 2  # ½, 0 or −½: above chance
    area = float(larger.mean())
    each = larger.mean(1) + larger.mean(0) - area
    found = mean_interval(each) if np.ptp(each) > 0 else bounded_interval(each, -1.5, 1.5)
    return replace(found, low=max(found.low, -0.5), high=min(found.high, 0.5))
