"""Figures together: one queue computes what all need; each is drawn and tested as soon as it has its own."""

from __future__ import annotations

import argparse
import dataclasses
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from errno import ENOENT
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from filelock import FileLock

from sims.experiments.record_file import Record
from sims.experiments.runner import Progress, Runner
from sims.experiments.store import Store

from .again import fragile
from .claims import Verdict, write_claims
from .committed import Committed, Kept
from .entries import SCALES
from .figure import Figure, call
from .freshness import write_sums
from .lab import Lab
from .plan import choose_live
from .progress import Bar
from .report import page as report

RARELY = 0.05  # of the time goes into pages that show some of the figures
_artist = threading.Lock()  # matplotlib draws one figure at a time


class _Page:
    """The report on what lies in a folder. To write it takes as long as to draw a small figure, so it is written where
    no other figure is ready to be drawn, and takes RARELY of the time at most. A figure's checksums, which say to a
    later call that it is done, come after the page that shows it. ready: names of figures that are to be drawn now."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.ready: list[str] = []
        self._to_show: list[str] = []
        self._next = 0.0  # when it may be written again

    def show(self, name: str) -> None:
        """A figure was drawn."""
        self._to_show.append(name)
        if not self.ready and time.perf_counter() >= self._next:
            self.write()

    def write(self) -> None:
        """Write what is not written yet."""
        if self._to_show:
            start = time.perf_counter()
            report.write(self.out)
            self._next = start + (time.perf_counter() - start) / RARELY
        while self._to_show:
            write_sums(self._to_show.pop(), self.out)


def run(
    chosen: Sequence[Figure], options: argparse.Namespace, out: Path, stamps: Mapping[str, str] | None = None
) -> list[float]:
    """Compute, draw, test and write figures; returns after how many seconds each was there."""
    committed = {figure.name: Committed(figure.name) for figure in chosen}
    costs = {name: found.core_seconds() for name, found in committed.items()}
    live = choose_live(costs, 60 * options.budget, {name: found.rows for name, found in committed.items()})
    with Bar(len(chosen)) as bar:
        runner = runner_of(options, bar.show)
        for name, found in committed.items():
            runner.costs.learn_all((spec, costs[name][key]) for key, spec in specs_of_runs(found, costs[name]).items())
            if not (options.full or options.quick or options.runs or options.device != "cpu"):
                runner.expect(name, specs_of_runs(found, live & costs[name].keys()))  # each asks in its own time
        works, page = [], _Page(out)
        for figure in chosen:
            urgency = sum(cost for key, cost in costs[figure.name].items() if options.full or key in live)
            lab = lab_of(options, runner, committed[figure.name], live, urgency)
            works.append(_Work(figure, lab, page, bar, stamps or {}))
        for work in works:
            work.start()
        try:
            runner.serve(lambda: not any(work.is_alive() for work in works) or any(work.error for work in works))
            for work in works:
                if work.error is not None:
                    runner.stop(work.error)
                    raise work.error
        finally:  # whatever ends it, the page shows all that is drawn
            with _artist, FileLock(out / ".lock"):
                page.write()
        if not all((out / f"{figure.name}.json").exists() for figure in chosen):
            raise FileNotFoundError(ENOENT, "was removed while figures were drawn", str(out))
        return [work.seconds for work in works]


def specs_of_runs(found: Committed, keys: Collection[str]) -> dict[str, Any]:
    """The specs of some committed records, by their keys; without computations that are no runs."""
    specs = found.file.specs if found.file is not None else {}
    return {key: specs[key] for key in sorted(keys) if "schedule" in specs[key]}


def runner_of(options: argparse.Namespace, show: Callable[[Progress], None]) -> Runner:
    """What computes, as the options ask for."""
    store, engine_options = Store(options.results), dict(options.engine_option)
    return Runner(store, jobs_of(options), options.force, show, options.engine, engine_options)


def jobs_of(options: argparse.Namespace) -> int:
    """Worker processes: as many as asked for, else 2, and 1 where a GPU is shared."""
    return int(options.jobs or (2 if options.scale == SCALES[0] and options.device == "cpu" else 1))


def lab_of(
    options: argparse.Namespace,
    runner: Runner,
    committed: Committed | None = None,
    live: set[str] | None = None,
    urgency: float = 0.0,
) -> Lab:
    """Where a figure gets its records, by the options."""
    o = options
    return Lab(
        runner.store,
        quick=o.quick,
        full=o.full,
        force=o.force,
        runs=o.runs,
        scale=o.scale,
        device=o.device,
        kept_before=committed,
        kept=Kept() if o.keep else None,
        live=live or set(),
        runner=runner,
        urgency=urgency,
    )


class _Work(threading.Thread):
    """One figure, from its first question to its picture. A daemon: a stop waits for none of them."""

    def __init__(self, figure: Figure, lab: Lab, page: _Page, bar: Bar, stamps: Mapping[str, str]) -> None:
        super().__init__(daemon=True)
        self.figure, self.lab, self.page, self.bar, self.stamps = figure, lab, page, bar, stamps
        self.seconds = 0.0
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            start = time.perf_counter()
            records = call(self.figure, "collect", self.lab)
            if self.lab.runner is not None:
                self.lab.runner.expect(self.figure.name, {})
            self.page.ready.append(self.figure.name)
            with _artist:
                self.page.ready.remove(self.figure.name)
                lines = finish(self.figure, self.lab, records, self.page, self.stamps)
            self.seconds = time.perf_counter() - start
            self.bar.finished(lines)
        except BaseException as error:
            self.error = error


def finish(
    figure: Figure, lab: Lab, records: Mapping[str, Record], page: _Page, stamps: Mapping[str, str]
) -> list[str]:
    """Draw, test and write one figure; returns what there is to say of it."""
    fig = call(figure, "draw", records)
    caption = call(figure, "caption", records)
    details = call(figure, "details", records) if figure.details is not None else {}
    rows = call(figure, "verdicts", records)  # of shrunken runs too: they say nothing, but that `verdicts` works
    rows = [] if lab.quick else [where_from(fragile(row), lab) for row in rows]
    with FileLock(page.out / ".lock"):  # another call may be writing its own figures here
        report.save_figure(figure, fig, caption, lab, page.out, stamps, details, rows)
        if rows:
            write_claims(rows, page.out)
        page.show(figure.name)
    plt.close(fig)
    if lab.kept is not None:
        lab.kept.note_rows(row.spec_hashes for row in rows)
        lab.kept.write(figure.name)
    return [*map(in_a_line, rows), *of_records(figure.name, lab)]


def where_from(row: Verdict, lab: Lab) -> Verdict:
    """The row, saying what its records are: live if all were computed by this code; stale if one is; else committed.
    agrees: whether its live records agree with what is committed; None where nothing could be compared."""
    sources = {lab.where_from.get(record, "live") for record in row.spec_hashes}
    computed = next((source for source in ("stale", "committed") if source in sources), "live")
    compared = [c.agrees for c in lab.compared if c.hash in row.spec_hashes]
    return dataclasses.replace(row, computed=computed, agrees=all(compared) if compared else None)


def in_a_line(row: Verdict) -> str:
    """A verdict, for a terminal."""
    name = f"{row.id} ({row.setting}, {row.part}) {row.verdict}"
    if row.low is None or row.verdict == "no test":  # a theorem, proven or not, has no interval
        return f"{name}: {row.why}"
    return f"{name}: {row.effect:+.3f} [{row.low:+.3f}, {row.high:+.3f}], {row.runs} runs, {row.computed}"


def of_records(name: str, lab: Lab) -> list[str]:
    """How many records were computed and how many read; which are stale, and which disagree."""
    sources = list(lab.where_from.values())
    if not sources:  # a figure of what is no run
        return []
    count = ", ".join(f"{sources.count(s)} {s}" for s in ("live", "committed", "stale") if s in sources)
    same = sum(c.same_bits for c in lab.compared)
    agreeing = (
        f"; of {len(lab.compared)} compared with the repository {same} have the same bits" if lab.compared else ""
    )
    lines = [f"{name}: {count} records{agreeing}"]
    lines += [
        f"{name}: {c.arm} disagrees with its committed record {c.hash} by {c.difference:.3f}"
        for c in lab.compared
        if not c.agrees
    ]
    lines += [f"{name}: committed record {h} is stale: its twin disagrees; --full computes it again" for h in lab.stale]
    return lines
