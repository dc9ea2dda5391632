"""Which algorithm with a KL penalty hangs the most on its β? (C90) Arms, rows and a picture of
`figures.gallery.beta_sweep`: all draw fresh samples, and see the true reward or noiseless labels by it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from figures.catalogue import Claim, claim
from figures.claims import Verdict, row_of
from figures.figure import Records
from figures.report.style import points
from sims.core.algorithms import find_algorithm
from sims.core.schedule import Schedule
from sims.environments import BanditR1, BanditR2
from sims.experiments.experiment import Experiment
from sims.experiments.measures import final_scores
from sims.experiments.store import Record
from sims.policies import Table
from sims.statistics.gates import placebo, room

from .gating import NOTHING_TO_LEARN, Part, effect_of, lowest_score, tuned_well
from .sweeps import crossfit_best

USUAL = 0.1  # the β whose learning rate is held for all others
RATES = {"tuned": "learning rate tuned for each β", "held": f"learning rate of β = {USUAL:g}"}
NEAR = (0.03, USUAL, 0.3)  # the range within which β is chosen; Xu et al.'s goes from .05 to .2
OTHERS = ("dpo", "ipo", "rloo")
PLACES = {"R1": BanditR1, "R2": BanditR2}
FRESH = Schedule(batch_size=4, num_generations=4)
UPDATES, RUNS, SEED = 400, 100, 41  # runs: as many as are asked for where some are at a bound

SENSITIVE = {
    (other, place, rate): claim("C90", f"ppo against {other} on {place}, {RATES[rate]}")
    for other in OTHERS
    for place in PLACES
    for rate in RATES
}


def near_arms() -> dict[str, Experiment]:
    """near/environment/algorithm/β."""
    return {
        f"near/{place}/{algorithm}/{beta:g}": Experiment(
            name=f"beta_sweep-{algorithm}",
            environment=bandit(),
            policy=Table(),
            algorithm=find_algorithm(algorithm)().replace(beta=beta),
            schedule=FRESH,
            updates=UPDATES,
            evaluations=4,
            runs=RUNS,
            seed=SEED,
        )
        for place, bandit in PLACES.items()
        for algorithm in ("ppo", *OTHERS)
        for beta in NEAR
    }


def sensitive_rows(records: Records, figure: str) -> list[Verdict]:
    """C90: PPO against each other algorithm."""
    return [_row(records, *of, tested, figure) for of, tested in SENSITIVE.items()]


def spread(tried: Sequence[Record], sign: float, low: float) -> tuple[Part, Part]:
    """The best score less the worst of several β, each chosen on the other half of the runs."""
    final = np.array([final_scores(record) for record in tried], float)
    return Part(sign, crossfit_best(final), low), Part(-sign, -crossfit_best(-final), low)


def _row(records: Records, other: str, place: str, rate: str, tested: Claim, figure: str) -> Verdict:
    """How much further apart the scores of PPO lie, at the usual values of β, than another algorithm's."""
    used = {name: _cells(records, rate, place, name) for name in ("ppo", other)}
    every = [record for tried in used.values() for record in tried]
    low = lowest_score(every)
    parts = [x for sign, tried in zip((1.0, -1.0), used.values(), strict=True) for x in spread(tried, sign, low)]
    one, two = (np.mean([final_scores(record) for record in tried], axis=0) for tried in used.values())
    gates = [
        room(one, two, low, 1.0, tested.margin),
        *tuned_well(tested.margin, *every),
        placebo(None, tested.margin, NOTHING_TO_LEARN),
    ]
    note = (
        f"PPO against {other.upper()} alone: whether it is the most sensitive of all takes every row. "
        f"β from {NEAR[0]:g} to {NEAR[-1]:g}, by which a penalty in the reward and a contrastive loss need not be as "
        "strong; the best and the worst are chosen on the other half of the runs. Fresh samples and right labels: "
        "pairs that are recorded, or labels that err, would ask another question."
    )
    return row_of(tested, "bandit", effect_of(parts), figure, [r.hash for r in every], note, gates)


def _cells(records: Records, rate: str, place: str, algorithm: str) -> list[Record]:
    return [records[f"{rate}/near/{place}/{algorithm}/{beta:g}"] for beta in NEAR]


def draw_spread(axes: Axes, records: Records) -> None:
    """The best score less the worst, of each algorithm on each bandit; filled: tuned for each β."""
    names = ("ppo", *OTHERS)
    for column, place in enumerate(PLACES):
        for i, name in enumerate(names):
            for rate in RATES:
                best, worst = spread(_cells(records, rate, place, name), 1.0, -1.0)
                x = np.array([column + 0.15 * (i - 1.5) + (0.05 if rate == "held" else 0.0)])
                points(axes, x, [best.scores - worst.scores], name, filled=rate == "tuned")
    axes.axhline(0, color="0.4", linewidth=0.8)
    axes.set_xticks(range(len(PLACES)), list(PLACES))
    axes.set(ylabel="best β − worst β, score", xlim=(-0.5, len(PLACES) - 0.5))
    axes.set_title(f"fresh samples, β {NEAR[0]:g} … {NEAR[-1]:g}", fontsize=10)
