"""Rewards from a user's own Python function, in TRL's signature. Its return value is checked, row by row.

A reward in one file, `my_rewards.py`:

    def brevity(completions, **columns):
        return [-float(len(text)) for text in completions]

    python -m llm train --preset tiny-min-length --task function --function my_rewards:brevity
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import math
import traceback
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

from llm.data import Example
from llm.tasks.completions import Completions, Reward
from llm.tasks.task import Task
from sims.core.spec import SpecError, setting

ARGUMENTS = ("prompts", "completions", "completion_ids")


@dataclass(frozen=True)
class RewardFunction(Task, kind="function"):
    """r from any Python function in TRL's signature.

    Called as function(prompts=, completions=, completion_ids=, **columns) with lists of N each, it must return N finite
    numbers. Completions are texts, or [{"role": "assistant", "content": text}] where prompts are conversations. An
    `async` function is awaited.

    Differences from TRL: (1) None for a row is refused: TRL allows several reward functions, of which another scores
    the row, here there is one; (2) there is no `trainer_state`; (3) all rows of a batch come in one call.

    >>> llm.RewardFunction(function="my_rewards:brevity").function
    'my_rewards:brevity'
    """

    description: ClassVar[str] = "what a Python function returns"
    needs: ClassVar[str] = "`--function module:name`"

    function: str = setting("", 'the function, as "module:function"')

    def check(self) -> None:
        super().check()
        module, _, name = self.function.partition(":")
        if not module or not name:
            raise SpecError("function", self.function, 'must be "module:function"')

    def reward(self) -> Reward:
        function = import_function(self.function)

        def score(completions: Completions) -> list[float]:
            arguments = {
                "prompts": list(completions.prompts),
                "completions": [
                    text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
                    for prompt, text in zip(completions.prompts, completions.texts, strict=True)
                ],
                "completion_ids": [list(ids) for ids in completions.ids],
            }
            columns = {name: list(values) for name, values in completions.columns.items()}
            return numbers(self.function, _call(self.function, function, arguments | columns), completions)

        return score

    def check_data(self, examples: Sequence[Example]) -> None:
        columns = sorted({name for example in examples for name in example.extra})
        taken = [name for name in columns if name in ARGUMENTS]
        if taken:
            rule = f"is given {', '.join(ARGUMENTS)} already: the data must have no column {taken[0]!r}"
            raise SpecError("function", self.function, rule)
        try:
            signature = inspect.signature(import_function(self.function))
        except (TypeError, ValueError):  # a builtin may have none to look at
            return
        try:
            signature.bind(**dict.fromkeys((*ARGUMENTS, *columns)))
        except TypeError as error:
            given = ", ".join((*ARGUMENTS, *columns))
            rule = f"must take {given} as keywords, the rest as **columns: {error}"
            raise SpecError("function", self.function, rule) from error


def import_function(name: str) -> Callable[..., Any]:
    """The function that "module:function" names; SpecError where there is none."""
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a user's module may raise anything on import
        raise SpecError("function", name, f"cannot be imported: {_one_line(error)}") from error
    if not callable(found):
        raise SpecError("function", name, f"must be a function, not {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def numbers(name: str, found: Any, completions: Completions) -> list[float]:
    """What a reward function returned, as N floats; SpecError names the first row without a finite number."""
    if isinstance(found, str) or not isinstance(found, Iterable):
        rule = f"must return a list of {len(completions)} numbers, one per completion, not {_shown(found)}"
        raise SpecError("function", name, rule)
    values = list(found)
    if len(values) != len(completions):
        rule = f"must return a number for each of {len(completions)} completions, not {len(values)}"
        raise SpecError("function", name, rule)
    rewards = []
    for row, value in enumerate(values):
        try:
            reward = math.nan if isinstance(value, str | bytes) else float(value)
        except (TypeError, ValueError, OverflowError):
            reward = math.nan
        if not math.isfinite(reward):
            prompt = _shown(completions.prompts[row])
            rule = f"must return finite numbers, not {_shown(value)} for row {row}, whose prompt is {prompt}"
            raise SpecError("function", name, rule)
        rewards.append(reward)
    return rewards


def _call(name: str, function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    try:
        found = function(**arguments)
        return _awaited(found) if inspect.iscoroutine(found) else found
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{frame.filename.rpartition('/')[2]}, line {frame.lineno}"
        raise SpecError("function", name, f"must not raise; it raised {_one_line(error)} ({where})") from error


def _awaited(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """A coroutine's result; in a thread of its own, because Jupyter's runs an event loop already."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _shown(value: Any, most: int = 60) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= most else f"{text[: most - 1]}…"
