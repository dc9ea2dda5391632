"""Whether two texts give the same mathematical answer, asked of Math-Verify (an extra)."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable
from typing import Any

from sims.core.spec import SpecError

_DELIMITED = re.compile(r"\$|\\[(\[]|\\boxed")
_LATEX = re.compile(r"[\\^_{}()\[\]<>=]")
_COMMANDS = re.compile(r"\\text\w*\{[^}]*\}|\\[A-Za-z]+")
_WORD = re.compile(r"[^\W\d_]{2}")
SECONDS = 5  # for reading one text, and for comparing two, before the answer counts as wrong


def same_expression() -> Callable[[str, str], bool]:
    r"""A function of (right answer, answer): whether the last expression of both texts is the same.

    A text that is nothing but LaTeX need not say so (`delimited`); amid words it must, by $…$ or \boxed. A right answer
    in which the library finds no expression, such as a word, is compared as text. Units are not looked at. Which forms
    count as the same, and which of several expressions is the answer, is the library's say. Raises SpecError where it
    is not installed.
    """
    try:
        from math_verify import parse, verify
    except ImportError as error:
        rule = "needs the library: pip install math-verify; or take exact"
        raise SpecError("checker", "math_verify", rule) from error

    def timeout() -> int | None:
        # The library's clock is a signal, which only the main thread may set: elsewhere it would read every text as
        # empty, and every answer as wrong.
        return SECONDS if threading.current_thread() is threading.main_thread() else None

    @functools.lru_cache(maxsize=1 << 16)
    def read(truth: str) -> list[Any]:
        return parse(delimited(truth), parsing_timeout=timeout())

    def same(truth: str, answer: str) -> bool:
        expected = read(truth)
        if not expected:
            return truth.strip() == answer.strip()
        found = parse(delimited(answer), parsing_timeout=timeout())
        return bool(verify(expected, found, timeout_seconds=timeout()))

    return same


def delimited(text: str) -> str:
    r"""A text that is LaTeX and has no words, between dollars: the library else reads only the last number of it, and
    takes \sqrt{8} for 8."""
    bare = _LATEX.search(text) and not _DELIMITED.search(text) and not _WORD.search(_COMMANDS.sub("", text))
    return f"${text.strip()}$" if bare else text
