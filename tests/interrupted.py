"""Commands that are disturbed at any moment, and go on: nothing lost, nothing half-written, nothing silently wrong.

    python -m tests.interrupted kill --kills 200 --seed 0      a record of so many kills of each command
    python -m tests.interrupted disk                           full, read-only, of small files only
    python -m tests.interrupted remove --tries 4               folders that are removed while a command runs
    python -m tests.interrupted flip                           bits of every file that it reads

Killed are, where a command has worker processes, all, one of these alone, or their parent alone. What it has written at
its end must be what an undisturbed run writes.
"""

from __future__ import annotations

import argparse
import functools
import random
import shutil
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tqdm

from sims.experiments.store import Store
from tests.disturbances import Disturbance, FullFrom, InWorkers, Killed, KilledAt, ReadOnlyFrom, RemovedAt, kill, remove
from tests.disturbed import run
from tests.undisturbed import (
    CASES,
    Case,
    content,
    difference,
    given,
    go_on,
    next_of,
    prepared,
    refused_well,
    undisturbed,
)

Found = tuple[str, list[str]]  # a summary, and what went wrong


@dataclass(frozen=True)
class Whole:
    """A case, the folder that it is tried in, and what an undisturbed run of it writes, takes and changes."""

    case: Case
    folder: Path
    expected: dict[str, Any]
    seconds: float
    moments: int

    def other(self, work: Path, said: str | None = None) -> str:
        """Names of what differs from an undisturbed run. said: None where what was said does not count."""
        return difference(content(work) | {"said": self.expected["said"] if said is None else said}, self.expected)


def kills(whole: Whole, rng: random.Random, most: int | None) -> Found:
    """Kill a command so many times, up to three times on its way. Where it has workers a coin says whether one of them
    is killed or what started them, alone or with all."""
    case, done, problems = whole.case, Counter[str](), []
    while done["kills"] < (most or 1):
        work, told = prepared(case, whole.folder), []
        note = whole.folder / "struck"
        for _ in range(min(rng.randint(1, 3), (most or 1) - done["kills"])):
            line = case.line if not told else next_of(case, work)
            killed: Killed = "all" if not case.workers else rng.choice(("worker", rng.choice(("parent", "all"))))
            which = rng.randrange(2)
            struck = f"worker {which + 1}" if killed == "worker" else killed
            note.unlink(missing_ok=True)
            if rng.random() < (0.25 if case.workers else 0.6) and whole.moments:
                told.append(f"{struck}, moment {(at := rng.randrange(whole.moments))}")
                status, said, _ = run(line, work, KilledAt(at, killed, which, note))
            else:
                told.append(f"{struck}, second {(after := rng.uniform(0, whole.seconds)):.3g}")
                then = functools.partial(kill, killed=killed, which=which, note=note)
                status, said, _ = run(line, work, after=after, then=then)
            died = status == -signal.SIGKILL or note.exists()
            done["kills"] += died
            done[f"of {killed}"] += died
            done["ended before"] += not died
            lost = died and killed == "worker" and case.workers == "needed"
            if "Traceback" in said or (status > 0 and not lost):
                problems.append(f"killed at {told}: exit status {status}: {said[-700:]}")
            if status >= 0 and not (lost and status):
                break
        found = go_on(case, work) or whole.other(work)
        if found:
            problems.append(f"killed at {told}: {found}")
    return ", ".join(f"{name} {count}" for name, count in done.items()), problems


def disks(whole: Whole, rng: random.Random, most: int | None) -> Found:
    """Let the disk be full from a moment on, or not to be written to, or that of its workers, and files be too large.
    A worker that others depend on is no other than they: all have one disk."""
    case, problems, tries = whole.case, [], 0
    kinds: dict[str, Callable[[int], Disturbance] | None] = {"full": FullFrom, "read-only": ReadOnlyFrom}
    if case.workers == "replaced":
        kinds["full for its workers"] = lambda moment: InWorkers(FullFrom(moment))
    for kind, disturbance in (kinds | {"too large": None}).items():
        values = _drawn(whole, rng, most) if disturbance else (0, 10, 300, 5000, 100_000)
        for value in values:
            work, tries = prepared(case, whole.folder), tries + 1
            status, said, _ = (
                run(case.line, work, disturbance(value)) if disturbance else run(case.line, work, largest=value)
            )
            if found := refused_well(status, said, case) or go_on(case, work) or whole.other(work):
                problems.append(f"{kind} {value}: {found}")
    return f"{tries} bad disks", problems


def _drawn(whole: Whole, rng: random.Random, most: int | None) -> Sequence[int]:
    """Moments of a case: all, or so many."""
    return range(whole.moments) if most is None else sorted(rng.sample(range(whole.moments), min(most, whole.moments)))


