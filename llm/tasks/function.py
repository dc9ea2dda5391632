"""Rewards from a user's own Python functions, in TRL's signature. What they return is checked, row by row.

A reward in one file, `my_rewards.py`:

    def brevity(completions, **columns):
        return [-float(len(text)) for text in completions]

    python -m llm train --preset tiny-min-length --reward-funcs my_rewards:brevity
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import itertools
import math
import os
import traceback
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from llm.data import Example
from llm.tasks.completions import Completions, Reward
from llm.tasks.task import Task
from sims.core.spec import SpecError, setting
from sims.experiments.command import FOREIGN, raised

ARGUMENTS = ("prompts", "completions", "completion_ids")
LARGEST = 1e30  # in size: what is learned from is float32, and sums and squares of it


@dataclass(frozen=True)
class RewardFunction(Task, kind="function"):
    """r = Σ_i w_i·r_i, from Python functions in TRL's signature.

    Each is called as function(prompts=, completions=, completion_ids=, **columns) with lists of N each, and must return
    N finite numbers. Completions are texts, or [{"role": "assistant", "content": text}] where prompts are
    conversations, and all messages of a recorded completion of several turns. An `async` function is awaited. None for
    a row means that the function does not reward it, and adds nothing; one function at least must reward each row.

    Differences from TRL: (1) a row that no function rewards is refused: TRL gives it 0 and warns; (2) there is no
    `trainer_state`; (3) all rows of a batch come in one call; (4) weights are not normalised, as in TRL.

    >>> llm.RewardFunction(reward_funcs=("my_rewards:brevity", "my_rewards:right"), reward_weights=(0.1, 1.0)).kind
    'function'
    """

    description: ClassVar[str] = "what Python functions return, weighted"
    needs: ClassVar[str] = "`--reward-funcs module:name`"

    reward_funcs: tuple[str, ...] = setting((), 'the functions, each as "module:function"')
    reward_weights: tuple[float, ...] | None = setting(None, "weight of each function; none: 1 each")

    def check(self) -> None:
        super().check()
        if not self.reward_funcs:
            raise SpecError("reward_funcs", None, 'must name a function as "module:function", or several')
        for function in self.reward_funcs:
            module, _, name = function.partition(":")
            if not module or not name:
                dotted = function.replace(":", ".").rpartition(".")  # TRL's command line has module.function
                hint = f"; did you mean {dotted[0]}:{dotted[2]}?" if dotted[0] and dotted[2] else ""
                raise SpecError("reward_funcs", function, f'must be "module:function"{hint}')
        weights = self.reward_weights
        if weights is not None and len(weights) != len(self.reward_funcs):
            raise SpecError("reward_weights", weights, f"must be {len(self.reward_funcs)}, one per function")

    def reward(self) -> Reward:
        functions = {name: import_function(name) for name in self.reward_funcs}
        weights = self.reward_weights or (1.0,) * len(self.reward_funcs)

        def score(completions: Completions) -> list[float]:
            arguments = {
                "prompts": list(completions.prompts),
                "completions": [
                    [{"role": "assistant", "content": said}]
                    if isinstance(said, str) and not isinstance(prompt, str)
                    else said
                    for prompt, said in zip(completions.prompts, completions.said(), strict=True)
                ],
                "completion_ids": [list(ids) for ids in completions.ids],
                **{name: list(values) for name, values in completions.columns.items()},
            }
            # Each gets copies: what one changes in its arguments is neither the next one's nor the data's.
            found = [
                numbers(name, _call(name, functions[name], deepcopy(arguments), len(completions)), completions)
                for name in self.reward_funcs
            ]
            return weighted_sums(self.reward_funcs, weights, found, completions)

        return score

    def check_data(self, examples: Sequence[Example]) -> None:
        columns = sorted({name for example in examples for name in example.extra})
        taken = [name for name in columns if name in ARGUMENTS]
        if taken:
            rule = f"is given {', '.join(ARGUMENTS)} already: the data must have no column {taken[0]!r}"
            raise SpecError("reward_funcs", self.reward_funcs[0], rule)
        for name in self.reward_funcs:
            try:
                signature = inspect.signature(import_function(name))
            except (TypeError, ValueError):  # a builtin may have none to look at
                continue
            try:
                signature.bind(**dict.fromkeys((*ARGUMENTS, *columns)))
            except TypeError as error:
                given = ", ".join((*ARGUMENTS, *columns))
                rule = f"must take {given} as keywords, the rest as **columns: {error}"
                raise SpecError("reward_funcs", name, rule) from error


def weighted_sums(
    names: Sequence[str],
    weights: Sequence[float],
    rewards: Sequence[Sequence[float | None]],
    completions: Completions,
) -> list[float]:
    """Σ_i w_i·r_i over the functions that reward a row. rewards: N of each function. SpecError for a row of Nones."""
    sums = []
    for row, values in enumerate(zip(*rewards, strict=True)):
        if all(value is None for value in values):
            prompt = _shown(completions.prompts[row])
            rule = f"must return a number: None of every function for row {row}, whose prompt is {prompt}"
            raise SpecError("reward_funcs", ",".join(names), rule)
        sums.append(sum(w * r for w, r in zip(weights, values, strict=True) if r is not None))
    return sums


def import_function(name: str) -> Callable[..., Any]:
    """The function that "module:function" names; SpecError where there is none."""
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except FOREIGN as error:
        raise SpecError("reward_funcs", name, f"cannot be imported: {raised(error)}") from error
    if not callable(found):
        raise SpecError("reward_funcs", name, f"must be a function, not {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def numbers(name: str, found: Any, completions: Completions) -> list[float | None]:
    """What a reward function returned, as N floats or None; SpecError names the first row with anything else."""
    # Of a mapping there would be its keys, of a set any order, of bytes their codes.
    if isinstance(found, str | bytes | bytearray | Mapping | Set) or not isinstance(found, Iterable):
        rule = f"must return a list of {len(completions)} numbers, one per completion, not {_shown(found)}"
        raise SpecError("reward_funcs", name, rule)
    values = list(found)
    if len(values) != len(completions):
        rule = f"must return a number for each of {len(completions)} completions, not {len(values)}"
        raise SpecError("reward_funcs", name, rule)
    rewards: list[float | None] = []
    for row, value in enumerate(values):
        try:
            reward = None if value is None else math.nan if isinstance(value, str | bytes) else float(value)
        except Exception:  # of a number type that is not ours
            reward = math.nan
        if reward is not None and not abs(reward) <= LARGEST:
            prompt = _shown(completions.prompts[row])
            what = "numbers of at most 1e30 in size" if math.isfinite(reward) else "finite numbers"
            rule = f"must return {what}, not {_shown(value)} for row {row}, whose prompt is {prompt}"
            raise SpecError("reward_funcs", name, rule)
        rewards.append(reward)
    return rewards


def _call(name: str, function: Callable[..., Any], arguments: dict[str, Any], count: int) -> Any:
    """What a function returns; of an iterator at most count + 1 items, as it may have no end."""
    try:
        with _unchanged():
            found = function(**arguments)
            if inspect.iscoroutine(found):
                found = _awaited(found)
            return list(itertools.islice(found, count + 1)) if isinstance(found, Iterator) else found
    except FOREIGN as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{frame.filename.rpartition('/')[2]}, line {frame.lineno}"
        raise SpecError("reward_funcs", name, f"must not raise; it raised {raised(error)} ({where})") from error


@contextmanager
def _unchanged() -> Iterator[None]:
    """Whatever runs within leaves the folder that relative paths start from, and the type of new tensors, as they
    are."""
    folder, dtype = os.open(".", os.O_RDONLY), torch.get_default_dtype()
    try:
        yield
    finally:
        os.fchdir(folder)
        os.close(folder)
        torch.set_default_dtype(dtype)


def _awaited(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """A coroutine's result; in a thread of its own, because Jupyter's runs an event loop already."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


def _shown(value: Any, most: int = 60) -> str:
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a number of 5,000 digits, or an object that is not ours
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= most else f"{text[: most - 1]}…"
