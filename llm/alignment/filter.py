"""Step 3: which logged rows are labelled, each with the reason for or against it.

dropped   did not end, or is empty, or is a near-duplicate of an earlier row, by the cosine of their vectors
chosen    flagged by a rule (length, repetition), the most uncertain, and some at random
kept      the rest: in the log, and not labelled
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from .context import Context
from .generation import Vectors, as_vectors
from .nearest import nearest, unit
from .settings import Filtering
from .uncertainty import Posterior, fit


def choose(context: Context) -> str:
    """Decide about every row of the cycle."""
    store, cycle, settings = context.store, context.cycle, context.settings.filtering
    rows = store.all(
        "SELECT l.id, l.response, l.finished, v.prompt, v.response AS vector FROM log l JOIN vectors v ON v.row = l.id "
        "WHERE l.cycle = ? ORDER BY l.id",
        cycle,
    )
    decided: dict[str, tuple[str, str]] = {}
    for row in rows:
        if row["finished"] == 0:
            decided[row["id"]] = ("dropped", "did not end within the largest number of tokens")
        elif not row["response"].strip():
            decided[row["id"]] = ("dropped", "empty")
    vectors = as_vectors([row["vector"] for row in rows])
    texts = np.concatenate([as_vectors([row["prompt"] for row in rows]), vectors], 1)
    chosen = "SELECT row FROM decisions WHERE decision = 'chosen'"  # of earlier cycles
    earlier = nearest(store, ("prompt", "response"), texts, 1, chosen)
    ids, directions = [row["id"] for row in rows], unit(texts)
    for index, (row, old) in enumerate(zip(rows, earlier, strict=True)):
        # max takes the first of equals: the earlier one
        id, cosine = max([*old, *nearest_above(directions, ids, index)], key=lambda found: found[1], default=("", -1.0))
        if row["id"] not in decided and cosine >= settings.duplicate_similarity:
            decided[row["id"]] = ("dropped", f"near-duplicate of {id} (cosine {cosine:.4f})")
    posterior = posterior_of(context, vectors)
    unsure = dict(zip((row["id"] for row in rows), posterior.uncertainty(vectors).tolist(), strict=True))
    left = [row for row in rows if row["id"] not in decided]
    flagged = [(row["id"], why) for row in left if (why := flag(row["response"], settings)) is not None]
    for id, why in flagged[: int(settings.budget * settings.flagged_share)]:
        decided[id] = ("chosen", why)
    rest = [row["id"] for row in left if row["id"] not in decided]
    room = settings.budget - sum(decision == "chosen" for decision, _ in decided.values())
    at_random = min(int(settings.budget * settings.random_share), room)
    ordered = sorted(rest, key=lambda id: (-unsure[id], id))
    for rank, id in enumerate(ordered[: room - at_random], 1):
        decided[id] = ("chosen", f"uncertain: {unsure[id]:.2f}, rank {rank} of {len(rest)}")
    others = ordered[room - at_random :]
    drawn = {others[i] for i in context.rng("filter").permutation(len(others))[:at_random]}
    for id in others:
        decided[id] = ("chosen", "drawn at random") if id in drawn else ("kept", f"less uncertain: {unsure[id]:.2f}")
    counts = Counter(decision for decision, _ in decided.values())
    with store.transaction():
        for id, (decision, reason) in sorted(decided.items()):
            store.insert("decisions", row=id, cycle=cycle, decision=decision, reason=reason, uncertainty=unsure[id])
        store.finish(cycle, "filter", dict(sorted(counts.items())))
    return ", ".join(f"{count} {decision}" for decision, count in sorted(counts.items()))


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
