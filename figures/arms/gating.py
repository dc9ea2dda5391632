"""Gates and intervals of a figure's rows, from its records: what `sims.statistics.gates` needs to be told.

A score lies between that of the smallest reward and 1, the largest reward's. Where a run is at such a bound, Student's
and the bootstrap's intervals are too narrow, and the bounded one is taken (`sims.statistics.bounded`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from figures.catalogue import Claim
from figures.lab import MEASURES, settings
from sims.core.spec import from_json
from sims.experiments.measures import deployed_scores, fall, final_scores, mean_scores, part_scores, scores
from sims.experiments.record_file import Record
from sims.statistics.bounded import bounded_interval
from sims.statistics.gates import (
    AT_A_BOUND,
    Chosen,
    Gate,
    Overlap,
    above_the_reference,
    estimand,
    geometry,
    grid_edge,
    luck_of_tuning,
    positive_control,
    room,
    runs_at_a_bound,
    shared_arms,
    within_the_scale,
)
from sims.statistics.intervals import LEVEL, Interval, mean_interval

# Why most comparisons of scores have no placebo of their own.
NOTHING_TO_LEARN = (
    "the arms differ in what is compared alone; on rewards that say nothing of the response neither is drawn to the "
    "optimum, and both scores stay at the reference's 0"
)
Ends = Callable[[Record], np.ndarray]
WHEN: dict[Ends, str] = {final_scores: " at the end", mean_scores: " over the run"}
IN_SCORES = 0.05  # the margin of `edges` where a row's own is in another unit: what arms are tuned by is a score
SAMPLED = 0.05  # share of its range by which a score may be beyond its bounds, where it is a mean over samples
FLAT = 0.5  # share of the margin within which two values of a grid are a plateau, and an arm is as good as another


def lowest_score(records: Iterable[Record]) -> float:
    """The score of always getting the smallest reward there is: as the record says, else 0, and of a language model's
    length, or number of forbidden words, that of the longest response. At most 0, which the reference gets."""
    return min(0.0, *(float(_lowest(record).min()) for record in records))


def _lowest(record: Record) -> np.ndarray:
    arrays, decoding = record.arrays, record.spec.get("policy", {}).get("decoding")
    counted = decoding is not None and not is_right_or_wrong(record.spec.get("environment", {}))
    reward = -float(decoding["max_new_tokens"]) if counted else arrays.get("worst_reward", 0.0)
    return np.asarray((reward - arrays["reference_reward"]) / (arrays["best_reward"] - arrays["reference_reward"]))


def is_right_or_wrong(task: Mapping[str, Any]) -> bool:
    """Whether a language model's task, as JSON, rewards a response by 1 or 0."""
    return task.get("kind") == "verifiable" or (task.get("kind") == "forbidden_words" and not task["dense"])


class Part(NamedTuple):
    """An arm's share in an effect. scores: (runs,), within [low, high]."""

    times: float
    scores: np.ndarray
    low: float
    high: float = 1.0

    @property
    def at_a_bound(self) -> bool:
        near = AT_A_BOUND * (self.high - self.low)
        return bool(((self.scores <= self.low + near) | (self.scores >= self.high - near)).any())


def part(times: float, record: Record, at: int | None = -1, runs: int | None = None) -> Part:
    """A record's score at an evaluation, or with at = None over the run."""
    found = mean_scores(record) if at is None else scores(record)[:, at]
    return Part(times, found[:runs].astype(float), lowest_score([record]))


def part_of_gold(times: float, record: Record, name: str) -> Part:
    """A record's score at the end by one of the two parts that gold is the mean of."""
    found, arrays = part_scores(record, name), record.arrays
    start = arrays[f"gold_{name}"][:, 0]
    lowest = (arrays[f"worst_{name}"] - start) / (arrays[f"best_{name}"] - start)
    return Part(times, found[:, -1].astype(float), float(lowest.min()))


