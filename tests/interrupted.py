"""Commands that are killed, or run out of disk, at any moment, and go on: nothing lost, nothing half-written.

    python -m tests.interrupted --kills 200 --seed 0      a record of so many kills over all commands

Each command is forked from a process that has loaded its libraries, so that a kill falls into its work: after a random
time, or at a random one of the moments at which it opens a file to write, makes, renames or removes something. Where it
has worker processes, all, one of these alone, or their parent alone is killed. What it has written at its end must be
what an undisturbed run writes, byte for byte but for clocks.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from errno import ENOSPC
from pathlib import Path
from typing import Any, Literal, get_args

import tqdm

import figures.__main__
import llm.__main__
import sims.__main__
from sims.experiments.store import Store

MAIN: dict[str, Callable[[list[str]], int]] = {
    "figures": figures.__main__.main,
    "llm": llm.__main__.main,
    "sims": sims.__main__.main,
}
WRITES = ("open", "os.mkdir", "os.rename")  # what a full disk refuses
CHANGES = (*WRITES, "os.remove", "os.rmdir")
CLOCKS = ("tokens_per_second", "seconds", "cpu_seconds", "computed", "at")  # fields that differ between equal runs
UNSURE = ("costs.json",)  # predictions of seconds
TINY = "--max-new-tokens 6 --batch-size 4 --num-generations 2 --evaluation-prompts 2 --updates 3 --evaluations 3"
# With longer responses some end: their lengths differ, and there is a gradient.
LONGER = TINY.replace("tokens 6", "tokens 20")
Killed = Literal["all", "parent", "worker"]
KILLED: tuple[Killed, ...] = get_args(Killed)


@dataclass(frozen=True)
class Case:
    """A command. go_on: what a user types after a stop; None, the same. before: commands that make what it reads.
    output: the folder that must not be there yet, of commands that refuse one. workers: whether it has any."""

    name: str
    line: str
    go_on: str | None = None
    before: tuple[str, ...] = ()
    output: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    workers: bool = False


TEXTS = {"texts.jsonl": '{"prompt": "a cat", "chosen": "sat on the mat", "rejected": "no"}\n' * 4}
TRAIN = f"llm train {LONGER} --output out"
OFFLINE = f"llm train --preset tiny-preference {TINY} --recorded-prompts 8 --output out"
BEST = "--metric-for-best-model eval_reward --no-greater-is-better --load-best-model-at-end --save-total-limit 1"
SFT = f"llm sft {TINY.replace('generations 2', 'generations 1')} --recorded-prompts 8 {BEST} --output out"
REWARD = "llm reward --pairs 16 --batch-size 8 --epochs 2 --labels min_length --save-every 1 --output out"
SHAPE = "--hidden 16 --layers 1 --heads 2"
PRETRAIN = (
    f"llm pretrain --steps 3 {SHAPE} --batch-size 4 --held-out-documents 8 --samples 4 --save-every 1 --output out"
)
ALIGN = (
    "llm align run --cycles 2 --store out --requests 12 --share 1 --budget 8 --trigger 2 --epochs 1 --save-every 1 "
    "--batch-size 4 --gate-prompts 8 --gold-prompts 8 --max-new-tokens 20 --least-win-rate 0 --skill-margin 2 "
    "--entropy-alarm 1 --length-alarm 9"
)
NEW = f"llm new --data texts.jsonl {SHAPE}"
CASES = [
    Case("train", TRAIN, TRAIN + " --resume"),
    Case("offline", OFFLINE, OFFLINE + " --resume"),
    Case("sft", SFT, SFT + " --resume"),
    Case("reward", REWARD, REWARD + " --resume", output="out"),
    Case("pretrain", PRETRAIN, PRETRAIN + " --resume", output="out"),
    Case("new", f"{NEW} --output out", output="out", files=TEXTS),
    Case(
        "export",
        "llm export run --update 3 --output out",
        before=(f"llm train {TINY} --output run",),
        output="out",
    ),
    Case("align", ALIGN),
    Case("evaluate", f"llm evaluate {TINY.partition(' --updates')[0]}"),
    Case(
        "sample",
        "llm sample --model base --prompt cat --max-new-tokens 4",
        before=(f"{NEW} --output base",),
        files=TEXTS,
    ),
    Case("sims", "sims --algorithm dpo --updates 20 --runs 4 --results out"),
    Case("sims-plot", "sims --algorithm rloo --updates 10 --evaluations 5 --runs 2 --results out --plot plot.svg"),
    Case("figures", "figures kl_dynamics --quick --jobs 2 --results out --out pictures", workers=True),
    Case("figures-rows", "figures reachable_policies --jobs 1 --results out --out pictures"),  # claims.json, the report
]


def run(
    line: str,
    folder: Path,
    kill_at: int | None = None,
    kill_after: float | None = None,
    killed: Killed = "all",
    full_at: int | None = None,
    largest: int | None = None,
) -> tuple[int, str, int]:
    """(exit status, −9 for a killed one; standard output and error; moments counted) of a command in a folder.

    kill_at: the moment of change at which it is killed, from 0. kill_after: seconds after its start; where killed is
    worker, then as soon as there is one. full_at: the moment of writing from which on the disk is full. largest: bytes
    that a file may have.
    """
    log, count = folder.parent / "log", folder.parent / "count"
    count.write_text("0")
    with log.open("w") as file:
        # A pipe, where a file could not hold what is said.
        read, write = os.pipe() if largest is not None else (None, file.fileno())
        child = os.fork()
        if child == 0:
            _child(line, folder, write, count, kill_at, full_at, largest)
        if read is not None:
            os.close(write)
            with os.fdopen(read, errors="replace") as said:
                file.write(said.read())
    if kill_after is not None:
        time.sleep(kill_after)
        _kill(child, killed)
    _, ended = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(ended), log.read_text(errors="replace"), int(count.read_text() or 0)


def _kill(child: int, killed: Killed) -> None:
    """Kill a command with its workers, it alone, or the first of its workers that there is before it ends."""
    if killed == "worker":
        while not (there := workers_of(child)) and _state(child) != "Z":
            time.sleep(0.005)
        for worker in there[:1]:
            os.kill(worker, signal.SIGKILL)
    elif killed == "all" and os.getpgid(child) == child:
        os.killpg(child, signal.SIGKILL)
    else:
        os.kill(child, signal.SIGKILL)


def _state(process: int) -> str:
    """Its state, as in proc(5): Z for one that has ended."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


