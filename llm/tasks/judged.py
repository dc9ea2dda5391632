"""Rewards from a language model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar, Literal

from llm.judges import Judge, JudgeSettings
from llm.tasks.completions import Completions, Reward
from llm.tasks.task import Task
from sims.core.spec import SpecError, setting


@dataclass(frozen=True)
class JudgeReward(JudgeSettings, Task, kind="judge"):
    """r in [0, 1] from a judge: its score of a response, or how often it prefers the response to the others.

    score: each response is graded on its own, from 0 to 10, over 10; one call for each. pairwise: the mean of the
    judge's comparisons with the other responses to the same prompt, 1 where it is better, ½ for a tie: K(K − 1) calls
    for K responses. Pairs of two are then labelled by the comparison itself, and ties are kept as ½. A response
    without others to compare with, as evaluations draw them, is scored on its own.

    A judge that rounds, favours a style or can be talked to is a proxy like any reward model.

    >>> llm.JudgeReward(judge_model="judge", judge_url="http://127.0.0.1:8000/v1").best_reward()
    1.0
    """

    description: ClassVar[str] = "a language model's judgement, in [0, 1]"
    optimum: ClassVar[str] = "1 at most"
    needs: ClassVar[str] = "`--judge-model`"

    judge_mode: Literal["score", "pairwise"] = setting(
        "score", "score: a grade for each response; pairwise: comparisons with the others to its prompt"
    )

    def check(self) -> None:
        super().check()
        if self.judge_model is None:
            raise SpecError("judge_model", None, "must name the judge at its endpoint")

    def best_reward(self) -> float:
        return 1.0

    def reward(self) -> Reward:
        judge = Judge(self)

        def score(completions: Completions) -> list[float]:
            if self.judge_mode == "score" or completions.generations == 1:
                return judge.score(completions.prompts, completions.said())
            return win_rates(judge, completions)

        return score


def win_rates(judge: Judge, completions: Completions) -> list[float]:
    """Of each response, the mean of its comparisons with the others to its prompt."""
    count = completions.generations
    pairs = [
        (start + i, start + j)
        for start in range(0, len(completions), count)
        for i, j in itertools.combinations(range(count), 2)
    ]
    said = completions.said()
    labels = judge.labels(
        [completions.prompts[i] for i, _ in pairs], [said[i] for i, _ in pairs], [said[j] for _, j in pairs]
    )
    won = [0.0] * len(completions)
    for (i, j), label in zip(pairs, labels, strict=True):
        won[i] += label
        won[j] += 1 - label
    return [wins / (count - 1) for wins in won]