def effect_of(parts: Sequence[Part]) -> Interval:
    """Interval for the mean of Σ times · score over runs that share their noise.

    `mean_interval` where no run of an arm is at a bound. Else the arms that have one are taken together in a bounded
    interval, the others in `mean_interval`, and the ends added; each at half of the error allowed (Bonferroni).
    ValueError where a score lies outside the bounds that it is said to have.
    """
    tied, free = [x for x in parts if x.at_a_bound], [x for x in parts if not x.at_a_bound]
    if not tied:
        return mean_interval(_sum(free))
    least = sum(min(x.times * x.low, x.times * x.high) for x in tied)
    most = sum(max(x.times * x.low, x.times * x.high) for x in tied)
    for x in tied:
        beyond = SAMPLED * (x.high - x.low)
        if x.scores.min() < x.low - beyond or x.scores.max() > x.high + beyond:
            said = f"{x.scores.min():.3g} … {x.scores.max():.3g}: must lie within [{x.low:.3g}, {x.high:.3g}]"
            raise ValueError(f"scores: {said}, which bound the interval")
    values = np.clip(_sum(tied), least, most)
    if not free:
        return bounded_interval(values, least, most)
    each = (1.0 + LEVEL) / 2
    one, other = bounded_interval(values, least, most, each), mean_interval(_sum(free), each)
    ends = {name: getattr(one, name) + getattr(other, name) for name in ("estimate", "low", "high")}
    return replace(one, **ends, level=LEVEL, method=f"{one.method} and {other.method}, Bonferroni")


def in_brief(found: Interval) -> str:
    """An estimate and its interval, within a sentence of a note."""
    return f"{found.estimate:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


def mean_of(times: float, records: Sequence[Record], at: int = -1, runs: int | None = None) -> list[Part]:
    """The mean over arms, as parts of an effect."""
    return [part(times / len(records), record, at, runs) for record in records]


def likelihood(claimed: Mapping[Overlap, Record]) -> Gate:
    """`geometry` of bandits: whether the reference's probability within the bump, exactly, makes an optimum as likely
    as it is said to be."""
    environments = {side: from_json(record.spec["environment"]) for side, record in claimed.items()}
    names = {side: f"the one that is said to be {side}" for side in claimed}
    masses = {names[side]: environment.overlap_mass() for side, environment in environments.items()}
    return geometry(masses, {names[side]: side for side in claimed})


def agree(effects: Mapping[str, Sequence[Part]]) -> Gate:
    """`estimand`, of the effects that a mean over arms is made of, by name."""
    return estimand({name: effect_of(parts) for name, parts in effects.items()})


def stopped_early(better: Sequence[Record], worse: Sequence[Record], margin: float, share: float = 0.25) -> Gate:
    """A positive control for a claim that nothing is lost: the arms that might lose, stopped at a share of their run,
    against the others at the end. Open if the test sees that loss."""
    points = scores(worse[0]).shape[1]
    at = min(points - 1, max(1, round(share * (points - 1))))
    runs = min(len(record.arrays["gold"]) for record in (*better, *worse))
    found = effect_of([*mean_of(1.0, better, runs=runs), *mean_of(-1.0, worse, at, runs)])
    gate = positive_control(found, margin, only_above=True)
    return replace(gate, why=f"stopped at {share:.0%} of the run, {gate.why}")


def _sum(parts: Sequence[Part]) -> np.ndarray:
    return np.asarray(sum(x.times * x.scores for x in parts))


def edges(margin: float, *records: Record) -> Gate:
    """`grid_edge` of every record that was tuned. An end of a grid is a plateau if the value
    before it gives as much, within half a margin, or if there is less than a margin to be gained beyond it. A field of
    two values is a choice, and has no ends. margin: in scores, by which arms are tuned; `IN_SCORES` where a row is of
    lengths, entropies or alarms."""
    chosen, grids, plateaus = {}, {}, []
    for record in records:
        tuning = record.provenance.get("tuning")
        if tuning is None:
            continue
        name = tuning["arm"]
        points = tuning["points"]
        values = {field: sorted({point[field] for point in points}) for field in points[0]}
        axes = [field for field, tried in values.items() if len(tried) > 2]
        taken = points[tuning["chosen"]]
        grids[name] = [{field: point[field] for field in axes} for point in points]
        chosen[name] = {field: taken[field] for field in axes}
        best = {
            field: {x: max(s for p, s in zip(points, tuning["scores"], strict=True) if p[field] == x) for x in tried}
            for field, tried in values.items()
        }
        at_ends = [field for field in axes if taken[field] in (values[field][0], values[field][-1])]
        if all(_is_flat(best[field], values[field], taken[field], margin) for field in at_ends):
            plateaus.append(name)
    return grid_edge(chosen, grids, plateaus)


def above(margin: float, *records: Record, by: Ends | None = None, falls: str = "") -> Gate:
    """`above_the_reference` of every record that was tuned; by less than what `edges` calls a plateau it is as good as
    not to train. by: (runs,) of a record, the score that is asked, 0 of the reference; None: over the run where it was
    tuned by that, else at the end. falls: why an arm may end below it, where a row is about a fall, or its arms are
    tuned for something else; the gate is open then, and says so."""
    if falls:
        return Gate("above the reference", True, f"not asked: {falls}")
    found = {}
    for record in records:
        if "tuning" in record.provenance:
            how = record.provenance["tuning"]
            of = by or (mean_scores if how.get("by") == "run" else final_scores)
            found[f"{how['arm']}{WHEN.get(of, '')}"] = of(record)
    return above_the_reference(found, FLAT * margin)


