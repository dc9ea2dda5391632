"""Rewards of a language model's responses as settings: lengths, right answers, any function, recorded preferences.

|y| is the number of tokens before EOS everywhere: an immediate EOS has length 0, a response that was cut at
max_new_tokens counts all its tokens.
"""

from __future__ import annotations

import importlib
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from llm.data import Example, Row, Text, TextEncoder, collate
from llm.data.tokenise import OnTooLong
from sims.core.algorithms import Algorithm
from sims.core.loop.protocols import EnvironmentSpec
from sims.core.objectives.preferences import count_pairs
from sims.core.schedule import Schedule
from sims.core.spec import SpecError, setting

from .data.recorded import OnTies, cut_short
from .embedded import language
from .embedded.pretrain import EMBEDDED
from .tasks.expressions import same_expression

if TYPE_CHECKING:
    from .reward_models.model import RewardModel

LANGUAGE = "language"
_COLUMNS = ("prompt", "chosen", "rejected", "completion")


@dataclass(frozen=True, eq=False)
class Answers:
    """N responses as a reward sees them, prompt by prompt.

    prompts: N prompts as read, text or conversation, each as often as it has responses. completions: N texts without
    special tokens. completion_ids: N lists of the tokens that were chosen, EOS included. lengths: N, tokens before EOS.
    columns: further columns of the data, N values each.

    >>> answers = llm.Answers(["2 + 3 ="], ["5"], [[7, 0]], [1], {})
    >>> llm.MinLength().reward()(answers)
    [-1.0]
    """

    prompts: Sequence[Text]
    completions: Sequence[str]
    completion_ids: Sequence[Sequence[int]]
    lengths: Sequence[int]
    columns: Mapping[str, Sequence[Any]]


Reward = Callable[[Answers], Sequence[float]]


