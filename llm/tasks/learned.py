"""Rewards read off a reward model, which sees the tokens that it was trained on."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from llm.data import Limits, RowError, TextEncoder, collate, encode_response
from llm.embedded import find_folder
from llm.tasks.completions import Completions, Reward
from llm.tasks.data_source import LANGUAGE
from llm.tasks.task import Task
from sims.core.spec import SpecError, setting

if TYPE_CHECKING:
    from llm.reward_models.model import RewardModel


@dataclass(frozen=True)
class LearnedReward(Task, kind="learned_reward"):
    """r from a reward model, read at the last token; evaluated by another where `gold_reward_model` names one.

    A model is a sequence classifier of one label, a folder or a hub name, and reads text with its own tokenizer: in its
    own chat template if prompts are conversations, prompts cut to `max_prompt_length` of its tokens where the policy's
    are. The tokens are those that `python -m llm reward` trains on (`llm.data.encode_response`), so that a response
    has one score in both. It reads a response that was cut off as if it had ended there, and so pays for running into
    max_new_tokens where it prefers length: `missing_eos_penalty` charges for that (TRL's name). The gold reward is
    never charged.
    """

    metric: ClassVar[str] = "gold"
    description: ClassVar[str] = "the score of a reward model"
    needs: ClassVar[str] = "`--reward-model folder`"

    reward_model: str = setting("", "what the learner sees: a folder or a hub name")
    gold_reward_model: str | None = setting(None, "what we judge by; none: the same, without the penalty")
    missing_eos_penalty: float = setting(0.0, "taken off the reward of a response that was cut off", at_least=0)

    def check(self) -> None:
        super().check()
        if not self.reward_model:
            raise SpecError("reward_model", self.reward_model, "must be a folder or a hub name")

    def reward(self) -> Reward:
        score = self._model("reward_model", self.reward_model)
        if self.missing_eos_penalty == 0.0:
            return score

        def charged(completions: Completions) -> list[float]:
            rows = zip(score(completions), completions.ids, completions.lengths, strict=True)
            return [score - self.missing_eos_penalty * (len(ids) == length) for score, ids, length in rows]

        return charged

    def gold(self) -> Reward | None:
        if self.gold_reward_model is not None:
            return self._model("gold_reward_model", self.gold_reward_model)
        return None if self.missing_eos_penalty == 0.0 else self._model("reward_model", self.reward_model)

    def _model(self, field: str, name: str) -> Reward:
        return _load(field, name, Limits() if self.data == LANGUAGE else self.prompt_limits)


# One model is in memory once: for training, for evaluation, and for the gold reward where it is the same.
_LOADED: weakref.WeakValueDictionary[tuple[str, str], RewardModel] = weakref.WeakValueDictionary()


def _load(field: str, name: str, limits: Limits) -> Reward:
    import torch
    from transformers import AutoTokenizer

    from llm.reward_models.model import load_reward_model

    try:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        # Nothing is trained here: on a GPU half the memory will do.
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        model = _LOADED.get((name, device))
        if model is None:
            model = _LOADED[name, device] = load_reward_model(name, dtype=dtype).to(device)
        folder = find_folder(name)
        place = folder if folder.is_dir() else name
        encoder = TextEncoder(AutoTokenizer.from_pretrained(place, trust_remote_code=False))
    except (OSError, ValueError) as error:
        raise SpecError(field, name, f"cannot be loaded: {str(error).splitlines()[0]}") from error

    def score(completions: Completions) -> list[float]:
        pairs = zip(completions.prompts, completions.texts, strict=True)
        try:
            rows = [encode_response(prompt, text, encoder, limits) for prompt, text in pairs]
            found = collate(rows, encoder.pad)
            assert found.responses is not None and found.mask is not None
            return model.score(found.prompts, found.prompt_mask, found.responses, found.mask).flatten().tolist()
        except (RowError, ValueError) as error:
            raise SpecError(field, name, f"cannot read a response: {error}") from error

    return score
