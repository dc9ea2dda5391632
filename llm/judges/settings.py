"""Which model judges, where it is asked, and how patiently."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sims.core.spec import Spec, SpecError, setting

from .messages import CRITERIA


@dataclass(frozen=True)
class JudgeSettings(Spec):
    """The settings of a judge. Its key is read from the environment variable OPENAI_API_KEY, and stored nowhere; a
    server on this machine wants none."""

    judge_model: str | None = setting(None, "name of the judge at its endpoint", omit_default=True)
    judge_url: str | None = setting(
        None,
        "base URL of its OpenAI-compatible endpoint, as in http://127.0.0.1:8000/v1; none: OpenAI's, or what "
        "OPENAI_BASE_URL says",
        omit_default=True,
    )
    judge_criteria: str | None = setting(
        None, f'text file that says what makes an answer good; none: "{CRITERIA}"', omit_default=True
    )
    judge_temperature: float | None = setting(
        0.0, "temperature of the judge's own reply; none: the server's", at_least=0, omit_default=True
    )
    judge_max_tokens: int | None = setting(
        None, "longest reply in tokens, reasoning included; none: the server's", at_least=1, omit_default=True
    )
    judge_timeout: float = setting(60.0, "seconds to wait for one reply", above=0, omit_default=True)
    judge_retries: int = setting(
        5,
        "how often a call is repeated after a timeout, a lost connection or a busy server, after waits that double",
        at_least=0,
        omit_default=True,
    )
    judge_concurrency: int = setting(8, "calls under way at a time", at_least=1, omit_default=True)
    judge_unreadable: float = setting(
        0.1,
        "largest share of a batch whose replies may be none of those asked for: they count as ties, or as half of the "
        "scale; more stops the run",
        at_least=0,
        at_most=1,
        omit_default=True,
    )

    def check(self) -> None:
        super().check()
        if self.judge_url is not None and not self.judge_url.startswith(("http://", "https://")):
            raise SpecError("judge_url", self.judge_url, "must begin with http:// or https://")

    def criteria(self) -> str:
        """What makes an answer good. SpecError for a file that cannot be read, or is empty."""
        if self.judge_criteria is None:
            return CRITERIA
        try:
            found = Path(self.judge_criteria).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise SpecError("judge_criteria", self.judge_criteria, f"cannot be read: {error}") from error
        if not found:
            raise SpecError("judge_criteria", self.judge_criteria, "must say what makes an answer good: it is empty")
        return found
