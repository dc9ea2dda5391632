"""Test rows again: on other seeds, tuned on others, and on records whose last bits are changed (`figures.again`)."""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sims.experiments.experiment import Experiment
from sims.experiments.record_file import Record, spec_hash

from .again import CHANGES, ROUNDING, SEEDS, TUNING, keep, name_of
from .claims import Verdict
from .committed import FOLDER, Committed
from .drawing import runner_of
from .figure import Figure, Records, call
from .progress import Bar
from .what_if import collected

SECOND = 500_000  # added to the seed of every tested arm; tuning's seeds lie above
LAST_BIT = 2.0**-23  # of float32, in which nearly all runs are


def retest(figures: Sequence[Figure], options: argparse.Namespace, folder: Path = FOLDER) -> Iterator[str]:
    """Test rows of figures again, those that could be tested, and keep what came out; lines that say it. options.again:
    core-minutes for runs with other seeds, as on the machine that made the records; the cheapest rows come first, and
    what is beyond is tested with other rounding alone. options.retune: with another tuning too, whatever it costs."""
    budget = 60.0 * options.again
    with Bar(len(figures)) as bar:
        runner = runner_of(options, bar.show)
        for figure in figures:
            records = collected(figure, runner, options, None)
            rows = [r for r in call(figure, "verdicts", records) if r.verdict not in ("no test", "theorem")]
            costs = {spec_hash(s): c for s, c in _costs(figure.name)}
            chosen, spent = within(rows, costs, budget)
            budget -= spent
            tested = {h for r in rows if name_of(r) in chosen for h in r.spec_hashes}
            second = call(figure, "verdicts", collected(figure, runner, options, partial(_reseeded, tested)))
            rounded = call(figure, "verdicts", moved(records))
            tuned = {record.hash for record in records.values() if "tuning" in record.provenance}
            retuned = []
            if options.retune and tuned:
                retuned = call(figure, "verdicts", collected(figure, runner, options, None, tuning_shift=SECOND))
            found = {}
            for row in rows:
                changed = {
                    # Records that are no runs, such as drawn problems, have no seeds to change.
                    SEEDS: [r for r in second if name_of(row) in chosen and r.spec_hashes != row.spec_hashes],
                    ROUNDING: rounded,
                    TUNING: retuned if tuned & set(row.spec_hashes) else [],
                }
                entry: dict[str, Any] = {"records": row.spec_hashes, "claimed": row.claimed}
                for change in CHANGES:
                    for same in (other for other in changed[change] if name_of(other) == name_of(row)):
                        entry[change] = {"state": same.verdict, "said": _said(same)}
                found[name_of(row)] = entry
                yield f"{name_of(row)}: {row.verdict}; " + "; ".join(
                    f"{change}: {entry[change]['said']}" for change in CHANGES if change in entry
                )
            keep(figure.name, found, folder)


def within(rows: Sequence[Verdict], costs: Mapping[str, float], budget: float) -> tuple[set[str], float]:
    """Names of the rows whose arms can be run within so many core-seconds, the cheapest first; and what they cost.
    costs: of each record, by its hash; one that several rows share is paid once."""
    chosen: set[str] = set()
    paid: set[str] = set()
    for row in sorted(rows, key=lambda r: sum(costs.get(h, 0.0) for h in r.spec_hashes)):
        more = set(row.spec_hashes) | paid
        if sum(costs.get(h, 0.0) for h in more) <= budget:
            chosen.add(name_of(row))
            paid = more
    return chosen, sum(costs.get(h, 0.0) for h in paid)


def moved(records: Records) -> dict[str, Record]:
    """The records with every float moved by a random share of the last bit of float32, the same for the same key."""
    found = {}
    for key, record in records.items():
        random = np.random.default_rng(zlib.crc32(key.encode()))
        arrays = {
            name: x * (1.0 + LAST_BIT * random.uniform(-1.0, 1.0, size=x.shape)) if x.dtype.kind == "f" else x
            for name, x in record.arrays.items()
        }
        found[key] = type(record)(record.spec, arrays, record.provenance, record.source)
    return found


def _reseeded(tested: set[str], arm: Experiment) -> Experiment:
    return arm.replace(seed=arm.seed + SECOND) if spec_hash(arm.to_json()) in tested else arm


def _costs(figure: str) -> Iterator[tuple[Mapping[str, Any], float]]:
    committed = Committed(figure)
    for key, cost in committed.core_seconds().items():
        assert committed.file is not None
        yield committed.file.specs[key], cost


def _said(row: Verdict) -> str:
    return row.verdict if row.low is None else f"{row.verdict}, {row.effect:+.3f} [{row.low:+.3f}, {row.high:+.3f}]"
