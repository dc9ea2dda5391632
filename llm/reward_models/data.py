"""Pairs for a reward model: settings, rows to train on and held-out rows, margins."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from llm.data import Example, TextEncoder, load_examples, prompt_from, template_columns
from llm.embedded import language
from sims.core.spec import Spec, SpecError, setting

LANGUAGE = "language"
_COLUMNS = ("prompt", "chosen", "rejected")


@dataclass(frozen=True)
class RewardData(Spec, kind="reward_data"):
    """Which pairs a reward model learns from, and who says which of a pair is better."""

    model: str = setting("pythia", "language model to start from: pythia, mistral, a folder, or a hub name")
    data: str = setting(LANGUAGE, "preferences: pairs of the embedded language, a file, a folder, or a hub name")
    data_split: str | None = setting(None, "split of a folder or hub name")
    data_config: str | None = setting(None, "configuration of a hub data set")
    held_out_data: str | None = setting(None, "file of held-out pairs; none: see held_out_split and held_out_share")
    held_out_split: str | None = setting(None, "split of the same data that holds the held-out pairs")
    held_out_share: float = setting(
        0.1,
        "share of the rows kept out of training, all rows of a prompt together, where no held-out data are named",
        above=0,
        below=1,
    )
    pairs: int = setting(1024, "pairs to train on (data = language); a quarter as many are held out", at_least=4)
    prompt_column: str | None = setting(None, "the data's name for prompt")
    prompt_template: str | None = setting(
        None, "prompt made of a row's columns, as str.format does; must be the one that the policy is asked with"
    )
    chosen_column: str | None = setting(None, "the data's name for chosen")
    rejected_column: str | None = setting(None, "the data's name for rejected")
    margin_column: str | None = setting(
        None, "column of numbers: by how much the chosen score has to win, as TRL's `margin`; none: 0 (labels = data)"
    )
    max_prompt_length: int | None = setting(None, "most tokens of a prompt; none: no limit", at_least=1)
    max_completion_length: int | None = setting(None, "most tokens of a response; none: no limit", at_least=1)
    on_bad_rows: Literal["refuse", "drop"] = setting("refuse", "what to do with rows that cannot be used")
    on_too_long: Literal["refuse", "drop", "truncate"] = setting("refuse", "what to do with texts over the limits")
    labels: str | None = setting(
        None,
        "who labels: data (as the rows say; default of a file), min_length (default of the language), verifiable "
        "(right answers, language only), implicit (a policy's own reward), or the folder or hub name of a reward model",
    )
    implicit_policy: str | None = setting(None, "policy whose implicit reward labels (labels = implicit)")
    implicit_reference: str | None = setting(None, "its reference (labels = implicit)")
    implicit_beta: float = setting(0.1, "beta of its implicit reward (labels = implicit)", above=0)

    @property
    def labels_name(self) -> str:
        return self.labels or ("min_length" if self.data == LANGUAGE else "data")

    def check(self) -> None:
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
            raise SpecError("labels", self.labels, "the language's pairs come unlabelled: must be another labeller")
        if self.data != LANGUAGE and self.labels_name == "verifiable":
            raise SpecError("labels", self.labels, "knows the answers of data = language alone")
        if self.margin_column is not None and self.labels_name != "data":
            raise SpecError("margin_column", self.margin_column, "belongs to the data's own labels: labels = data")
        if self.data == LANGUAGE and self.prompt_template is not None:
            raise SpecError("prompt_template", self.prompt_template, "has no effect with data = language")
        if self.prompt_template is not None:
            template_columns(self.prompt_template)
        if self.held_out_data is not None and self.held_out_split is not None and self.data == LANGUAGE:
            raise SpecError("held_out_data", self.held_out_data, "has no effect with data = language")


def load_rows(data: RewardData, tokenizer: PreTrainedTokenizerBase, seed: int) -> tuple[list[Example], list[Example]]:
    """Pairs to train on, and held-out ones. seed: of the language's draws, or of which rows are held out."""
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


def split_by_prompt(rows: Sequence[Example], held_out_share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Rows to train on, and held-out ones: whole prompts, as many as the share has room for.

    A copy of a pair, or another pair of its prompt, would else be known from training. Where no prompt is small enough
    for the share, the smallest is held out; where there is only one, rows are (`shared_prompts` counts them). SpecError
    where nothing is left to train on.
    """
    order = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
    wanted = max(1, round(held_out_share * len(rows)))
    if wanted >= len(rows):
        raise SpecError("held_out_share", held_out_share, f"leaves none of {len(rows)} rows to train on")
    sizes = Counter(map(_prompt, order))
    if len(sizes) == 1:
        return order[wanted:], order[:wanted]
    out, count = set(), 0
    for prompt, size in sizes.items():
        if count + size <= wanted:
            out.add(prompt)
            count += size
    out = out or {min(sizes, key=sizes.__getitem__)}
    return [row for row in order if _prompt(row) not in out], [row for row in order if _prompt(row) in out]


def shared_prompts(rows: Sequence[Example], held_out_rows: Sequence[Example]) -> int:
    """How many held-out rows have a prompt that training rows have too."""
    known = set(map(_prompt, rows))
    return sum(_prompt(row) in known for row in held_out_rows)


def _prompt(row: Example) -> bytes:
    """What rows are compared by: the prompt's tokens, all that a model sees of it."""
    return row.prompt_ids.tobytes()


def load_margins(rows: Sequence[Example], column: str) -> Tensor:
    """(B, 1) float32: the margin of each row's pair. SpecError naming the first row that has no finite number there."""
    found = []
    for row in rows:
        value = row.extra.get(column)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise SpecError("margin_column", column, f"must hold a number in each row; {row.where} has {value!r}")
        found.append([float(value)])
    return torch.tensor(found)


def _rows(data: RewardData, source: str, split: str | None, tokenizer: PreTrainedTokenizerBase) -> list[Example]:
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
    return examples


def language_pairs(count: int, rng: np.random.Generator, split: language.Split, encoder: TextEncoder) -> list[Example]:
    """Two different responses to each of `count` prompts, drawn from the language's distribution; not labelled yet."""
    found: list[Example] = []
    while len(found) < count:
        prompt = language.prompts(1, rng, split)[0]
        texts = [language.sample_response(prompt, rng) for _ in range(2)]
        if texts[0] != texts[1]:
            ids = tuple(np.array([*encoder.encode(text), encoder.eos], dtype=np.int32) for text in texts)
            found.append(Example(f"pair {len(found)}", prompt, np.array(encoder.prompt(prompt), dtype=np.int32), ids))
    return found
