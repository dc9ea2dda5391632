"""Stop strings: a response ends with the first one that its text has.

Of sampled tokens the one that completes the string is kept whole, though its text may go on after the string; what is
kept is what is scored, rewarded and trained on. A recorded text is cut right after the string.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence


def up_to_stop(text: str, stops: Sequence[str]) -> str | None:
    """The text up to the end of the stop string that is complete first; None where it has none."""
    ends = [at + len(stop) for stop in stops if (at := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else None


def count_up_to_stop(ids: Sequence[int], decode: Callable[[Sequence[int]], str], stops: Sequence[str]) -> int | None:
    """How many tokens are kept: up to the one that completes a stop string; None where the text has none.

    decode: the text of tokens, special ones included, so that a stop string may be one of them.
    """

    def has_one(count: int) -> bool:
        text = decode(ids[:count])
        return any(stop in text for stop in stops)

    return bisect_left(range(len(ids)), True, key=has_one) if has_one(len(ids)) else None
