"""One thing changed: a claim's arms with another setting, or its margin, and the verdicts beside the published ones.

`python -m figures C25 --set algorithm.beta=0.3 --margin 0.1` runs every arm that has the setting with the new value, as
it was tuned without it, and writes nothing but records. `--sensitivity` does so for each change of SENSITIVITY, and
says in which share of them a verdict holds, and where it becomes another one."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sims.core.spec import Spec, SpecError, kinds_of, nearest
from sims.experiments.experiment import PARTS, Experiment
from sims.experiments.options import convert
from sims.experiments.runner import Runner
from sims.statistics.intervals import LEVEL, Interval
from sims.statistics.verdicts import state

from .catalogue import catalogue, row
from .claims import Verdict
from .committed import Committed
from .drawing import lab_of, runner_of
from .figure import Figure, Records, call
from .progress import Bar

OWN = ("updates", "seed", "precision")  # of the experiment itself
# The stated grid of --sensitivity: settings that nobody chose for the sake of a claim, each by a factor of two.
SENSITIVITY = (
    "seed=1",
    "seed=2",
    "updates=x0.5",
    "updates=x2",
    "optimiser.learning_rate=x0.5",
    "optimiser.learning_rate=x2",
    "algorithm.beta=x0.5",
    "algorithm.beta=x2",
    "environment.label_temperature=0.1",
    "precision=float64",
)


@dataclass(frozen=True)
class Change:
    """`part.field=value` of an experiment, or `field=value` of its own; value: as one would type it, or x2 for twice
    what an arm has."""

    text: str
    part: str | None
    field: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Change:
        """Refuses, with SpecError, what no experiment has."""
        name, equals, value = text.partition("=")
        part, dot, field = name.rpartition(".")
        if not equals or not value:
            raise SpecError("set", text, "must be part.field=value, such as algorithm.beta=0.3 or updates=x2")
        if not dot:
            if field not in OWN:
                known = f"must be one of {', '.join(OWN)}, or part.field with a part of {', '.join(PARTS)}"
                raise SpecError("set", text, known + nearest(field, OWN))
            change = cls(text, None, field, value)
            change.of(Experiment, 1)
            return change
        if part not in PARTS:
            raise SpecError("set", text, f"must name a part: {', '.join(PARTS)}{nearest(part, PARTS)}")
        owners = [kind for kind in (PARTS[part], *kinds_of(PARTS[part]).values()) if field in kind.names()]
        if not owners:
            fields = sorted({name for kind in kinds_of(PARTS[part]).values() for name in kind.names()})
            raise SpecError("set", text, f"no {part} has that field{nearest(field, fields)}")
        change = cls(text, part, field, value)
        change.of(owners[0], 1)
        return change

    def of(self, kind: type[Spec], now: Any) -> Any:
        """The new value of a field of that kind, which is `now` so far."""
        if self.value.startswith("x"):
            try:
                factor = float(self.value[1:])
            except ValueError:
                raise SpecError("set", self.text, "must multiply by a number: x2, x0.5") from None
            if isinstance(now, bool) or not isinstance(now, (int, float)):
                return now  # nothing to multiply, such as none
            return round(now * factor) if isinstance(now, int) else now * factor
        field = next(f for f in dataclasses.fields(kind) if f.name == self.field)
        return convert(self.value, field, kind.hints()[self.field])


def apply(changes: Sequence[Change], arm: Experiment) -> Experiment:
    """The arm with all changes, without those of settings that it has not. Those of one part are made at once, since
    some are possible only together: computation.capture with computation.device. A number of updates is rounded up to
    whole batches, as a schedule wants it."""
    for part in dict.fromkeys(change.part for change in changes if change.part is not None):
        spec = getattr(arm, part)
        new: dict[str, Any] = {}
        for change in changes:
            if change.part == part and change.field in spec.names():
                now = new.get(change.field, getattr(spec, change.field))
                new[change.field] = change.of(type(spec), now)
        if new:
            arm = arm.replace(**{part: spec.replace(**new)})
    for change in changes:
        if change.part is None:
            value = change.of(Experiment, getattr(arm, change.field))
            if change.field == "updates":
                turn = arm.schedule.updates_per_batch
                value = max(turn, -(-value // turn) * turn)
                arm = arm.replace(updates=value, evaluations=min(arm.evaluations, value))
            else:
                arm = arm.replace(**{change.field: value})
    return arm


def compare(figures: Sequence[Figure], options: argparse.Namespace) -> Iterator[str]:
    """Lines of a table: each row as published, and as it is with the change; with --sensitivity a share and the
    flips."""
    wanted = set(options.figures)
    changes = [[Change.parse(text) for text in options.set or ()]]
    if options.sensitivity:
        changes = [[*changes[0], Change.parse(text)] for text in SENSITIVITY]
    with Bar(len(figures) * (1 + len(changes))) as bar:
        runner = runner_of(options, bar.show)
        for figure in figures:
            published = _chosen(_verdicts(figure, runner, options, None), wanted)
            bar.drawn += 1
            changed = []
            for several in changes:
                rows = _verdicts(figure, runner, options, functools.partial(apply, several), options.margin)
                changed.append({(r.id, r.setting, r.part): r for r in rows} if rows is not None else None)
                bar.drawn += 1
            yield from _lines(figure, published or [], changes, changed, options.sensitivity)


def _verdicts(
    figure: Figure,
    runner: Runner,
    options: argparse.Namespace,
    change: Callable[[Experiment], Experiment] | None,
    margin: float | None = None,
) -> list[Verdict] | None:
    """The rows of a figure with its arms changed; None where the change cannot be made to one of them."""
    try:
        found: list[Verdict] = call(figure, "verdicts", collected(figure, runner, options, change))
    except SpecError:
        if options.sensitivity:
            return None
        raise
    return found if margin is None else [_at(margin, r) for r in found]


def collected(
    figure: Figure,
    runner: Runner,
    options: argparse.Namespace,
    change: Callable[[Experiment], Experiment] | None,
    tuning_shift: int = 0,
) -> Records:
    """The records of a figure, with its tested arms changed, or tuned on other seeds."""
    lab = lab_of(options, runner, Committed(figure.name))
    lab.change, lab.tuning_shift = change, tuning_shift
    outcome: list[Any] = []

    def collect() -> None:
        try:
            outcome.append(call(figure, "collect", lab))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    runner.serve(lambda: not thread.is_alive())
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    found: Records = outcome[0]
    return found


def _at(margin: float, r: Verdict) -> Verdict:
    """The row as it were with another margin; what its gates, or a proof, say stays."""
    claim = row(r.id, r.part).claim
    if r.low is None or r.high is None or claim.kind == "theorem" or r.verdict == "no test":
        return dataclasses.replace(r, margin=margin)
    interval = Interval(r.effect, r.low, r.high, LEVEL, r.runs, "as published")
    return dataclasses.replace(r, margin=margin, verdict=state(interval, margin, claim.sign, claim.kind))


def _chosen(rows: Sequence[Verdict] | None, wanted: set[str]) -> list[Verdict]:
    """The rows of the claims that were named; all where a figure or a tag was, or nothing."""
    all_of_it = not wanted <= set(catalogue())
    return [r for r in rows or () if not wanted or all_of_it or r.id in wanted]


def _lines(
    figure: Figure,
    published: Sequence[Verdict],
    changes: Sequence[Sequence[Change]],
    changed: Sequence[dict[Any, Verdict] | None],
    sensitivity: bool,
) -> Iterator[str]:
    labels = [", ".join(one.text for one in several) or "as it is" for several in changes]
    width = max(34, *map(len, labels))
    for r in published:
        key = (r.id, r.setting, r.part)
        yield f"{r.id} ({r.setting}, {r.part}), {figure.name}"
        yield f"    {'published':{width}} {_state(r)}"
        states = [None if rows is None else rows.get(key) for rows in changed]
        for label, now in zip(labels, states, strict=True):
            yield f"    {label:{width}} {'cannot be made to all arms' if now is None else _state(now)}"
        if sensitivity:
            there = [now for now in states if now is not None]
            same = sum(now.verdict == r.verdict for now in there)
            yield f"    {r.verdict} in {same} of {len(there)} changes"


def _state(r: Verdict) -> str:
    ends = "" if r.low is None else f" [{r.low:+.3f}, {r.high:+.3f}]"
    return f"{r.verdict:13} {r.effect:+.3f}{ends}, margin {r.margin:g}, {r.runs} runs"
