"""Two tasks for one language model: sums that are right or wrong, and lengths that a reward model rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from llm.data import Example, Text, TextEncoder
from llm.data.rows import to_stderr
from llm.embedded import language
from llm.tasks.completions import Completions, Reward
from llm.tasks.data_source import HELD_OUT
from llm.tasks.proxy import ProxyReward
from llm.tasks.verifiable import Verifiable
from sims.core.spec import SpecError, setting

Order = Literal["mixed", "verifiable", "rated", "verifiable_rated", "rated_verifiable"]


@dataclass(frozen=True)
class VerifiableAndRated(ProxyReward, kind="verifiable_and_rated"):
    """Prompts with "plus" are verifiable, with reward 1 for the right answer, else 0; those with "minus" are rated by
    the reward model of `proxy_reward`. The prompt says of which task it is.

    Gold is 1 for a right answer, else 0, and of rated prompts 1 − | |y| − mode | / mode, so that either task has about
    as much to gain from the embedded Pythia. Evaluations take the held-out prompts of both, one task's and the other's
    in turn, and record either part. `order`: which prompts are trained on, in rows that are gone through in order, from
    the first again after the last. Lanchantin et al. 2025, with sums for mathematics and lengths for chat.

    >>> task = llm.VerifiableAndRated(order="rated_verifiable", switch_after=128)
    >>> task.best_reward(), task.metric
    (1.0, 'gold')
    """

    description: ClassVar[str] = "`verifiable` for sums with plus, `proxy_reward` for those with minus"
    optimum: ClassVar[str] = "1 (gold): the right answer, or any response of that length"
    in_order: ClassVar[bool] = True

    order: Order = setting("mixed", "which prompts are trained on: of both tasks, of one, or of one after the other")
    switch_after: int = setting(256, "prompts of each task, where one comes after the other", at_least=1)

    def check(self) -> None:
        super().check()
        if self.mode == 0:
            raise SpecError("mode", self.mode, "must be at least 1: gold is a share of it")

    def reward(self) -> Reward:
        return _by_prompt(Verifiable().reward(), super().reward())

    def gold(self) -> Reward:
        return _by_prompt(Verifiable().reward(), self._gold_of_lengths)

    def best_reward(self) -> float:
        return 1.0

    def bounds_of_parts(self, max_new_tokens: int) -> Mapping[str, float]:
        furthest = max(self.mode, max_new_tokens - self.mode)
        return {"best_first": 1.0, "worst_first": 0.0, "best_second": 1.0, "worst_second": 1.0 - furthest / self.mode}

    def measure(self, completions: Completions) -> Mapping[str, Sequence[float]]:
        """Gold of either task's prompts, each times what makes a mean over all prompts one over these."""
        gold, verifiable = np.array(self.gold()(completions)), np.array(_verifiable(completions))
        parts = {"gold_first": verifiable, "gold_second": ~verifiable}
        return {name: (gold * part / max(part.mean(), 1 / len(part))).tolist() for name, part in parts.items()}

    def recorded_rows(self, encoder: TextEncoder) -> None:
        """The annotator's are of the rated task alone: recorded responses are labelled by the reward."""

    def load(
        self, encoder: TextEncoder, split: str | None, log: Callable[[str], None] = to_stderr
    ) -> Sequence[Example]:
        """Held-out rows: one of either task in turn. Others as `order` says, drawn by `proxy_seed`."""
        rows = super().load(encoder, split, log)
        verifiable = [row for row in rows if is_verifiable(row.prompt)]
        rated = [row for row in rows if not is_verifiable(row.prompt)]
        rng = np.random.default_rng([self.proxy_seed, len(rows)])

        def drawn(task: str, count: int) -> list[Example]:
            of_task = {"verifiable": verifiable, "rated": rated}[task]
            return [of_task[i] for i in rng.integers(len(of_task), size=count)]

        if split == HELD_OUT or self.order == "mixed":
            count = max(len(verifiable), len(rated)) if split == HELD_OUT else self.switch_after
            pairs = zip(drawn("verifiable", count), drawn("rated", count), strict=True)
            return [row for pair in pairs for row in pair]
        tasks = self.order.split("_")
        return [row for task in tasks for row in drawn(task, 2 * self.switch_after // len(tasks))]

    def _gold_of_lengths(self, completions: Completions) -> list[float]:
        return [1.0 + reward / self.mode for reward in super().gold()(completions)]


def is_verifiable(prompt: Text) -> bool:
    """Whether a prompt is of the verifiable task."""
    return language.parse_prompt(str(prompt)).op == "plus"


def _verifiable(completions: Completions) -> list[bool]:
    return [is_verifiable(prompt) for prompt in completions.prompts]


def _by_prompt(verifiable: Reward, rated: Reward) -> Reward:
    """One reward for prompts of one task, another for those of the other."""

    def score(completions: Completions) -> list[float]:
        found = zip(_verifiable(completions), verifiable(completions), rated(completions), strict=True)
        return [right if is_sum else rating for is_sum, right, rating in found]

    return score
