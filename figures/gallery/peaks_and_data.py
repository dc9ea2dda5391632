"""Where the peak of the reward is, and whether the data have it (C25): the table of Tajwar et al. on a bandit with
prompts. The best response is likely under the reference or not, and the recorded pairs show it or not."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure as MatplotlibFigure

from figures.arms.gating import NOTHING_TO_LEARN, effect_of, of_differences, over_the_run, part, sides, tuned_well
from figures.arms.sweeps import ROUNDS, TUNING
from figures.catalogue import Claim, claim
from figures.claims import Verdict, row_of
from figures.figure import Figure, Records
from figures.lab import Lab, product
from figures.report.style import RC, key, side_by_side
from sims.core.algorithms import find_algorithm
from sims.core.schedule import Schedule
from sims.environments import Contextual
from sims.experiments.experiment import Experiment
from sims.experiments.measures import mean_scores
from sims.policies import Table
from sims.statistics.gates import geometry, placebo

ALGORITHMS = ("dpo", "ipo", "pref_ft")
PEAKS = {"likely": 0.3, "unlikely": 0.003}  # the reference's probability of the best response
DATA = {"with": True, "without": False}  # whether recorded pairs show it
SAMPLERS = {"fresh": Schedule(batch_size=16), "recorded": Schedule(batch_size=16, source="dataset")}
PROMPTS, RESPONSES, UPDATES, RUNS, SEED = 8, 32, 20, 100, 30
GRID = product(learning_rate=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0), beta=(0.001, 0.01, 0.1, 1.0, 10.0))
IMITATION = product(learning_rate=tuple(float(f"{x:.2g}") for x in np.geomspace(0.003, 30.0, len(GRID))))
TITLES = {
    "likely/with": "peak likely,\nin the data",
    "likely/without": "peak likely,\nnot in the data",
    "unlikely/with": "peak unlikely,\nin the data",
    "unlikely/without": "peak unlikely,\nnot in the data",
}
PEAK = {name: claim("C25", f"{name}: peak unlikely against likely, data overlap") for name in ALGORITHMS}
OVERLAP = {name: claim("C25", f"{name}: data without the peak against with it, peak unlikely") for name in ALGORITHMS}


def arms() -> dict[str, Experiment]:
    """peak/data/algorithm/sampler."""
    return {
        f"{peak}/{data}/{algorithm}/{sampler}": Experiment(
            name=f"peaks_and_data-{algorithm}",
            environment=Contextual(
                num_prompts=PROMPTS, num_responses=RESPONSES, coverage=0.5, best_in_data=shown, best_mass=mass
            ),
            policy=Table(),
            algorithm=find_algorithm(algorithm)(),
            schedule=schedule,
            updates=UPDATES,
            evaluations=10,
            runs=RUNS,
            seed=SEED,
        )
        for peak, mass in PEAKS.items()
        for data, shown in DATA.items()
        for algorithm in ALGORITHMS
        for sampler, schedule in SAMPLERS.items()
    }


def collect(lab: Lab) -> Records:
    """Every arm tuned for itself, by its score over the run."""
    chosen = arms()
    grids = {name: IMITATION if "/pref_ft/" in name else GRID for name in chosen}
    return lab.tuned_records(chosen, grids, **TUNING, by="run")


def draw(records: Records) -> MatplotlibFigure:
    """What fresh pairs gain over recorded ones in each cell of the table."""
    gains = {
        name: [
            mean_scores(records[f"{cell}/{name}/fresh"]) - mean_scores(records[f"{cell}/{name}/recorded"])
            for cell in TITLES
        ]
        for name in ALGORITHMS
    }
    with plt.rc_context(RC):
        fig, axes = plt.subplots(figsize=(8.6, 4.6), layout="constrained")
        side_by_side(axes, gains, apart=0.1)
        margin = PEAK["dpo"].margin
        axes.axhspan(-margin, margin, color="0.5", alpha=0.12, linewidth=0)
        axes.axhline(0, color="0.4", linewidth=0.8)
        axes.set_xticks(range(len(TITLES)), list(TITLES.values()))
        axes.set(ylabel="fresh − recorded pairs, score over the run", xlim=(-0.5, len(TITLES) - 0.5))
        fig.legend(handles=[key(name) for name in ALGORITHMS], loc="outside lower center", ncols=3, fontsize=9.5)
    return fig


def verdicts(records: Records) -> list[Verdict]:
    """For each algorithm: a peak that is unlikely against one that is likely, and data without it against data with."""
    note = (
        f"{RESPONSES} responses and a table: it learns nothing of a response that it never saw. Recorded pairs show "
        "every response that is in them alike, however unlikely it is under the reference: of a peak that is unlikely, "
        "they are data that no policy near the reference would draw."
    )
    same = (
        f"{note} Fresh pairs know nothing of recorded ones: what is left is by how much these train worse without the "
        "best response."
    )
    rows = []
    for name in ALGORITHMS:
        rows.append(_row(PEAK[name], records, name, ("unlikely/with", "likely/with"), note))
        rows.append(_row(OVERLAP[name], records, name, ("unlikely/without", "unlikely/with"), same))
    return rows


def _row(tested: Claim, records: Records, name: str, cells: tuple[str, str], note: str) -> Verdict:
    """(fresh − recorded) in the first cell − the same in the second, over the run."""
    used = [records[f"{cell}/{name}/{sampler}"] for cell in cells for sampler in SAMPLERS]
    effect = effect_of([part(times, r, None) for times, r in zip((1.0, -1.0, -1.0, 1.0), used, strict=True)])
    peaks = dict.fromkeys(cell.partition("/")[0] for cell in cells)
    said = {f"the peak that is said to be {peak}": peak for peak in peaks}
    gates = [
        over_the_run([sides(used[:1], used[1:2]), sides(used[2:3], used[3:])], tested.margin),
        *tuned_well(tested.margin, *used),
        *of_differences(tested, used, None),
        geometry(
            {where: PEAKS[peak] for where, peak in said.items()},
            {where: "in" if peak == "likely" else "out" for where, peak in said.items()},
        ),
        placebo(None, tested.margin, NOTHING_TO_LEARN),
    ]
    return row_of(tested, "bandit", effect, FIGURE.name, [r.hash for r in used], note, gates)


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    runs = len(records["likely/with/dpo/fresh"].arrays["gold"])
    return (
        f"{PROMPTS} prompts × {RESPONSES} responses, a table; half of the responses are in recorded pairs. The best "
        f"one has the probability {PEAKS['likely']:g} or {PEAKS['unlikely']:g} under the reference. {UPDATES} updates "
        f"of 16 pairs, fresh from the policy or recorded, {runs} runs per arm; mean and 95 % interval, paired by run; "
        "grey: within the margin. Every arm was tuned for itself on other seeds by its score over the run, over "
        f"{len(GRID)} points ({ROUNDS}) of learning rate and, but for Pref-FT, β, listed below. Labels are noiseless."
    )


FIGURE = Figure(
    name="peaks_and_data",
    title="Where is the peak, and do the data have it?",
    tags=("contextual", "online-offline"),
    claims=("C25",),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
)
