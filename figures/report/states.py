"""The states of a row: one table of symbol, word, colour and meaning, which the page, its grid and its legend share.

A state is shown by all three, never by its colour alone. The rule is in `sims.statistics.verdicts`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class State:
    """word: as in claims.json. css: the class that colours it in style.css. meaning: a sentence for the legend."""

    word: str
    symbol: str
    css: str
    meaning: str


STATES = {
    state.word: state
    for state in (
        State(
            "supported", "✓", "supported", "The 95 % interval lies wholly where the claim puts it, beyond its margin."
        ),
        State("opposite", "⇄", "opposite", "The interval lies wholly beyond the margin, on the side not claimed."),
        State("too small", "≈", "too-small", "The effect is smaller than the margin that would matter."),
        State(
            "inconclusive",
            "?",
            "inconclusive",
            "The interval holds the margin; there are fewer than 10 runs; or it comes out otherwise when run again.",
        ),
        State(
            "no test",
            "⊘",
            "no-test",
            "A gate is closed: the effect could not have come out otherwise, or is not about the claim.",
        ),
        State("theorem", "∎", "theorem", "An identity or a proof, checked on random instances."),
    )
}
NOT_TESTED = State("not tested", "○", "not-tested", "Catalogued, with its smallest honest test; no run tests it here.")


def state_of(word: str) -> State:
    """The state of that name; a word that is in no rule keeps its spelling, and gets no colour."""
    return STATES.get(word, State(word, "•", "unknown", "A word that this version does not know."))


def rank(word: str) -> int:
    """Where a state stands in every list."""
    return list(STATES).index(word) if word in STATES else len(STATES)
