"""Whether two texts give the same mathematical answer, compared by Math-Verify (an extra)."""

from __future__ import annotations

import functools
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sims.core.spec import SpecError

_DELIMITED = re.compile(r"\$|\\[(\[]|\\boxed")
_LATEX = re.compile(r"[\\^_{}()\[\]<>=]")
_COMMANDS = re.compile(r"\\text\w*\{[^}]*\}|\\[A-Za-z]+")
_WORD = re.compile(r"[^\W\d_]{2}")
# Processor time for parsing one text or comparing two; after it, the answer counts as wrong. Wall-clock time, which the
# library measures, would make right answers wrong on a busy machine.
SECONDS = 5.0
_WALL_SECONDS = 3600  # the library's own limit; it warns if there is none


def same_expression() -> Callable[[str, str], bool]:
    r"""A function of (right answer, answer): whether the last expression of both texts is the same.

    A text that is only LaTeX needs no delimiters (`delimited`); among words LaTeX needs $…$ or \boxed. A right answer
    in which the library finds no expression, such as a word, is compared as text. Units are ignored. Which forms
    count as the same, and which of several expressions is the answer, is decided by the library. Raises SpecError where
    it is not installed.
    """
    try:
        from math_verify import parse, verify
        from math_verify.errors import TimeoutException
    except ImportError as error:
        rule = "needs the library: pip install math-verify; or take exact"
        raise SpecError("checker", "math_verify", rule) from error

    def timed(call: Callable[[int | None], Any], otherwise: Any) -> Any:
        # A timer is a signal, which only the main thread may set: in another thread the library would parse every
        # text as empty, and every answer would be wrong.
        if threading.current_thread() is not threading.main_thread():
            return call(None)
        try:
            with _processor_time(SECONDS, TimeoutException):
                return call(_WALL_SECONDS)
        except TimeoutException:
            return otherwise

    def expressions(text: str) -> list[Any]:
        return timed(lambda limit: parse(delimited(text), parsing_timeout=limit), [])  # type: ignore[no-any-return]

    read = functools.lru_cache(maxsize=1 << 16)(expressions)

    def same(truth: str, answer: str) -> bool:
        expected = read(truth)
        if not expected:
            return truth.strip() == answer.strip()
        found = expressions(answer)
        return bool(timed(lambda limit: verify(expected, found, timeout_seconds=limit), False))

    return same


@contextmanager
def _processor_time(seconds: float, error: type[BaseException]) -> Iterator[None]:
    """Raises `error` inside once this process has computed for so long; on the main thread only."""
    if not hasattr(signal, "setitimer"):  # Windows: only the library's own limit applies
        yield
        return

    def expired(*_: Any) -> None:
        raise error(f"no answer after {seconds:g} seconds of processor time")

    before = signal.signal(signal.SIGPROF, expired)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before or signal.SIG_DFL)


def delimited(text: str) -> str:
    r"""A text that is LaTeX and has no words, between dollars: otherwise the library reads only its last number, and
    takes \sqrt{8} for 8."""
    bare = _LATEX.search(text) and not _DELIMITED.search(text) and not _WORD.search(_COMMANDS.sub("", text))
    return f"${text.strip()}$" if bare else text
