"""The row of a gap that rounds of DPO leave open on the second of two objectives."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from figures.catalogue import Claim
from figures.claims import Verdict, row_of
from sims.experiments.measures import part_scores
from sims.experiments.record_file import Record
from sims.statistics.gates import Gate, positive_control, room
from sims.statistics.intervals import Interval

from .effect_row import settings
from .gating import Part, effect_of, part_of_gold


class Rounds(NamedTuple):
    """PPO, DPO in rounds, and DPO on the recorded pairs, on the same problems."""

    ppo: Record
    iterated: Record
    offline: Record


def ahead(one: Record, other: Record, name: str) -> Interval:
    """By how much one arm is ahead of another at the end, by a part of gold."""
    low = part_of_gold(1.0, one, name).low
    sides = [Part(times, part_scores(x, name)[:, -1].astype(float), low) for times, x in ((1.0, one), (-1.0, other))]
    return effect_of(sides)


def second_row(tested: Claim, figure: str, arms: Rounds, placebo: Gate, note: str) -> Verdict:
    """C09: PPO less DPO in rounds by the second objective at the end; no test where PPO is not ahead of offline DPO
    there, since a gap that never was cannot stay open."""
    sides = [part_of_gold(1.0, arms.ppo, "second"), part_of_gold(-1.0, arms.iterated, "second")]
    control = positive_control(ahead(arms.ppo, arms.offline, "second"), tested.margin, only_above=True)
    gates = [
        replace(control, why=f"PPO against offline DPO, second objective: {control.why}"),
        room(sides[0].scores, sides[1].scores, min(x.low for x in sides), 1.0, tested.margin),
        placebo,
        *settings(tested.margin, [arms.ppo, arms.iterated]),
    ]
    hashes = [arms.ppo.hash, arms.iterated.hash]
    return row_of(tested, "mlp", effect_of(sides), figure, hashes, note, gates)
