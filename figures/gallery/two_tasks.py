"""One network, two tasks: in which order, or together? (C40, C41, C48) A verifiable task, right or wrong, and one
that a reward model rates; each trained alone, one after the other in both orders, and mixed, at equal updates."""

from __future__ import annotations

import itertools
from dataclasses import replace

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.lines import Line2D

from figures.arms.gating import Part, effect_of, in_brief, part_of_gold
from figures.arms.orders import ORDERS, PARTS, ends, joint_row, order_row
from figures.arms.sweeps import spread_grid
from figures.catalogue import claim
from figures.claims import Verdict, row_of
from figures.figure import Figure, Records
from figures.lab import Lab
from figures.report.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, RC, VERMILION, LineStyle
from sims.core.algorithms import Algorithm
from sims.core.algorithms.clipped import GRPO
from sims.core.algorithms.contrastive import DPO
from sims.core.schedule import Schedule
from sims.environments import TwoTasks
from sims.experiments.experiment import Experiment
from sims.experiments.measures import part_scores
from sims.experiments.record_file import Record
from sims.policies import ResponseMLP
from sims.statistics.gates import placebo, positive_control, room
from sims.statistics.intervals import band, student_interval

UPDATES, EVALUATIONS, RUNS, PROMPTS, GENERATIONS = 200, 20, 600, 8, 4
TASKS = TwoTasks(num_responses=8, num_pairs=128, rating_noise=0.3, switch_after=UPDATES // 2)
ALGORITHMS: dict[str, Algorithm] = {"dpo": DPO(pairing="best_worst"), "grpo": GRPO()}
SEEDS = {"dpo": 57, "grpo": 58}  # a setting that was changed after its runs takes fresh ones (claims.toml)
# Of every point, and no finalists: by four, and twelve of the best three, rows went with the luck of the tuning.
TUNING_RUNS = 100
SHARED, CORRELATION = "shared", 0.3  # of tasks that share a direction: what carries over
SHOWN: dict[str, tuple[str, str, LineStyle, str]] = {  # label, colour, line, marker
    "verifiable": ("verifiable alone", BLUE, "-", "o"),
    "rated": ("rated alone", ORANGE, "-", "s"),
    "verifiable_rated": ("verifiable, then rated", PURPLE, "--", "v"),
    "rated_verifiable": ("rated, then verifiable", GREEN, "-.", "^"),
    "mixed": ("mixed", VERMILION, "-", "D"),
}
LONGER: dict[str, tuple[str, str, LineStyle, str]] = {"mixed_twice": ("mixed, twice as long", BLACK, ":", "P")}
RATES, RATES_TRIED = (0.001, 0.1), 5  # by half-decades: by decades all arms took .01, and C40 went with that
BETAS = {"dpo": (0.001, 0.01, 0.1, 1.0, 10.0), "grpo": (0.0, 0.001, 0.01, 0.1)}

ORDER = {name: claim("C40", f"{name}: both tasks") for name in ALGORITHMS}
JOINT = {(name, task): claim("C41", f"{name}: {task}") for name in ALGORITHMS for task in PARTS.values()}
OWN = {name: claim("C48", f"{name}: own domain") for name in ALGORITHMS}
OTHER = {name: claim("C48", f"{name}: the other domain") for name in ALGORITHMS}
CARRIED = {name: claim("C48", f"{name}: the other domain, cosine {CORRELATION:g}") for name in ALGORITHMS}


def arms() -> dict[str, Experiment]:
    """algorithm/order, and algorithm/shared/task of tasks whose directions have a cosine of CORRELATION."""
    cosines = {order: 0.0 for order in ORDERS} | {f"{SHARED}/{task}": CORRELATION for task in PARTS.values()}
    return {
        f"{name}/{order}": Experiment(
            name=f"two_tasks-{name}",
            environment=TASKS.replace(order=_last(order), task_correlation=cosine),
            policy=ResponseMLP(),
            algorithm=algorithm,
            schedule=Schedule(batch_size=PROMPTS, num_generations=GENERATIONS),
            updates=UPDATES,
            evaluations=EVALUATIONS,
            runs=RUNS,
            seed=SEEDS[name],
        )
        for name, algorithm in ALGORITHMS.items()
        for order, cosine in cosines.items()
    }


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def collect(lab: Lab) -> Records:
    """Each arm tuned for what it trains."""
    found: dict[str, Record] = {}
    for name, measure in itertools.product(ALGORITHMS, dict.fromkeys(ORDERS.values())):
        chosen = {k: arm for k, arm in arms().items() if k.startswith(f"{name}/") and ORDERS[_last(k)] == measure}
        points = RATES_TRIED * len(BETAS[name])
        grids = {key: spread_grid(arm, *RATES, BETAS[name], points) for key, arm in chosen.items()}
        found |= lab.tuned_records(chosen, grids, TUNING_RUNS, by=measure)
    return {name: found[name] for name in arms()}


def draw(records: Records) -> MatplotlibFigure:
    """Both tasks' scores over the updates, and against each other at the end."""
    with plt.rc_context(RC):
        fig, axes = plt.subplots(2, 3, figsize=(11.5, 7.2), layout="constrained")
        for row, name in zip(axes, ALGORITHMS, strict=True):
            for axis, part in zip(row, PARTS, strict=False):
                learning(axis, records, name, part, UPDATES // 2)
            both(row[2], records, name)
        fig.legend(handles=keys(), loc="outside lower center", ncols=5, fontsize=9.5)
    return fig


def keys(longer: bool = False) -> list[Line2D]:
    """Of a legend. longer: with an arm of twice the updates."""
    return [
        Line2D([], [], color=shade, linestyle=line, marker=shape, linewidth=2, label=label)
        for label, shade, line, shape in (SHOWN | LONGER if longer else SHOWN).values()
    ]


def _shown(records: Records, name: str) -> dict[str, tuple[str, str, LineStyle, str]]:
    return {order: look for order, look in (SHOWN | LONGER).items() if f"{name}/{order}" in records}


def learning(axes: Axes, records: Records, name: str, part: str, switch: int) -> None:
    """Scores on one task over the updates, with a line where the task changes."""
    for order, (_, shade, line, shape) in _shown(records, name).items():
        updates = records[f"{name}/{order}"].arrays["updates"]
        mean, low, high = band(part_scores(records[f"{name}/{order}"], part), resamples=None)
        every = max(1, len(updates) // 5)
        axes.plot(updates, mean, line, marker=shape, ms=4.5, markevery=every, color=shade, linewidth=1.8)
        axes.fill_between(updates, low, high, color=shade, alpha=0.18, linewidth=0)
    axes.axvline(switch, color="0.6", linewidth=0.8, linestyle=":")
    axes.set(xlabel="updates", ylabel="score", title=f"{name}: the {PARTS[part]} task")


def both(axes: Axes, records: Records, name: str) -> None:
    """The scores on both tasks at the end, against each other, with their 95 % intervals."""
    for order, (_, shade, _, shape) in _shown(records, name).items():
        found = [student_interval(part_scores(records[f"{name}/{order}"], part)[:, -1]) for part in PARTS]
        x, y = (each.estimate for each in found)
        across, up = ([[each.estimate - each.low], [each.high - each.estimate]] for each in found)
        axes.errorbar(x, y, up, across, fmt=shape, color=shade, ms=7, elinewidth=1.2)
    axes.set(xlabel="score, verifiable", ylabel="score, rated", title=f"{name}: both, at the end")


def verdicts(records: Records) -> list[Verdict]:
    """C40, C41 and C48 for each algorithm."""
    rows = []
    for name in ALGORITHMS:
        rows.append(order_row(ORDER[name], name, records, "mlp", FIGURE.name))
        rows += [joint_row(JOINT[name, PARTS[part]], name, part, records, "mlp", FIGURE.name) for part in PARTS]
        rows += [_own(name, records), _other(name, records), _carried(name, records)]
    return rows


def _own(name: str, records: Records) -> Verdict:
    tested, mixed = OWN[name], records[f"{name}/mixed"]
    parts, used = [], [("mixed", mixed)]
    for part, task in PARTS.items():
        targeted = records[f"{name}/{task}"]
        parts += [part_of_gold(0.5, targeted, part), part_of_gold(-0.5, mixed, part)]
        used.append((task, targeted))
    why = "mixed prompts are the placebo: as many, of both domains"
    level = [sum(abs(p.times) * p.scores for p in parts if p.times * sign > 0) for sign in (1, -1)]
    gates = [
        room(level[0], level[1], min(p.low for p in parts), 1.0, tested.margin),
        placebo(None, tested.margin, why),
        *ends(tested.margin, used),
    ]
    note = (
        "Mean of both domains; a domain is a task here. At equal updates the mixture has half as many of its prompts."
    )
    return row_of(tested, "mlp", effect_of(parts), FIGURE.name, [record.hash for _, record in used], note, gates)


def _other(name: str, records: Records) -> Verdict:
    tested, (parts, used) = OTHER[name], _elsewhere(records, name)
    shared, there = _elsewhere(records, f"{name}/{SHARED}")
    carried = effect_of(shared)
    control = positive_control(carried, tested.margin)
    control = replace(control, why=f"of tasks whose directions have a cosine of {CORRELATION:g}: {control.why}")
    note = (
        "Mean of both; 0 is the start, below it something is forgotten. The tasks' directions are at right angles "
        f"(task_correlation = {TASKS.task_correlation:g}), which decides the row: what could carry over is the "
        f"network's alone. At a cosine of {CORRELATION:g} the other domain moves by {in_brief(carried)}, and the claim "
        "has a row of its own."
    )
    gates = [control, *ends(tested.margin, [*used, *there])]
    return row_of(tested, "mlp", effect_of(parts), FIGURE.name, [record.hash for _, record in used], note, gates)


def _carried(name: str, records: Records) -> Verdict:
    tested, (parts, used) = CARRIED[name], _elsewhere(records, f"{name}/{SHARED}")
    own = [part_of_gold(0.5, record, part) for (_, record), part in zip(used, PARTS, strict=True)]
    control = positive_control(effect_of(own), tested.margin, only_above=True)
    control = replace(control, why=f"in their own domain: {control.why}")
    note = "Mean of both. The environment decides it: at right angles nothing is there to carry over (beside)."
    gates = [control, *ends(tested.margin, used)]
    return row_of(tested, "mlp", effect_of(parts), FIGURE.name, [record.hash for _, record in used], note, gates)


def _elsewhere(records: Records, name: str) -> tuple[list[Part], list[tuple[str, Record]]]:
    """The score in the domain that an arm is not trained on, mean over both, and the arms. name: before the task."""
    used = [(task, records[f"{name}/{task}"]) for task in PARTS.values()]
    return [part_of_gold(0.5, r, part) for (_, r), part in zip(used, reversed(PARTS), strict=True)], used


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    runs = len(records["dpo/mixed"].arrays["gold"])
    half = TASKS.num_prompts // 2
    betas = ", ".join(f"{name} {tried[0]:g} … {tried[-1]:g}, {len(tried)}" for name, tried in BETAS.items())
    return (
        f"{runs} runs an arm, each a problem of its own: {half} verifiable prompts, one right response of "
        f"{TASKS.num_responses} and reward 1 or 0; and {half} rated ones, with dense rewards by a reward model of "
        f"{TASKS.num_pairs} labelled pairs, scored by gold. A network of one hidden layer of 32 sees "
        f"{TASKS.num_features} features of a response, and of which task it is. {UPDATES} updates of {PROMPTS} "
        f"prompts × {GENERATIONS} responses in every arm, the dotted line is where the task changes; mean and 95 % "
        f"band. DPO pairs the best of {GENERATIONS} with the worst. Tuned on other seeds, {TUNING_RUNS} runs at each "
        f"of {RATES_TRIED} learning rates ({RATES[0]:g} … {RATES[1]:g}) times the weights β ({betas}): what trains "
        "one task alone for its score, all else for the mean of both."
    )


FIGURE = Figure(
    name="two_tasks",
    title="Two tasks on one network: in which order?",
    tags=("contextual", "mlp", "data"),
    claims=("C40", "C41", "C48"),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
)
