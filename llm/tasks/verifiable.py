"""Rewards for right answers, checked by the language's arithmetic, as text, or as mathematical expressions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from llm.data import Example, TextEncoder
from llm.embedded import language
from llm.tasks.completions import Completions, Reward
from llm.tasks.data_source import LANGUAGE
from llm.tasks.task import Task
from sims.core.algorithms import Algorithm
from sims.core.schedule import Schedule
from sims.core.spec import SpecError, setting

from .expressions import same_expression


@dataclass(frozen=True)
class Verifiable(Task, kind="verifiable"):
    """r = 1 for the right answer, else 0.

    On the embedded language the number after the last "answer" must be the prompt's. On other data the column
    `answer_column` holds the answer. Of the completion and of the column, the text after the last `answer_marker` is
    compared, or all of it without a marker: `exact` compares the stripped texts; `math_verify` compares the last
    mathematical expressions, with the library of that name (`llm.tasks.expressions`).

    >>> llm.Verifiable().best_reward()
    1.0
    """

    description: ClassVar[str] = "1 for the right answer, else 0"
    optimum: ClassVar[str] = "1: the right answer"
    needs: ClassVar[str] = "on a file, a column of answers"

    checker: Literal["exact", "math_verify"] = setting(
        "exact", "how answers are compared: as text, or as mathematical expressions (not for the language)"
    )
    answer_column: str = setting("answer", "column of right answers (not for the language)")
    answer_marker: str = setting(
        "####", "marker before an answer, in completions and in the column (not for the language)"
    )

    demonstration_seed: int | None = setting(
        None,
        "recorded responses of the language, one per prompt, are all right, for supervised fine-tuning: run i draws "
        "its own by this seed + i; none: every run has the same, half of them right",
        at_least=0,
        omit_default=True,
    )

    def check(self) -> None:
        super().check()
        if self.demonstration_seed is not None and self.data != LANGUAGE:
            rule = "must be none: the responses of other data are what they are"
            raise SpecError("demonstration_seed", self.demonstration_seed, rule)

    def check_experiment(self, algorithm: Algorithm, schedule: Schedule) -> None:
        super().check_experiment(algorithm, schedule)
        if self.demonstration_seed is None or schedule.source != "dataset":
            return
        if algorithm.min_generations > 1 or algorithm.label_pairing is not None:
            rule = f"must be none: {algorithm.kind} compares responses to the same prompt, and there is one of each"
            raise SpecError("demonstration_seed", self.demonstration_seed, rule)

    def of_run(self, index: int) -> Verifiable:
        if self.demonstration_seed is None:
            return self
        return self.replace(demonstration_seed=self.demonstration_seed + index)

    def recorded_rows(self, encoder: TextEncoder) -> Sequence[Example] | None:
        """Demonstrations, if there are any: each of one prompt and a response that is right."""
        if self.demonstration_seed is None:
            return None
        rng = np.random.default_rng(self.demonstration_seed)
        prompts = self.load(encoder, self.data_split)
        chosen = [prompts[i] for i in rng.integers(len(prompts), size=self.recorded_prompts)]
        return [replace(row, completion_ids=(_right_response(row, encoder, rng),)) for row in chosen]

    def reward(self) -> Reward:
        if self.data == LANGUAGE:
            return _right_on_the_language
        same = _same_text if self.checker == "exact" else same_expression()

        def right(completions: Completions) -> list[float]:
            rows = zip(completions.columns[self.answer_column], completions.texts, strict=True)
            return [float(same(self._answer(str(truth)), self._answer(text))) for truth, text in rows]

        return right

    def best_reward(self) -> float:
        return 1.0

    def check_data(self, examples: Sequence[Example]) -> None:
        if self.data == LANGUAGE:
            return
        for example in examples:
            if self.answer_column not in example.extra:
                known = ", ".join(example.extra) or "none"
                rule = f"must be a column of the data, which has {known} ({example.where})"
                raise SpecError("answer_column", self.answer_column, rule)
            if example.extra[self.answer_column] is None:
                raise SpecError("answer_column", self.answer_column, f"must hold an answer: {example.where} has null")

    def _answer(self, text: str) -> str:
        return text.rpartition(self.answer_marker)[2].strip()


def _right_response(row: Example, encoder: TextEncoder, rng: Any) -> np.ndarray:
    """Token ids of a response that the language gives, given that it is right."""
    prompt = str(row.prompt)
    while not language.is_correct(prompt, text := language.sample_response(prompt, rng)):
        pass
    return np.array(encoder.completion(text), dtype=np.int32)


def _right_on_the_language(completions: Completions) -> list[float]:
    rows = zip(completions.prompts, completions.texts, strict=True)
    return [float(language.is_correct(str(prompt), text)) for prompt, text in rows]


def _same_text(truth: str, answer: str) -> bool:
    return truth == answer
