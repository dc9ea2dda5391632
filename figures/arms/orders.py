"""Two tasks on one network, each alone, one after the other, and mixed: rows of the order, and of joint training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from figures.catalogue import Claim, Setting
from figures.claims import Verdict, row_of
from figures.figure import Records
from figures.lab import MEASURES, Measure
from sims.experiments.store import Record
from sims.statistics.gates import Gate, placebo, positive_control, room, runs_at_a_bound

from .gating import Part, effect_of, part_of_gold, tuned_well

# What each order is tuned for: its own task, or the mean of both.
ORDERS: dict[str, Measure] = {
    "verifiable": "first",
    "rated": "second",
    "verifiable_rated": "parts",
    "rated_verifiable": "parts",
    "mixed": "parts",
}
PARTS = {"first": "verifiable", "second": "rated"}


def order_row(tested: Claim, name: str, records: Records, setting: Setting, figure: str) -> Verdict:
    """What the mean of both tasks gains if the rated one comes first. name: of the algorithm, before the order."""
    one, other = records[f"{name}/rated_verifiable"], records[f"{name}/verifiable_rated"]
    parts = [part_of_gold(times / 2, record, part) for times, record in ((1, one), (-1, other)) for part in PARTS]
    found = {part: effect_of([part_of_gold(1, one, part), part_of_gold(-1, other, part)]).estimate for part in PARTS}
    means = [sum(part_of_gold(1, record, part).scores for part in PARTS) / 2 for record in (one, other)]
    last = ": what comes last gains" if found["first"] > 0 > found["second"] else ""
    why = "the arms differ in the order alone"
    gates = [
        room(means[0], means[1], min(p.low for p in parts), 1.0, tested.margin),
        placebo(None, tested.margin, why),
        *ends(tested.margin, [("one", one), ("other", other)]),
    ]
    note = (
        f"Verifiable {found['first']:+.2f}, rated {found['second']:+.2f}{last}. The survey's statement is that of the "
        "paper's first version; the version found has no verifiable → rated arm and reports a trade-off."
        f"{at_equal_settings(one, other)}"
    )
    return row_of(tested, setting, effect_of(parts), figure, [one.hash, other.hash], note, gates)


def at_equal_settings(one: Record, other: Record) -> str:
    """A sentence where two orders took different settings: what the first gains at those of either, on tuning runs."""
    first, second = (record.provenance.get("tuning") for record in (one, other))
    if first is None or second is None or first["points"] != second["points"] or first["chosen"] == second["chosen"]:
        return ""
    gains = (f"{first['scores'][i] - second['scores'][i]:+.2f}" for i in (first["chosen"], second["chosen"]))
    own, others = gains
    return (
        f" The orders took different settings: on tuning runs it gains {own} by those of the first, {others} by others."
    )


HALF = "At equal updates mixed training has half of the samples of each task."


def joint_row(
    tested: Claim,
    name: str,
    part: str,
    records: Records,
    setting: Setting,
    figure: str,
    order: str = "mixed",
    counted: str = HALF,
) -> Verdict:
    """What mixed training loses on one task. order: the arm that is mixed; counted: how many samples it has."""
    task = PARTS[part]
    alone, mixed = records[f"{name}/{task}"], records[f"{name}/{order}"]
    lost = effect_of([part_of_gold(1, alone, part), part_of_gold(-1, mixed, part)])
    other = next(other for other in PARTS.values() if other != task)
    without = part_of_gold(-1, records[f"{name}/{other}"], part)
    control = positive_control(effect_of([part_of_gold(1, alone, part), without]), tested.margin, only_above=True)
    control = replace(control, why=f"this task alone against the other alone: {control.why}")
    note = (
        f"{counted} It is tuned for the mean of both tasks, each alone for itself. The paper's first version has joint "
        "training do well on both; the version found reports a trade-off."
    )
    gates = [control, *ends(tested.margin, [("alone", alone), ("mixed", mixed)])]
    return row_of(tested, setting, lost, figure, [alone.hash, mixed.hash], note, gates)


def ends(margin: float, records: Sequence[tuple[str, Record]]) -> list[Gate]:
    """Whether arms stand at an end of a grid, and their runs at a bound."""
    found: dict[str, Part] = {
        f"{name}, {PARTS[part]}": part_of_gold(1, record, part) for name, record in records for part in PARTS
    }
    scores = {name: end.scores for name, end in found.items()}
    low = min(end.low for end in found.values())
    tuned = tuned_well(margin, *(record for _, record in records), by=_by_what_it_is_tuned)
    return [*tuned, runs_at_a_bound(scores, low, 1.0)]


def _by_what_it_is_tuned(record: Record) -> np.ndarray:
    order = record.provenance["tuning"]["arm"].rpartition("/")[2]
    return MEASURES[ORDERS.get(order, "parts")](record)
