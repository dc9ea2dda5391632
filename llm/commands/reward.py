"""`python -m llm reward`: fit a reward model to preferences, and say how good it is on pairs that it has not seen."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from llm.data import Example, TextEncoder, load_examples, prompt_from, template_columns
from llm.distributed.spread import Ranks, joined
from llm.embedded import language
from llm.models.scoring import Scoring
from llm.models.spec import LanguageModelSpec, build_policy, load_tokenizer
from llm.reward_models.calibration import HeldOut
from llm.reward_models.model import (
    ImplicitReward,
    RewardModel,
    RewardTraining,
    Scorer,
    TextScorer,
    check_absent,
    fit,
    held_out,
    label_pairs,
    load_reward_model,
    new_reward_model,
    preference_batch,
)
from sims.core.algorithms.reward_model import RewardModelLoss
from sims.core.numerics.noise import Noise
from sims.core.objectives.preferences import Labeller
from sims.core.spec import Spec, SpecError, setting, to_json
from sims.experiments.options import OptionParser, add_options, from_options

EXAMPLES = """examples:
  python -m llm reward --output gold                           the language's own responses, shorter ones preferred
  python -m llm reward --labels gold --output proxy             a proxy, trained on the gold model's labels
  python -m llm reward --data pairs.jsonl --output mine        rows of prompt, chosen, rejected
  python -m llm reward --labels implicit --implicit-policy tuned --implicit-reference pythia --output own
