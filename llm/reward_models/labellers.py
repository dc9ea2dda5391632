"""The scorer that labels the pairs of a reward model's training, as `RewardData.labels` names it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedTokenizerBase

from llm.data import TextEncoder
from llm.embedded import language
from llm.judges import Judge
from llm.models.loading import build_policy, load_tokenizer
from llm.models.settings import Scoring
from llm.models.spec import LanguageModelSpec
from sims.core.spec import SpecError

from .data import RewardData
from .model import RewardModel, load_reward_model
from .scoring import ImplicitReward, Scorer, TextScorer

_LABELS = ("data", "min_length", "verifiable", "implicit", "judge")


def load_labeller(data: RewardData, tokenizer: PreTrainedTokenizerBase, scoring: Scoring, device: str) -> Scorer:
    """The scorer that `labels` names. SpecError where its vocabulary is not that of the model to be trained."""
    name = data.labels_name
    if name == "min_length":
        return TextScorer(_shorter(tokenizer), tokenizer)
    if name == "verifiable":
        return TextScorer(_right_answers, tokenizer)
    if name == "judge":
        return TextScorer(_compared(Judge(data)), tokenizer)
    if name == "implicit":
        policies = []
        for field in ("implicit_policy", "implicit_reference"):
            spec = LanguageModelSpec(model=getattr(data, field), scoring=scoring)
            _check_tokens(field, spec.model, tokenizer)
            policies.append(build_policy(spec, tokenizer, False, torch.float32, torch.device(device), field))
        return ImplicitReward(policies[0], policies[1], data.implicit_beta)
    _check_tokens("labels", name, tokenizer)
    try:
        model: RewardModel = load_reward_model(name, scoring, field="labels").to(device)
    except SpecError as error:
        rule = f"must be one of {', '.join(_LABELS)}, or a reward model: {error.valid}"
        raise SpecError("labels", name, rule) from error
    return model


def _shorter(tokenizer: PreTrainedTokenizerBase) -> Callable[[list[str], list[str]], Sequence[float]]:
    encoder = TextEncoder(tokenizer)
    return lambda prompts, completions: [-float(len(encoder.encode(text))) for text in completions]


def _right_answers(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    return [float(language.is_correct(*pair)) for pair in zip(prompts, completions, strict=True)]


def _compared(judge: Judge) -> Callable[[list[str], list[str]], Sequence[float]]:
    """Scores of two responses per prompt whose difference says which is better: 1 and 0, or ½ each for a tie."""

    def score(prompts: list[str], completions: list[str]) -> list[float]:
        labels = judge.labels(prompts[::2], completions[::2], completions[1::2])
        return [score for label in labels for score in (label, 1 - label)]

    return score


def _check_tokens(field: str, name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    if load_tokenizer(LanguageModelSpec(model=name), field).get_vocab() != tokenizer.get_vocab():
        raise SpecError(field, name, "must have the vocabulary of `model`: labels are made from token ids")
