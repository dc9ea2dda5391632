"""Responses as rewards receive them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm.data import Text
from llm.data.formats import Conversation


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
    turns: N, the messages of a recorded response of several turns, as the data have them, also where it is truncated;
        None for any other, which the assistant's message of its text is. Of several turns `texts` is the assistant's
        words one after the other, and `ids` and `lengths` count the assistant's tokens.

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
    turns: Sequence[Conversation | None] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def cut(self) -> list[bool]:
        """Which responses ran into max_new_tokens: N."""
        if self.ended is None:
            return [len(ids) == length for ids, length in zip(self.ids, self.lengths, strict=True)]
        return [not ended for ended in self.ended]

    def said(self, written: bool = False) -> list[Text]:
        """What each response says: its text, or the messages of one of several turns. written: with the special tokens
        of a text in letters."""
        texts = self.written() if written and self.written is not None else self.texts
        return [turns or text for turns, text in zip(self.turns or [None] * len(self), texts, strict=True)]


Reward = Callable[[Completions], Sequence[float]]  # N finite numbers, one per response