"""
LANGUAGE = "language"
_LABELS = ("data", "min_length", "verifiable", "implicit")
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


def main(arguments: Sequence[str]) -> int:
    """Fit a reward model as the options say."""
    return run(parser().parse_strictly(arguments))


def parser() -> OptionParser:
    """The options of `reward`."""
    parser = OptionParser("python -m llm reward", description=__doc__, epilog=EXAMPLES)
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="where the model is saved")
    parser.add_argument(
        "--processes", type=int, metavar="N", help="refuse to run unless N processes were started (torchrun)"
    )
    add_options(parser, RewardData, "pairs and labels")
    add_options(parser, Labeller, "noise of the labels", skip=("correct_above",))
    add_options(parser, RewardModelLoss, "loss")
    add_options(parser, RewardTraining, "training")
    add_options(parser, Scoring, "memory")
    return parser


def run(options: argparse.Namespace) -> int:
    """Fit, measure, save, print. Exit status: 0 done, 2 for what cannot be."""
    try:
        data, labeller = from_options(options, RewardData), from_options(options, Labeller)
        loss, training = from_options(options, RewardModelLoss), from_options(options, RewardTraining)
        scoring = from_options(options, Scoring)
        check_absent(options.output)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        with joined(options.processes, device) as ranks:
            _run(data, labeller, loss, training, scoring, options.output, device, ranks)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _run(
    data: RewardData,
    labeller: Labeller,
    loss: RewardModelLoss,
    training: RewardTraining,
    scoring: Scoring,
    output: Path,
    device: str,
    ranks: Ranks,
) -> None:
    tokenizer = load_tokenizer(LanguageModelSpec(model=data.model))
    rows, held_out_rows = load_rows(data, tokenizer, training.seed)
    shared = shared_prompts(rows, held_out_rows)
    if shared and ranks.first:
        print(f"held out: {shared} of {len(held_out_rows)} pairs have a prompt that is trained on", file=sys.stderr)
    pad = TextEncoder(tokenizer).pad
    train, test = preference_batch(rows, pad), preference_batch(held_out_rows, pad)
    margin = None if data.margin_column is None else load_margins(rows, data.margin_column)
    if data.labels_name != "data":
        scorer, noise = load_labeller(data, tokenizer, scoring, device), Noise.single(training.seed)
        train, test = (label_pairs(batch, scorer, labeller, noise) for batch in (train, test))
        del scorer
    model = new_reward_model(data.model, training.seed, scoring).to(device)
    before, started = held_out(model, test), time.perf_counter()
    steps = tqdm(
        fit(model, train, loss, training, margin, ranks),
        total=training.updates(train.size),
        desc="reward",
        disable=None if ranks.first else True,
    )
    for step in steps:
        steps.set_postfix(loss=f"{step.loss:.3f}", accuracy=f"{step.accuracy:.2f}", refresh=False)
    after, seconds = held_out(model, test), time.perf_counter() - started
    if not ranks.first:
        return
    settings = {spec.kind: to_json(spec) for spec in (data, labeller, loss, training, scoring)}
    longer = held_out(LongerWins(), test)
    report = settings | {"before": dataclasses.asdict(before), "held_out": dataclasses.asdict(after)}
    report |= {"longer_wins": longer.accuracy, "held_out_pairs_with_a_training_prompt": shared}
    model.save(output, tokenizer, report | {"training_pairs": train.size, "seconds": round(seconds, 1)})
    print(f"{output}: trained on {train.size} pairs in {seconds:.0f} s\n{table(before, after, longer)}")


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


def load_labeller(data: RewardData, tokenizer: PreTrainedTokenizerBase, scoring: Scoring, device: str) -> Scorer:
    """The scorer that `labels` names. SpecError where it reads other tokens than the model that learns from it."""
    name = data.labels_name
    if name == "min_length":
        return TextScorer(_shorter(tokenizer), tokenizer)
    if name == "verifiable":
        return TextScorer(_right_answers, tokenizer)
    if name == "implicit":
        policies = []
        for field in ("implicit_policy", "implicit_reference"):
            spec = LanguageModelSpec(model=getattr(data, field), scoring=scoring)
            _check_tokens(field, spec.model, tokenizer)
            policies.append(build_policy(spec, tokenizer, False, torch.float32, torch.device(device)))
        return ImplicitReward(policies[0], policies[1], data.implicit_beta)
    _check_tokens("labels", name, tokenizer)
    try:
        model: RewardModel = load_reward_model(name, scoring).to(device)
    except (OSError, ValueError) as error:
        rule = f"must be one of {', '.join(_LABELS)}, or a reward model: {str(error).splitlines()[0]}"
        raise SpecError("labels", name, rule) from error
    return model


def _shorter(tokenizer: PreTrainedTokenizerBase) -> Any:
    encoder = TextEncoder(tokenizer)
    return lambda prompts, completions: [-float(len(encoder.encode(text))) for text in completions]


def _right_answers(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    return [float(language.is_correct(*pair)) for pair in zip(prompts, completions, strict=True)]


def _check_tokens(field: str, name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    try:
        other = load_tokenizer(LanguageModelSpec(model=name))
    except SpecError as error:
        raise SpecError(field, name, error.valid) from error
    if other.get_vocab() != tokenizer.get_vocab():
        raise SpecError(field, name, "must have the vocabulary of `model`: labels are made from token ids")


@dataclass(frozen=True)
class LongerWins:
    """The longer response is the better one: what a reward model has to beat to have learned more than length."""

    def score(self, prompts: Tensor, prompt_mask: Tensor | None, responses: Tensor, mask: Tensor) -> Tensor:
        """(B, K); see `Scorer`."""
        return mask.sum(-1).double()


def table(before: HeldOut, after: HeldOut, longer: HeldOut) -> str:
    """Held-out accuracy, log loss and calibration before and after, how far length alone goes, and the reliability
    bins after."""
    lines = [f"{'held out, ' + format(after.pairs, 'g') + ' pairs':<26}{'before':>8}{'after':>8}"]
    for name in ("accuracy", "log_loss", "calibration_error"):
        line = f"{name:<26}{getattr(before, name):>8.3f}{getattr(after, name):>8.3f}"
        low, high = after.accuracy_low, after.accuracy_high
        lines.append(f"{line}    95 % [{low:.3f}, {high:.3f}]" if name == "accuracy" else line)
    lines.append(f"{'accuracy of “longer wins”':<34}{longer.accuracy:>8.3f}")
    lines.append("\npredicted   pairs  mean prediction  right")
    for b in after.bins:
        if b.confidence is not None and b.accuracy is not None:
            lines.append(f"{b.low:.2f}-{b.high:.2f}{b.pairs:>8g}{b.confidence:>17.3f}{b.accuracy:>7.3f}")
    return "\n".join(lines)
