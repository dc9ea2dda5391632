"""Worker processes: their records are those of one process, they stay for the next call, a failure ends them, a death
is survived, and they end with their parent."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sims.core.schedule import Schedule
from sims.experiments import runner as room
from sims.experiments.costs import Costs, _kind
from sims.experiments.engines import TaskDied
from sims.experiments.engines.processes import Processes
from sims.experiments.experiment import Experiment
from sims.experiments.runner import Progress, Runner, find_or_run, stacks
from sims.experiments.store import Store
from sims.policies import Table
from tests.experiments.engines.short_tasks import die, die_once, fail
from tests.experiments.engines.tasks import assert_same, experiments


@pytest.fixture(autouse=True)
def nothing_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are started however little there is to do."""
    monkeypatch.setattr(room, "SMALL", 0.0)


def test_workers_give_the_same_records_and_stay_for_the_next_call(tmp_path: Path) -> None:
    alone = find_or_run(experiments(0), Store(tmp_path / "alone"))
    assert_same(alone, find_or_run(experiments(0), Store(tmp_path / "together"), jobs=2))
    first = room._hired["processes", 2].processes
    seen = []

    def see(progress: Progress) -> None:
        seen.append(progress.work_done / progress.work if progress.work else 0.0)

    find_or_run(experiments(1), Store(tmp_path / "together"), jobs=2, progress=see)
    assert room._hired["processes", 2].processes == first
    assert seen[0] == 0 and seen[-1] == pytest.approx(1) and seen == sorted(seen)
    cached = []
    assert_same(find_or_run(experiments(0), Store(tmp_path / "together"), jobs=2, progress=cached.append), alone)
    assert (cached[-1].cached, cached[-1].done, cached[-1].work) == (2, 0, 0)


def test_workers_are_started_once_the_first_stack_says_how_much_there_is_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hired(Exception):
        pass

    def hire(_: Runner) -> None:
        raise Hired

    monkeypatch.setattr(room, "SMALL", 3.0)
    monkeypatch.setattr(Runner, "_hire", hire)
    monkeypatch.setattr(Costs, "learn", lambda self, spec, _: self.rates.update({_kind(spec): 1.0}))
    several = [*experiments(3), experiments(3)[0].replace(schedule=Schedule(batch_size=2))]  # three stacks
    assert sum(Costs().predict(e.to_json()) for e in several) < 3.0
    with pytest.raises(Hired):
        find_or_run(several, Store(tmp_path), jobs=2)
    assert len(list(tmp_path.glob("*.npz"))) == 1


def test_an_interruption_ends_the_workers_and_the_next_call_has_new_ones(tmp_path: Path) -> None:
    def interrupt(progress: room.Progress) -> None:
        if progress.work_done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_or_run(experiments(2), Store(tmp_path), jobs=2, progress=interrupt)
    assert ("processes", 2) not in room._hired
    assert len(find_or_run(experiments(2), Store(tmp_path), jobs=2)) == 2


def test_what_a_worker_raises_is_raised_here() -> None:
    workers = Processes(1)
    try:
        with pytest.raises(KeyError, match="no_such_key") as caught:
            workers.start(1, fail, "no_such_key")
            while True:
                list(workers.events(1.0))
        assert "in a worker process" in caught.value.__notes__[0]
    finally:
        workers.end()


def test_a_workers_death_is_survived_once(tmp_path: Path) -> None:
    workers = Processes(1)
    try:
        workers.start(7, die_once, str(tmp_path / "marker"))
        seen = []
        while not seen or not seen[-1][1]:
            seen += list(workers.events(1.0))
        assert seen == [(7, False, "alive"), (7, True, "done")] and workers.free == 1
        workers.start(8, die, "")
        with pytest.raises(TaskDied, match="died twice"):
            while True:
                list(workers.events(1.0))
    finally:
        workers.end()


