"""What labels pairs: the simulated users' preference, a reward model, or a judge."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from llm.data import Example, TextEncoder, collate
from llm.judges import Judge
from llm.models.loading import load_tokenizer
from llm.models.spec import LanguageModelSpec
from llm.reward_models.model import load_reward_model
from sims.core.objectives.preferences import Labeller
from sims.core.spec import SpecError

from . import users
from .label import Answer, Pair, PairLabeller
from .settings import LabelSource, Settings


class Simulated:
    """Labels by the users' gold preference, with the noise and the biases of `LabelSource`. A label is a function of
    its pair and the seed."""

    at_once = 1 << 30

    def __init__(self, spec: LabelSource, seed: int) -> None:
        self.spec, self.seed = spec, seed
        self.labeller = Labeller(spec.label_temperature, spec.flip_rate)

    def seen(self, prompt: str, response: str) -> float:
        """What the labeller thinks that a response is worth."""
        bias = self.spec.length_bias * len(response.split())
        return users.gold(prompt, response, self.spec.wrong_key) + bias

    def answers(self, pairs: Sequence[Pair]) -> Iterator[Answer]:
        for pair in pairs:
            values = [self.seen(str(pair.prompt), text) for text in (pair.first, pair.second)]
            if values[0] == values[1]:
                yield Answer(0.5, "equal")
                continue
            uniforms = np.random.default_rng([self.seed, zlib.crc32(pair.row.encode())]).random(2)
            first, second = (torch.tensor([x], dtype=torch.float64) for x in values)
            label = float(self.labeller.label(first, second, torch.tensor(uniforms)[None]))
            yield Answer(label, f"{values[0]:+.2f} against {values[1]:+.2f}")


class ByRewardModel:
    """Labels by the sign of a reward model's difference; a tie where it is exactly 0."""

    at_once = 64

    def __init__(self, folder: str) -> None:
        self.model = load_reward_model(folder, field="label_model")
        self.encoder = TextEncoder(load_tokenizer(LanguageModelSpec(model=folder), "label_model"))

    def answers(self, pairs: Sequence[Pair]) -> Iterator[Answer]:
        for at in range(0, len(pairs), self.at_once):
            part, examples = pairs[at : at + self.at_once], []
            for pair in part:
                prompt = self.encoder.prompt_text(pair.prompt)
                texts = [np.array(self.encoder.completion(text, True), np.int32) for text in (pair.first, pair.second)]
                examples.append(
                    Example(pair.row, pair.prompt, np.array(self.encoder.prompt(prompt), np.int32), tuple(texts))
                )
            batch = collate(examples, self.encoder.pad)
            assert batch.responses is not None and batch.mask is not None
            scores = self.model.score(batch.prompts, batch.prompt_mask, batch.responses, batch.mask)
            for first, second in scores.tolist():
                label = 0.5 if first == second else float(first > second)
                yield Answer(label, f"{first:+.3f} against {second:+.3f}")


class ByJudge:
    """Labels by a language model behind an endpoint, which is asked in both orders (`llm.judges`)."""

    at_once = 1

    def __init__(self, spec: LabelSource) -> None:
        self.judge = Judge(spec)

    def answers(self, pairs: Sequence[Pair]) -> Iterator[Answer]:
        found = self.judge.compare(*zip(*((pair.prompt, pair.first, pair.second) for pair in pairs), strict=True))
        return (Answer(one.label, one.reason) for one in found)


def check_readable(spec: LabelSource, unread: int, asked: int) -> None:
    """SpecError for a judge too many of whose answers cannot be read."""
    if spec.labels == "judge" and unread > spec.judge_unreadable * asked:
        rule = f"{unread} of {asked} answers are none of those asked for: another judge is needed, with larger tries to"
        rule += " ask it about the same pairs, or a larger judge_unreadable"
        raise SpecError("judge_model", spec.judge_model, rule)


def labeller_of(settings: Settings, simulated: bool) -> PairLabeller:
    """The labeller that the settings name; not for people, who are asked by files. simulated: whether the users are.
    SpecError for the preference of simulated users where there are real ones."""
    spec = settings.labelling
    if spec.labels == "reward_model":
        assert spec.label_model is not None
        return ByRewardModel(spec.label_model)
    if spec.labels == "judge":
        return ByJudge(spec)
    if spec.labels == "people":
        raise SpecError("labels", "people", "answer by files: `align label --export FILE`, then `--import FILE`")
    if not simulated:
        rule = "is the preference of simulated users: must be another one for a log that was imported"
        raise SpecError("labels", "simulated", rule)
    return Simulated(spec, settings.serving.seed)
