"""Scores and comparisons by a language model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from llm.data import Text
from sims.core.spec import SpecError
from sims.experiments.command import tell

from .messages import read_comparison, read_score, to_compare, to_score
from .settings import JudgeSettings

_SHOWN = 60  # characters of a reply that are shown


@dataclass(frozen=True)
class Comparison:
    """label: the probability that the first answer is better, ½ for a tie; None where a reply could not be read.
    reason: the replies, in the order given and in the order swapped."""

    label: float | None
    reason: str


class Judge:
    """Asks the judge of its settings, `judge_concurrency` questions at a time.

    Every pair is asked about twice, in both orders: an answer is better where both replies say so, and all else is a
    tie (Zheng et al. 2023, section 3.4), so that a judge that likes the first place prefers nobody. Timeouts, lost
    connections and busy servers (408, 409, 429, 5xx) are tried again by the client; what still fails raises SpecError.
    An endpoint that answers as another model than before, as a name does that stands for the newest, is told.
    """

    def __init__(self, settings: JudgeSettings) -> None:
        if settings.judge_model is None:
            raise SpecError("judge_model", None, "must name the judge at its endpoint")
        try:
            import openai
        except ImportError as error:
            rule = "needs the library openai: pip install openai"
            raise SpecError("judge_model", settings.judge_model, rule) from error
        self.settings, self.criteria, self.errors = settings, settings.criteria(), openai.OpenAIError
        self.answers_as: str | None = None  # the model that the endpoint says its last answer is of
        try:
            self.client = openai.OpenAI(
                base_url=settings.judge_url,
                # A server of one's own wants no key, but the client does.
                api_key=os.environ.get("OPENAI_API_KEY") or (None if settings.judge_url is None else "none"),
                timeout=settings.judge_timeout,
                max_retries=settings.judge_retries,
            )
        except openai.OpenAIError as error:
            rule = "OpenAI's endpoint needs a key in OPENAI_API_KEY; judge_url names another"
            raise SpecError("judge_url", settings.judge_url, rule) from error

    def compare(self, prompts: Sequence[Text], first: Sequence[Text], second: Sequence[Text]) -> Iterator[Comparison]:
        """One comparison for each prompt and its two answers, in their order, each as soon as it is there."""
        questions = []
        for prompt, one, two in zip(prompts, first, second, strict=True):
            questions += [to_compare(prompt, one, two, self.criteria), to_compare(prompt, two, one, self.criteria)]
        replies = self._replies(questions)
        for given in replies:
            swapped = next(replies)
            said, then = read_comparison(given), read_comparison(swapped)
            label = None if said is None or then is None else said if said == 1 - then else 0.5
            yield Comparison(label, f"{_short(given)} / {_short(swapped)}")

    def score(self, prompts: Sequence[Text], answers: Sequence[Text]) -> list[float]:
        """Scores in [0, 1]; unreadable replies, up to their allowed share, are ½."""
        questions = [to_score(*pair, self.criteria) for pair in zip(prompts, answers, strict=True)]
        replies = list(self._replies(questions))
        return self._read([read_score(reply) for reply in replies], [_short(reply) for reply in replies])

    def labels(self, prompts: Sequence[Text], first: Sequence[Text], second: Sequence[Text]) -> list[float]:
        """The labels of `compare`; unreadable replies, up to their allowed share, are ties."""
        found = list(self.compare(prompts, first, second))
        return self._read([one.label for one in found], [one.reason for one in found])

    def _read(self, values: Sequence[float | None], replies: Sequence[str]) -> list[float]:
        unread = [reply for value, reply in zip(values, replies, strict=True) if value is None]
        if unread:
            what = f"{len(unread)} of {len(values)} replies are none of those asked for, as {unread[0]}"
            if len(unread) > self.settings.judge_unreadable * len(values):
                rule = f"{what}: a judge that follows instructions is needed, or a larger judge_unreadable"
                raise SpecError("judge_model", self.settings.judge_model, rule)
            print(f"judge: {what}", file=sys.stderr)
        return [0.5 if value is None else value for value in values]

    def _replies(self, questions: Sequence[list[dict[str, str]]]) -> Iterator[str]:
        pool = ThreadPoolExecutor(self.settings.judge_concurrency)
        try:
            yield from pool.map(self._reply, questions)
        finally:  # after an error, or where nobody wants the rest
            pool.shutdown(wait=False, cancel_futures=True)

    def _reply(self, question: list[dict[str, str]]) -> str:
        settings = self.settings
        optional: dict[str, Any] = {"temperature": settings.judge_temperature, "max_tokens": settings.judge_max_tokens}
        given = {name: value for name, value in optional.items() if value is not None}
        create: Any = self.client.chat.completions.create
        try:
            found = create(model=settings.judge_model, messages=question, **given)
        except self.errors as error:
            where = str(self.client.base_url)
            why = " ".join(f"{type(error).__name__}: {error}".split())
            raise SpecError("judge_url", where, f"must answer for {settings.judge_model}: {why}") from error
        served, before = getattr(found, "model", None), self.answers_as
        if isinstance(served, str) and served != before:
            self.answers_as = served
            if before is not None:
                told = f"judge_model = {settings.judge_model!r} answers as {served!r}, and before as {before!r}"
                tell(f"judge: {told}: it may judge otherwise")
        choices = getattr(found, "choices", None)
        return str(choices[0].message.content or "") if choices else ""


def _short(reply: str) -> str:
    text = repr(" ".join(reply.split()))
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
