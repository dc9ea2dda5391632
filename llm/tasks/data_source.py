"""Where a task's prompts and recorded responses come from: the embedded language, files, or a hub data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from llm.data import Example, Limits, TextEncoder, load_examples, prompt_from, template_columns
from llm.data.tokenise import OnTooLong
from llm.embedded import language
from sims.core.spec import Spec, SpecError, setting

LANGUAGE = "language"
_COLUMNS = ("prompt", "chosen", "rejected", "completion")


@dataclass(frozen=True)
class DataSource(Spec):
    """The settings of a task that say which rows there are, and how a row becomes a prompt and its responses."""

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

    def check(self) -> None:
        super().check()
        if self.data == LANGUAGE:
            self._check_language()
            return
        if self.data_kind != "preference":
            for name in ("chosen_column", "rejected_column"):
                if getattr(self, name):
                    raise SpecError(name, getattr(self, name), "only means something with data_kind = preference")
        if self.prompt_template is not None:
            template_columns(self.prompt_template)

    def _check_language(self) -> None:
        for name in ("data_split", "evaluation_split"):
            if getattr(self, name) not in (None, "train", "held_out"):
                raise SpecError(name, getattr(self, name), "must be train or held_out of the language, or none")
        for name in ("data_config", "prompt_template", *(f"{column}_column" for column in _COLUMNS)):
            if getattr(self, name) is not None:
                raise SpecError(name, getattr(self, name), "has no effect with data = language: leave it at none")

    @property
    def columns(self) -> dict[str, str]:
        """Our names of columns to the data's, where they differ."""
        return {name: found for name in _COLUMNS if (found := getattr(self, f"{name}_column")) is not None}

    @property
    def prompt_limits(self) -> Limits:
        """What becomes of long prompts, for whoever must read them as the policy does."""
        return Limits(max_prompt_length=self.max_prompt_length, on_too_long=self.on_too_long)

    def load(self, encoder: TextEncoder, split: str | None) -> list[Example]:
        """The rows of a split, token ids and all; the language's have prompts alone."""
        if self.data == LANGUAGE:
            texts = language.all_prompts("held_out" if split == "held_out" else "train")
            return [
                Example(f"prompt {i}", text, np.array(encoder.prompt(text), dtype=np.int32), ())
                for i, text in enumerate(texts)
            ]
        examples, _ = load_examples(
            self.data,
            encoder.tokenizer,
            kind=self.data_kind,
            split=split,
            config=self.data_config,
            columns=self.columns,
            transform=prompt_from(self.prompt_template),
            max_prompt_length=self.max_prompt_length,
            max_completion_length=self.max_completion_length,
            on_bad_rows=self.on_bad_rows,
            on_too_long=self.on_too_long,
            ends=encoder.ends,
        )
        return examples
