"""On the language model: does a negative gradient speed learning, does PPO keep up, and do offline methods suffice
where the optimum is likely? (C27, C28, C31, C68)

The arms are those of `figures.arms.matched`, of the tasks min length, whose optimum is unlikely under the reference,
and mode length, whose optimum is likely; with more runs than rankings need.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.lines import Line2D

from figures.arms import language_model as lm
from figures.arms import matched
from figures.arms.gating import (
    NOTHING_TO_LEARN,
    Part,
    Sides,
    effect_of,
    in_brief,
    larger,
    lowest_score,
    of_all,
    over_the_run,
    part,
    tuned_well,
)
from figures.arms.sweeps import best_arm, crossfit_best
from figures.catalogue import claim
from figures.claims import Verdict, row_of
from figures.figure import Figure, Records
from figures.lab import Lab
from figures.report.style import OFFLINE, ONLINE, RC, bound, curve, key
from sims.experiments.measures import final_scores, mean_scores, scores
from sims.experiments.store import Record
from sims.statistics.gates import Gate, geometry, placebo, positive_control
from sims.statistics.intervals import Interval
from sims.statistics.verdicts import over_tunings

TASKS = {"min": "Min length: optimum unlikely", "mode": "Mode length: optimum likely"}
METHODS = ("dpo/on", "dpo/off", "best_of_n/on", "best_of_n/off", "ppo/on", "rloo/on", "pref_ft/off")
RUNS = 20
# What rows of min length compare: some ended below the reference by one run a rate, and many end at a bound.
COMPARED, COMPARED_RUNS = ("dpo/on", "dpo/off", "best_of_n/on", "best_of_n/off", "ppo/on"), 100
TUNINGS = {"min": 1, "mode": len(matched.TUNING_SEEDS)}  # ten runs a rate choose once, one run three times

FASTER = claim("C27", "dpo, min length, over the run")
COMPOUND = claim("C28", "dpo, min length, over the run")
SUFFICES = claim("C31", "mode length")
KEEPS_UP = claim("C68", "dpo: min length, equal samples, over the run")


def collect(lab: Lab) -> Records:
    """task/algorithm/sampler/k → record, each arm tuned on its task by the k-th of its seeds."""
    found = {f"{name}/0": record for name, record in compared(lab, [f"min/{method}" for method in COMPARED]).items()}
    for k in range(max(TUNINGS.values())):
        tasks = [task for task in TASKS if k < TUNINGS[task]]
        arms = {f"{task}/{method}/{k}": matched.arm("lm", task, method) for task in tasks for method in METHODS}
        arms = {name: arm for name, arm in arms.items() if name not in found}
        found |= matched.tuned_on(lab, "lm", arms, matched.TUNING_SEEDS[k], dict.fromkeys(arms, RUNS))
    return found


def compared(lab: Lab, names: Sequence[str]) -> Records:
    """Arms of min length that rows compare, by their names, task/algorithm/sampler."""
    arms = {name: matched.on_seeds(matched.AGAIN_SEEDS, matched.arm("lm", *name.split("/", 1))) for name in names}
    runs = dict.fromkeys(arms, COMPARED_RUNS)
    return matched.tuned_on(lab, "lm", arms, matched.TUNING_SEEDS[0], runs, tuning_runs=matched.AGAIN_RUNS)


def draw(records: Records) -> MatplotlibFigure:
    """Score against updates on either task."""
    with plt.rc_context(RC):
        fig, axes = plt.subplots(1, 2, figsize=(10.5, 4.6), layout="constrained")
        for panel, task in zip(axes, TASKS, strict=True):
            for method in METHODS:
                name, sampler = method.split("/")
                record = records[f"{task}/{method}/0"]
                line = ONLINE if sampler == "on" else OFFLINE
                curve(panel, record.arrays["updates"], lm.carried_on(scores(record)), name, line)
            bound(panel, 1.0, "largest reward")
            panel.set(title=TASKS[task], xlabel="updates", ylabel="score")
        names = dict.fromkeys(method.split("/")[0] for method in METHODS)
        lines = [key(name) for name in names]
        lines += [
            Line2D([], [], color="0.3", linestyle=style, label=label)
            for style, label in ((ONLINE, "on-policy"), (OFFLINE, "offline"))
        ]
        fig.legend(handles=lines, loc="outside lower center", ncols=len(lines), fontsize=9.5)
    return fig


def _over(records: Records, task: str, of: Callable[[Mapping[str, Record]], Interval]) -> Interval:
    """An effect on a task by every tuning: `of` gets the records of one, by task/algorithm/sampler."""
    seeds = range(TUNINGS[task])
    tunings = [{name[:-2]: record for name, record in records.items() if name.endswith(f"/{k}")} for k in seeds]
    return over_tunings([of(found) for found in tunings])


def _used(records: Records, names: Sequence[str]) -> list[Record]:
    return [records[f"{name}/{k}"] for k in range(TUNINGS[names[0].split("/")[0]]) for name in names]


def _difference(
    names: Sequence[str], times: Sequence[float], at: int | None = None
) -> Callable[[Mapping[str, Record]], Interval]:
    return lambda found: effect_of([part(t, found[name], at) for t, name in zip(times, names, strict=True)])


def _room(records: Records, one: str, other: str, margin: float) -> Gate:
    pairs = [[records[f"{name}/{k}"] for name in (one, other)] for k in range(TUNINGS[one.split("/")[0]])]
    return over_the_run([Sides(scores(x), scores(y), lowest_score([x, y])) for x, y in pairs], margin)


def verdicts(records: Records) -> list[Verdict]:
    """One row of each claim, over three tunings."""
    on, off = (("min/dpo/" + s, "min/best_of_n/" + s) for s in ("on", "off"))
    rows = []
    for tested, names, times in ((FASTER, on, (1.0, -1.0)), (COMPOUND, on + off, (1.0, -1.0, -1.0, 1.0))):
        used = _used(records, names)
        gates = [_room(records, names[i], names[i + 1], tested.margin) for i in range(0, len(names), 2)]
        if tested is COMPOUND:
            tunings = [[mean_scores(record) for record in used[i : i + 4]] for i in range(0, len(used), 4)]
            gates.append(of_all([larger(tested, values) for values in tunings]))
        gates += [*tuned_well(tested.margin, *used), placebo(None, tested.margin, NOTHING_TO_LEARN)]
        note = "DPO takes pairs and Best-of-N fours, at equal samples; DPO alone of the contrastive losses."
        effect = _over(records, "min", _difference(names, times))
        first = _over(records, "min", _difference(names, times, at=1))
        levels = ", ".join(f"{n[4:]} {scores(records[f'{n}/0'])[:, 1].mean():.2f}" for n in names)
        note = (
            f"{note} {_carries(effect)} At the first evaluation, further from the largest score, the effect is "
            f"{in_brief(first)}: {levels}."
        )
        rows.append(row_of(tested, "lm", effect, FIGURE.name, [r.hash for r in used], note, gates))
    return [*rows, _suffices(records), _keeps_up(records)]


def _carries(effect: Interval) -> str:
    """What an interval can say where runs are at a bound, of one tuning."""
    return (
        f"One tuning, by {matched.AGAIN_RUNS} runs a rate; what another would choose is not in the interval. It allows "
        f"for unseen runs at the smallest score and is {effect.high - effect.low:.1f} wide."
    )


def _suffices(records: Records) -> Verdict:
    groups = [[f"mode/{method}" for method in METHODS if method.endswith(f"/{s}")] for s in ("on", "off")]

    def lost(found: Mapping[str, Record]) -> Interval:
        low = lowest_score(list(found.values()))
        best = (crossfit_best(np.stack([final_scores(found[n]) for n in names]).astype(float)) for names in groups)
        return effect_of([Part(t, values, low) for t, values in zip((1.0, -1.0), best, strict=True)])

    def gained(found: Mapping[str, Record]) -> Interval:
        return effect_of([part(1.0, found[best_arm({n: final_scores(found[n]) for n in groups[0]})])])

    used = _used(records, groups[0] + groups[1])
    control = positive_control(_over(records, "mode", gained), SUFFICES.margin, only_above=True)
    gates = [
        Gate(control.name, control.open, f"the best on-policy arm against the reference: {control.why}"),
        geometry({"mode length": matched.overlap_of("mode")}, {"mode length": "in"}),
        *tuned_well(SUFFICES.margin, *used, by=final_scores),
    ]
    effect = _over(records, "mode", lost)
    note = "Eight updates: it shows the way there, not where one ends."
    return row_of(SUFFICES, "lm", effect, FIGURE.name, [r.hash for r in used], note, gates)


def _keeps_up(records: Records) -> Verdict:
    names = ("min/ppo/on", "min/dpo/on")
    used = _used(records, names)
    early = _over(records, "min", lambda f: effect_of([part(1.0, f[names[1]], None), part(-1.0, f[names[1]], 1)]))
    control = positive_control(early, KEEPS_UP.margin, only_above=True)
    gates = [
        Gate(control.name, control.open, f"of DPO's whole run against its first evaluation, {control.why}"),
        *tuned_well(KEEPS_UP.margin, *used),
    ]
    lost = _over(records, "min", _difference(names, (1.0, -1.0)))
    note = (
        "Equal samples, one pass over each. PPO's critic is new and is a second model. One tuning where the rule asks "
        f"three; PPO's grid has {len(matched.GRIDS['lm'])} rates. {_carries(lost)}"
    )
    return row_of(KEEPS_UP, "lm", lost, FIGURE.name, [r.hash for r in used], note, gates)


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    record = records["min/dpo/on/0"]
    means = ", ".join(f"{m} {mean_scores(records[f'min/{m}/0']).mean():.2f}" for m in METHODS)
    few, many = (len(records[f"{task}/dpo/on/0"].arrays["gold"]) for task in ("mode", "min"))
    return (
        f"{lm.model_of(record)}, {few} runs per arm, {many} of DPO, Best-of-N and PPO on min length, "
        f"{matched.SAMPLES} samples per update, "
        "mean and 95 % band. Score: (reward − reference's) / (largest − reference's). Every arm is tuned on its task, "
        f"on other seeds: those of DPO, Best-of-N and PPO on min length once, by {matched.AGAIN_RUNS} runs a rate; of "
        f"mode length {TUNINGS['mode']} times, by one; drawn is the first tuning, and rows hold for all. Offline: "
        f"fresh draws from the reference for ever. Over the run on min length: {means}."
    )


FIGURE = Figure(
    name="lm_algorithms",
    title="Contrastive losses, imitation and PPO on a language model",
    tags=("negative-gradient", "online-offline"),
    claims=("C27", "C28", "C31", "C68"),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
)
