"""Do rounds of DPO close the gap to PPO on a second objective? (C09) Rows and picture of `rounds_and_horizon`: labels
of both objectives, of the first alone for DPO, and of the first alone for PPO as well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from matplotlib.axes import Axes

from figures.catalogue import Claim, claim
from figures.claims import Verdict, row_of
from figures.figure import Records
from figures.report.style import colour, marker
from sims.experiments.measures import part_scores
from sims.experiments.record_file import Record
from sims.statistics.gates import Gate, placebo, positive_control, room
from sims.statistics.intervals import Interval, student_interval

from .effect_row import settings
from .gating import Part, effect_of, part_of_gold

COUNT, CORRELATION = 4, 0.5  # rounds; of the two objectives of which one alone may be labelled
NAMES = {"offline": "DPO,\noffline", "iterated": f"DPO,\n{COUNT} rounds", "online": "DPO,\nonline", "ppo": "PPO"}

SECOND, ALONE = claim("C09", "two objectives"), claim("C09", "labels of the first alone")
SAME_LABELS = claim("C09", "PPO, too, on labels of the first alone")


class Rounds(NamedTuple):
    """PPO, DPO in rounds, and DPO on the recorded pairs, on the same problems."""

    ppo: Record
    iterated: Record
    offline: Record


def ahead(one: Record, other: Record, name: str) -> Interval:
    """By how much one arm is ahead of another at the end, by a part of gold."""
    low = part_of_gold(1.0, one, name).low  # both arms have the same problems; of the other no worst reward is kept
    sides = [Part(times, part_scores(x, name)[:, -1].astype(float), low) for times, x in ((1.0, one), (-1.0, other))]
    return effect_of(sides)


def second_row(tested: Claim, figure: str, arms: Rounds, none: Gate, note: str) -> Verdict:
    """C09: PPO less DPO in rounds by the second objective at the end; no test where PPO is not ahead of offline DPO
    there, since a gap that never was cannot stay open."""
    sides = [part_of_gold(1.0, arms.ppo, "second"), part_of_gold(-1.0, arms.iterated, "second")]
    control = positive_control(ahead(arms.ppo, arms.offline, "second"), tested.margin, only_above=True)
    gates = [
        replace(control, why=f"PPO against offline DPO, second objective: {control.why}"),
        room(sides[0].scores, sides[1].scores, min(x.low for x in sides), 1.0, tested.margin),
        none,
        *settings(tested.margin, [arms.ppo, arms.iterated]),
    ]
    hashes = [arms.ppo.hash, arms.iterated.hash]
    return row_of(tested, "mlp", effect_of(sides), figure, hashes, note, gates)


def second_rows(records: Records, figure: str) -> list[Verdict]:
    """C09, by what is labelled."""
    return [_second(records, figure), _alone(records, figure), _same_labels(records, figure)]


def _second(records: Records, figure: str) -> Verdict:
    arms = Rounds(*(records[f"rounds/two/{name}"] for name in ("ppo", "iterated", "offline")))
    note = (
        "Labels and the reward model are of the mean of two unrelated objectives, for DPO as for PPO: nothing tells "
        "the second from the first, and the row is whether rounds close a gap on half of what is labelled."
    )
    none = placebo(None, SECOND.margin, "the arms see the same reward model; equal arms give 0")
    return second_row(SECOND, figure, arms, none, note)


def _alone(records: Records, figure: str) -> Verdict:
    names = ("both/ppo", "first/iterated", "first/offline")
    arms, both = Rounds(*(records[f"labels/{name}"] for name in names)), records["labels/both/iterated"]
    silent = placebo(ahead(arms.ppo, both, "second"), ALONE.margin)
    silent = replace(silent, why=f"against iterated DPO on labels of both: {silent.why}")
    first = ahead(arms.iterated, arms.ppo, "first")
    alike = ahead(records["alike/first/ppo"], records["alike/first/iterated"], "second")
    note = (
        f"On the first objective, of which its labels are, iterated DPO is {first.estimate:+.2f} from PPO, whose "
        f"reward model is of both. They correlate by {CORRELATION:g}: labels of the first say something "
        "of the second. In the paper, too, pairs for DPO are labelled for safety alone. PPO on labels of the "
        f"first as well is {alike} ahead, on other seeds: what is not closed is a gap of labels."
    )
    return second_row(ALONE, figure, arms, silent, note)


def _same_labels(records: Records, figure: str) -> Verdict:
    names = ("first/ppo", "first/iterated", "first/offline")
    arms = Rounds(*(records[f"alike/{name}"] for name in names))
    silent = placebo(ahead(records["alike/both/ppo"], records["alike/both/iterated"], "second"), SAME_LABELS.margin)
    silent = replace(silent, why=f"PPO against iterated DPO, both on labels of both: {silent.why}")
    first = ahead(arms.ppo, arms.iterated, "first")
    more = ahead(records["alike/both/ppo"], arms.ppo, "second")
    note = (
        f"At equal labels: both know of the first objective alone, on which PPO is {first} ahead. On the second, a "
        f"reward model of both is worth {more} to PPO. They correlate by {CORRELATION:g}."
    )
    return second_row(SAME_LABELS, figure, arms, silent, note)


def draw_objectives(axes: Axes, places: Mapping[str, tuple[int, int]], records: Records) -> None:
    """Scores by both objectives at the end, with their intervals. places: of the labels, in points."""
    for name, place in places.items():
        _, labels, learner = name.split("/")
        label = NAMES[learner].replace("\n", " ") + (", first alone" if labels == "first" else "")
        found = [student_interval(part_scores(records[name], part)[:, -1]) for part in ("first", "second")]
        x, y = (each.estimate for each in found)
        across, up = ([[each.estimate - each.low], [each.high - each.estimate]] for each in found)
        algorithm = "ppo" if learner == "ppo" else "dpo"
        axes.errorbar(x, y, up, across, fmt=marker(algorithm), color=colour(algorithm), ms=7, elinewidth=1)
        away: dict[str, Any] = {"xytext": place, "textcoords": "offset points", "fontsize": 9}
        axes.annotate(label, (x, y), arrowprops={"arrowstyle": "-", "color": "0.6"}, **away)
    axes.set(xlabel="score, first objective", ylabel="score, second objective")
    axes.margins(0.25)
