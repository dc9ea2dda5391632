"""Where stacks are computed: in processes of this machine, by Ray, or as jobs of a cluster.

An engine holds up to `jobs` tasks at a time and knows nothing of experiments. A task writes its records into the store
itself, so that all that an engine returns is the name of a file and a number of seconds; and each task claims its
records in the store first, so that one that outlives a killed `python -m figures` is waited for, not computed twice.

processes        worker processes of this machine: the default
ray_actors       actors of a Ray cluster, or of a local Ray; needs the extra `ray`
submitit_jobs    jobs of Slurm, or local ones; needs the extra `submitit`

Both clusters need the results folder and this package under the same path on every node, on a file system whose locks
work across nodes. To add an engine: a class with the members of `Engine`, and a line in `ENGINES`.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from sims.core.spec import SpecError, nearest

Tell = Callable[[Any], None]

ENGINES = {
    "processes": "processes:Processes",
    "ray": "ray_actors:RayActors",
    "submitit": "submitit_jobs:SubmititJobs",
}
NEEDS = {"ray": "ray", "submitit": "submitit"}  # packages, which are extras of the same name


class TaskDied(RuntimeError):
    """What computed a task ended without an answer, twice on the same task: killed, or out of memory."""


class Engine(Protocol):
    """Up to `jobs` tasks at a time. A task is a function that can be imported by its name, and an argument; the
    function also gets a callback for messages. A task whose worker dies is given out once more."""

    @property
    def free(self) -> int:
        """How many more tasks can be started now."""

    def start(self, number: int, function: Callable[[Any, Tell], Any], argument: Any) -> None:
        """Give out a task, under a number."""

    def events(self, timeout: float) -> Iterator[tuple[int, bool, Any]]:
        """(number of a task, whether it is finished, its message or its result), of what happens within some seconds.

        Of several messages of a task the last counts. Raises what a task raised, with its traceback as a note, or
        TaskDied.
        """

    def end(self) -> None:
        """Stop everything at once, whatever is running."""


def hire(name: str, jobs: int, folder: Path, options: Mapping[str, str]) -> Engine:
    """An engine for `jobs` tasks at a time. folder: for its files, if it writes any; options: its own, as text.

    Raises SpecError for an unknown engine, for one whose package is not installed, and for options that it refuses.
    """
    check_engine(name, options)
    module, _, made = ENGINES[name].partition(":")
    values = {key: _value(text) for key, text in options.items()}
    return getattr(importlib.import_module(f"{__name__}.{module}"), made)(jobs, folder, **values)  # type: ignore[no-any-return]


def check_engine(name: str, options: Mapping[str, str]) -> None:
    """Refuse, with SpecError, an engine that cannot be; nothing is started."""
    if name not in ENGINES:
        raise SpecError("engine", name, f"must be one of {', '.join(ENGINES)}{nearest(name, ENGINES)}")
    if name not in NEEDS:
        if options:
            raise SpecError("engine_option", next(iter(options)), f"the engine {name} has no options")
    elif importlib.util.find_spec(NEEDS[name]) is None:
        raise SpecError("engine", name, f"needs the package {NEEDS[name]}: pip install {NEEDS[name]}")


def _value(text: str) -> Any:
    """A number, true, false or null as JSON has them, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text
