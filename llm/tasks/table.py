"""The table that `python -m llm --tasks` prints."""

from __future__ import annotations

from llm.tasks.task import Task
from sims.core.spec import kinds_of

_COLUMNS = ("task", "reward", "best", "needs", "metric of its figures")


def task_table() -> str:
    """All tasks in Markdown, in the order of their definition."""
    rows = [
        (kind, task.description, task.optimum, task.needs, f"`{task.metric}`") for kind, task in kinds_of(Task).items()
    ]
    lines = [_COLUMNS, ("---",) * len(_COLUMNS), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