def workers_of(process: int) -> list[int]:
    """The worker processes that a process has."""
    found = []
    for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
        with contextlib.suppress(OSError):  # it has ended
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
    return found


def start(line: str, folder: Path, log: Path) -> int:
    """The process of a command in a folder, to be waited for; what it says goes to a file."""
    count = log.with_suffix(".count")
    count.write_text("0")
    with log.open("w") as file:
        child = os.fork()
        if child == 0:
            _child(line, folder, file.fileno(), count, None, None, None)
    return child


def _child(
    line: str, folder: Path, log: int, count: Path, kill_at: int | None, full_at: int | None, largest: int | None
) -> None:
    """Run a command and end the process; only ever in a fork."""
    status = 99
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        tqdm.tqdm.set_lock(threading.RLock())  # that of the parent is shared: a fork that was killed may hold it
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
        if largest is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
        counter = os.open(count, os.O_WRONLY)
        seen = 0
        home = str(folder)

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal seen
            if largest is not None:
                return
            if event not in CHANGES or not _within(event, arguments, home):
                return
            if full_at is not None and event not in WRITES:
                return
            now, seen = seen, seen + 1
            os.pwrite(counter, str(seen).encode(), 0)
            if now == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            if full_at is not None and now >= full_at:
                raise OSError(ENOSPC, os.strerror(ENOSPC), str(arguments[0]))

        sys.addaudithook(watch)
        program, *words = line.split()
        status = MAIN[program](words)
    except SystemExit as stop:
        status = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
        finally:
            os._exit(status)  # whatever comes, the fork never runs on into its parent's code, which removes the folder


def _within(event: str, arguments: tuple[Any, ...], home: str) -> bool:
    """Whether an event changes something in the folder."""
    path = arguments[0]
    if not isinstance(path, str | bytes | os.PathLike):
        return False
    if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        return False
    text = os.fsdecode(path)
    return not os.path.isabs(text) or text.startswith(home)


def prepared(case: Case, folder: Path) -> Path:
    """A new folder with what the command reads."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "work").mkdir(parents=True)
    for name, text in case.files.items():
        (folder / "work" / name).write_text(text)
    for line in case.before:
        status, said, _ = run(line, folder / "work")
        assert status == 0, said
    return folder / "work"


def content(folder: Path, without: str = "") -> dict[str, Any]:
    """All that is in a folder but one file: files as bytes, JSON without clocks, records as arrays."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name in UNSURE or name == without:
            continue
        if path.suffix in (".json", ".jsonl") and path.is_file() and "checkpoint-" not in name:
            lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            if (
                path.name == "checksums.json"
            ):  # of files that may hold clocks; that they fit is checked by who reads them
                found[name] = sorted(json.loads(lines[0]))
            else:
                found[name] = [_without_clocks(json.loads(line)) for line in lines]
        elif path.suffix == ".sqlite":
            found[name] = rows_of(path.parent)
        elif path.suffix in (".npz", ".lock", ".keys") or path.parent.name == ".claims":
            continue  # records are compared below; what was not finished is removed later
        elif path.is_file():
            found[name] = path.read_bytes()
    if any((folder / "out").glob("*.npz")):
        store = Store(folder / "out")
        for key in store.specs():
            record = store.load_key(key)
            assert record is not None
            found[key] = {name: x.tobytes() for name, x in record.arrays.items()}
    return found


