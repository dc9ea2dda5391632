"""Step 3: which logged rows are labelled, each with the reason for or against it.

dropped   did not end, or is empty, or is a near-duplicate of an earlier row, by the cosine of their vectors
chosen    flagged by a rule (length, repetition), likely to be rejected, the most uncertain, and some at random
kept      the rest: in the log, and not labelled
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import rejection
from .context import Context
from .generation import Vectors, as_vectors
from .nearest import nearest, unit
from .rejection import Fitted
from .settings import Filtering
from .sqlite import sqlite3
from .uncertainty import Posterior, fit

Decision = tuple[str, str]  # chosen, kept or dropped; and the reason


@dataclass(frozen=True)
class Row:
    """A row that may be labelled. unsure: of its response's worth; rejected: the probability that labellers reject it,
    0 where no classifier says."""

    id: str
    response: str
    unsure: float
    rejected: float


def choose(context: Context) -> str:
    """Decide about every row of the cycle."""
    store, cycle, settings = context.store, context.cycle, context.settings.filtering
    rows = store.all(
        "SELECT l.id, l.response, l.finished, v.prompt, v.response AS vector FROM log l JOIN vectors v ON v.row = l.id "
        "WHERE l.cycle = ? ORDER BY l.id",
        cycle,
    )
    vectors = as_vectors([row["vector"] for row in rows])
    texts = np.concatenate([as_vectors([row["prompt"] for row in rows]), vectors], 1)
    decided = dropped(context, rows, texts)
    unsure = posterior_of(context, vectors).uncertainty(vectors).tolist()
    found = rejection.of_labels(store, cycle) if settings.rejected_share else Fitted(None, "rejected_share is 0")
    rejected = [0.0] * len(rows) if found.classifier is None else found.classifier.chance(texts).tolist()
    every = [Row(row["id"], row["response"], *two) for row, *two in zip(rows, unsure, rejected, strict=True)]
    left = [row for row in every if row.id not in decided]
    decided |= divided(left, settings, f"by a classifier of {found.labelled} labels", context.rng("filter"))
    counts = Counter(decision for decision, _ in decided.values())
    with store.transaction():
        for row in every:
            decision, reason = decided[row.id]
            store.insert("decisions", row=row.id, cycle=cycle, decision=decision, reason=reason, uncertainty=row.unsure)
        rejection.keep(store, cycle, found)
        store.finish(cycle, "filter", dict(sorted(counts.items())))
    said = ", ".join(f"{count} {decision}" for decision, count in sorted(counts.items()))
    return f"{said}; classifier of rejections {'on' if found.classifier else 'off'}: {found.why}"


def divided(rows: Sequence[Row], settings: Filtering, by: str, rng: np.random.Generator) -> dict[str, Decision]:
    """The rows that are chosen, within the budget, and those that are kept. by: who says which are likely rejected."""
    found: dict[str, Decision] = {}

    def choose_first(count: int, reasons: Sequence[tuple[str, str]]) -> None:
        found.update((id, ("chosen", why)) for id, why in reasons[:count])

    flagged = [(row.id, why) for row in rows if (why := flag(row.response, settings)) is not None]
    choose_first(int(settings.budget * settings.flagged_share), flagged)
    likely = [row for row in rows if row.id not in found and row.rejected > settings.flag_above]
    likely.sort(key=lambda row: -row.rejected)
    reasons = [(row.id, f"likely rejected: {row.rejected:.2f}, {by}") for row in likely]
    choose_first(int(settings.budget * settings.rejected_share), reasons)
    room = settings.budget - len(found)
    at_random = min(int(settings.budget * settings.random_share), room)
    ordered = sorted((row for row in rows if row.id not in found), key=lambda row: (-row.unsure, row.id))
    ranked = enumerate(ordered, 1)
    reasons = [(row.id, f"uncertain: {row.unsure:.2f}, rank {rank} of {len(ordered)}") for rank, row in ranked]
    choose_first(room - at_random, reasons)
    others = ordered[room - at_random :]
    choose_first(at_random, [(others[i].id, "drawn at random") for i in rng.permutation(len(others))])
    return {row.id: ("kept", f"less uncertain: {row.unsure:.2f}") for row in others} | found


def dropped(context: Context, rows: Sequence[sqlite3.Row], texts: Vectors) -> dict[str, Decision]:
    """The rows that no one needs to see, with the reason. rows: of the cycle; texts: (N, D), their vectors."""
    found: dict[str, Decision] = {}
    for row in rows:
        if row["finished"] == 0:
            found[row["id"]] = ("dropped", "did not end within the largest number of tokens")
        elif not row["response"].strip():
            found[row["id"]] = ("dropped", "empty")
    chosen = "SELECT row FROM decisions WHERE decision = 'chosen'"  # of earlier cycles
    earlier = nearest(context.store, ("prompt", "response"), texts, 1, chosen)
    ids, directions = [row["id"] for row in rows], unit(texts)
    for index, (id, old) in enumerate(zip(ids, earlier, strict=True)):
        # max takes the first of equals: the earlier one
        like, cosine = max([*old, *nearest_above(directions, ids, index)], key=lambda near: near[1], default=("", -1.0))
        if id not in found and cosine >= context.settings.filtering.duplicate_similarity:
            found[id] = ("dropped", f"near-duplicate of {like} (cosine {cosine:.4f})")
    return found


def nearest_above(directions: NDArray[np.float64], ids: list[str], index: int) -> list[tuple[str, float]]:
    """Of the rows above one, the key of the most similar and the cosine; nothing for the first row."""
    if index == 0:
        return []
    cosines = directions[:index] @ directions[index]
    best = int(cosines.argmax())
    return [(ids[best], float(cosines[best]))]


def flag(response: str, settings: Filtering) -> str | None:
    """Why a rule flags a response; None where none does."""
    words = response.split()
    if len(words) < settings.shortest:
        return f"short: {len(words)} words, fewer than {settings.shortest}"
    if len(words) > settings.longest:
        return f"long: {len(words)} words, more than {settings.longest}"
    share = repetition(words)
    if share > settings.repetition:
        return f"repetitive: {share:.0%} of its three-word sequences occur twice, more than {settings.repetition:.0%}"
    return None


def repetition(words: list[str]) -> float:
    """The share of three-word sequences that have occurred before in the same text."""
    grams = list(zip(words, words[1:], words[2:], strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def posterior_of(context: Context, vectors: Vectors) -> Posterior:
    """What all labels so far say about responses."""
    rows = context.store.all(
        "SELECT p.first_vector, p.second_vector, a.label FROM pairs p JOIN answers a ON a.row = p.row "
        "WHERE a.label NOT NULL AND p.cycle < ? ORDER BY p.row",
        context.cycle,
    )
    first, second = (as_vectors([row[name] for row in rows]) for name in ("first_vector", "second_vector"))
    return fit(vectors, first, second, np.array([row["label"] for row in rows], np.float64))