PARENT = """
from sims.experiments.engines.processes import Processes
from tests.experiments.engines.short_tasks import work
if __name__ == "__main__":
    workers, pids = Processes(2), []
    for number in range(2):
        workers.start(number, work, "")
    while True:
        pids += [pid for _, _, pid in workers.events(1.0)]
        if len(pids) == 2:
            print(*pids, flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent(tmp_path: Path, how: signal.Signals) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    root = str(Path(__file__).parents[3])
    environment = os.environ | {"PYTHONPATH": root}
    command = [sys.executable, str(script)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    assert parent.stdout is not None
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2 and all(is_running(pid) for pid in workers)
    parent.send_signal(how)
    parent.wait()
    while any(is_running(pid) for pid in workers):  # a test that hangs here has failed
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return sys.platform != "linux"
    return state != "Z"


def test_all_who_ask_are_served_from_one_queue_and_in_one_stack(tmp_path: Path) -> None:
    """Two threads ask for arms that can run together, one of them for both."""
    first, second = experiments(0)[0], experiments(1)[0]
    runner, found = Runner(Store(tmp_path)), {}

    def ask(name: str, arms: list[Experiment]) -> None:
        found[name] = runner.records(arms)

    threads = [threading.Thread(target=ask, args=a) for a in (("a", [first]), ("b", [second, first, second]))]
    for thread in threads:
        thread.start()
    while len(runner._pending) < 2:
        time.sleep(0.01)
    runner.serve(lambda: not any(thread.is_alive() for thread in threads))
    assert len(list(tmp_path.glob("*.npz"))) == 1
    assert [r.spec["seed"] for r in found["b"]] == [1, 0, 1]
    assert_same(found["a"] + found["b"], find_or_run([first, second, first, second], Store(tmp_path / "other")))


def test_what_stops_the_runner_is_told_to_all_who_wait(tmp_path: Path) -> None:
    runner, told = Runner(Store(tmp_path)), []

    def ask() -> None:
        with pytest.raises(ZeroDivisionError):
            runner.records(experiments(0))
        told.append(True)

    thread = threading.Thread(target=ask)
    thread.start()
    while not runner._pending:
        time.sleep(0.01)
    with pytest.raises(ZeroDivisionError):
        runner.serve(lambda: 1 // 0 > 0)
    thread.join()
    assert told == [True]


def test_force_runs_again_what_is_there_but_once(tmp_path: Path) -> None:
    first = find_or_run(experiments(0), Store(tmp_path))
    runner = Runner(Store(tmp_path), force=True)
    for _ in range(2):
        asked = runner.ask(experiments(0))
        runner.serve(asked.ready.is_set)
        assert_same(runner.answer(asked), first)
        done = runner._done
    assert done == 2


def test_what_will_be_asked_for_is_work_from_the_start_and_counts_once(tmp_path: Path) -> None:
    """Two figures expect arms, of which they share one: the work is that of all, before and after each asks, so that a
    bar neither stands nor jumps back."""
    told: list[Progress] = []
    runner = Runner(Store(tmp_path), progress=told.append)
    runner.costs.learn = lambda spec, seconds: None  # type: ignore[method-assign]  # as if known before
    arms = [experiments(seed)[0] for seed in range(3)]
    specs = {room.record_key(e.name, e.to_json()): e.to_json() for e in arms}
    keys = list(specs)
    cost = runner.costs.predict(specs[keys[0]])
    runner.expect("a", {key: specs[key] for key in keys[:2]})
    runner.expect("b", {key: specs[key] for key in keys[1:]})
    for some in (arms[:1], arms[1:2], arms[1:]):
        asked = runner.ask(some)
        assert told[-1].work == pytest.approx(3 * cost)
        runner.serve(asked.ready.is_set)
        assert told[-1].work == pytest.approx(3 * cost)
    assert told[-1].work_done == pytest.approx(3 * cost)
    runner.expect("a", {"never asked for": specs[keys[0]]})
    runner.expect("a", {})
    runner.ask(arms[:1])
    assert told[-1].work == pytest.approx(3 * cost)


def test_stacks_are_split_for_workers_only_where_they_are_large() -> None:
    def sizes(runs: int, jobs: int) -> list[int]:
        arms = [experiments(seed)[0].replace(runs=runs) for seed in range(8)]
        wanted = [room._Wanted("", e, {}, "", room.stack_key(e), float(e.runs), 0.0) for e in arms]
        return [sum(w.experiment.runs for w in stack) for stack in room.stacked(wanted, jobs)]

    largest = Table().largest_stack
    assert sizes(10, 1) == sizes(10, 2) == [80]
    assert sizes(128, 1) == [min(largest, 1024)] * (1024 // min(largest, 1024))
    assert sizes(128, 2) == [256] * 4
    assert len(stacks([experiments(0)[0].replace(runs=largest), experiments(1)[0]])) == 2