def removals(whole: Whole, rng: random.Random, most: int | None) -> Found:
    """Remove a folder that a command writes, what it reads, or all, while it runs: it ends as if nothing had been, or
    in a line; what it writes then is whole, or is not there."""
    case, work, problems, tries = whole.case, prepared(whole.case, whole.folder), [], 0
    read = sorted(path.name for path in work.iterdir())
    for name in ("*", *read, *case.writes):
        for moment in _drawn(whole, rng, most):
            at = rng.uniform(0, whole.seconds)
            for when in (f"moment {moment}", f"second {at:.3g}"):
                prepared(case, whole.folder)
                if when.startswith("moment"):
                    status, said, _ = run(case.line, work, RemovedAt(moment, name))
                else:
                    status, said, _ = run(case.line, work, after=at, then=lambda _, name=name: remove(work, name))
                tries += 1
                found = refused_well(status, said, case)
                if status and name not in read and not found:
                    # Records and pictures are whole each for itself.
                    back = case.line.startswith("llm ") and ", ".join(x for x in case.writes if (work / x).exists())
                    if back and when.startswith("moment"):
                        found = f"{back} came back: {said[-300:]}"
                    remove(work, name)  # who removes while others write is told that something is left
                if found := found or _left(whole, work, status, read):
                    problems.append(f"{name} removed at {when}, status {status}: {found}")
    return f"{tries} removals", problems


def _left(whole: Whole, work: Path, status: int, read: Sequence[str]) -> str:
    """What is wrong with what a command left that something was taken from."""
    if status:  # what it reads is put back, and it goes on
        for name in read:
            remove(work, name)
            path = given(whole.case, whole.folder) / name
            (shutil.copytree if path.is_dir() else shutil.copyfile)(path, work / name)
        return go_on(whole.case, work) or whole.other(work)
    now = content(work)
    there = {name.partition("/")[0] for name in now}  # what was removed after its last change is gone
    return difference(now, {name: x for name, x in whole.expected.items() if name.partition("/")[0] in there})


def flips(whole: Whole, rng: random.Random, most: int | None) -> Found:
    """Flip a bit of each file that a command finds when it goes on, stopped in the middle and at its end: of the first
    byte, of the middle one, of the last and of one at random. It is told in a line that names the file or its folder,
    or harmless: all else is as if nothing had been."""
    case, problems, done = whole.case, [], Counter[str]()
    for stop in (0, None) if case.before and not case.go_on else (whole.moments * 2 // 3, None):
        work = prepared(case, whole.folder)
        run(case.line, work, None if stop is None else KilledAt(stop))
        left = shutil.copytree(work, whole.folder / "left")
        for path in [path.relative_to(left) for path in sorted(left.rglob("*")) if path.is_file()]:
            if path.suffix in (".lock", ".png", ".svg", ".html") or (path.name in case.files and not case.go_on):
                continue  # not read back, or the user's own, of which nothing is known
            size = (left / path).stat().st_size
            for place in sorted({0, size // 2, size - 1, rng.randrange(size)}) if size else ():
                shutil.rmtree(work)
                shutil.copytree(left, work)
                held = bytearray((work / path).read_bytes())
                held[place] ^= 1 << rng.randrange(8)
                (work / path).write_bytes(held)
                end, found = _flipped(whole, work, path)
                done[end] += not found
                problems += [f"{path}, byte {place} of {size}: {found}"] if found else []
        shutil.rmtree(left)
    return ", ".join(f"{name} {count}" for name, count in done.items() if count), problems


def _flipped(whole: Whole, work: Path, path: Path) -> tuple[str, str]:
    """How a command ends that finds a flipped bit in a file, and what is wrong with that."""
    case = whole.case
    output = None if case.output is None else work / case.output
    if output is not None and output.exists() and not output.with_name("out.unfinished").exists():
        if output in (work / path).parents:
            return "not read by it", ""
        shutil.rmtree(output)  # it was finished
    status, said, _ = run(next_of(case, work), work)
    told = path.name in said or (len(path.parts) > 1 and path.parent.name in said)
    if found := refused_well(status, said, case):
        return "", found
    if status == 0 and not told and path.suffix == ".npz" and told_when_read(work / path):
        return "not read, but told to who reads", ""
    if status or told:
        return "told", "" if told else f"refused, but not for this: {said[-300:]}"
    now = content(work, str(path)) | {"said": said if case.says else ""}
    other = difference(now, {name: x for name, x in whole.expected.items() if name != str(path)})
    return "harmless", f"nothing was said, and {other} differ" if other else ""


def told_when_read(record: Path) -> bool:
    """Whether a damaged record, which a figure that is drawn already has no need of, is told to who reads it."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        Store(record.parent).specs()
    return any(f"damaged record {record}" in str(warning.message) for warning in said)


HOW: dict[str, Callable[[Whole, random.Random, int | None], Found]] = {
    "kill": kills,
    "disk": disks,
    "remove": removals,
    "flip": flips,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("how", nargs="?", default="kill", choices=tuple(HOW))
    parser.add_argument("--kills", type=int, default=50, help="of each case")
    parser.add_argument(
        "--tries", type=int, help="at so many moments of each case, drawn at random (default: at all of them)"
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
            whole = Whole(case, folder, expected, seconds, moments)
            done, problems = HOW[options.how](whole, rng, options.kills if options.how == "kill" else options.tries)
            print(f"{case.name:12}{seconds:6.1f} s {moments:5} changes  {done}", flush=True)
            for problem in problems:
                wrong += 1
                print(f"  {problem}", flush=True)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
