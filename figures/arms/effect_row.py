"""A row whose effect is a sum of scores, tested at the last evaluation that leaves room."""

from __future__ import annotations

from collections.abc import Sequence

from figures.catalogue import Claim, Setting
from figures.claims import Verdict, row_of
from figures.figure import Records
from sims.experiments.measures import final_scores
from sims.experiments.store import Record
from sims.statistics.gates import Gate, placebo, runs_at_a_bound

from .gating import effect_of, last_with_room, lowest_score, part, sides, tuned_for, tuned_well

Terms = Sequence[tuple[float, str]]  # how many times the score of which record


def effect_row(
    tested: Claim,
    setting: Setting,
    figure: str,
    terms: Terms,
    records: Records,
    note: str,
    why_no_placebo: str,
    more: Sequence[Gate] = (),
) -> Verdict:
    """The row of a claimed effect, Σ times · score. more: gates of its own."""
    ups, downs = ([records[name] for times, name in terms if times * sign > 0] for sign in (1, -1))
    at, room = last_with_room([sides(ups, downs)], tested.margin)
    effect = effect_of([part(times, records[name], at) for times, name in terms])
    points = len(ups[0].arrays["updates"]) - 1
    when = f"Tested at evaluation {at % (points + 1)} of {points}, the last that leaves room. "
    gates = [room, tuned_for(at, *ups, *downs), placebo(None, tested.margin, why_no_placebo), *more]
    gates += settings(tested.margin, [*ups, *downs])
    return row_of(tested, setting, effect, figure, [x.hash for x in (*ups, *downs)], when + note, gates)


def settings(margin: float, records: Sequence[Record]) -> list[Gate]:
    """Whether no arm stands at an end of its grid, and whether there are runs enough where some end at a bound."""
    ends = {f"arm {i + 1}": final_scores(record) for i, record in enumerate(records)}
    return [*tuned_well(margin, *records), runs_at_a_bound(ends, lowest_score(records), 1.0)]
