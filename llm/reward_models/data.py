"""Pairs for a reward model: settings, rows to train on and held-out rows, margins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from llm.data import Example, TextEncoder, load_examples, prompt_from, template_columns
from llm.data.held_out import split_by_prompt
from llm.data.mixture import mix, parse_mixture
from llm.data.rows import to_stderr
from llm.embedded import language
from llm.judges import JudgeSettings
from sims.core.spec import SpecError, setting
from sims.experiments.command import short

LANGUAGE = "language"
_COLUMNS = ("prompt", "chosen", "rejected")
_LARGEST = 1e30  # of a margin: losses are float32


@dataclass(frozen=True)
class RewardData(JudgeSettings, kind="reward_data"):
    """The pairs that a reward model is trained on, and how they are labelled."""

    model: str = setting("pythia", "language model to start from: pythia, mistral, a folder, or a hub name")
    data: str = setting(
        LANGUAGE,
        "preferences: pairs of the embedded language, a file, a folder, or a hub name; or several by weight, as in "
        "a.jsonl:0.7,b.jsonl:0.3",
    )
    data_split: str | None = setting(None, "split of a folder or a hub data set")
    data_config: str | None = setting(None, "configuration (subset) of a hub data set")
    held_out_data: str | None = setting(
        None, "held-out pairs: a file, a folder, or a hub name; none: those of held_out_split"
    )
    held_out_split: str | None = setting(
        None, "split with the held-out pairs; none: rows of `data`, see held_out_share"
    )
    held_out_share: float = setting(
        0.1,
        "share of the rows that is held out, whole prompts at a time, without held_out_data and held_out_split",
        above=0,
        below=1,
    )
    pairs: int = setting(1024, "pairs to train on (data = language); a quarter as many are held out", at_least=4)
    prompt_column: str | None = setting(None, "column of prompts; none: prompt")
    prompt_template: str | None = setting(
        None, "prompt made of a row's columns by str.format; must be that of the policy that is tuned"
    )
    chosen_column: str | None = setting(None, "column of chosen responses; none: chosen")
    rejected_column: str | None = setting(None, "column of rejected responses; none: rejected")
    margin_column: str | None = setting(
        None, "column of numbers: margin of the chosen score in the loss, as TRL's `margin` (labels = data); none: 0"
    )
    max_prompt_length: int | None = setting(None, "longest prompt in tokens; none: no limit", at_least=1)
    max_completion_length: int | None = setting(None, "longest response in tokens; none: no limit", at_least=1)
    on_bad_rows: Literal["refuse", "drop"] = setting("refuse", "unusable rows: refuse (stop with an error) or drop")
    on_too_long: Literal["refuse", "drop", "truncate"] = setting(
        "refuse", "texts over the limits: refuse (stop with an error), drop the row, or truncate"
    )
    labels: str | None = setting(
        None,
        "labels: data (those of the rows; default of a file), min_length (the shorter response; default of the "
        "language), verifiable (right answers; language only), implicit (the implicit reward of a policy), judge (a "
        "language model compares the two responses, in both orders), or the folder or hub name of a reward model",
    )
    implicit_policy: str | None = setting(None, "policy whose implicit reward gives the labels (labels = implicit)")
    implicit_reference: str | None = setting(None, "reference of that policy (labels = implicit)")
    implicit_beta: float = setting(0.1, "beta of that implicit reward (labels = implicit)", above=0)

    @property
    def labels_name(self) -> str:
        return self.labels or ("min_length" if self.data == LANGUAGE else "data")

    def check(self) -> None:
        super().check()
        if (self.judge_model is not None) != (self.labels_name == "judge"):
            rule = "must name the judge" if self.judge_model is None else "only means something"
            raise SpecError("judge_model", self.judge_model, f"{rule} with labels = judge")
        for name in JudgeSettings.names():
            if self.labels_name != "judge" and (value := getattr(self, name)) != getattr(JudgeSettings(), name):
                raise SpecError(name, value, "only means something with labels = judge")
        implicit = self.labels_name == "implicit"
        for name in ("implicit_policy", "implicit_reference"):
            value = getattr(self, name)
            if (value is not None) != implicit:
                rule = (
                    "must be given with labels = implicit"
                    if implicit
                    else "only means something with labels = implicit"
                )
                raise SpecError(name, value, rule)
        if self.data == LANGUAGE and self.labels_name == "data":
            raise SpecError("labels", self.labels, "the language's pairs come unlabelled: must be another one")
        if self.data != LANGUAGE and self.labels_name == "verifiable":
            raise SpecError("labels", self.labels, "only means something with data = language, whose answers are known")
        if self.margin_column is not None and self.labels_name != "data":
            raise SpecError("margin_column", self.margin_column, "only means something with labels = data")
        if self.data == LANGUAGE and self.prompt_template is not None:
            raise SpecError("prompt_template", self.prompt_template, "has no effect with data = language")
        if self.prompt_template is not None:
            template_columns(self.prompt_template)
        if self.held_out_data is not None and self.held_out_split is not None and self.data == LANGUAGE:
            raise SpecError("held_out_data", self.held_out_data, "has no effect with data = language")


def load_rows(data: RewardData, tokenizer: PreTrainedTokenizerBase, seed: int) -> tuple[list[Example], list[Example]]:
    """Pairs to train on, and held-out pairs. seed: of the language's draws, or of the choice of held-out rows."""
    if data.data == LANGUAGE:
        sizes: tuple[tuple[int, language.Split], ...] = ((data.pairs, "train"), (data.pairs // 4, "held_out"))
        rngs = [np.random.default_rng([seed, i]) for i in range(2)]
        encoder = TextEncoder(tokenizer)
        first, second = (language_pairs(n, g, split, encoder) for (n, split), g in zip(sizes, rngs, strict=True))
        return first, second
    train = _rows(data, data.data, data.data_split, tokenizer)
    if data.held_out_data is not None:
        return train, _rows(data, data.held_out_data, data.held_out_split, tokenizer)
    if data.held_out_split is not None:
        return train, _rows(data, data.data, data.held_out_split, tokenizer)
    return split_by_prompt(train, data.held_out_share, seed)


def load_margins(rows: Sequence[Example], column: str) -> Tensor:
    """(B, 1) float32: the margin of each row's pair. SpecError naming the first row that has no finite number there."""
    found = []
    for row in rows:
        value = row.extra.get(column)
        # An integer may be beyond any float, and a float beyond float32.
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= _LARGEST:
            rule = f"must hold a number in each row, at most 1e30 in size; {row.where} has {short(repr(value))}"
            raise SpecError("margin_column", column, rule)
        found.append([float(value)])
    return torch.tensor(found)


def _rows(data: RewardData, source: str, split: str | None, tokenizer: PreTrainedTokenizerBase) -> list[Example]:
    parts = parse_mixture(source)
    if len(parts) > 1:
        return mix([(name, share, _rows(data, name, split, tokenizer)) for name, share in parts], to_stderr)
    examples, _ = load_examples(
        source,
        tokenizer,
        kind="preference",
        split=split,
        config=data.data_config if source == data.data else None,
        columns={name: found for name in _COLUMNS if (found := getattr(data, f"{name}_column")) is not None},
        transform=prompt_from(data.prompt_template),
        max_prompt_length=data.max_prompt_length,
        max_completion_length=data.max_completion_length,
        on_bad_rows=data.on_bad_rows,
        on_too_long=data.on_too_long,
    )
    return list(examples)


def language_pairs(count: int, rng: np.random.Generator, split: language.Split, encoder: TextEncoder) -> list[Example]:
    """`count` prompts with two different responses each, drawn from the language's distribution; without labels."""
    found: list[Example] = []
    while len(found) < count:
        prompt = language.prompts(1, rng, split)[0]
        texts = [language.sample_response(prompt, rng) for _ in range(2)]
        if texts[0] != texts[1]:
            ids = tuple(np.array([*encoder.encode(text), encoder.eos], dtype=np.int32) for text in texts)
            found.append(Example(f"pair {len(found)}", prompt, np.array(encoder.prompt(prompt), dtype=np.int32), ids))
    return found
