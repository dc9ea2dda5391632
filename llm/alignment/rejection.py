"""A small classifier on hidden states: which responses labellers will reject. It flags rows for labels, with a reason.

P(rejected) = σ(w·x + b),    w ~ N(0, I/λ)

x: the vectors of a row's prompt and response (`embedding`), in units of their standard deviations over the labelled
rows; y = 1 − label, what labellers said of the response that was served, against a fresh one. It is fitted anew in
every cycle to all labels of earlier ones. λ is the one of `PRECISIONS` with the smallest log loss on prompts that were
left out (`FOLDS` parts). It is off, and says why, where too few rows were rejected, or too few preferred, and where
those that were left out are not told apart beyond chance.

Calibrated as far as `slope` says: that of the log-odds of the prompts that were left out, 1 if its probabilities are
right and below 1 if they are too extreme. Wrong for what it was never shown: labels are of rows that the filter chose,
so that a failure of a new kind, among rows that nobody flagged or found uncertain, is seen only where chance drew it; a
flaw of the labels is learned as if it were right; and a response is rejected against another one, not for what it is.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sims.statistics.intervals import student_interval

from .generation import Vectors, as_blob, as_vectors
from .logistic import Array, log_loss, logistic, probability
from .store import Store

PRECISIONS = (1.0, 10.0, 100.0, 1000.0)  # λ that are tried
FOLDS, FEWEST = 5, 20  # parts of the prompts; rejected rows, and preferred ones
SLOPE_PRECISION = 0.01  # keeps it finite where the left-out rows are separated
_FLAT = 1e-6  # a standard deviation that is none


@dataclass(frozen=True, eq=False)
class Classifier:
    """centre, scale: (D,), the units of x; weight: (D,); offset: b."""

    centre: Array
    scale: Array
    weight: Array
    offset: float

    def logits(self, vectors: Vectors) -> Array:
        """(N,) log-odds of rejection of rows (N, D)."""
        return np.asarray((vectors.astype(np.float64) - self.centre) / self.scale @ self.weight + self.offset)

    def chance(self, vectors: Vectors) -> Array:
        """(N,) probabilities of rejection."""
        return probability(self.logits(vectors))


@dataclass(frozen=True)
class Fitted:
    """What was fitted, and how it was found. classifier: None where it is off; why: the reason then, else how it tells
    rows apart. labelled, rejected: rows; precision: λ; gain: nats per row that was left out, less than those of the
    share of rejected rows alone, with its 95 % interval; slope: of their log-odds."""

    classifier: Classifier | None
    why: str
    labelled: int = 0
    rejected: int = 0
    precision: float | None = None
    gain: tuple[float, float, float] | None = None
    slope: float | None = None


def fit(vectors: Vectors, rejected: Array, precision: float) -> Classifier:
    """The classifier at its mode. vectors: (N, D), N ≥ 1; rejected: (N,), y within [0, 1], not all 0 and not all 1."""
    wide = vectors.astype(np.float64)
    centre, scale = wide.mean(0), np.maximum(wide.std(0), _FLAT)
    design = np.concatenate([(wide - centre) / scale, np.ones((len(wide), 1))], 1)
    prior = np.full(design.shape[1], precision)
    prior[-1] = 0.0  # none on b
    theta, _ = logistic(design, rejected, prior)
    return Classifier(centre, scale, theta[:-1], float(theta[-1]))


def fitted(vectors: Vectors, rejected: Array, prompts: Sequence[str]) -> Fitted:
    """The classifier of labelled rows, or why it is off. vectors: (N, D), N ≥ 0; rejected: (N,), y; prompts: N, by
    which rows are left out together."""
    no, yes = int((rejected < 0.5).sum()), int((rejected > 0.5).sum())
    if no + yes == 0:
        return Fitted(None, "there are no labels yet")
    if min(no, yes) < FEWEST:
        why = f"{yes} labelled rows were rejected and {no} preferred, and it needs {FEWEST} of both"
        return Fitted(None, why, no + yes, yes)
    fold = np.array([zlib.crc32(prompt.encode()) % FOLDS for prompt in prompts])
    tried = {precision: left_out(vectors, rejected, fold, precision) for precision in PRECISIONS}
    precision = min(tried, key=lambda x: float(log_loss(tried[x], rejected).mean()))
    share = _base(rejected, fold)
    found = student_interval(log_loss(share, rejected) - log_loss(tried[precision], rejected))
    gain = (found.estimate, found.low, found.high)
    said = f"of prompts that were left out it knows {gain[0]:+.3f} [{gain[1]:+.3f}, {gain[2]:+.3f}] nats a row"
    if found.low <= 0:
        return Fitted(None, f"{said}, no more than chance may give", no + yes, yes, precision, gain)
    slope = float(logistic(np.stack([tried[precision], np.ones(len(fold))], 1), rejected, SLOPE_PRECISION)[0][0])
    said += f"; slope of the log-odds {slope:.2f}"
    return Fitted(fit(vectors, rejected, precision), said, no + yes, yes, precision, gain, slope)


def left_out(vectors: Vectors, rejected: Array, fold: np.ndarray, precision: float) -> Array:
    """(N,) log-odds of each row, by a classifier of the other folds; of their share of rejected rows where all of these
    are of one kind. fold: (N,)."""
    found = _base(rejected, fold)
    for part in np.unique(fold):
        rest = fold != part
        if 0.0 < rejected[rest].mean() < 1.0:
            found[~rest] = fit(vectors[rest], rejected[rest], precision).logits(vectors[~rest])
    return found


def _base(rejected: Array, fold: np.ndarray) -> Array:
    """(N,) log-odds of rejection as the share in the other folds has it, with one row of each kind more."""
    found = np.zeros(len(fold))
    for part in np.unique(fold):
        rest = rejected[fold != part]
        share = (rest.sum() + 1) / (len(rest) + 2)
        found[fold == part] = np.log(share / (1 - share))
    return found


def of_labels(store: Store, cycle: int) -> Fitted:
    """What all labels of earlier cycles say about the responses that were served."""
    rows = store.all(
        "SELECT v.prompt, v.response, p.prompt AS text, a.label FROM pairs p JOIN answers a ON a.row = p.row "
        "JOIN vectors v ON v.row = p.row WHERE a.label NOT NULL AND p.cycle < ? ORDER BY p.row",
        cycle,
    )
    vectors = np.concatenate([as_vectors([row[name] for row in rows]) for name in ("prompt", "response")], 1)
    return fitted(vectors, 1.0 - np.array([row["label"] for row in rows], np.float64), [row["text"] for row in rows])


def keep(store: Store, cycle: int, found: Fitted) -> None:
    """Write the classifier of a cycle, or why it is off; within the filter's transaction."""
    held, one = {name: value for name, value in vars(found).items() if name != "classifier"}, found.classifier
    numbers = None if one is None else np.concatenate([one.centre, one.scale, one.weight, [one.offset]])
    report = json.dumps(held, allow_nan=False)
    store.insert("classifiers", cycle=cycle, report=report, numbers=None if numbers is None else as_blob(numbers))


