"""Ray and submitit on this machine: the same records as one process, progress, failures, deaths, kills and resuming.

Ray is an extra that is larger than all the rest: without it its tests say so. `make test-all` installs it.
"""

import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from figures.__main__ import main as figures
from sims.core.spec import SpecError
from sims.experiments import engines
from sims.experiments import runner as room
from sims.experiments.engines import Engine, TaskDied, hire
from sims.experiments.runner import Progress, find_or_run
from sims.experiments.store import Store
from tests.experiments.engines.short_tasks import die, die_once, fail, talk
from tests.experiments.engines.tasks import arms, assert_same, experiments

RAY = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install ray")
CLUSTERS = [
    pytest.param(("submitit", {"cluster": "local"}), id="submitit"),
    pytest.param(("ray", {}), id="ray", marks=RAY),
]
pytestmark = pytest.mark.long


@pytest.fixture(autouse=True)
def nothing_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SMALL", 0.0)


@pytest.fixture(params=CLUSTERS)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    name, options = request.param
    engine = hire(name, 1, tmp_path / "engine", options)
    yield engine
    engine.end()


def until_done(engine: Engine) -> list[tuple[int, bool, Any]]:
    seen: list[tuple[int, bool, Any]] = []
    while not seen or not seen[-1][1]:
        seen += list(engine.events(0.1))
    return seen


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_a_cluster_gives_the_same_records(tmp_path: Path, cluster: tuple[str, dict[str, str]]) -> None:
    name, options = cluster
    shares: list[float] = []

    def see(progress: Progress) -> None:
        shares.append(progress.work_done / progress.work if progress.work else 0.0)

    alone = find_or_run(experiments(0), Store(tmp_path / "alone"))
    store = Store(tmp_path / "cluster")
    there = find_or_run(experiments(0), store, jobs=2, engine=name, engine_options=options, progress=see)
    assert_same(alone, there)
    assert shares[-1] == pytest.approx(1) and shares == sorted(shares)
    # What is there is not submitted again.
    assert_same(alone, find_or_run(experiments(0), store, jobs=2, engine=name, engine_options={"cluster": "nonsense"}))


def test_what_a_task_raises_is_raised_here(engine: Engine) -> None:
    engine.start(1, fail, "no such thing")
    with pytest.raises(KeyError, match="no such thing") as caught:
        until_done(engine)
    assert "in fail" in caught.value.__notes__[0]


def test_a_death_is_survived_once(engine: Engine, tmp_path: Path) -> None:
    engine.start(7, die_once, str(tmp_path / "marker"))
    assert engine.free == 0
    assert until_done(engine)[-1] == (7, True, "done") and engine.free == 1
    engine.start(8, die, "")
    with pytest.raises(TaskDied, match="died twice"):
        until_done(engine)


def test_messages_arrive_while_a_task_runs(engine: Engine, tmp_path: Path) -> None:
    """The task ends only after its message was heard."""
    engine.start(3, talk, str(tmp_path / "heard"))
    seen: list[tuple[int, bool, Any]] = []
    while not seen:
        seen += list(engine.events(0.1))
    assert seen == [(3, False, 0.5)]
    (tmp_path / "heard").touch()
    assert until_done(engine)[-1] == (3, True, "said")


PARENT = """
import sys
from sims.experiments import runner as room
from sims.experiments.store import Store
from tests.experiments.engines.tasks import arms
if __name__ == "__main__":
    room.SMALL = 0.0
    options = {"cluster": "local"} if sys.argv[2] == "submitit" else {}
    def show(progress):
        if progress.work_done:
            print("begun", flush=True)
    room.find_or_run(arms(), Store(sys.argv[1]), jobs=2, engine=sys.argv[2], engine_options=options, progress=show)
"""


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_a_killed_run_is_resumed(tmp_path: Path, cluster: tuple[str, dict[str, str]]) -> None:
    """Jobs that outlive their parent finish; nothing is computed twice: the store has one file per stack."""
    name, options = cluster
    script = tmp_path / "parent.py"
    script.write_text(textwrap.dedent(PARENT))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(script), str(tmp_path / "results"), name]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None and parent.stderr is not None
    line = parent.stdout.readline()
    parent.send_signal(signal.SIGKILL)
    assert line == "begun\n", parent.stderr.read()
    parent.wait()
    store = Store(tmp_path / "results")
    resumed = find_or_run(arms(), store, jobs=2, engine=name, engine_options=options)
    assert_same(resumed, find_or_run(arms(), Store(tmp_path / "alone")))
    assert len(list((tmp_path / "results").glob("*.npz"))) == 2


def test_an_engine_that_cannot_be_is_refused_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError, match="must be one of processes, ray, submitit"):
        hire("slurm", 2, tmp_path, {})
    with pytest.raises(SpecError, match="has no options"):
        hire("processes", 2, tmp_path, {"address": "auto"})
    with pytest.raises(SpecError, match="engine_option"):
        hire("submitit", 2, tmp_path, {"cluster": "local", "no_such_parameter": "1"})
    monkeypatch.setitem(engines.NEEDS, "ray", "no_such_package")
    with pytest.raises(SpecError, match="pip install"):
        hire("ray", 2, tmp_path, {})


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_a_cluster_draws_a_figure(
    tmp_path: Path, cluster: tuple[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No record is computed here."""
    monkeypatch.delattr(room, "compute")
    name, options = cluster
    given = [word for key, value in options.items() for word in ("--engine-option", f"{key}={value}")]
    line = ["kl_dynamics", "--quick", "--jobs", "2", "--engine", name, *given]
    assert figures([*line, "--results", str(tmp_path / "r"), "--out", str(tmp_path / "o")]) == 0
    assert (tmp_path / "o" / "kl_dynamics.png").exists()
