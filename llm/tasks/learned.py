"""Rewards from a reward model, on tokens made as in its training."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from llm.data import Example, Limits, RowError, TextEncoder, collate, encode_response
from llm.tasks.completions import Completions, Reward
from llm.tasks.data_source import LANGUAGE
from llm.tasks.task import Task
from sims.core.spec import SpecError, setting

if TYPE_CHECKING:
    from llm.reward_models.model import RewardModel


@dataclass(frozen=True)
class LearnedReward(Task, kind="learned_reward"):
    """r from a reward model; policies are evaluated by another where `gold_reward_model` names one.

    A reward model is a sequence classifier of one label, in a folder or on the hub. It has its own tokenizer: its own
    chat template if prompts are conversations, and prompts truncated to `max_prompt_length` of its tokens where the
    policy's are. Tokens are made as in the training of `python -m llm reward` (`llm.data.encode_response`), so that a
    response has the same score in both. A response that was cut off is scored as if it had ended there, so that a
    reward model that prefers length rewards running into max_new_tokens; `missing_eos_penalty` makes such a response
    worth less. One that was cut at max_completion_length, with on_too_long = truncate, has no EOS, as in training.

    What is scored is what the policy wrote, other special tokens than ends included: role marks, BOS or UNK within a
    response are tokens of it in the rows of a reward model, and would cost nothing if they were left out here. Judges
    and Python functions read texts without them, as in TRL. Two things are not read as written, since text lies in
    between: tokens that are no whole characters, and words that the policy split otherwise than the tokenizer does.
    A recorded completion of several turns is scored whole, its messages through the template, as TRL does and as the
    reward model's own rows are read.

    >>> llm.LearnedReward(reward_model="runs/reward/model", missing_eos_penalty=1.0).gold_reward_model is None
    True
    """

    metric: ClassVar[str] = "gold"
    description: ClassVar[str] = "the score of a reward model"
    needs: ClassVar[str] = "`--reward-model folder`"

    reward_model: str = setting("", "reward model that the policy is trained by: a folder or a hub name")
    gold_reward_model: str | None = setting(
        None, "reward model that policies are evaluated by; none: reward_model, without the penalty"
    )

    def check(self) -> None:
        super().check()
        if not self.reward_model:
            raise SpecError("reward_model", self.reward_model, "must be a folder or a hub name")

    def reward(self) -> Reward:
        return self._model("reward_model", self.reward_model)

    def gold(self) -> Reward | None:
        return None if self.gold_reward_model is None else self._model("gold_reward_model", self.gold_reward_model)

    def check_data(self, examples: Sequence[Example]) -> None:
        """SpecError for prompts that a reward model cannot read, or that leave it no token for a response."""
        limits = Limits() if self.data == LANGUAGE else self.limits
        for field in ("reward_model", "gold_reward_model"):
            if (name := getattr(self, field)) is not None:
                _check_prompts(field, name, examples, limits)

    def _model(self, field: str, name: str) -> Reward:
        return _load(field, name, Limits() if self.data == LANGUAGE else self.limits)


_DEVICE: ContextVar[str | None] = ContextVar("device of reward models", default=None)


@contextmanager
def reward_models_on(device: str) -> Iterator[None]:
    """Reward models that a task opens within are put on a device ("cpu", "cuda", "cuda:1"): the policy's, which the
    user may have chosen. Outside: a GPU where there is one."""
    token = _DEVICE.set(device)
    try:
        yield
    finally:
        _DEVICE.reset(token)


# One model is in memory once: for training, for evaluation, and for the gold reward where it is the same.
_LOADED: weakref.WeakValueDictionary[tuple[str, str], RewardModel] = weakref.WeakValueDictionary()


def _open(field: str, name: str) -> tuple[RewardModel, TextEncoder]:
    """A reward model, once in memory, and its tokenizer."""
    import torch

    from llm.models.gate import check_tokens
    from llm.models.loading import load_tokenizer
    from llm.models.spec import LanguageModelSpec
    from llm.reward_models.model import load_reward_model

    try:
        device = _DEVICE.get() or ("cuda" if torch.cuda.is_available() else "cpu")
        # It is not trained: on a GPU, half the memory is enough.
        dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
        model = _LOADED.get((name, device))
        if model is None:
            model = _LOADED[name, device] = load_reward_model(name, dtype=dtype, field=field).to(device)
        tokenizer = load_tokenizer(LanguageModelSpec(model=name))
        check_tokens(field, name, model.classifier, tokenizer)
        return model, TextEncoder(tokenizer)
    except SpecError as error:
        raise SpecError(field, name, f"cannot be loaded: {error.valid}") from error


def _check_prompts(field: str, name: str, examples: Sequence[Example], limits: Limits) -> None:
    from llm.models.forward import max_positions

    model, encoder = _open(field, name)
    positions = max_positions(model.classifier.config)
    for example in examples:
        try:
            row = encode_response(example.prompt, "", encoder, limits)
        except (RowError, ValueError) as error:
            raise SpecError(field, name, f"cannot read the prompt of {example.where}: {error}") from error
        length = len(row.prompt_ids) + 1
        if positions is not None and length > positions:
            rule = f"has {positions} positions, and the prompt of {example.where} with an EOS {length} tokens"
            raise SpecError(field, name, f"{rule}: set max_prompt_length, and on_too_long to drop or truncate")


def _load(field: str, name: str, limits: Limits) -> Reward:
    score = score_texts(*_open(field, name), limits)

    def checked(completions: Completions) -> Sequence[float]:
        try:
            return score(completions)
        except (RowError, ValueError) as error:
            raise SpecError(field, name, f"cannot score a response: {error}") from error

    return checked


def score_texts(model: RewardModel, encoder: TextEncoder, limits: Limits) -> Reward:
    """A reward model's scores of texts. RowError or ValueError for one that it cannot read."""

    def score(completions: Completions) -> list[float]:
        most = limits.max_completion_length if limits.on_too_long == "truncate" else None
        cut = [is_cut and len(ids) == most for is_cut, ids in zip(completions.cut, completions.ids, strict=True)]
        read = zip(completions.prompts, completions.said(written=True), cut, strict=True)
        rows = [encode_response(prompt, said, encoder, limits, truncated) for prompt, said, truncated in read]
        found = collate(rows, encoder.pad)
        assert found.responses is not None and found.mask is not None
        return list(model.score(found.prompts, found.prompt_mask, found.responses, found.mask).flatten().tolist())

    return score
