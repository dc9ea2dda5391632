"""The table of algorithms that the command line prints and the README shows."""

from __future__ import annotations

import inspect

from sims.core.spec import kinds_of

from .base import Algorithm, PairAlgorithm

HEADER = ("algorithm", "in one line", "on-policy", "negative gradient", "sample reuse", "needs", "source")


def needs(algorithm: type[Algorithm]) -> str:
    """What an algorithm requires at its default settings, in words."""
    pairs = issubclass(algorithm, PairAlgorithm)
    parts = [
        ("pair", pairs),
        (f"group ≥ {algorithm.min_generations}", algorithm.min_generations > 1 and not pairs),
        ("critic", algorithm.needs_critic),
        ("reference", algorithm().needs_reference),
        ("probes", algorithm.needs_probes),
    ]
    return ", ".join(name for name, needed in parts if needed) or "–"


def row(name: str, algorithm: type[Algorithm]) -> tuple[str, ...]:
    """One algorithm as strings, in the order of HEADER."""
    summary = (inspect.getdoc(algorithm) or "").split("\n")[0].split(": ")[0].rstrip(".:")
    yes = {True: "✓", False: "–"}
    flags = (algorithm.on_policy, algorithm.negative_gradient, algorithm.sample_reuse)
    return (name, summary, *(yes[flag] for flag in flags), needs(algorithm), algorithm.source)


def algorithm_table() -> str:
    """All algorithms as a Markdown table, in the order in which their families define them.

    >>> print(sims.algorithm_table())
    | algorithm | in one line | on-policy | negative gradient | sample reuse | needs | source |
    ...
    """
    return markdown(HEADER, [row(name, algorithm) for name, algorithm in kinds_of(Algorithm).items()])


def markdown(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table. header, rows: cells.

    >>> print(sims.core.algorithms.table.markdown(("a", "b"), [("1", "2")]))
    | a | b |
    | --- | --- |
    | 1 | 2 |
    """
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