def rows_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """All rows of the store of `llm align` in a folder, by table, without clocks, in the order of their contents."""
    found = {}
    with closing(sqlite3.connect(folder / "store.sqlite")) as connection:
        connection.row_factory = sqlite3.Row
        tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name != 'sums'"  # of rows with clocks
        for (table,) in connection.execute(tables).fetchall():
            rows = [_without_clocks(dict(row)) for row in connection.execute(f"SELECT * FROM {table}")]
            found[table] = sorted(rows, key=repr)
    return found


def _without_clocks(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_clocks(x) for name, x in value.items() if name not in CLOCKS and name != "provenance"}
    return [_without_clocks(x) for x in value] if isinstance(value, list) else value


def difference(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """Names of files that differ; nothing where all are equal."""
    names = sorted(set(found) | set(expected))
    return ", ".join(name for name in names if found.get(name) != expected.get(name))


def go_on(case: Case, work: Path) -> str:
    """Let a command that was stopped go on, undisturbed; what is wrong with how it ends, or nothing."""
    beside = work / f"{case.output}.unfinished"
    if case.output is not None and (work / case.output).exists() and not beside.exists():
        return ""  # it was finished
    status, said, _ = run(_next(case, work), work)
    return "" if status == 0 else f"exit status {status}: {said[-500:]}"


def refused_well(status: int, said: str) -> str:
    """What is wrong with how a command ended that could not write: nothing for 0, or a line with status 1 or 2."""
    lines = [line for line in said.replace("\r", "\n").splitlines() if line.startswith("error: ")]
    if "Traceback" in said or status not in (0, 1, 2) or (status and len(lines) != 1):
        return f"exit status {status}: {said[-700:]}"
    return ""


def undisturbed(case: Case, folder: Path) -> tuple[dict[str, Any], float, int]:
    """What a command writes, how long it takes, and how many changes of files it makes. Loads its libraries."""
    program, *words = case.line.split()
    with (
        contextlib.chdir(prepared(case, folder)),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()) as said,
    ):
        try:
            status: Any = MAIN[program](words)
        except SystemExit as stop:
            status = stop.code
        assert status == 0, f"{case.name}: {said.getvalue()}"
    work, started = prepared(case, folder), time.perf_counter()
    status, said, moments = run(case.line, work)
    assert status == 0, f"{case.name}: {said}"
    return content(work) | {"said": said if case.name == "sample" else ""}, time.perf_counter() - started, moments


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("how", nargs="?", default="kill", choices=("kill", "fill", "flip"))
    parser.add_argument("--kills", type=int, default=50, help="of each case")
    parser.add_argument(
        "--fills", type=int, help="at so many of the writes of each case, drawn at random (default: all)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", default=",".join(case.name for case in CASES))
    options = parser.parse_args()
    tqdm.tqdm.monitor_interval = 0  # no thread: a fork would lose it
    wrong = 0
    with tempfile.TemporaryDirectory() as scratch:
        for case in [case for case in CASES if case.name in options.cases.split(",")]:
            expected, seconds, moments = undisturbed(case, Path(scratch) / "whole")
            rng, folder = random.Random(f"{options.seed} {case.name}"), Path(scratch) / case.name
            if options.how == "fill":
                done, problems = fill(case, folder, expected, rng, options.fills)
            elif options.how == "flip":
                done, problems = flip(case, folder, expected, moments, rng)
            else:
                done, problems = kill(case, folder, expected, seconds, moments, rng, options.kills)
            print(f"{case.name:12}{seconds:6.1f} s {moments:5} changes  {done}", flush=True)
            for problem in problems:
                wrong += 1
                print(f"  {problem}", flush=True)
    return int(bool(wrong))