@dataclass(frozen=True)
class Task(EnvironmentSpec):
    """Where prompts come from, and how pairs are labelled; subclasses say what a response is worth.

    >>> isinstance(llm.MinLength(), llm.Task), llm.MinLength(label_temperature=1.0).label_temperature
    (True, 1.0)
    """

    executor: ClassVar[str] = "llm.training.run:execute"
    metric: ClassVar[str] = "reward"  # what its figure shows: a key of `llm.training.run.evaluate`

    data: str = setting(
        LANGUAGE, "prompts: the embedded language, a .jsonl or .parquet file, a folder of them, or a hub name"
    )
    data_split: str | None = setting(None, "split of a folder or hub name; none: of the language, train")
    data_config: str | None = setting(None, "configuration of a hub data set")
    evaluation_split: str | None = setting(
        None, "split that evaluations take prompts from; none: the language's held_out, else the training prompts"
    )
    data_kind: Literal["prompt_only", "preference", "prompt_completion"] = setting(
        "prompt_only", "what a row of a file holds, as in TRL"
    )
    prompt_column: str | None = setting(None, "the data's name for prompt")
    prompt_template: str | None = setting(
        None, "prompt made of a row's columns, as str.format does: 'Question: {question} Answer:'"
    )
    chosen_column: str | None = setting(None, "the data's name for chosen")
    rejected_column: str | None = setting(None, "the data's name for rejected")
    completion_column: str | None = setting(None, "the data's name for completion")
    max_prompt_length: int | None = setting(None, "most tokens of a prompt, BOS included; none: no limit", at_least=1)
    max_completion_length: int | None = setting(
        None, "most tokens of a recorded completion, EOS included; none: no limit", at_least=1
    )
    on_bad_rows: Literal["refuse", "drop"] = setting("refuse", "what to do with rows that cannot be used")
    on_too_long: OnTooLong = setting("refuse", "what to do with prompts and completions over the limits")
    evaluation_prompts: int = setting(256, "prompts of an evaluation, one response each", at_least=1)
    recorded_prompts: int = setting(
        4096, "prompts with recorded responses that the language draws (source = dataset)", at_least=1
    )
    label_temperature: float = setting(0.0, "scale on which the labeller tells rewards apart; 0: noiseless", at_least=0)
    flip_rate: float = setting(0.0, "probability that a label is turned round", at_least=0, at_most=0.5)
    correct_above: float = setting(0.5, "rewards above it count as correct (pairing = correct_incorrect)")
    relabel: bool = setting(
        False, "label a file's recorded pairs by this task's reward, whatever the rows say; the language's always are",
        omit_default=True,
    )  # fmt: skip
    on_ties: OnTies = setting(
        "drop", "what to do with pairs of two equal rewards (relabel): drop, or label by a coin", omit_default=True
    )

    def check(self) -> None:
        if self.data == LANGUAGE:
            self._check_language()
        elif self.data_kind != "preference":
            for name in ("chosen_column", "rejected_column", "relabel"):
                if getattr(self, name):
                    raise SpecError(name, getattr(self, name), "only means something with data_kind = preference")
        if self.on_ties != "drop" and not self.relabel:
            raise SpecError("on_ties", self.on_ties, "only means something with relabel")

    def _check_language(self) -> None:
        for name in ("data_split", "evaluation_split"):
            if getattr(self, name) not in (None, "train", "held_out"):
                raise SpecError(name, getattr(self, name), "must be train or held_out of the language, or none")
        for name in ("data_config", "prompt_template", *(f"{column}_column" for column in _COLUMNS)):
            if getattr(self, name) is not None:
                raise SpecError(name, getattr(self, name), "has no effect with data = language: leave it at none")
        if self.relabel:
            raise SpecError("relabel", True, "has no effect with data = language: its pairs are labelled by the reward")

    def check_experiment(self, algorithm: Algorithm, schedule: Schedule) -> None:
        """Recorded data must hold what the algorithm learns from."""
        if schedule.source == "replay":
            rule = "must be policy, pool or dataset: the stream of a whole run of text is not kept in memory"
            raise SpecError("source", "replay", rule)
        if schedule.source != "dataset":
            return
        if self.data == LANGUAGE:
            generations, most = schedule.num_generations, algorithm.min_generations
            if generations < most:
                rule = f"must be at least {most}: {algorithm.kind} compares responses to the same prompt"
                raise SpecError("num_generations", generations, rule)
            if algorithm.label_pairing is not None:
                count_pairs(generations, algorithm.label_pairing)
        elif self.data_kind == "prompt_only":
            raise SpecError("data_kind", self.data_kind, "must be preference or prompt_completion: source = dataset")
        elif self.data_kind != "preference" and algorithm.min_generations > 1:
            rule = f"must be preference: {algorithm.kind} compares responses to the same prompt"
            raise SpecError("data_kind", self.data_kind, rule)

    @property
    def columns(self) -> dict[str, str]:
        """Our names of columns to the data's, where they differ."""
        return {name: found for name in _COLUMNS if (found := getattr(self, f"{name}_column")) is not None}

    def reward(self) -> Reward:
        """What responses are worth, ready to be called; loads what it needs."""
        raise NotImplementedError

    def gold(self) -> Reward | None:
        """What we judge by where that is not what the learner sees; None: the same."""
        return None

    def recorded_response(self, prompt: str, rng: Any) -> str:
        """One recorded response to a prompt of the embedded language."""
        return language.sample_response(prompt, rng)

    def recorded_examples(self, examples: list[Example], eos: int, rng: Any) -> list[Example]:
        """A file's rows as they are learned from."""
        return examples


@dataclass(frozen=True)
class MinLength(Task, kind="min_length"):
    """r = −|y|. The best response is an immediate EOS. Tajwar et al. 2024, section 4.

    >>> llm.MinLength(evaluation_prompts=64).kind
    'min_length'
    """

    metric: ClassVar[str] = "length"

    def reward(self) -> Reward:
        return lambda answers: [-float(length) for length in answers.lengths]


@dataclass(frozen=True)
class ModeLength(Task, kind="mode_length"):
    """r = −| |y| − mode |. With the mode amid the reference's lengths, peaks overlap. Tajwar et al. 2024.

    >>> llm.ModeLength(mode=12).mode
    12
    """

    metric: ClassVar[str] = "distance"

    mode: int = setting(24, "length that is worth most, in tokens before EOS", at_least=0)

    def reward(self) -> Reward:
        return lambda answers: [-abs(float(length - self.mode)) for length in answers.lengths]


