"""The base class of tasks: settings of data, labels and lengths, and the reward of a response."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from llm.data import Example, TextEncoder
from llm.embedded import language
from llm.tasks.completions import Completions, Reward
from llm.tasks.data_source import LANGUAGE, DataSource
from llm.tasks.labels import Labels
from llm.tasks.shaping import Shaping
from sims.core.algorithms import Algorithm, PairAlgorithm
from sims.core.loop.protocols import EnvironmentSpec
from sims.core.objectives.preferences import count_pairs
from sims.core.schedule import Schedule
from sims.core.spec import SpecError, undefined


@dataclass(frozen=True)
class Task(Labels, DataSource, Shaping, EnvironmentSpec):
    """Base of all tasks; a subclass defines the reward. Class variables are its row in the table of tasks.

    >>> isinstance(llm.MinLength(), llm.Task), llm.MinLength(label_temperature=1.0).label_temperature
    (True, 1.0)
    """

    executor: ClassVar[str] = "llm.training.run:execute"
    text: ClassVar[bool] = True
    estimators: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"reward": "samples", "gold": "samples", "kl_policy_ref": "samples", "entropy": "prefixes"}
    )
    metric: ClassVar[str] = "reward"  # the metric that its figure shows: a key of `EvaluatedSamples.numbers`
    description: ClassVar[str] = ""  # the reward in one line
    optimum: ClassVar[str] = "unknown"  # the best response, and its reward
    needs: ClassVar[str] = "–"  # settings without a default
    in_order: ClassVar[bool] = False  # prompts are drawn in the order of the rows, and not in a new one each epoch

    def reward(self) -> Reward:
        """The reward function; loads what it needs."""
        raise undefined(self, "reward", "a function of completions that returns a number for each")

    def gold(self) -> Reward | None:
        """The reward that the policy is evaluated by, if not `reward`; None: the same."""
        return None

    def best_reward(self) -> float:
        """The largest gold reward that a response can have; NaN if unknown."""
        return math.nan

    def bounds_of_parts(self, max_new_tokens: int) -> Mapping[str, float]:
        """Where gold is the mean of two parts, which `measure` gives as gold_first and gold_second: the largest and the
        smallest that each can have, best_first, worst_first and so on, of responses of so many tokens at most."""
        return {}

    def measure(self, completions: Completions) -> Mapping[str, Sequence[float]]:
        """Further numbers of an evaluation by name, N values each; their means are recorded."""
        return {}

    def overlap(self) -> Mapping[str, float]:
        """Probabilities that say how far the reference and recorded responses are from what the reward asks for, by
        name; {} where they are not known. `python -m llm train --dry-run` prints them."""
        return {}

    def recorded_response(self, prompt: str, rng: Any) -> str:
        """One recorded response to a prompt of the embedded language."""
        return language.sample_response(prompt, rng)

    def of_run(self, index: int) -> Task:
        """The task as a run of an experiment has it: the same in each, but for one that is drawn anew."""
        return self

    def recorded_rows(self, encoder: TextEncoder) -> Sequence[Example] | None:
        """Rows of the embedded language with responses of their own: pairs that come with a label, chosen response
        first, or single ones; None: responses are drawn by `recorded_response` and labelled by the reward."""
        return None

    def recorded_examples(self, examples: Sequence[Example], ends: Sequence[int], rng: Any) -> Sequence[Example]:
        """A file's rows as they are trained on. ends: the tokens that end a response, EOS first."""
        return examples

    def check_data(self, examples: Sequence[Example]) -> None:
        """SpecError for rows that lack what the reward needs; called when they are loaded."""

    def check(self) -> None:
        super().check()
        if self.relabel and self.data == LANGUAGE:
            raise SpecError("relabel", True, "has no effect with data = language: its pairs are labelled by the reward")
        if self.relabel and self.data_kind != "preference":
            raise SpecError("relabel", True, "only means something with data_kind = preference")

    def check_experiment(self, algorithm: Algorithm, schedule: Schedule) -> None:
        """SpecError for recorded data that lack what the algorithm needs."""
        if schedule.source == "replay":
            rule = "must be policy, pool or dataset: the stream of a whole run of text is not kept in memory"
            raise SpecError("source", "replay", rule)
        if schedule.pool_policy == "final":
            raise SpecError("pool_policy", "final", "must be initial: a language model is trained once, not twice")
        if schedule.source != "dataset":
            return
        own_labels = self.data_kind in ("preference", "unpaired_preference") and not self.relabel
        if own_labels and self.data != LANGUAGE and (isinstance(algorithm, PairAlgorithm) or algorithm.single_labels):
            for name in self.SHAPES:
                if getattr(self, name):
                    rule = "means nothing with source = dataset, whose rows have labels of their own, without relabel"
                    raise SpecError(name, getattr(self, name), rule)
        if self.data == LANGUAGE:
            generations, most = schedule.num_generations, algorithm.min_generations
            if generations < most:
                rule = f"must be at least {most}: {algorithm.kind} compares responses to the same prompt"
                raise SpecError("num_generations", generations, rule)
            if algorithm.label_pairing is not None:
                count_pairs(generations, algorithm.label_pairing)
        elif self.data_kind == "prompt_only":
            rule = "must be preference or prompt_completion (completion_column says where), or another with responses"
            raise SpecError("data_kind", self.data_kind, f"{rule}: source = dataset")
        elif self.data_kind == "unpaired_preference":
            if not algorithm.single_labels:
                rule = f"must be another one with {algorithm.kind}: some of its responses are not to be imitated"
                raise SpecError("data_kind", self.data_kind, rule)
        elif self.data_kind != "preference" and (algorithm.min_generations > 1 or algorithm.label_pairing is not None):
            rule = f"must be preference: {algorithm.kind} compares responses to the same prompt"
            raise SpecError("data_kind", self.data_kind, rule)
