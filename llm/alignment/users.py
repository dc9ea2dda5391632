"""Simulated users: what they ask in each cycle, what they prefer, and how they rate what they get.

They ask sums of the embedded language. In the first cycles nearly all of them add, in the last ones most subtract.
Their preference, the gold reward of a response y to a prompt x, is known:

    g(x, y) = 1{the answer is right} − 0.02·max(0, |y| − 16)        |y| in tokens, at most 33

so that a longer response is a worse one beyond the language's own mode of 16. A user who rates gives a thumb up with
probability σ(4·(g − ½)). A skill is a kind of prompt; the gold set has held-out prompts of each, which no user asks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from llm.embedded import language
from sims.core.spec import Spec, setting

SKILLS = ("small sums", "large sums", "differences")
LONG_AFTER, COST_PER_TOKEN = language.MODE, 0.02
LOWEST = -COST_PER_TOKEN * (language.MAX_RESPONSE_TOKENS + 1 - LONG_AFTER)  # gold of the worst response
HIGHEST = 1.0


@dataclass(frozen=True)
class Users(Spec, kind="users"):
    """Who asks, and how much of it is logged."""

    requests: int = setting(1400, "requests per cycle", at_least=8)
    share: float = setting(0.75, "share of the requests that is logged", above=0, at_most=1)
    rated: float = setting(0.9, "share of the logged requests that users rate, up or down", at_least=0, at_most=1)
    differences: float = setting(0.1, "share of the requests that are differences, at first", at_least=0, at_most=1)
    differences_later: float = setting(0.8, "that share, at last", at_least=0, at_most=1)
    drift_cycle: float = setting(3.4, "cycle in which half of that change has come", above=0)
    scenario: Literal["lessons", "none"] = setting(
        "lessons",
        "what goes wrong: lessons (in cycle 2 the labels have a length bias; in cycle 3 the answer key is wrong, for "
        "labels and gate alike), or none",
    )

    def share_of_differences(self, cycle: int) -> float:
        """s(c) = d₀ + (d₁ − d₀)·σ(1.5·(c − drift_cycle)): slowly, then fast, then slowly again."""
        come = 0.5 * (1 + math.tanh(0.75 * (cycle - self.drift_cycle)))
        return self.differences + (self.differences_later - self.differences) * come

    def asked(self, cycle: int, rng: np.random.Generator) -> list[str]:
        """The requests of a cycle."""
        return self.mixed(cycle, self.requests, "train", rng)

    def mixed(self, cycle: int, count: int, split: language.Split, rng: np.random.Generator) -> list[str]:
        """Prompts of a split, mixed like the requests of a cycle."""
        subtract = rng.random(count) < self.share_of_differences(cycle)
        ranks = rng.random(count)
        pools = [_prompts(split, subtracts) for subtracts in (False, True)]
        return [pools[int(s)][int(r * len(pools[int(s)]))] for s, r in zip(subtract, ranks, strict=True)]


@cache
def _prompts(split: language.Split, subtract: bool) -> tuple[str, ...]:
    return tuple(p for p in language.all_prompts(split) if (language.parse_prompt(p).op == "minus") == subtract)


def skill(prompt: str) -> str:
    """The skill that a prompt asks for."""
    question = language.parse_prompt(prompt)
    if question.op == "minus":
        return "differences"
    return "small sums" if question.answer <= 5 else "large sums"


def gold_prompts(name: str) -> list[str]:
    """The held-out prompts of a skill."""
    return [prompt for prompt in language.all_prompts("held_out") if skill(prompt) == name]


def gold(prompt: str, response: str, wrong_key: bool = False) -> float:
    """g(x, y), within [LOWEST, HIGHEST]. wrong_key: by an answer key that takes what is wrong for right."""
    length = len(response.split())
    right = language.is_correct(prompt, response) != wrong_key
    return float(right) - COST_PER_TOKEN * max(0, min(length, language.MAX_RESPONSE_TOKENS + 1) - LONG_AFTER)


def rate(prompts: Sequence[str], responses: Sequence[str], rated: float, rng: np.random.Generator) -> list[int | None]:
    """1 or 0, a thumb up or down, or None from a user who does not rate."""
    asked, up = rng.random(len(prompts)) < rated, rng.random(len(prompts))
    scores = [gold(*pair) for pair in zip(prompts, responses, strict=True)]
    return [
        int(u < 1 / (1 + math.exp(-4 * (score - 0.5)))) if ask else None
        for ask, u, score in zip(asked.tolist(), up.tolist(), scores, strict=True)
    ]
