"""Several data sets mixed by weight: `a.jsonl:0.7,b.jsonl:0.3`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from llm.data.tokenise import Example
from sims.core.spec import SpecError

_PART = re.compile(r"(.+):([0-9.]+(?:[eE][+-]?[0-9]+)?)")
_SEED = 0x3117


def parse_mixture(source: str) -> list[tuple[str, float]]:
    """Names and shares, which sum to 1; a source of another form is one data set. SpecError for a weight that is none.

    >>> parse_mixture("a.jsonl:3,b.jsonl:1")
    [('a.jsonl', 0.75), ('b.jsonl', 0.25)]
    """
    matches = [_PART.fullmatch(part.strip()) for part in source.split(",")]
    if len(matches) < 2 or not all(matches):
        return [(source, 1.0)]
    parts = [(match[1], match[2]) for match in matches if match is not None]
    weights = []
    for _, text in parts:
        try:
            weights.append(float(text))
        except ValueError:
            weights.append(math.nan)
        if not 0 < weights[-1] < math.inf:
            raise SpecError("data", source, f"weight {text}: must be a number above 0, as in a.jsonl:0.7,b.jsonl:0.3")
    names = [name for name, _ in parts]
    for at, name in enumerate(names):
        if Path(name) in map(Path, names[:at]):
            raise SpecError("data", source, f"names {name} twice: each data set must be there once, with its weight")
    shares = [weight / sum(weights) for weight in weights]
    if not min(shares) > 0:
        raise SpecError("data", source, "weights so far apart leave a data set no share: must be within 1e300 or so")
    return list(zip(names, shares, strict=True))


def mix(parts: Sequence[tuple[str, float, Sequence[Example]]], log: Callable[[str], None]) -> list[Example]:
    """The largest mixture of so many shares in which no row is there twice. parts: name, share and rows of each.

    Of a data set that has more rows than its share, a fixed random choice is kept. log: called with a line for each.
    """
    total = min(len(rows) / share for _, share, rows in parts)
    found = []
    for name, share, rows in parts:
        count = max(1, min(len(rows), round(share * total)))
        kept = np.sort(np.random.default_rng(_SEED).permutation(len(rows))[:count])
        log(f"{name}: {count} of {len(rows)} rows, a share of {count / total:.3g} of the mixture")
        found += [replace(rows[i], where=f"{name} {rows[i].where}") for i in kept.tolist()]
    return found
