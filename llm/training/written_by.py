"""Which command wrote a folder, so that no other goes on with it, adds to it or replaces it.

A run of `train` or `sft`, what a stopped `reward` or `pretrain` has left, a model, and a store of `align` are folders
with different files; one command would read those of another as damaged, or write its own between them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm.models.gate import ADAPTER, CONFIG
from llm.models.writing import REPORT
from sims.core.spec import SpecError
from sims.experiments.command import short

from .checkpoint import COMMAND, SPEC, read_spec

RUNS = ("train", "sft")
STORE = "store.sqlite"  # of `align`


@dataclass(frozen=True)
class Written:
    """What a folder holds, and the commands that write such."""

    what: str
    commands: tuple[str, ...] = ()


def written_by(folder: Path) -> Written | None:
    """What a command wrote into a folder; None where that cannot be told, as of an empty one."""
    try:
        if (folder / STORE).is_file():
            return Written("a store of align", ("align",))
        held = _read(folder / SPEC)
        if "experiment" in held:
            # None of a run before it was written down: one of both.
            command = held.get(COMMAND)
            return Written(f"a run of {command or 'train or sft'}", (str(command),) if command else RUNS)
        if isinstance(settings := held.get("settings"), dict):
            command = "pretrain" if "pretrain" in settings else "reward"
            return Written(f"an unfinished fit of {command}", (command,))
        if any((folder / file).is_file() for file in (CONFIG, ADAPTER)):
            command = _maker(folder)
            return Written(f"a model of {command}" if command else "a model", (command,) if command else ())
    except OSError:
        pass  # what cannot be looked at is refused, or not, by whoever writes there
    return None


def check_written_by(field: str, folder: Path, commands: Sequence[str]) -> None:
    """SpecError for a folder that none of these commands wrote, but another one did. Changes nothing."""
    found = written_by(folder)
    if found is not None and not set(commands) & set(found.commands):
        raise SpecError(field, short(str(folder)), f"holds {found.what}: must be a folder of {' or '.join(commands)}")


def _maker(folder: Path) -> str | None:
    """The command that wrote a model, by its report."""
    report = _read(folder / REPORT)
    if report.get("kind") == "new_model":
        return "new"
    if isinstance(config := report.get("config"), dict) and "architecture" in config:
        return "pretrain"
    return "reward" if "reward_training" in report else None


def _read(file: Path) -> dict[str, Any]:
    """A JSON object; nothing where there is none, or a damaged one."""
    try:
        if file.name == SPEC:
            return read_spec(file)
        found = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
