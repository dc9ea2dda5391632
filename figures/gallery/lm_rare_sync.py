"""Is one sync in a hundred updates enough on a language model? (C32) Runs of 200 updates, since in those of
`lm_semi_online`, which have 20, a period of 100 would be never.

Right answers to sums, as the paper's mathematics: unlike lengths, of which tuned arms have the best within 100 updates,
sums still leave room after 200. Every arm is tuned by runs of the same length.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure as MatplotlibFigure

from figures.arms import language_model as lm
from figures.arms.gating import stopped_early
from figures.arms.syncing import same_row
from figures.catalogue import claim
from figures.claims import Verdict
from figures.figure import Figure, Records
from figures.lab import Lab, product
from figures.report.style import RC, LineStyle, bound, curve
from sims.core.algorithms import Algorithm
from sims.core.algorithms.clipped import GRPO
from sims.core.algorithms.contrastive import DPO
from sims.core.schedule import Schedule
from sims.experiments.experiment import Experiment
from sims.experiments.measures import scores
from sims.experiments.store import Record

RUNS, UPDATES, EVALUATIONS, PROMPTS, GENERATIONS, SEED = 20, 200, 4, 2, 4, 421
ONLINE, RARE = 1.0, 100.0  # updates between two copies of the policy to the sampler
GRID, TUNING_RUNS = product(learning_rate=(3e-5, 1e-4, 3e-4, 1e-3, 3e-3)), 2
ALGORITHMS: dict[str, Algorithm] = {"dpo": DPO(pairing="best_worst"), "grpo": GRPO()}
LINES: dict[float, LineStyle] = {ONLINE: "-", RARE: "--"}

SAME = {name: claim("C32", f"{name}, sums: s = {RARE:g}") for name in ALGORITHMS}


def arms() -> dict[str, Experiment]:
    """algorithm/s."""
    from llm.tasks import Verifiable

    base, task = lm.preset("tiny", "min"), Verifiable(evaluation_prompts=64)
    return {
        f"{name}/{s:g}": base.replace(
            name=f"lm_rare_sync-{name}",
            environment=task,
            algorithm=ALGORITHMS[name],
            schedule=Schedule(
                batch_size=PROMPTS, num_generations=GENERATIONS, sync_every_updates=None if s == ONLINE else s
            ),
            updates=UPDATES,
            evaluations=EVALUATIONS,
            runs=RUNS,
            seed=SEED,
        )
        for name in ALGORITHMS
        for s in LINES
    }


def collect(lab: Lab) -> Records:
    """Every arm tuned for itself, by its score at the end; one algorithm after the other, as each takes long."""
    chosen, found = arms(), dict[str, Record]()
    for algorithm in ALGORITHMS:
        its = {name: arm for name, arm in chosen.items() if name.startswith(f"{algorithm}/")}
        found |= lab.tuned_records(its, dict.fromkeys(its, GRID), TUNING_RUNS)
    return found


def draw(records: Records) -> MatplotlibFigure:
    """Scores by update, an algorithm a panel."""
    with plt.rc_context(RC):
        fig, axes = plt.subplots(1, len(ALGORITHMS), figsize=(9.5, 4.2), layout="constrained", sharey=True)
        for axis, name in zip(axes, ALGORITHMS, strict=True):
            for s, line in LINES.items():
                record = records[f"{name}/{s:g}"]
                curve(axis, record.arrays["updates"], lm.carried_on(scores(record)), name, line, f"s = {s:g}")
            bound(axis, 1.0, "all answers right", x=0.4)
            axis.axvline(RARE, color="0.6", linewidth=0.8)
            axis.set(title=name, xlabel="updates", ylabel="score" if name == "dpo" else "")
            axis.legend(loc="upper left", fontsize=9, bbox_to_anchor=(0.0, 0.93))
    return fig


def verdicts(records: Records) -> list[Verdict]:
    """C32 of either algorithm. The control is online training that is stopped after a quarter of the updates."""
    rows = []
    for name, tested in SAME.items():
        online, rare = (records[f"{name}/{s:g}"] for s in (ONLINE, RARE))
        stopped = stopped_early([online], [online], tested.margin)
        rows.append(same_row(tested, "lm", FIGURE.name, online, rare, stopped, ONE_COPY))
    return rows


ONE_COPY = (
    f"In {UPDATES} updates a period of {RARE:g} has one copy to the sampler: half of the samples are the reference's. "
    f"Both arms still rise at {UPDATES} updates, so that this is what they cost on the way. Each tuned for itself, by "
    f"{TUNING_RUNS} runs at each rate, few to tell one rate from the next. s is in updates of {PROMPTS} × "
    f"{GENERATIONS} samples."
)


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    record = records[f"dpo/{ONLINE:g}"]
    right = np.mean([one.arrays["gold"][:, 0].mean() for one in records.values()])
    taken = {name: one.spec["optimiser"]["learning_rate"] for name, one in records.items()}
    rates = [point["learning_rate"] for point in GRID]
    said = ", ".join(f"{name} {rate:g}" for name, rate in taken.items())
    return (
        f"{lm.model_of(record)}, {len(record.arrays['gold'])} runs per arm, {UPDATES} updates of {PROMPTS} prompts × "
        f"{GENERATIONS} responses; mean and 95 % band. Reward 1 for the right answer to a sum, else 0; the reference "
        f"gives it to {right:.0%} of the prompts that are not trained on. Score: (reward − reference's) / (1 − "
        f"reference's). DPO with β = {ALGORITHMS['dpo'].beta:g}, of the best of {GENERATIONS} against the worst. "  # type: ignore[attr-defined]
        f"Every arm was tuned by {TUNING_RUNS} runs of the same length on another seed at {len(rates)} rates, "
        f"{rates[0]:g} … {rates[-1]:g}, for the score at the end; they took {said}. Grey: the one copy of s = {RARE:g}."
    )


FIGURE = Figure(
    name="lm_rare_sync",
    title="Is one sync in a hundred updates enough on a language model?",
    tags=("sweep", "online-offline"),
    claims=("C32",),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
)
