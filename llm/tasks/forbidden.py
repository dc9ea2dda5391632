"""Rewards for responses that avoid some words, checked in their text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from llm.embedded import language
from llm.tasks.completions import Completions, Reward
from llm.tasks.task import Task
from sims.core.spec import SpecError, setting


@dataclass(frozen=True)
class ForbiddenWords(Task, kind="forbidden_words"):
    """r = 1 for a response with none of `words`, else 0; or with `dense` r = −(how many of its words are among them).

    Words are whole ones, whatever their case. The constraint "forbidden words" of IFEval (Zhou et al. 2023). Both
    rewards are largest for the same responses, so that they differ in what they say of the others.

    On the embedded language a fifth of the responses are free of the default, its verbs, and a short one more often: of
    up to 13 tokens .45, of 19 or more .08.

    >>> completions = llm.Completions(["a :"], ["some cats sleep . they sleep ."], [[7, 0]], [1], {})
    >>> [llm.ForbiddenWords(dense=dense).reward()(completions) for dense in (False, True)]
    [[0.0], [-2.0]]
    """

    description: ClassVar[str] = "1 without a word of `words`, else 0; or −their number"
    optimum: ClassVar[str] = "1, or 0 with `dense`: none of the words"

    words: tuple[str, ...] = setting(language.SLOTS["VERB"], "words that a response must not have")
    dense: bool = setting(False, "reward −(number of forbidden words), in place of 1 or 0")

    def check(self) -> None:
        super().check()
        if not self.words:
            raise SpecError("words", self.words, "must have a word, or several")
        for word in self.words:
            if not re.fullmatch(r"\w+", word):
                raise SpecError("words", word, "must be words: letters, digits and underscores alone")

    def reward(self) -> Reward:
        forbidden = re.compile(rf"\b({'|'.join(self.words)})\b", re.IGNORECASE)

        def score(completions: Completions) -> list[float]:
            counts = [len(forbidden.findall(text)) for text in completions.texts]
            return [-float(count) if self.dense else float(count == 0) for count in counts]

        return score

    def best_reward(self) -> float:
        return 0.0 if self.dense else 1.0
