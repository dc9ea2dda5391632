"""The engine `submitit`: a job of Slurm for each task, or a local process where there is no Slurm."""

from __future__ import annotations

import itertools
import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sims.core.spec import SpecError

from . import TaskDied, Tell
from .processes import answer, worker_environment

LOOK_EVERY = 0.5  # seconds between two looks at all jobs


@dataclass
class _Job:
    function: Callable[[Any, Tell], Any]
    argument: Any
    said: Path  # the file of its last message
    job: Any
    tries: int = 1
    heard: str = ""


class SubmititJobs:
    """Up to `jobs` jobs that wait or run. parameters: those of `submitit.AutoExecutor.update_parameters`, such as
    timeout_min=240, slurm_partition=cpu, mem_gb=4; and cluster=local, slurm or none (whichever is there).

    Submitit writes scripts, logs and pickles of tasks and answers into `folder`; only the answers of jobs of this
    process are read. Those of a job that succeeded are removed. A job that was submitted outlives a killed parent, and
    its records count; `end` cancels all.
    """

    def __init__(self, jobs: int, folder: Path, cluster: str | None = None, **parameters: Any) -> None:
        import submitit

        self._folder = folder.absolute()
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            self._executor = submitit.AutoExecutor(self._folder, cluster=cluster)
            self._executor.update_parameters(**{"timeout_min": 24 * 60, "name": "onoff", **parameters})
        except (ValueError, TypeError, NameError, AssertionError, RuntimeError) as error:
            raise SpecError(
                "engine_option", {"cluster": cluster, **parameters}, " ".join(str(error).split())
            ) from error
        self._jobs, self._running = jobs, dict[int, _Job]()
        self._looked = 0.0

    @property
    def free(self) -> int:
        return self._jobs - len(self._running)

    def start(self, number: int, function: Callable[[Any, Tell], Any], argument: Any) -> None:
        said = self._folder / f"{uuid.uuid4().hex}.said"
        self._running[number] = _Job(function, argument, said, self._submit(function, argument, said))

    def _submit(self, function: Callable[[Any, Tell], Any], argument: Any, said: Path) -> Any:
        with worker_environment():
            return self._executor.submit(_call, function, argument, said)

    def events(self, timeout: float) -> Iterator[tuple[int, bool, Any]]:
        """See `Engine`."""
        time.sleep(timeout)
        if time.monotonic() - self._looked < LOOK_EVERY:
            return
        self._looked = time.monotonic()
        for number, running in list(self._running.items()):
            if running.job.done():
                answer = self._answer(running)
                if answer is not None:
                    self._clear(self._running.pop(number))
                    yield number, True, answer[0]
            elif (text := _read(running.said)) not in ("", running.heard):
                running.heard = text
                yield number, False, json.loads(text)

    def _answer(self, running: _Job) -> tuple[Any] | None:
        """What a job that is done returned; None if it died and is submitted again. Raises what it raised."""
        import submitit

        try:
            what, content = running.job.result()
        except submitit.core.utils.UncompletedJobError as error:
            if running.tries == 2:
                raise TaskDied(f"a job died twice on one task; its logs are in {self._folder}: {error}") from error
            running.tries += 1
            running.job = self._submit(running.function, running.argument, running.said)
            return None
        if what == "failed":
            raise content
        return (content,)

    def _clear(self, running: _Job) -> None:
        paths = running.job.paths
        files = (paths.submission_file, paths.submitted_pickle, paths.result_pickle, paths.stdout, paths.stderr)
        for path in itertools.chain(files, [running.said]):
            path.unlink(missing_ok=True)

    def end(self) -> None:
        for running in self._running.values():
            running.job.cancel(check=False)
        self._running = {}


def _read(path: Path) -> str:
    with suppress(FileNotFoundError):
        return path.read_text()
    return ""


def _call(function: Callable[[Any, Tell], Any], argument: Any, said: Path) -> tuple[str, Any]:
    """What a job does. Its messages go through a file, the last one counts."""

    def tell(message: Any) -> None:
        new = said.with_suffix(".new")
        new.write_text(json.dumps(message))
        new.replace(said)

    return answer(function, argument, tell)
