"""python -m tests.mutation: how many of a random sample of mutants the fast tests kill, and which they do not.

Exit status 0 if the score reaches --at-least, 1 if not, 2 if the tests fail without a mutant or the options are wrong.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

from tqdm import tqdm

from tests.mutation import tier
from tests.mutation.mutants import Mutant, mutants_of

ROOT = Path(__file__).parents[2]
CORE = ROOT / "sims" / "core"
TARGETS = [
    *sorted((CORE / "losses").glob("*.py")),
    *sorted((CORE / "algorithms").glob("*.py")),
    *(CORE / f"{name}.py" for name in ("advantages", "divergences", "reductions", "schedule")),
]
TIMED_OUT = (signal.SIGXCPU, signal.SIGKILL, signal.SIGALRM)
FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant. timed_out: it is killed, by the clock and not by a test."""

    mutant: Mutant
    killed: bool
    timed_out: bool = False


class Slot:
    """One copy of the package, and at most one process that tests a mutant in it."""

    def __init__(self, folder: Path) -> None:
        self.tree, self.log = folder, folder / "log.txt"
        self.process: multiprocessing.process.BaseProcess | None = None
        self.mutant: Mutant | None = None
        for name in tier.COPIED:
            source, target = ROOT / name, folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, target)

    def start(self, mutant: Mutant | None, cpu_seconds: int | None) -> None:
        self.mutant = mutant
        if mutant is not None:
            (self.tree / mutant.path).write_text(mutant.code())
        self.process = FORK.Process(target=tier.run, args=(self.tree, self.log, cpu_seconds))
        self.process.start()

    def finish(self) -> int:
        """Wait for the process, put the original file back, and return the exit status, −signal if it was killed."""
        assert self.process is not None
        self.process.join()
        status = self.process.exitcode
        assert status is not None
        if self.mutant is not None:
            (self.tree / self.mutant.path).write_text(self.mutant.original)
        self.process = None
        return status


def baseline(slots: list[Slot]) -> float:
    """Processor seconds of the tests without a mutant, once all copies are compiled; exits if they fail."""
    for slot in (*slots, slots[0]):
        before = os.times()
        slot.start(None, None)
        if slot.finish() != 0:
            print(f"error: the tests fail without a mutant:\n{slot.log.read_text()}", file=sys.stderr)
            sys.exit(2)
        after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def outcomes(mutants: list[Mutant], slots: list[Slot], cpu_seconds: int) -> Iterator[Outcome]:
    """Test every mutant, one a free slot; in the order in which they finish."""
    waiting = list(reversed(mutants))
    busy: dict[int, Slot] = {}
    while waiting or busy:
        while waiting and len(busy) < len(slots):
            slot = next(s for s in slots if s not in busy.values())
            slot.start(waiting.pop(), cpu_seconds)
            assert slot.process is not None
            busy[slot.process.sentinel] = slot
        for sentinel in wait(list(busy)):
            slot = busy.pop(sentinel)  # type: ignore[arg-type]
            mutant = slot.mutant
            assert mutant is not None
            status = slot.finish()
            yield Outcome(mutant, killed=status != 0, timed_out=-status in TIMED_OUT)


def known_equivalents() -> dict[tuple[str, str, str], str]:
    """(file, line before, line after) of the mutants that were found to change nothing, with the reason."""
    entries = tomllib.loads((Path(__file__).parent / "equivalent.toml").read_text()).get("equivalent", [])
    for entry in entries:
        if entry["before"] not in [line.strip() for line in (ROOT / entry["file"]).read_text().splitlines()]:
            print(f"error: equivalent.toml: {entry['file']} has no line {entry['before']!r} any more", file=sys.stderr)
            sys.exit(2)
    return {(entry["file"], entry["before"], entry["after"]): entry["why"] for entry in entries}


def key(mutant: Mutant) -> tuple[str, str, str]:
    """What an entry of equivalent.toml is found by: where lines are many, their first ones."""
    before, after = (next((line[1:].strip() for line in mutant.diff() if line[0] == sign), "") for sign in "-+")
    return mutant.path, before, after


def report(found: list[Outcome], equivalents: dict[tuple[str, str, str], str], conditions: str) -> float:
    """Print the score and every survivor; returns the score, killed / (all − equivalent)."""
    alive = sorted((o.mutant for o in found if not o.killed), key=lambda m: (m.path, m.line))
    same = [mutant for mutant in alive if key(mutant) in equivalents]
    killed, counted = len(found) - len(alive), len(found) - len(same)
    print(f"{conditions}\n\n{'operator':30} killed  of")
    total = Counter(o.mutant.operator for o in found)
    for operator, count in total.most_common():
        print(f"{operator:30} {sum(o.killed for o in found if o.mutant.operator == operator):6} {count:3}")
    for title, mutants in (("survived", [m for m in alive if m not in same]), ("equivalent", same)):
        print(f"\n{len(mutants)} {title}\n" if mutants else f"\nnone {title}")
        for mutant in mutants:
            reason = equivalents.get(key(mutant), "")
            print(f"{mutant.path}:{mutant.line}: {mutant.operator} {reason}".rstrip(), *mutant.diff(), "", sep="\n")
    score = killed / max(counted, 1)
    late = sum(o.timed_out for o in found)
    print(f"score: {100 * score:.1f} % = {killed} killed ({late} of them by the clock) of {counted} not equivalent")
    return score


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--mutants", type=int, default=300, help="size of the sample; 0: all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--workers", type=int, default=2, help="processes that test at the same time")
    parser.add_argument("--at-least", type=float, default=90.0, help="score below which the exit status is 1, per cent")
    options = parser.parse_args()
    if options.workers < 1 or options.mutants < 0:
        parser.error("--workers must be at least 1, and --mutants at least 0")
    every = [m for path in TARGETS for m in mutants_of(str(path.relative_to(ROOT)), path.read_text())]
    size = min(options.mutants, len(every)) or len(every)
    sample = random.Random(options.seed).sample(every, size)
    equivalents = known_equivalents()
    tier.warm_up()
    tqdm.monitor_interval = 0  # no thread, for processes fork
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        slots = [Slot(Path(folder) / str(i)) for i in range(options.workers)]
        seconds = baseline(slots)
        limit = math.ceil(4 * seconds) + 1
        bar = tqdm(outcomes(sample, slots, limit), total=size, unit="mutant")
        found, alive = [], 0
        for outcome in bar:
            found.append(outcome)
            alive += not outcome.killed
            bar.set_postfix(survived=alive)
    minutes = (time.monotonic() - start) / 60
    conditions = (
        f"{size} mutants of {len(every)}, seed {options.seed}; {options.workers} workers, {minutes:.1f} minutes\n"
        f"the tests take {seconds:.1f} s of processor time without a mutant, and a mutant may take {limit} s"
    )
    return int(100 * report(found, equivalents, conditions) < options.at_least)


if __name__ == "__main__":
    sys.exit(main())
