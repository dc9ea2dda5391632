"""Rewards that are known functions of |y|, the number of tokens before EOS. Tajwar et al. 2024, section 4.

How hard such a reward is depends on how often the reference gives lengths near the best one (`overlap`): in the paper's
terms, whether the peaks of reward and reference overlap. On the embedded language

    min_length      best 0     1e-5 of responses within 5 tokens of it    the optimum is unlikely under the reference
    mode_length     best 16    .97                                        the optimum is likely
    skew_length     best 0     recorded responses have 6 to 9 tokens, as .004 of the reference's: off both

and `mode` moves the overlap between the first two, like `overlap` that of the bandit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from llm.data import Example
from llm.data.recorded import cut_short
from llm.embedded import language
from llm.tasks.completions import Completions, Reward
from llm.tasks.data_source import LANGUAGE
from llm.tasks.task import Task
from sims.core.spec import SpecError, setting

NEAR = 5  # tokens: lengths so far from the best one count as near it


@dataclass(frozen=True)
class MinLength(Task, kind="min_length"):
    """r = −|y|. The best response is an immediate EOS. Tajwar et al. 2024, section 4.

    >>> llm.MinLength(evaluation_prompts=64).best_reward()
    0.0
    """

    metric: ClassVar[str] = "length"
    description: ClassVar[str] = "−length, in tokens before EOS"
    optimum: ClassVar[str] = "0: an immediate EOS"

    def reward(self) -> Reward:
        return lambda completions: [-float(length) for length in completions.lengths]

    def best_reward(self) -> float:
        return 0.0

    def overlap(self) -> Mapping[str, float]:
        return _overlap(self, 0)


@dataclass(frozen=True)
class ModeLength(Task, kind="mode_length"):
    """r = −| |y| − mode |. With the mode among the reference's lengths, both overlap. Tajwar et al. 2024.

    >>> {mode: round(llm.ModeLength(mode=mode).overlap()["reference near optimum"], 4) for mode in (2, 4, 8, 16)}
    {2: 0.0003, 4: 0.0044, 8: 0.157, 16: 0.9732}
    """

    metric: ClassVar[str] = "distance"
    description: ClassVar[str] = "−distance of the length from `mode`"
    optimum: ClassVar[str] = "0: any response of that length"

    mode: int = setting(language.MODE, "length with the largest reward, in tokens before EOS", at_least=0)

    def reward(self) -> Reward:
        return near_length(self.mode)

    def best_reward(self) -> float:
        return 0.0

    def measure(self, completions: Completions) -> Mapping[str, Sequence[float]]:
        return {"distance": [abs(float(length - self.mode)) for length in completions.lengths]}

    def overlap(self) -> Mapping[str, float]:
        return _overlap(self, self.mode)


@dataclass(frozen=True)
class SkewLength(MinLength, kind="skew_length"):
    """r = −|y| where recorded responses are cut short, so that data and reference overlap little. Tajwar et al. 2024.

    A recorded response is cut to a length drawn uniformly from `cut_from` … `cut_to` tokens, and EOS is appended. It
    mostly stops in the middle of a sentence, where the reference almost never does, and is never as short as the
    optimum. Responses that are no longer than the length drawn for them are drawn again from the embedded language; in
    a file they are kept, and counted. A row's own label compares the whole responses, so that pairs of a file must be
    relabelled. Fresh samples are not cut: online, the task is min_length.

    How the authors cut their responses was not found; the name of their data, skewexp_minlength, suggests exponential
    lengths.

    >>> isinstance(llm.SkewLength(), llm.MinLength)
    True
    """

    description: ClassVar[str] = "−length; recorded responses are cut short"

    cut_from: int = setting(6, "least length that recorded responses are cut to, in tokens before EOS", at_least=1)
    cut_to: int = setting(9, "largest length that recorded responses are cut to, in tokens before EOS", at_least=1)

    def check(self) -> None:
        super().check()
        if self.data == LANGUAGE and not self.cut_from <= self.cut_to < language.MAX_RESPONSE_TOKENS:
            rule = f"must be from cut_from = {self.cut_from} to {language.MAX_RESPONSE_TOKENS - 1}"
            raise SpecError("cut_to", self.cut_to, rule)
        if self.cut_to < self.cut_from:
            raise SpecError("cut_to", self.cut_to, f"must be at least cut_from = {self.cut_from}")
        if self.data_kind == "preference" and self.data != LANGUAGE and not self.relabel:
            raise SpecError(
                "relabel", False, "must be true with skew_length: a row's label compares responses before they are cut"
            )

    def overlap(self) -> Mapping[str, float]:
        """Data between `cut_from` and `cut_to`; uniform there."""
        found = super().overlap()
        if not found:
            return {}
        span = range(self.cut_from, self.cut_to + 1)
        return {
            **found,
            "reference like recorded": float(language.length_distribution()[self.cut_from : self.cut_to + 1].sum()),
            "recorded near optimum": sum(length <= NEAR for length in span) / len(span),
        }

    def recorded_response(self, prompt: str, rng: Any) -> str:
        length = int(rng.integers(self.cut_from, self.cut_to + 1))
        while True:
            words = language.sample_response(prompt, rng).split()
            if len(words) > length:
                return " ".join(words[:length])

    def recorded_examples(self, examples: Sequence[Example], ends: Sequence[int], rng: Any) -> Sequence[Example]:
        return cut_short(examples, self.cut_from, self.cut_to, ends, rng, self.data)


def near_length(mode: int) -> Reward:
    """−| |y| − mode |."""
    return lambda completions: [-abs(float(length - mode)) for length in completions.lengths]


def _overlap(task: Task, best: int) -> Mapping[str, float]:
    return {"reference near optimum": language.length_mass(best, NEAR)} if task.data == LANGUAGE else {}
