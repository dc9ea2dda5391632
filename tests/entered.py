"""Which functions of this project a call enters, for tests of how much there is to read."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parents[1]


def entered(call: Callable[[], object]) -> Counter[tuple[str, str]]:
    """How often a call enters each function of `sims` and `llm`, by file and name; comprehensions and lambdas count as
    part of the function around them."""
    found: Counter[tuple[str, str]] = Counter()

    def watch(frame: FrameType, event: str, _: Any) -> None:
        path = frame.f_code.co_filename
        if event == "call" and path.startswith((f"{ROOT}/sims/", f"{ROOT}/llm/")):
            found[str(Path(path).relative_to(ROOT)), frame.f_code.co_qualname.split(".<locals>")[0]] += 1

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        call()
    finally:
        sys.setprofile(before)
    return found


def listed(functions: Iterable[tuple[str, str]]) -> str:
    """The functions of each file in a line."""
    files: dict[str, list[str]] = {}
    for path, name in functions:
        files.setdefault(path, []).append(name)
    return "\n".join(f"{path}: {', '.join(names)}" for path, names in files.items())
