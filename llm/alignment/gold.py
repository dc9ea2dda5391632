"""The gold set: prompts by skill, and the gold score of a response to each.

That of the simulated users has the held-out prompts of each skill, and their preference as the score. A file of one's
own has JSON lines {"prompt": ..., "skill": ..., "answer": ...}: the score is 1 where the response has the answer as
whole words, and 0 elsewhere. Tasks of lm-evaluation-harness are more skills: see `harness`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from llm.data import Text
from sims.core.spec import SpecError
from sims.experiments.foreign_text import parse_json

from . import harness, users
from .imported import lines_of
from .settings import Gating

Item = tuple[Text, Callable[[str], float]]  # a prompt, and the score of a response to it


def gold_items(settings: Gating, simulated: bool, wrong_key: bool = False) -> dict[str, list[Item]]:
    """The gold set by skill; {} for real users without a file. wrong_key: of simulated users, see `users.gold`.
    SpecError for a guarded skill that neither it nor the tasks have, and for a task that cannot be."""
    if settings.gold_set is not None:
        found = read_gold_set(Path(settings.gold_set))
    elif simulated:
        found = {
            skill: [(prompt, _preference_for(prompt, wrong_key)) for prompt in users.gold_prompts(skill)]
            for skill in users.SKILLS
        }
    else:
        found = {}
    skills = [*found, *harness.task_names(settings.gold_tasks)]
    for name in skills[len(found) :]:
        if name in found:
            raise SpecError("gold_tasks", name, "must have another name than the skills of the gold set")
    for name in guarded(settings, skills):
        if name not in skills:
            rule = f"must be all, or skills of the gold set: {', '.join(skills) or 'there is none, gold_set names one'}"
            raise SpecError("guarded", settings.guarded, rule)
    return found


def guarded(settings: Gating, skills: Iterable[str]) -> list[str]:
    """The skills that must not get worse."""
    return list(skills) if settings.guarded == "all" else [name.strip() for name in settings.guarded.split(",")]


def read_gold_set(file: Path) -> dict[str, list[Item]]:
    """The gold set of a file. SpecError for one that cannot be read, or has a line that is none of it."""
    found: dict[str, list[Item]] = {}
    for at, line in enumerate(lines_of("gold_set", file), 1):
        if not line.strip():
            continue
        try:
            row: Any = parse_json(line)
            prompt, skill, answer = row["prompt"], str(row["skill"]), str(row["answer"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            rule = f"line {at} must be an object with prompt, skill and answer: {error!r}"
            raise SpecError("gold_set", str(file), rule) from error
        found.setdefault(skill, []).append((prompt, _has(answer)))
    if not found:
        raise SpecError("gold_set", str(file), "must have at least one line")
    return found


def _has(answer: str) -> Callable[[str], float]:
    pattern = re.compile(rf"(?<!\w){re.escape(answer.strip())}(?!\w)", re.IGNORECASE)
    return lambda response: float(pattern.search(response) is not None)


def _preference_for(prompt: str, wrong_key: bool) -> Callable[[str], float]:
    return lambda response: users.gold(prompt, response, wrong_key)
