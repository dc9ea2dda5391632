"""Step 1: a share of what users ask is logged, with what they got and the version that they got it from.

A share of the requests (`HOLDBACK`) is served by the version that the live one replaced, so that `watch` compares the
two on the same requests, whatever users ask by then.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from sims.core.spec import SpecError

from . import registry, users
from .context import Context
from .generation import as_blob

HOLDBACK = 0.3  # share of the requests that the previous version serves


def log(context: Context) -> str:
    """Serve and log the requests of the cycle, with vectors and ratings."""
    store, cycle, settings = context.store, context.cycle, context.settings
    if not context.simulated:
        raise SpecError("from", None, "must be given: the log of this store is imported, and not simulated")
    rng, people = context.rng("users"), settings.users
    asked = people.asked(cycle, rng)
    logged = np.flatnonzero(rng.random(len(asked)) < people.share).tolist()
    standing = registry.standing(store)
    serving = [registry.live(store)]
    held_back = rng.random(len(asked)) < (HOLDBACK if len(standing) > 1 else 0.0)
    if len(standing) > 1:
        serving.append(registry.find(store, standing[-2]["version"]))
    rows: list[dict[str, Any]] = []
    for index, version in enumerate(serving):
        numbers = [number for number in logged if held_back[number] == bool(index)]
        prompts = [asked[number] for number in numbers]
        drawn = context.model(version).draw(prompts, f"traffic {index}", cycle)
        for number, prompt, response in zip(numbers, prompts, drawn, strict=True):
            rows.append(
                {
                    "id": f"{cycle:04d}-{number:06d}",
                    "version": version.version,
                    "model": version.name,
                    "prompt": prompt,
                    "response": response.text,
                    "tokens": as_blob(response.tokens),
                    "logp": as_blob(response.logp),
                    "finished": int(response.finished),
                }
            )
    rows.sort(key=lambda row: row["id"])
    ratings = users.rate([row["prompt"] for row in rows], [row["response"] for row in rows], people.rated, rng)
    decoding = settings.serving.decoding
    sampling = {name: getattr(decoding, name) for name in ("max_new_tokens", "temperature", "top_p")}
    for row, rating in zip(rows, ratings, strict=True):
        row |= {"rating": rating, "sampling": sampling}
    vectors = embedded(context, rows)
    with store.transaction():
        insert(context, rows, vectors)
        store.finish(cycle, "log", {"requests": len(asked), "logged": len(rows)})
    return f"logged {len(rows)} of {len(asked)} requests, served by {' and '.join(v.name for v in serving)}"


def embedded(context: Context, rows: Sequence[dict[str, Any]]) -> list[tuple[bytes, bytes]]:
    """The vectors of each row's prompt and response."""
    first, second = context.embedder.embed([(row["prompt"], row["response"]) for row in rows])
    return [(as_blob(a), as_blob(b)) for a, b in zip(first, second, strict=True)]


def insert(context: Context, rows: Sequence[dict[str, Any]], vectors: Sequence[tuple[bytes, bytes]]) -> None:
    """Rows of the log with their vectors; within a transaction."""
    for row, (prompt, response) in zip(rows, vectors, strict=True):
        texts = {name: json.dumps(row[name], sort_keys=True) for name in ("prompt", "sampling")}
        context.store.insert("log", **{**row, **texts, "cycle": context.cycle})
        context.store.insert("vectors", row=row["id"], prompt=prompt, response=response)