@dataclass(frozen=True)
class SkewLength(MinLength, kind="skew_length"):
    """r = −|y| where recorded responses are cut short, so that data and reference overlap little. Tajwar et al. 2024.

    A recorded response is cut to a length drawn evenly from `cut_from` … `cut_to` tokens and ended there by EOS. It
    mostly stops in the middle of a sentence, where the reference almost never does, and is never as short as the
    optimum. Responses that are no longer than their draw are drawn afresh from the embedded language; in a file they
    stay as they are, and are counted. A row's own preference is not about what is left of its responses, so that a
    file's pairs must be labelled again. Fresh samples know nothing of it: online, the task is min_length.

    How the authors cut theirs was not found; the name of their data, skewexp_minlength, speaks of exponential lengths.

    >>> isinstance(llm.SkewLength(), llm.MinLength)
    True
    """

    cut_from: int = setting(10, "shortest recorded response that was cut, in tokens before EOS", at_least=1)
    cut_to: int = setting(22, "longest recorded response that was cut, in tokens before EOS", at_least=1)

    def check(self) -> None:
        super().check()
        if self.data == LANGUAGE and not self.cut_from <= self.cut_to < language.MAX_RESPONSE_TOKENS:
            rule = f"must be from cut_from = {self.cut_from} to {language.MAX_RESPONSE_TOKENS - 1}"
            raise SpecError("cut_to", self.cut_to, rule)
        if self.cut_to < self.cut_from:
            raise SpecError("cut_to", self.cut_to, f"must be at least cut_from = {self.cut_from}")
        if self.data_kind == "preference" and self.data != LANGUAGE and not self.relabel:
            raise SpecError("relabel", False, "must be true with skew_length: a row does not compare what is cut of it")

    def recorded_response(self, prompt: str, rng: Any) -> str:
        length = int(rng.integers(self.cut_from, self.cut_to + 1))
        while True:
            words = language.sample_response(prompt, rng).split()
            if len(words) > length:
                return " ".join(words[:length])

    def recorded_examples(self, examples: list[Example], eos: int, rng: Any) -> list[Example]:
        return cut_short(examples, self.cut_from, self.cut_to, eos, rng, self.data)


@dataclass(frozen=True)
class Verifiable(Task, kind="verifiable"):
    """r = 1 for the right answer, else 0.

    On the embedded language the number after the last "answer" must be the prompt's. On other data the column
    `answer_column` holds the answer, and of both what follows the last `answer_marker` is compared, all of it where
    there is none: `exact` wants the same text, both stripped; `math_verify` asks the library of that name whether the
    two end in the same expression (`llm.tasks.expressions`).

    >>> llm.Verifiable().kind
    'verifiable'
    """

    metric: ClassVar[str] = "reward"

    checker: Literal["exact", "math_verify"] = setting("exact", "how an answer of a file is compared")
    answer_column: str = setting("answer", "the data's column of right answers")
    answer_marker: str = setting("####", "what stands before an answer, in completions and in the column")

    def reward(self) -> Reward:
        if self.data == LANGUAGE:
            return lambda answers: [
                float(language.is_correct(str(prompt), completion))
                for prompt, completion in zip(answers.prompts, answers.completions, strict=True)
            ]
        same = _same_text if self.checker == "exact" else same_expression()

        def judge(answers: Answers) -> list[float]:
            if self.answer_column not in answers.columns:
                known = ", ".join(answers.columns) or "none"
                raise SpecError("answer_column", self.answer_column, f"must be a column of the data, which has {known}")
            column = answers.columns[self.answer_column]
            rows = zip(column, answers.completions, strict=True)
            return [float(same(self._answer(str(truth)), self._answer(text))) for truth, text in rows]

        return judge

    def _answer(self, text: str) -> str:
        return text.rpartition(self.answer_marker)[2].strip()


@dataclass(frozen=True)
class RewardFunction(Task, kind="function"):
    """r from any Python function in TRL's signature.

    Called as function(prompts=, completions=, completion_ids=, **columns) with lists of N each, it returns N floats.
    Completions are texts, or [{"role": "assistant", "content": text}] where prompts are conversations.

    >>> llm.RewardFunction(function="my_rewards:brevity").function
    'my_rewards:brevity'
    >>> llm.RewardFunction(function="brevity")
    Traceback (most recent call last):
    sims.core.spec.SpecError: function = 'brevity': must be "module:function"
    """

    function: str = setting("", 'the function, as "module:function"')

    def check(self) -> None:
        super().check()
        module, _, name = self.function.partition(":")
        if not module or not name:
            raise SpecError("function", self.function, 'must be "module:function"')

    def reward(self) -> Reward:
        function = _import(self.function)

        def judge(answers: Answers) -> list[float]:
            completions = [
                text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
                for prompt, text in zip(answers.prompts, answers.completions, strict=True)
            ]
            found = function(
                prompts=list(answers.prompts),
                completions=completions,
                completion_ids=[list(ids) for ids in answers.completion_ids],
                **{name: list(values) for name, values in answers.columns.items()},
            )
            found = [float(value) for value in found]
            if len(found) != len(completions):
                rule = f"must return a number for each of {len(completions)} completions, not {len(found)}"
                raise SpecError("function", self.function, rule)
            return found

        return judge


