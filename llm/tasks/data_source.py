"""Where a task's prompts and recorded responses come from: the embedded language, files, or a hub data set."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from llm.data import Example, Kind, Limits, TextEncoder, load_examples, prompt_from, template_columns
from llm.data.held_out import split_by_prompt
from llm.data.mixture import mix, parse_mixture
from llm.data.rows import to_stderr
from llm.data.streamed import StreamedExamples
from llm.data.tokenise import OnTooLong
from llm.embedded import language
from sims.core.spec import Spec, SpecError, setting

LANGUAGE = "language"
HELD_OUT = "held_out"
HELD_OUT_SEED = 0x5EED  # which rows are held out is part of the task, the same for every run
_COLUMNS = ("prompt", "chosen", "rejected", "completion")


@dataclass(frozen=True)
class DataSource(Spec):
    """The settings of a task that say which rows there are, and how a row becomes a prompt and its responses."""

    data: str = setting(
        LANGUAGE,
        "prompts and responses: language (the embedded one), a .jsonl or .parquet file, a folder, or a hub name; or "
        "several by weight, as in a.jsonl:0.7,b.jsonl:0.3",
    )
    stream_data: bool = setting(
        False, "read rows of one .jsonl file when they are needed: for files larger than memory", omit_default=True
    )
    data_split: str | None = setting(
        None, "split of a folder or a hub data set; of the language train, held_out, or train[:8]; none: train"
    )
    data_config: str | None = setting(None, "configuration (subset) of a hub data set")
    evaluation_split: str | None = setting(
        None,
        "split of the evaluation rows; none: held_out for the language, else see held_out_share",
    )
    held_out_share: float = setting(
        0.0,
        "share of the rows of a file or data set that is held out for evaluation, whole prompts at a time, if there is "
        "no evaluation_split; 0: evaluations use the training prompts",
        at_least=0,
        below=1,
        omit_default=True,
    )
    data_kind: Kind = setting(
        "prompt_only",
        "what a row holds, under TRL's names; unpaired_preference (prompt, completion, label): kto; language_modeling: "
        "messages, of which the assistant's are trained on, or text",
    )
    prompt_column: str | None = setting(None, "column of prompts; none: prompt")
    prompt_template: str | None = setting(
        None, "prompt made of a row's columns by str.format, as in 'Question: {question} Answer:'"
    )
    chosen_column: str | None = setting(None, "column of chosen responses; none: chosen")
    rejected_column: str | None = setting(None, "column of rejected responses; none: rejected")
    completion_column: str | None = setting(None, "column of completions; none: completion")
    max_prompt_length: int | None = setting(None, "longest prompt in tokens, BOS included; none: no limit", at_least=1)
    max_completion_length: int | None = setting(
        None, "longest recorded completion in tokens, EOS included; none: no limit", at_least=1
    )
    on_bad_rows: Literal["refuse", "drop"] = setting("refuse", "unusable rows: refuse (stop with an error) or drop")
    on_too_long: OnTooLong = setting(
        "refuse", "prompts and completions over the limits: refuse (stop with an error), drop the row, or truncate"
    )
    evaluation_prompts: int = setting(256, "prompts per evaluation, with one response each", at_least=1)
    recorded_prompts: int = setting(
        4096,
        "number of prompts with recorded responses, drawn from the embedded language (source = dataset)",
        at_least=1,
    )

    def check(self) -> None:
        super().check()
        if self.max_completion_length is not None and (self.data == LANGUAGE or self.data_kind == "prompt_only"):
            rule = "is of a file's recorded completions, and there are none: max_new_tokens is what is sampled at most"
            raise SpecError("max_completion_length", self.max_completion_length, rule)
        if self.data == LANGUAGE:
            self._check_language()
            return
        if self.held_out_share and self.evaluation_split is not None:
            raise SpecError("held_out_share", self.held_out_share, "has no effect with evaluation_split: leave it at 0")
        if self.stream_data and self.held_out_share:
            raise SpecError("stream_data", True, "must be false with held_out_share: a row is held out by its prompt")
        if self.stream_data and len(parse_mixture(self.data)) > 1:
            raise SpecError("stream_data", True, "must be false where several data sets are mixed")
        if self.data_kind != "preference":
            for name in ("chosen_column", "rejected_column"):
                if getattr(self, name):
                    raise SpecError(name, getattr(self, name), "only means something with data_kind = preference")
        if self.prompt_template is not None:
            template_columns(self.prompt_template)

    def _check_language(self) -> None:
        for name in ("data_split", "evaluation_split"):
            if _language_split(getattr(self, name)) is None:
                rule = "must be train, held_out, or the first few prompts of one, train[:8], of the language; or none"
                raise SpecError(name, getattr(self, name), rule)
        if self.held_out_share:
            raise SpecError("held_out_share", self.held_out_share, "has no effect with data = language: leave it at 0")
        if self.stream_data:
            raise SpecError("stream_data", True, "has no effect with data = language: leave it at false")
        for name in ("data_config", "prompt_template", *(f"{column}_column" for column in _COLUMNS)):
            if getattr(self, name) is not None:
                raise SpecError(name, getattr(self, name), "has no effect with data = language: leave it at none")

    @property
    def columns(self) -> dict[str, str]:
        """Names of columns here, and in the data, where they differ."""
        return {name: found for name in _COLUMNS if (found := getattr(self, f"{name}_column")) is not None}

    @property
    def limits(self) -> Limits:
        """Limits of prompts and recorded completions, for reward models that must truncate as the policy does."""
        return Limits(self.max_prompt_length, self.max_completion_length, self.on_too_long)

    @property
    def split_for_evaluation(self) -> str | None:
        """What `load` is asked for where a policy is evaluated."""
        held_out = self.data == LANGUAGE or self.held_out_share > 0
        return self.evaluation_split or (HELD_OUT if held_out else self.data_split)

    def load(
        self, encoder: TextEncoder, split: str | None, log: Callable[[str], None] = to_stderr
    ) -> Sequence[Example]:
        """The rows of a split as token ids; those of the language have a prompt only. With held_out_share, the split
        held_out is that share of data_split, and data_split the rest. log: is told what became of rows."""
        if not self.held_out_share:
            return self._all_rows(encoder, split, log)
        rows = self._all_rows(encoder, self.data_split, log)
        trained, held_out = split_by_prompt(rows, self.held_out_share, HELD_OUT_SEED)
        return held_out if split == HELD_OUT else trained

    def _all_rows(self, encoder: TextEncoder, split: str | None, log: Callable[[str], None]) -> Sequence[Example]:
        if self.data == LANGUAGE:
            found = _language_split(split)
            assert found is not None, "`check` has refused other names"
            texts = language.all_prompts(found[0])[: found[1]]
            return [
                Example(f"prompt {i}", text, np.array(encoder.prompt(text), dtype=np.int32), ())
                for i, text in enumerate(texts)
            ]
        parts = parse_mixture(self.data)
        if len(parts) == 1:
            return self._load_one(self.data, encoder, split, log)
        return mix([(name, share, self._load_one(name, encoder, split, log)) for name, share in parts], log)

    def _load_one(
        self, name: str, encoder: TextEncoder, split: str | None, log: Callable[[str], None]
    ) -> Sequence[Example]:
        examples, _ = load_examples(
            StreamedExamples(Path(name)) if self.stream_data else name,
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
            stop_strings=encoder.stop_strings,
            log=log,
        )
        return examples


def _language_split(name: str | None) -> tuple[language.Split, int | None] | None:
    """The split of the language that a setting names, and how many of its prompts are taken, from the first on (None:
    all); None for a name of none."""
    found = re.fullmatch(r"(train|held_out)(?:\[:([1-9][0-9]{0,5})\])?", name or "train")
    if found is None:
        return None
    return ("held_out" if found[1] == "held_out" else "train"), None if found[2] is None else int(found[2])
