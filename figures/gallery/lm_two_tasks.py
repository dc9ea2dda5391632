"""Two tasks on one language model: in which order, or together? (C40, C41) Sums with plus are right or wrong, and a
reward model rates the length of responses to the others; each trained alone, one after the other, and mixed."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
from matplotlib.figure import Figure as MatplotlibFigure

from figures.arms import language_model as lm
from figures.arms.gating import effect_of, in_brief, part_of_gold
from figures.arms.orders import HALF, ORDERS, PARTS, joint_row, order_row
from figures.catalogue import claim
from figures.claims import Verdict
from figures.figure import Figure, Records
from figures.gallery.two_tasks import both, keys, learning
from figures.lab import TUNING_SEED, Lab, Measure, product
from figures.report.style import RC
from sims.core.algorithms.contrastive import DPO
from sims.core.schedule import Schedule
from sims.experiments.experiment import Experiment
from sims.experiments.store import Record
from sims.statistics.intervals import Interval

UPDATES, EVALUATIONS, RUNS, SEED, PROMPTS, GENERATIONS = 20, 2, 20, 406, 8, 4
JOINT_SEED, JOINT_TUNING_SEED = 418, TUNING_SEED + 300  # of the arms of C41, whose first tuning was two runs a rate
# Of the rated task. Recorded responses are shorter than the mode: longer is better, and 33 tokens are the longest.
MODE, PAIRS, TEMPERATURE = 30, 256, 1.0
GRID, TUNING_RUNS, JOINT_TUNING_RUNS = product(learning_rate=(3e-4, 1e-3, 3e-3, 1e-2)), 2, 8
# What is tuned for what: two tasks one after the other, for C40; each alone, and mixed for as long and twice as long.
TWICE = "mixed_twice"
SEQUENTIAL: dict[str, Measure] = {order: by for order, by in ORDERS.items() if "_" in order}
TOGETHER: dict[str, Measure] = {order: by for order, by in ORDERS.items() if "_" not in order} | {TWICE: "parts"}

ORDER = claim("C40", "dpo, a language model: both tasks")
JOINT = {part: claim("C41", f"dpo, a language model: {task}") for part, task in PARTS.items()}
EQUAL = {part: claim("C41", f"dpo, a language model, equal samples: {task}") for part, task in PARTS.items()}


def arms() -> dict[str, Experiment]:
    """dpo/order. Mixed for twice as many updates has as many prompts of either task as training on it alone."""
    from llm.tasks import VerifiableAndRated

    base = lm.preset("tiny", "min")
    task = VerifiableAndRated(
        evaluation_prompts=128, recorded_prompts=PAIRS, mode=MODE, annotator_temperature=TEMPERATURE
    )
    found = {}
    for order in (*SEQUENTIAL, *TOGETHER):
        times, seed = (2 if order == TWICE else 1), (SEED if order in SEQUENTIAL else JOINT_SEED)
        found[f"dpo/{order}"] = base.replace(
            name="lm_two_tasks-dpo",
            environment=task.replace(
                order="mixed" if order == TWICE else order,
                proxy_seed=seed,
                switch_after=times * (UPDATES // 2) * PROMPTS,
            ),
            algorithm=DPO(pairing="best_worst"),
            schedule=Schedule(batch_size=PROMPTS, num_generations=GENERATIONS),
            updates=times * UPDATES,
            evaluations=times * EVALUATIONS,
            runs=RUNS,
            seed=seed,
        )
    return found


def collect(lab: Lab) -> Records:
    """Each arm tuned for what it trains."""
    chosen = arms()
    found: dict[str, Record] = {}
    if lab.quick:  # fitting a reward model costs more than the shrunken run
        few = {name: arm.environment.replace(recorded_prompts=16) for name, arm in chosen.items()}
        chosen = {name: arm.replace(environment=few[name]) for name, arm in chosen.items()}
    for orders, runs, seed in (
        (SEQUENTIAL, TUNING_RUNS, TUNING_SEED),
        (TOGETHER, JOINT_TUNING_RUNS, JOINT_TUNING_SEED),
    ):
        for measure in dict.fromkeys(orders.values()):
            tuned = {f"dpo/{order}": chosen[f"dpo/{order}"] for order, by in orders.items() if by == measure}
            grids = dict.fromkeys(tuned, GRID)
            found |= lab.tuned_records(tuned, grids, runs, by=measure, tuning_seed=seed)
    return {name: found[name] for name in chosen}


def draw(records: Records) -> MatplotlibFigure:
    """Both tasks' scores over the updates, and against each other at the end."""
    with plt.rc_context(RC):
        fig, axes = plt.subplots(1, 3, figsize=(11.5, 4.2), layout="constrained")
        for axis, part in zip(axes, PARTS, strict=False):
            learning(axis, records, "dpo", part, UPDATES // 2)
        both(axes[2], records, "dpo")
        fig.legend(handles=keys(longer=True), loc="outside lower center", ncols=6, fontsize=9.5)
    return fig


def verdicts(records: Records) -> list[Verdict]:
    """C40, and C41 on either task, at equal updates and at equal samples of a task."""
    rows = [order_row(ORDER, "dpo", records, "lm", FIGURE.name)]
    longer = "Mixed training has twice the updates, and as many prompts of each task as training on that task alone."
    for tested, order, counted in ((JOINT, "mixed", HALF), (EQUAL, TWICE, longer)):
        said = f"{counted} {apart(records, order)}"
        rows += [joint_row(tested[part], "dpo", part, records, "lm", FIGURE.name, order, said) for part in PARTS]
    return rows


def apart(records: Records, order: str) -> str:
    """What each task alone does to the other, and what a mixed arm, `order`, still gains; from the scores on the tuning
    runs, and those of the judged runs. An effect whose interval has 0 in it is not known. Where the sum of both tasks
    is less at every rate of mixed training than that of each alone at its best, one of them loses half of what is
    missing, or more, whichever rate is taken."""
    tasks = list(PARTS.values())
    crossed = [_crossed(one, other, _end(records, one, other)) for one, other in zip(tasks, tasks[::-1], strict=True)]
    gained = [_gained(task, _end(records, order, task)) for task in tasks]
    said = f"Across tasks: {'; '.join(crossed)}. Mixed training {' and '.join(gained)}."
    tuned = {name: records[f"dpo/{name}"].provenance.get("tuning") for name in (*tasks, order)}
    best = {name: max(tuning["scores"]) for name, tuning in tuned.items() if tuning}
    if len(best) < len(tuned):
        return said
    alone, mixed = [best[task] for task in tasks], 2 * best[order]  # which is tuned by the mean of both
    missing = math.floor(50 * (sum(alone) - mixed)) / 100  # of half, whole hundredths
    lost = f", so that at every rate one task loses {missing:.2f} or more" if missing > 0 else ""
    return (
        f"There is one tuning. On its runs the best sum of both tasks is {mixed:.2f} mixed, against {alone[0]:.2f} + "
        f"{alone[1]:.2f} = {sum(alone):.2f} alone{lost}. {said}"
    )


def _end(records: Records, order: str, task: str) -> Interval:
    """An arm's score at the end by one of the tasks."""
    part = next(part for part, name in PARTS.items() if name == task)
    return effect_of([part_of_gold(1, records[f"dpo/{order}"], part)])


def _crossed(task: str, other: str, found: Interval) -> str:
    if found.low <= 0 <= found.high:
        return f"what {task} alone does to {other} is not known, {in_brief(found)}"
    return f"{task} alone pulls {other} {'down' if found.high < 0 else 'up'} to {in_brief(found)}"


def _gained(task: str, found: Interval) -> str:
    if found.low <= 0 <= found.high:
        return f"has not been seen to gain on {task}, {in_brief(found)}"
    return f"{'gains' if found.low > 0 else 'loses'} {in_brief(found)} on {task}"


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    record = records["dpo/mixed"]
    taken = ", ".join(f"{n.split('/')[1]} {x.spec['optimiser']['learning_rate']:g}" for n, x in records.items())
    return (
        f"{lm.model_of(record)}, {len(record.arrays['gold'])} runs per arm, each with a reward model of its own. "
        "Prompts with plus are verifiable, reward 1 for the right answer, which the reference gives half of the time; "
        f"those with minus are rated by a reward model of {PAIRS} pairs, whose annotator likes lengths near {MODE} "
        f"tokens, and scored by the distance to {MODE}. Scores on prompts that are not trained on: 0 is the reference, "
        f"1 all right, or all of that length. {UPDATES} updates of {PROMPTS} prompts × {GENERATIONS} responses, and "
        "mixed for twice as many too; the dotted line is where the task changes; mean and 95 % band. Online DPO of the "
        f"best of {GENERATIONS} against the worst. Tuned on other seeds, with the first of the reward models, at each "
        f"of {len(GRID)} learning rates, {GRID[0]['learning_rate']:g} … {GRID[-1]['learning_rate']:g}, by "
        f"{TUNING_RUNS} runs where one task comes after the other, else by {JOINT_TUNING_RUNS}: what trains one task "
        "alone for its score, all else for the mean of both; the two kinds have seeds of their own. They took "
        f"{taken}."
    )


FIGURE = Figure(
    name="lm_two_tasks",
    title="Two tasks on a language model: in which order?",
    tags=("data",),
    claims=("C40", "C41"),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
)