def luck(margin: float, *records: Record) -> Gate:
    """`luck_of_tuning` of every record that was tuned and has the settings that were chosen for it, by what it was
    tuned for; by less than what `edges` calls a plateau it is no matter. A record that was committed before this was
    asked keeps what its figure looked at then, which may not be what it was tuned for: the gate says so."""
    arms, unknown = {}, []
    for record in records:
        how = record.provenance.get("tuning", {})
        if how.get("of") == settings(record.spec):
            try:
                found = MEASURES[how["by"]](record)
            except KeyError:
                unknown.append(how["arm"])
            else:
                arms[how["arm"]] = Chosen(found, how["mean"], how["runs"], how["among"])
    gate = luck_of_tuning(arms, FLAT * margin)
    if unknown and gate.open:
        said = f"; {gate.why}" if arms else ""
        return replace(gate, why=f"not known of {', '.join(unknown)}, whose committed records keep no such score{said}")
    return gate


def tuned_well(margin: float, *records: Record, by: Ends | None = None, falls: str = "") -> list[Gate]:
    """What a row of scores asks of its arms that were tuned: `edges`, to be `above` the reference, and to score what
    they did when they were tuned, `luck`. A row whose arms have no score that is 0 of the reference goes without
    `above`."""
    return [edges(margin, *records), above(margin, *records, by=by, falls=falls), luck(margin, *records)]


def deployed_at_the_end(record: Record) -> np.ndarray:
    """(runs,): the score of what users get."""
    return deployed_scores(record)[:, -1]


def with_tuning_of(records: Mapping[str, Record], tuned: Mapping[str, Record]) -> dict[str, Record]:
    """Records that took the settings of others, each saying how these were tuned. tuned: by the keys of `records`."""
    how = {key: r.provenance["tuning"] for key, r in tuned.items() if "tuning" in r.provenance}
    return {
        key: Record(r.spec, r.arrays, {**r.provenance, "tuning": how[key]}, r.source) if key in how else r
        for key, r in records.items()
    }


def tuned_for(at: int | None, *records: Record, quantity: str = "score") -> Gate:
    """Whether arms that were tuned by their score, at the end or over the run, are tested by it, and then. Where many
    settings come to the same end, tuning takes any of them; which arm is ahead on the way there, or by another
    `quantity`, is then a matter of that choice. at: the evaluation at which they are tested; None for over the run."""
    arrays = records[0].arrays  # committed ones have what is tested, and no more
    last = (arrays["gold"].shape[1] if quantity == "score" else len(arrays["updates"])) - 1
    tuned = [record.provenance["tuning"] for record in records if "tuning" in record.provenance]
    by = {"over the run" if tuning.get("by") == "run" else "at the end" for tuning in tuned}
    when = "over the run" if at is None else "at the end" if at in (-1, last) else f"at evaluation {at} of {last}"
    if not tuned or (by == {when} and quantity == "score"):
        return Gate("tuned for", True, "every arm that was tuned was tuned by what is tested")
    if quantity != "score":
        what, other = f"by its {quantity} {when}", "one setting for all arms, or all settings that end alike,"
    else:
        what, other = when, "tuning by that" if at in (None, -1, last) else "shorter runs"
    return Gate(
        "tuned for", False, f"tuned by the score {' or '.join(sorted(by))} and tested {what}; {other} would open it"
    )


def own_settings(margin: float, arms: Mapping[str, tuple[Record, Record]]) -> Gate:
    """Whether arms that were run by settings that another was tuned to lose less than a margin by that. arms: of each,
    as it was run, and as it does when tuned for itself; of other seeds, or of the same."""
    costs = {}
    for name, (as_run, tuned) in arms.items():
        runs = min(len(record.arrays["gold"]) for record in (as_run, tuned))
        costs[name] = effect_of([part(1.0, tuned, runs=runs), part(-1.0, as_run, runs=runs)])
    said = "; ".join(f"tuned for itself, {name} scores {cost} more" for name, cost in costs.items())
    if all(cost.high <= margin for cost in costs.values()):
        return Gate("own settings", True, said)
    return Gate(
        "own settings", False, f"{said}, which may be more than the margin {margin:g}; tuned arms would open it"
    )


