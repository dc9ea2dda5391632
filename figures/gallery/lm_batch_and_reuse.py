"""Batches that grow stale, and batches used again: B and T on a language model. (C26, C29, C30)"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure

from figures.arms import language_model as lm
from figures.arms import matched
from figures.arms.gating import (
    NOTHING_TO_LEARN,
    agree,
    at_the_end,
    effect_of,
    lowest_score,
    mean_of,
    part,
    sides,
    stopped_early,
    tuned_well,
    with_tuning_of,
)
from figures.arms.sweeps import largest
from figures.catalogue import Claim, claim
from figures.claims import Verdict, row_of
from figures.figure import Figure, Records
from figures.lab import Lab
from figures.report.style import RC, bound, key, side_by_side
from figures.short_tuning import Short
from sims.core.spec import from_json
from sims.experiments.experiment import Experiment
from sims.experiments.measures import final_scores
from sims.experiments.store import Record
from sims.statistics.gates import Gate, placebo, runs_at_a_bound, trained
from sims.statistics.intervals import Interval, paired_effect

STALE = ("rloo", "dpo")
BATCHES = (1, 2, 4, 8)  # times the samples of one update
REUSED = ("ppo", "best_of_n", "rwr")
LIKELIHOOD = REUSED[1:]
PASSES = (1, 2, 4, 8)
UPDATES = max(BATCHES)  # of the batch arms: the largest batch is collected once
EVALUATIONS = 2
RUNS = 10  # on the embedded model
TUNING_RUNS = {"batch": 10, "reuse": 2}  # by two the arms of large batches took rates that end below the reference
MORE_RUNS, MORE_SEED = 100, 432  # of the arms of C26: most of one of them end at the largest score
COLLECTED = 8  # batches of the reuse arms, whatever T: with fewer, T = 1 does not train

C26 = claim("C26", "min length")
C29 = claim("C29", "min length")
C30 = claim("C30", "min length")


def arms(scale: str) -> dict[str, Experiment]:
    """batch/algorithm/B and reuse/algorithm/T → experiment, on min length; at large scales as many updates as there."""
    found = {}
    for algorithm in STALE:
        for batches in BATCHES:
            arm = lm.arm("lm_batch", scale, "min", algorithm, batches=batches)
            updates = UPDATES if scale == "tiny" else arm.updates
            found[f"batch/{algorithm}/{batches}"] = _sized(arm, scale, updates)
    for algorithm in REUSED:
        for passes in PASSES:
            arm = lm.arm("lm_reuse", scale, "min", algorithm, epochs=passes)
            updates = (COLLECTED if scale == "tiny" else arm.updates // max(PASSES)) * passes
            found[f"reuse/{algorithm}/{passes}"] = _sized(arm, scale, updates)
    return found


def _sized(arm: Experiment, scale: str, updates: int) -> Experiment:
    return arm.replace(updates=updates, evaluations=EVALUATIONS, runs=RUNS if scale == "tiny" else arm.runs)


def collect(lab: Lab) -> Records:
    """Each arm tuned for its own B or T, by runs of its own length."""
    chosen = arms(lab.scale)
    if lab.quick:
        chosen = {name: arm for name, arm in chosen.items() if name.split("/")[2] in ("1", "2")}
    if lab.scale != "tiny" or lab.quick:
        return lab.records(chosen)
    found: dict[str, Record] = {}
    for side, updates in sorted({(name.split("/")[0], arm.updates) for name, arm in chosen.items()}):
        same = {n: arm for n, arm in chosen.items() if n.startswith(side) and arm.updates == updates}
        grids = dict.fromkeys(same, matched.GRIDS["lm"])
        found |= lab.tuned_records(same, grids, TUNING_RUNS[side], short=Short(updates, EVALUATIONS, widen=3))
    tested = lab.records(more(found))
    return found | with_tuning_of(tested, {f"more/{name}": record for name, record in found.items()})


def more(tuned: Records) -> dict[str, Experiment]:
    """more/batch/algorithm/B: the smallest and the largest batch by the settings that were tuned, with more runs."""
    found = {}
    for name, arm in arms("tiny").items():
        if name.startswith("batch/") and int(name.split("/")[2]) in (BATCHES[0], BATCHES[-1]):
            settings = from_json(tuned[name].spec["optimiser"])
            found[f"more/{name}"] = arm.replace(optimiser=settings, runs=MORE_RUNS, seed=MORE_SEED)
    return found


def draw(records: Records) -> MatplotlibFigure:
    """Final score against the samples collected at once, and against the passes over a batch."""
    with plt.rc_context(RC):
        fig, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.6), layout="constrained", sharey=True)
        size = _samples(records)
        tried = _against(left, records, "batch", STALE)
        left.set_xticks(range(len(tried)), [str(size * batches) for batches in tried])
        left.set(xlabel=f"samples collected at once (B), {size} per update", ylabel="score at the end")
        left.set_title("A larger batch grows staler")
        tried = _against(right, records, "reuse", REUSED)
        right.set_xticks(range(len(tried)), [str(passes) for passes in tried])
        right.set(xlabel=f"passes over a batch of {size} samples (T)")
        right.set_title("A batch used again")
        for axes in (left, right):
            bound(axes, 1.0, "largest reward")
        names = (*STALE, *REUSED)
        lines = [key(name) for name in names]
        fig.legend(handles=lines, loc="outside lower center", ncols=len(lines), fontsize=9.5)
    return fig


def _against(axes: Axes, records: Records, part: str, algorithms: tuple[str, ...]) -> list[int]:
    tried = _tried(records, part)
    found = {a: [_with_most_runs(records, f"{part}/{a}/{times}") for times in tried] for a in algorithms}
    side_by_side(axes, {a: [final_scores(record) for record in of] for a, of in found.items()})
    return tried


def _with_most_runs(records: Records, name: str) -> Record:
    return records.get(f"more/{name}", records[name])


def _tried(records: Records, part: str) -> list[int]:
    """The B or T that were run."""
    return sorted({int(name.split("/")[2]) for name in records if name.startswith(part)})


def _samples(records: Records) -> int:
    schedule = records[f"batch/{STALE[0]}/1"].spec["schedule"]
    return int(schedule["batch_size"] * schedule["num_generations"])


def verdicts(records: Records) -> list[Verdict]:
    """C26, C29 and C30, beside the rows that toys give them."""
    final = {name: final_scores(record) for name, record in records.items()}
    sizes, passes = _tried(records, "batch"), _tried(records, "reuse")
    fresh, stale = (
        [_with_most_runs(records, f"batch/{name}/{size}") for name in STALE] for size in (sizes[0], sizes[-1])
    )
    once, often = ([records[f"reuse/{name}/{times}"] for name in LIKELIHOOD] for times in (1, passes[-1]))
    ppo = [records[f"reuse/ppo/{times}"] for times in passes]
    each = {n: [part(1.0, x), part(-1.0, y)] for n, x, y in zip(STALE, fresh, stale, strict=True)}
    ends = {
        f"{name}, B = {size}": final_scores(record)
        for size, side in ((sizes[0], fresh), (sizes[-1], stale))
        for name, record in zip(STALE, side, strict=True)
    }
    likelihoods = {n: [part(1.0, x), part(-1.0, y)] for n, x, y in zip(LIKELIHOOD, once, often, strict=True)}
    terms = ((1.0, once), (-1.0, often), (-1.0, ppo[:1]), (1.0, ppo[-1:]))
    started = trained({f"{name}, T = 1": final[f"reuse/{name}/1"] for name in REUSED})
    tuned = "Every learning rate is tuned for its B or T; few updates from the start."
    rows: tuple[tuple[Claim, Interval, list[Gate], list[Record], str], ...] = (
        (
            C26,
            effect_of([*mean_of(1.0, fresh), *mean_of(-1.0, stale)]),
            [
                at_the_end([sides(fresh, stale)], C26.margin),
                agree(each),
                *tuned_well(C26.margin, *fresh, *stale, by=final_scores),
                runs_at_a_bound(ends, lowest_score([*fresh, *stale]), 1.0),
                placebo(None, C26.margin, NOTHING_TO_LEARN),
            ],
            [*fresh, *stale],
            f"{tuned} {_each(fresh, stale)} Tested by one set of seeds and one tuning, and not again.",
        ),
        (
            C29,
            largest([effect_of([part(1.0, ppo[0]), part(-1.0, reused)]) for reused in ppo[1:]]),
            [
                stopped_early(ppo[:1], ppo[-1:], C29.margin, 0.5),
                started,
                *tuned_well(C29.margin, *ppo, by=final_scores),
            ],
            ppo,
            f"At equal samples more passes are more steps, and {COLLECTED} batches are few: that helps whoever is far "
            "from the optimum, so that a loss is one in spite of it. Equal steps would show what fresh ones are worth.",
        ),
        (
            C30,
            effect_of([x for times, side in terms for x in mean_of(times, side)]),
            [
                at_the_end([sides(once, often), sides(ppo[:1], ppo[-1:])], C30.margin),
                agree(likelihoods),
                started,
                *tuned_well(C30.margin, *once, *often, ppo[0], ppo[-1], by=final_scores),
                placebo(None, C30.margin, NOTHING_TO_LEARN),
            ],
            [*once, *often, ppo[0], ppo[-1]],
            f"{tuned} {len(ppo[0].arrays['gold'])} runs, of which some end at the largest score: the interval allows "
            "for unseen runs at the smallest, is a score wide on the embedded model, and carries a sign and no margin.",
        ),
    )
    return [
        row_of(tested, "lm", effect, FIGURE.name, [record.hash for record in used], note, gates)
        for tested, effect, gates, used, note in rows
    ]


def _each(fresh: Sequence[Record], stale: Sequence[Record]) -> str:
    """What each algorithm loses, for those whose mean is of unlike things."""
    losses = (paired_effect(final_scores(one), final_scores(other)) for one, other in zip(fresh, stale, strict=True))
    parts = (f"{name} {x.estimate:.2f} [{x.low:.2f}, {x.high:.2f}]" for name, x in zip(STALE, losses, strict=True))
    return f"Each by itself: {', '.join(parts)}."


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    record = records[f"batch/{STALE[0]}/1"]
    updates, runs = int(record.arrays["updates"][-1]), len(record.arrays["gold"])
    reuse = records["reuse/ppo/1"].arrays
    most = (
        f", {MORE_RUNS} of the smallest and the largest batch"
        if any(name.startswith("more/") for name in records)
        else ""
    )
    return (
        f"{lm.model_of(record)}, r = −|y|, {runs} runs per arm{most}; mean and 95 % interval. Left: {updates} "
        f"updates of {_samples(records)} samples each, however many are collected at once. Right: "
        f"{int(reuse['samples'][-1])} samples in all, each batch gone through T times, one update per pass, so that T "
        "passes are T times as many updates. Learning rates are tuned arm by arm, by the score over runs of the same "
        f"length on other seeds ({TUNING_RUNS['batch']} runs a rate on the left, {TUNING_RUNS['reuse']} on the right)."
    )


FIGURE = Figure(
    name="lm_batch_and_reuse",
    title="Stale batches and batches used again, on a language model",
    tags=("lm", "sweep"),
    claims=("C26", "C29", "C30"),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
    arms=arms,
)
