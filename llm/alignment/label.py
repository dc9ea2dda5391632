"""Step 4: pairs of responses, and their labels.

A pair is what was served and a fresh response of the live version to the same prompt. Every answer is written when it
comes, so that a kill loses none that was paid for, and none is asked for twice. A pair without a usable answer is asked
about again, up to `tries` times, and then left unlabelled with the last reason; ties are kept, and not trained on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from llm.data import Text

from . import registry
from .context import Context
from .generation import as_blob


@dataclass(frozen=True)
class Pair:
    """Two responses to a prompt, to be compared. row: its key."""

    row: str
    prompt: Text
    first: str
    second: str


@dataclass(frozen=True)
class Answer:
    """label: the probability that the first is better, ½ for a tie; None where nothing usable was answered. reason: in
    the labeller's words, or what was wrong."""

    label: float | None
    reason: str


class PairLabeller(Protocol):
    """Labels pairs. at_once: how many are written together, and lost together by a kill."""

    at_once: int

    def answers(self, pairs: Sequence[Pair]) -> Iterable[Answer]:
        """One answer for each pair, in their order."""


def make_pairs(context: Context) -> str:
    """Draw a second response for every chosen row; done once per cycle."""
    store, cycle = context.store, context.cycle
    rows = store.all(
        "SELECT l.id, l.prompt, l.response, v.response AS vector FROM log l JOIN decisions d ON d.row = l.id "
        "JOIN vectors v ON v.row = l.id WHERE d.cycle = ? AND d.decision = 'chosen' ORDER BY l.id",
        cycle,
    )
    version = registry.live(store)
    prompts: list[Text] = [json.loads(row["prompt"]) for row in rows]
    drawn = [response.text for response in context.model(version).draw(prompts, "second", cycle)]
    _, vectors = context.embedder.embed(list(zip(prompts, drawn, strict=True)))
    different = 0
    with store.transaction():
        for row, second, vector in zip(rows, drawn, vectors, strict=True):
            if second == row["response"] or not second.strip():
                continue  # nothing to compare, or nothing to train on
            different += 1
            store.insert(
                "pairs",
                row=row["id"],
                cycle=cycle,
                prompt=row["prompt"],
                first=row["response"],
                second=second,
                version=version.version,
                first_vector=row["vector"],
                second_vector=as_blob(vector),
            )
        store.finish(cycle, "pairs", {"pairs": different, "without": len(rows) - different})
    return f"{different} pairs"


def unanswered(context: Context, tries: int) -> list[tuple[Pair, int]]:
    """The cycle's pairs that are to be asked about, and how often each was."""
    rows = context.store.all(
        "SELECT p.row, p.prompt, p.first, p.second, count(a.row) AS tried, max(a.label NOT NULL) AS usable "
        "FROM pairs p LEFT JOIN answers a ON a.row = p.row WHERE p.cycle = ? GROUP BY p.row ORDER BY p.row",
        context.cycle,
    )
    return [
        (Pair(row["row"], json.loads(row["prompt"]), row["first"], row["second"]), row["tried"])
        for row in rows
        if not row["usable"] and row["tried"] < tries
    ]


def ask(context: Context, labeller: PairLabeller, source: str, tries: int) -> None:
    """Ask about every pair until it has a usable answer or was asked about `tries` times."""
    while waiting := unanswered(context, tries):
        found = iter(labeller.answers([pair for pair, _ in waiting]))
        for part in _chunks(waiting, labeller.at_once):
            answers = [next(found) for _ in part]
            with context.store.transaction():
                for (pair, tried), answer in zip(part, answers, strict=True):
                    write_answer(context, pair.row, tried, source, answer)


def write_answer(context: Context, row: str, tried: int, source: str, answer: Answer) -> None:
    """One answer; within a transaction."""
    context.store.insert("answers", row=row, **{"try": tried}, source=source, label=answer.label, reason=answer.reason)


def unlabelled(context: Context) -> tuple[int, int]:
    """How many of the cycle's pairs have no usable answer, and how many there are."""
    row = context.store.all(
        "SELECT count(*) AS pairs, count(a.row) AS labelled FROM pairs p LEFT JOIN answers a ON a.row = p.row "
        "AND a.label NOT NULL WHERE p.cycle = ?",
        context.cycle,
    )[0]
    return row["pairs"] - row["labelled"], row["pairs"]


def finish(context: Context) -> str:
    """Say that the cycle's labels are complete: what they are goes into the note."""
    row = context.store.all(
        "SELECT count(*) AS pairs, count(label) AS labelled, sum(label = 0.5) AS ties, avg(label > 0.5) AS first "
        "FROM (SELECT p.row, max(a.label) AS label FROM pairs p LEFT JOIN answers a ON a.row = p.row "
        "WHERE p.cycle = ? GROUP BY p.row)",
        context.cycle,
    )[0]
    note = {"pairs": row["pairs"], "labelled": row["labelled"], "ties": int(row["ties"] or 0)}
    note["labels"] = context.settings.labelling.labels
    with context.store.transaction():
        context.store.finish(context.cycle, "label", note)
    rest = f", {row['pairs'] - row['labelled']} left unlabelled" if row["pairs"] > row["labelled"] else ""
    return f"{row['labelled']} of {row['pairs']} pairs labelled, {note['ties']} ties{rest}"


def _chunks(items: Sequence[tuple[Pair, int]], size: int) -> Iterator[Sequence[tuple[Pair, int]]]:
    return (items[at : at + size] for at in range(0, len(items), size))
