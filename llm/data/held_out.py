"""Rows that are held out of training, by whole prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from sims.core.spec import SpecError

from .tokenise import Example


def split_by_prompt(rows: Sequence[Example], held_out_share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Rows to train on, and held-out rows: whole prompts, drawn until they make up the share.

    Else a copy of a pair, or another pair of its prompt, would leak from training into evaluation. If every prompt has
    more rows than the share, the one with fewest is held out; if there is only one prompt, single rows are
    (`repeated` counts them). SpecError where no row is left to train on.
    """
    order = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
    most = max(1, round(held_out_share * len(rows)))
    if most >= len(rows):
        raise SpecError("held_out_share", held_out_share, f"leaves none of {len(rows)} rows to train on")
    sizes = Counter(map(_prompt, order))
    if len(sizes) == 1:
        return order[most:], order[:most]
    out, count = set(), 0
    for prompt, size in sizes.items():
        if count + size <= most:
            out.add(prompt)
            count += size
    out = out or {min(sizes, key=sizes.__getitem__)}
    return [row for row in order if _prompt(row) not in out], [row for row in order if _prompt(row) in out]


def _prompt(row: Example) -> bytes:
    """The prompt's tokens as bytes, by which rows are compared."""
    return row.prompt_ids.tobytes()