def separate(a: Record, b: Record, c: Record, d: Record) -> Gate:
    """`shared_arms` of (a − b) − (c − d), by what the records hold: two specs may differ in what an arm never sees, as
    recorded pairs where it draws its own, and give the very same runs."""

    def runs(record: Record) -> list[str]:
        return [hashlib.sha256(np.ascontiguousarray(record.arrays["gold"]).tobytes()).hexdigest()]

    return shared_arms(runs(a), runs(b), runs(c), runs(d))


def of_differences(tested: Claim, used: Sequence[Record], at: int | None) -> list[Gate]:
    """What a claim of (a − b) − (c − d) asks of its four arms, in this order: that they are `separate`, and that the
    scale leaves the difference that is claimed to be the larger one `within_the_scale`. at: the evaluation that is
    tested; None for over the run."""
    a, b, c, d = used
    runs = min(len(record.arrays["gold"]) for record in used)
    return [separate(a, b, c, d), larger(tested, [part(1.0, record, at, runs).scores for record in used])]


def larger(tested: Claim, values: Sequence[np.ndarray], high: float = 1.0) -> Gate:
    """`within_the_scale` of the claimed side of (a − b) − (c − d). values: a, b, c and d, (runs,) each as tested."""
    a, b, c, d = values
    return within_the_scale(*((b, c, d) if tested.sign > 0 else (d, a, b)), high, tested.margin)


def larger_fall(tested: Claim, rare: Sequence[Record], semi: Sequence[Record]) -> Gate:
    """`within_the_scale` of `collapsing.interaction_of_falls`: an arm falls from its best evaluation to the lowest
    score at most."""
    high = float((scores(rare[0]).max(-1) - lowest_score(rare[:1])).mean())
    return larger(tested, [fall(record) for record in (rare[0], semi[0], rare[1], semi[1])], high)


def tuned_and_bounded(margin: float, one: Record, other: Record) -> list[Gate]:
    """`tuned_well` of two arms, by what each is tuned for, and whether runs end at the lowest or the largest score."""
    ends = {"the first arm": final_scores(one), "the second arm": final_scores(other)}
    return [*tuned_well(margin, one, other), runs_at_a_bound(ends, lowest_score([one, other]), 1.0)]


def _is_flat(best: Mapping[float, float], tried: Sequence[float], end: float, margin: float) -> bool:
    before = tried[1] if end == tried[0] else tried[-2]
    return best[end] - best[before] <= FLAT * margin or 1.0 - best[end] < margin


class Sides(NamedTuple):
    """Two sides of a difference: scores (runs, evaluations) each, within [low, 1]."""

    one: np.ndarray
    other: np.ndarray
    low: float


def sides(one: Sequence[Record], other: Sequence[Record]) -> Sides:
    """Of records, each side averaged over its arms."""
    runs = min(len(record.arrays["gold"]) for record in (*one, *other))
    first, second = (np.mean([scores(record)[:runs] for record in side], axis=0) for side in (one, other))
    return Sides(first, second, lowest_score([*one, *other]))


def over_the_run(pairs: Sequence[Sides], margin: float) -> Gate:
    """`room` of the scores averaged over the run, without the start."""
    return of_all([room(pair.one[:, 1:].mean(1), pair.other[:, 1:].mean(1), pair.low, 1.0, margin) for pair in pairs])


def at_the_end(pairs: Sequence[Sides], margin: float) -> Gate:
    """`room` of the scores at the last evaluation, where an effect is tested there whatever room was left before."""
    return of_all(_rooms(pairs, margin, -1))


def last_with_room(pairs: Sequence[Sides], margin: float) -> tuple[int, Gate]:
    """The last evaluation at which every difference leaves room for a margin either way, and the gate there; if none
    does, the last one of all, and a gate that is closed. All have the same evaluations. The effect is to be tested at
    that evaluation: the gate says nothing of another one, such as the end (`at_the_end`)."""
    last = pairs[0].one.shape[1] - 1
    for at in range(last, 0, -1):
        found = of_all(_rooms(pairs, margin, at))
        if found.open:
            return at, found if at == last else replace(found, why=f"{found.why}; at evaluation {at} of {last}")
    return last, at_the_end(pairs, margin)


def _rooms(pairs: Sequence[Sides], margin: float, at: int) -> list[Gate]:
    return [room(pair.one[:, at], pair.other[:, at], pair.low, 1.0, margin) for pair in pairs]


def of_all(gates: Sequence[Gate]) -> Gate:
    """Of gates of one name, the first that is closed; if none is, one that is open, with the reasons of all."""
    closed = [gate for gate in gates if not gate.open]
    return closed[0] if closed else replace(gates[0], why="; ".join(dict.fromkeys(gate.why for gate in gates)))
