"""Responses as rewards receive them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm.data import Text


@dataclass(frozen=True, eq=False)
class Completions:
    """N responses, prompt by prompt.

    prompts: N prompts as read, text or conversation, each repeated for each of its responses.
    texts: N texts without special tokens; to a conversation, what the assistant's message holds.
    ids: N lists of the tokens that were chosen, EOS included where the response has one.
    lengths: N, tokens before EOS: 0 for an immediate EOS, all tokens of a response that was cut at max_new_tokens.
    columns: further columns of the data, N values each.
    generations: K, how many responses each prompt has; they are next to one another.
    ended: N, whether a response ended by itself, with EOS or a stop string, and was not cut at max_new_tokens; none:
        those with EOS.
    written: gives N texts with every special token in letters but the ends, as `TextEncoder.content` has them, to a
        reward that asks: most don't, and it costs as much as `texts`; none: texts.

    >>> completions = llm.Completions(["2 + 3 ="], ["5"], [[7, 0]], [1], {})
    >>> llm.MinLength().reward()(completions)
    [-1.0]
    """

    prompts: Sequence[Text]
    texts: Sequence[str]
    ids: Sequence[Sequence[int]]
    lengths: Sequence[int]
    columns: Mapping[str, Sequence[Any]]
    generations: int = 1
    ended: Sequence[bool] | None = None
    written: Callable[[], Sequence[str]] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def cut(self) -> list[bool]:
        """Which responses ran into max_new_tokens: N."""
        if self.ended is None:
            return [len(ids) == length for ids, length in zip(self.ids, self.lengths, strict=True)]
        return [not ended for ended in self.ended]


Reward = Callable[[Completions], Sequence[float]]  # N finite numbers, one per response
