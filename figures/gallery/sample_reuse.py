"""How often can a batch be used before it hurts, and whom? (C29, C30) The 1-D bandit, 1 … 32 passes over each batch."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure

from figures.arms.gating import (
    NOTHING_TO_LEARN,
    agree,
    effect_of,
    last_with_room,
    mean_of,
    part,
    sides,
    stopped_early,
    tuned_for,
    tuned_well,
)
from figures.arms.sweeps import TRIED, TUNING, equal_grid, largest
from figures.catalogue import claim
from figures.claims import Verdict, row_of
from figures.figure import Figure, Records
from figures.lab import Lab
from figures.report.style import RC, bound, key, side_by_side
from sims.core.algorithms import find_algorithm
from sims.core.schedule import Schedule
from sims.core.spec import from_json
from sims.environments import BanditR1, BanditR2
from sims.experiments.experiment import Experiment
from sims.experiments.measures import final_scores
from sims.experiments.store import Record
from sims.policies import Table
from sims.statistics.gates import placebo

ALGORITHMS = ("rloo", "ppo", "best_of_n", "rwr", "dpo", "ipo")
LIKELIHOOD = ("best_of_n", "rwr")
PASSES = (1, 2, 4, 8, 32)
MODERATE, MANY = (2, 4, 8), 32
BATCHES, STEPS = 32, 256  # batches drawn where samples are equal; updates where these are
PROMPTS, GENERATIONS = 16, 4
RUNS, SEED = 100, 40  # as many runs as are asked for where some are at a bound
NEEDED = 200  # runs of the arms of which no loss is claimed: many are at the largest reward

PANELS = {
    "R1/samples": f"R1 · equal samples ({BATCHES * PROMPTS * GENERATIONS:,})",
    "R1/held": "R1 · equal samples, all else as tuned for T = 1",
    "R1/steps": f"R1 · equal gradient steps ({STEPS})",
    "R2/samples": f"R2 · equal samples ({BATCHES * PROMPTS * GENERATIONS:,})",
}
PARTS = {
    "R1/samples": "R1, equal samples",
    "R1/held": "R1, equal samples, settings of T = 1",
    "R1/steps": "R1, equal gradient steps",
    "R2/samples": "R2, equal samples",
}
C29 = {panel: claim("C29", part) for panel, part in PARTS.items()}
C30 = {panel: claim("C30", part) for panel, part in PARTS.items() if panel[:2] == "R1"}
NOTES = {
    "R1/samples": "Each T has its own learning rate; whoever reuses a batch also takes more steps on as many samples.",
    "R1/held": "How far a learning rate carries, which differs between algorithms; not what reuse costs at its best.",
    "R1/steps": "More passes mean fewer samples here: it shows what fresh samples are worth, not that passes do harm.",
    "R2/samples": "On R2 nearly every arm reaches the largest reward, which hides whatever reuse costs.",
}


def arms(panel: str, passes_tried: tuple[int, ...] = PASSES) -> dict[str, Experiment]:
    """panel/algorithm/passes over a batch of 64 samples."""
    environment, equal = panel.split("/")
    return {
        f"{panel}/{algorithm}/{passes}": Experiment(
            name=f"sample_reuse-{algorithm}",
            environment=BanditR1() if environment == "R1" else BanditR2(),
            policy=Table(),
            algorithm=find_algorithm(algorithm)(),
            schedule=Schedule(batch_size=PROMPTS, num_generations=GENERATIONS, epochs=passes),
            updates=BATCHES * passes if equal == "samples" else STEPS,
            evaluations=4,
            runs=RUNS,
            seed=SEED,
        )
        for algorithm in ALGORITHMS
        for passes in passes_tried
    }


def held(panel: str, tuned: Records) -> dict[str, Experiment]:
    """The arms of equal samples with the settings that were best for T = 1."""
    found = {}
    for name, arm in arms("R1/samples").items():
        _, _, algorithm, passes = name.split("/")
        if name not in tuned:
            continue
        spec = tuned[f"R1/samples/{algorithm}/1"].spec
        found[f"{panel}/{algorithm}/{passes}"] = arm.replace(
            algorithm=from_json(spec["algorithm"]),
            optimiser=from_json(spec["optimiser"]),
            runs=tuned[name].spec["runs"],
        )
    return found


def collect(lab: Lab) -> Records:
    """Every cell tuned for itself, but for the panel that holds on to what was best for T = 1."""
    passes = (1, MODERATE[0], MANY) if lab.quick else PASSES
    chosen = {name: arm for panel in PANELS if panel != "R1/held" for name, arm in arms(panel, passes).items()}
    more = {name: NEEDED for name in chosen if name.split("/")[2] == "ppo" and int(name.split("/")[3]) <= max(MODERATE)}
    tuned = lab.tuned_records(chosen, {name: equal_grid(arm) for name, arm in chosen.items()}, **TUNING, runs=more)
    return tuned | lab.records(held("R1/held", tuned))


def draw(records: Records) -> MatplotlibFigure:
    """Final score against the number of passes, one panel a way of comparing."""
    with plt.rc_context(RC):
        fig, axes = plt.subplots(2, 2, figsize=(11.5, 7.8), layout="constrained")
        for panel, title in PANELS.items():
            one = axes.flat[list(PANELS).index(panel)]
            _against_passes(one, records, panel)
            one.set_title(title)
        lines = [key(name) for name in ALGORITHMS]
        fig.legend(handles=lines, loc="outside lower center", ncols=len(lines), fontsize=9.5)
    return fig


def _against_passes(axes: Axes, records: Records, panel: str) -> None:
    tried = [passes for passes in PASSES if f"{panel}/ppo/{passes}" in records]
    side_by_side(axes, {a: [final_scores(records[f"{panel}/{a}/{passes}"]) for passes in tried] for a in ALGORITHMS})
    bound(axes, 1.0, "largest reward", x=0.16)
    axes.set_xticks(range(len(tried)), [str(passes) for passes in tried])
    axes.set(xlabel="passes over a batch of 64 samples (T)", ylabel="score at the end", ylim=(-0.05, 1.12))


def verdicts(records: Records) -> list[Verdict]:
    """C29 and C30 for each way of comparing."""

    def cell(panel: str, algorithm: str, passes: int) -> Record:
        return records[f"{panel}/{algorithm}/{passes}"]

    rows = []
    for panel, tested in C29.items():
        moderate = [passes for passes in MODERATE if f"{panel}/ppo/{passes}" in records]
        once, *reused = (cell(panel, "ppo", passes) for passes in (1, *moderate))
        drop = largest([effect_of([part(1.0, once), part(-1.0, record)]) for record in reused])
        gates = [stopped_early([once], [reused[-1]], tested.margin), *tuned_well(tested.margin, once, *reused)]
        hashes = [record.hash for record in (once, *reused)]
        rows.append(row_of(tested, "bandit", drop, FIGURE.name, hashes, NOTES[panel], gates))
    for panel, tested in C30.items():
        first, often = ([cell(panel, name, passes) for name in LIKELIHOOD] for passes in (1, MANY))
        ppo = [[cell(panel, "ppo", passes)] for passes in (1, MANY)]
        at, room = last_with_room([sides(first, often), sides(*ppo)], tested.margin)
        each = {n: [part(1.0, x, at), part(-1.0, y, at)] for n, x, y in zip(LIKELIHOOD, first, often, strict=True)}
        used = [*first, *often, *ppo[0], *ppo[1]]
        gates = [room, tuned_for(at, *used), *tuned_well(tested.margin, *used), agree(each)]
        gates.append(placebo(None, tested.margin, NOTHING_TO_LEARN))
        terms = ((1.0, first), (-1.0, often), (-1.0, ppo[0]), (1.0, ppo[1]))
        effect = effect_of([x for times, group in terms for x in mean_of(times, group, at, RUNS)])
        rows.append(row_of(tested, "bandit", effect, FIGURE.name, [r.hash for r in used], NOTES[panel], gates))
    return rows


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    once = records["R1/samples/ppo/1"]
    runs, clip = len(once.arrays["reward"]), once.spec["algorithm"]["epsilon"]
    return (
        f"1-D bandit, 100 actions, table policy, {runs} runs per arm, mean and 95 % interval. Batches of 16 prompts × "
        f"4 responses, each gone through T times, one step per pass. Equal samples, as in the paper: {BATCHES} "
        f"batches, so that T passes mean T times as many steps. Equal gradient steps: {STEPS} of them, so that T "
        f"passes mean {STEPS}/T batches. Every cell was tuned for itself on other seeds, over "
        f"{TRIED} and β or, where T > 1, clip range, listed below; top right, what was best for T = 1 is kept for "
        f"all T, with a clip range of {clip:g}, which does nothing at T = 1. Noiseless labels."
    )


FIGURE = Figure(
    name="sample_reuse",
    title="How often can a batch be used?",
    tags=("bandit", "sweep"),
    claims=("C29", "C30"),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
)
