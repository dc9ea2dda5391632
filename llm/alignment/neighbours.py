"""The logged rows whose prompts are nearest to a text: what was asked like it, by whom it was answered, what became
of it."""

from __future__ import annotations

import json

from sims.core.spec import SpecError

from .context import Context
from .embedding import plain
from .nearest import nearest


def neighbours(context: Context, text: str, count: int) -> str:
    """A line per row, nearest first: cosine, row, version, decision of the filter, prompt and response. SpecError for a
    store without a log."""
    store = context.store
    if not store.one("SELECT count(*) FROM log"):
        raise SpecError("store", str(store.folder), "has no log yet: `align log` or `align run` writes one")
    (found,) = nearest(store, ("prompt",), context.embedder.embed([(text, "")])[0], count, "SELECT row FROM vectors")
    lines = ["cosine  row          version  decision  prompt → response"]
    for key, cosine in found:
        (row,) = store.all(
            "SELECT l.model, l.prompt, l.response, d.decision FROM log l LEFT JOIN decisions d ON d.row = l.id "
            "WHERE l.id = ?",
            key,
        )
        said = " → ".join(" ".join(text.split()) for text in (plain(json.loads(row["prompt"])), row["response"]))
        lines.append(f"{cosine:6.3f}  {key:11}  {row['model']:7}  {row['decision'] or '–':8}  {said}")
    return "\n".join(lines)