@dataclass(frozen=True)
class LearnedReward(Task, kind="learned_reward"):
    """r from a reward model, read at the last token; judged by another one where `gold_reward_model` names it.

    A model is a sequence classifier of one label, a folder or a hub name, and reads text with its own tokenizer: in its
    own chat template if prompts are conversations. It reads a response that was cut off as if it had ended there, and
    so pays for running into max_new_tokens where it prefers length: `missing_eos_penalty` charges for that (TRL's
    name). What we judge by is never charged.

    >>> llm.LearnedReward(reward_model="runs/reward/model", missing_eos_penalty=1.0).gold_reward_model is None
    True
    """

    metric: ClassVar[str] = "gold"

    reward_model: str = setting("", "what the learner sees: a folder or a hub name")
    gold_reward_model: str | None = setting(None, "what we judge by; none: the same, without the penalty")
    missing_eos_penalty: float = setting(0.0, "taken off the reward of a response that was cut off", at_least=0)

    def check(self) -> None:
        super().check()
        if not self.reward_model:
            raise SpecError("reward_model", self.reward_model, "must be a folder or a hub name")

    def reward(self) -> Reward:
        model = _reward_model("reward_model", self.reward_model)
        if self.missing_eos_penalty == 0.0:
            return model

        def charged(answers: Answers) -> list[float]:
            rows = zip(model(answers), answers.completion_ids, answers.lengths, strict=True)
            return [score - self.missing_eos_penalty * (len(ids) == length) for score, ids, length in rows]

        return charged

    def gold(self) -> Reward | None:
        if self.gold_reward_model is not None:
            return _reward_model("gold_reward_model", self.gold_reward_model)
        return None if self.missing_eos_penalty == 0.0 else _reward_model("reward_model", self.reward_model)


# Whoever judges by one model shares it: training, evaluation, and the gold reward where it is the same.
_LOADED: weakref.WeakValueDictionary[tuple[str, str], RewardModel] = weakref.WeakValueDictionary()


def _reward_model(field: str, name: str) -> Reward:
    import torch
    from transformers import AutoTokenizer

    from .reward_models.model import load_reward_model

    try:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        # A judge is not trained: on a GPU half the memory will do.
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        model = _LOADED.get((name, device))
        if model is None:
            model = _LOADED[name, device] = load_reward_model(name, dtype=dtype).to(device)
        encoder = TextEncoder(AutoTokenizer.from_pretrained(EMBEDDED.get(name, name), trust_remote_code=False))
    except (OSError, ValueError) as error:
        raise SpecError(field, name, f"cannot be loaded: {str(error).splitlines()[0]}") from error

    def judge(answers: Answers) -> list[float]:
        # An answer that is empty, or was cut off, is scored at an EOS too, as all others are.
        rows = [
            Example("", prompt, np.array(encoder.prompt(encoder.render(Row(prompt))[0])), (_completion(encoder, text),))
            for prompt, text in zip(answers.prompts, answers.completions, strict=True)
        ]
        found = collate(rows, encoder.pad)
        assert found.responses is not None and found.mask is not None
        return model.score(found.prompts, found.prompt_mask, found.responses, found.mask).flatten().tolist()

    return judge


def _completion(encoder: TextEncoder, text: str) -> np.ndarray:
    return np.array([*(token for token in encoder.encode(text) if token != encoder.eos), encoder.eos])


def _import(name: str) -> Callable[..., Sequence[float]]:
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)  # type: ignore[no-any-return]
    except (ImportError, AttributeError) as error:
        raise SpecError("function", name, f"cannot be imported: {error}") from error


def _same_text(truth: str, answer: str) -> bool:
    return truth == answer