def kept(store: Store, cycle: int) -> Fitted | None:
    """The classifier that flagged rows in a cycle; None before its filter was done."""
    rows = store.all("SELECT report, numbers FROM classifiers WHERE cycle = ?", cycle)
    if not rows:
        return None
    held: dict[str, Any] = json.loads(rows[0]["report"])
    held["gain"] = None if held["gain"] is None else tuple(held["gain"])
    classifier = None
    if rows[0]["numbers"] is not None:
        numbers = np.frombuffer(rows[0]["numbers"], np.float64)
        centre, scale, weight = numbers[:-1].reshape(3, -1)
        classifier = Classifier(centre, scale, weight, float(numbers[-1]))
    return Fitted(classifier, **held)


def came_true(store: Store, cycle: int) -> tuple[int, float] | None:
    """Of the rows that the classifier flagged in a cycle and that have a label: how many, and the share that was
    rejected; None where there are none."""
    (row,) = store.all(
        "SELECT count(*) AS rows, avg(1.0 - a.label) AS share FROM decisions d JOIN answers a ON a.row = d.row "
        "WHERE d.cycle = ? AND d.reason LIKE 'likely rejected%' AND a.label NOT NULL",
        cycle,
    )
    return (row["rows"], row["share"]) if row["rows"] else None