def kill(
    case: Case, folder: Path, expected: dict[str, Any], seconds: float, moments: int, rng: random.Random, kills: int
) -> tuple[str, list[str]]:
    """Kill a command so many times, up to three times on its way: a summary, and what went wrong."""
    done, problems = Counter[str](), []
    while done["kills"] < kills:
        work, told = prepared(case, folder), []
        for _ in range(min(rng.randint(1, 3), kills - done["kills"])):
            line = case.line if not told else _next(case, work)
            if rng.random() < (0.25 if case.workers else 0.6) and moments:
                at, how = rng.randrange(moments), "moment"
                status, said, _ = run(line, work, kill_at=at)
            else:
                at, killed = rng.uniform(0, seconds), rng.choice(KILLED if case.workers else KILLED[:1])
                how = f"{killed}, second"
                status, said, _ = run(line, work, kill_after=at, killed=killed)
            told.append(f"{how} {at:.3g}")
            if how.startswith("worker"):
                done["kills"] += 1
                done["of workers"] += 1
                if status > 0:
                    problems.append(f"killed at {told}: {said[-700:]}")
            else:
                done["kills"] += status == -signal.SIGKILL
                done["ended before"] += status >= 0
            if "Traceback" in said:
                problems.append(f"killed at {told}: {said[-700:]}")
            if status >= 0:
                break
        found = go_on(case, work) or difference(content(work) | {"said": expected["said"]}, expected)
        if found:
            problems.append(f"killed at {told}: {found}")
    return ", ".join(f"{name} {count}" for name, count in done.items()), problems


def _next(case: Case, work: Path) -> str:
    """What is typed after a stop."""
    there = (work / "out.unfinished/spec.json", work / "out")
    if case.name in ("reward", "pretrain") and not any(path.exists() for path in there):
        return case.line
    return case.go_on or case.line


def fill(
    case: Case, folder: Path, expected: dict[str, Any], rng: random.Random, most: int | None
) -> tuple[str, list[str]]:
    """Let the disk be full from each write on, and files be too large: a summary, and what went wrong."""
    problems, tries = [], 0
    work = prepared(case, folder)
    _, _, writes = run(case.line, work, full_at=10**9)
    drawn = range(writes) if most is None else sorted(rng.sample(range(writes), min(most, writes)))
    for how, values in (("full_at", drawn), ("largest", (0, 10, 300, 5000, 100_000))):
        for value in values:
            work, tries = prepared(case, folder), tries + 1
            status, said, _ = run(case.line, work, **{how: value})  # type: ignore[arg-type]
            found = refused_well(status, said) or go_on(case, work)
            found = found or difference(content(work) | {"said": expected["said"]}, expected)
            if found:
                problems.append(f"{how} {value}: {found}")
    return f"{tries} full disks", problems


def flip(case: Case, folder: Path, expected: dict[str, Any], moments: int, rng: random.Random) -> tuple[str, list[str]]:
    """Flip a bit of each file that a command finds when it goes on, stopped in the middle and at its end: told in a
    line that names the file or its folder, or harmless: all else is as if nothing had been."""
    problems, done = [], Counter[str]()
    for stop in (moments * 2 // 3, None):
        whole = prepared(case, folder)
        run(case.line, whole, kill_at=stop)
        left = shutil.copytree(whole, folder / "left")
        for path in [path.relative_to(left) for path in sorted(left.rglob("*")) if path.is_file()]:
            if path.suffix in (".lock", ".png", ".svg", ".html") or path.name in case.files:
                continue  # not read back, or the user's own, of which nothing is known
            shutil.rmtree(whole)
            shutil.copytree(left, whole)
            held = bytearray((whole / path).read_bytes())
            if not held:
                continue
            held[rng.randrange(len(held))] ^= 1 << rng.randrange(8)
            (whole / path).write_bytes(held)
            status, said, _ = run(_next(case, whole), whole)
            told = path.name in said or (len(path.parts) > 1 and path.parent.name in said)
            if found := refused_well(status, said):
                problems.append(f"{path}: {found}")
            elif status == 0 and not told and path.suffix == ".npz" and told_when_read(whole / path):
                done["not read, but told to who reads"] += 1
            elif status == 0 and not told:
                now = content(whole, str(path)) | {"said": said if case.name == "sample" else ""}
                same = difference(now, {name: x for name, x in expected.items() if name != str(path)})
                done["harmless"] += not same
                if same:
                    problems.append(f"{path}: nothing was said, and {same} differ")
            else:
                done["told"] += 1
        shutil.rmtree(left)
    return ", ".join(f"{name} {count}" for name, count in done.items()), problems


def told_when_read(record: Path) -> bool:
    """Whether a damaged record, which a figure that is drawn already has no need of, is told to who reads it."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        Store(record.parent).specs()
    return any(f"damaged record {record}" in str(warning.message) for warning in said)


if __name__ == "__main__":
    sys.exit(main())
