"""Do the toys' rankings of algorithms carry over to a language model? The question that this package is named for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.lines import Line2D
from scipy import stats

from figures.arms import language_model as lm
from figures.arms.gating import edges
from figures.catalogue import claim
from figures.claims import Verdict, row_of
from figures.figure import Figure, Records
from figures.gallery.lm_lengths import METHODS, cells
from figures.gallery.lm_lengths import arms as lm_arms
from figures.gallery.lm_lengths import collect as collect_lm
from figures.lab import Lab, product
from figures.report.style import RC, colour
from sims.core.loop.protocols import EnvironmentSpec
from sims.core.schedule import Schedule
from sims.environments import BanditR1, BanditR2, Contextual
from sims.experiments.experiment import Experiment
from sims.experiments.measures import final_scores, scores
from sims.experiments.store import Record
from sims.policies import Table
from sims.statistics.gates import Gate
from sims.statistics.intervals import LEVEL, Interval, student_interval

# Where the optimum lies: unlikely under the reference; amid it; or off what is recorded, though not off the reference.
TOYS: dict[str, EnvironmentSpec] = {
    "min": BanditR1(),
    "mode": BanditR2(),
    "skew": Contextual(coverage=0.5, best_in_data=False),
}
NAMES = {"min": "bandit R1", "mode": "bandit R2", "skew": "8 × 8 contextual, best response not in the data"}
GRID = product(learning_rate=(0.03, 0.1, 0.3))
UPDATES, RUNS, SAMPLES = 100, 50, 32
TOY_TEMPERATURE = 0.2  # of RWR: as large a share of the rewards' range as 10 tokens are of 58
RESAMPLES = 2000
EDGE = 0.05  # a score that matters, where an arm took the end of its grid

FINAL, DURING = (claim("toy→lm", part) for part in ("final score", "score over the run"))


def toys() -> dict[str, Experiment]:
    """toy/task/algorithm/sampler → experiment, with the schedules of `figures.arms.language_model`."""
    found = {}
    for task, environment in TOYS.items():
        for method in METHODS:
            name, _, sampler = method.partition("/")
            algorithm = lm.ALGORITHMS[name]
            if name == "rwr":
                algorithm = algorithm.replace(beta=TOY_TEMPERATURE)
            generations = 2 if algorithm.label_pairing is not None else 4
            schedule = Schedule(batch_size=SAMPLES // generations, num_generations=generations)
            if sampler == "off":
                recorded = task == "skew"
                schedule = schedule.replace(**({"source": "dataset"} if recorded else {"sync_every_updates": math.inf}))
            found[f"toy/{task}/{method}"] = Experiment(
                f"toy_to_lm-{name}",
                environment,
                Table(),
                algorithm,
                schedule,
                updates=UPDATES,
                evaluations=10,
                runs=RUNS,
            )
    return found


def collect(lab: Lab) -> Records:
    """The runs of lm_lengths, and toys tuned over as many learning rates."""
    wanted = METHODS[:4] if lab.quick else METHODS
    chosen = {name: arm for name, arm in toys().items() if name.split("/", 2)[2] in wanted}
    return lab.tuned_records(chosen, dict.fromkeys(chosen, GRID)) | dict(collect_lm(lab, wanted))


def speed(record: Record) -> np.ndarray:
    """(runs,): the score averaged over the run, start left out. At the end many sit at the ceiling together."""
    return np.asarray(scores(record)[:, 1:].mean(1))


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's ρ of each row: Pearson's of the ranks, ties at their mean rank; 0 where all tie.

    x, y: (rows, arms) → (rows,).
    """
    first, second = (stats.rankdata(values, axis=1) - (values.shape[1] + 1) / 2 for values in (x, y))
    scale = np.sqrt((first**2).sum(1) * (second**2).sum(1))
    return np.asarray((first * second).sum(1) / np.where(scale > 0, scale, 1.0))


def resampled_means(arms: Sequence[np.ndarray], seed: int) -> np.ndarray:
    """Means of every arm, (1 + RESAMPLES, arms): in the first row its own, then of its runs drawn with replacement."""
    rng = np.random.default_rng(seed)
    columns = [
        np.concatenate([[runs.mean()], runs[rng.integers(len(runs), size=(RESAMPLES, len(runs)))].mean(1)])
        for runs in arms
    ]
    return np.stack(columns, axis=1)


MEASURES = {FINAL.part: final_scores, DURING.part: speed}


def correlations(records: Records, measure: Callable[[Record], np.ndarray]) -> dict[str, Interval]:
    """Rank correlation of each task, and under "all" their mean, with intervals over runs."""
    found, runs = {}, []
    for number, (task, keys) in enumerate(cells(records).items()):
        toy = [measure(records[f"toy/{task}/{method}"]) for method in keys]
        model = [measure(records[key]) for key in keys.values()]
        runs.append(min(len(arm) for arm in (*toy, *model)))
        found[task] = spearman(resampled_means(toy, 2 * number), resampled_means(model, 2 * number + 1))
    found["all"] = np.mean(list(found.values()), axis=0)
    return {task: _interval(values, min(runs)) for task, values in found.items()}


def _interval(values: np.ndarray, runs: int) -> Interval:
    low, high = np.quantile(values[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(values[0]), float(low), float(high), LEVEL, runs, "percentile bootstrap")


def draw(records: Records) -> MatplotlibFigure:
    """The model's score against the toy's, a point an algorithm; one column a task, one row a measure."""
    tasks = cells(records)
    with plt.rc_context(RC):
        fig, axes = plt.subplots(
            2, len(tasks), figsize=(4.7 * len(tasks), 8.4), layout="constrained", squeeze=False, sharey="row"
        )
        for row, (part, measure) in zip(axes, MEASURES.items(), strict=True):
            found = correlations(records, measure)
            for axis, (task, keys) in zip(row, tasks.items(), strict=True):
                for method, key in keys.items():
                    _point(axis, measure(records[f"toy/{task}/{method}"]), measure(records[key]), method)
                axis.set_title(f"{task} length: ρ = {_words(found[task])}")
            row[0].set_ylabel(f"language model's {part}\nmean ρ = {_words(found['all'])}")
        for axis, task in zip(axes[-1], tasks, strict=True):
            axis.set_xlabel(f"toy's score: {NAMES[task]}")
        fig.legend(handles=_handles(), loc="outside lower center", ncols=7, fontsize=9.5)
    return fig


def _words(interval: Interval) -> str:
    return f"{interval.estimate:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def _point(axes: Axes, toy: np.ndarray, model: np.ndarray, method: str) -> None:
    algorithm, _, sampler = method.partition("/")
    x, y = student_interval(toy), student_interval(model)
    axes.errorbar(
        x.estimate,
        y.estimate,
        xerr=[[x.estimate - x.low], [x.high - x.estimate]],
        yerr=[[y.estimate - y.low], [y.high - y.estimate]],
        fmt="o" if sampler == "on" else "s",
        ms=7,
        color=colour(algorithm),
        mfc=colour(algorithm) if sampler == "on" else "white",
        elinewidth=1.3,
    )


def _handles() -> list[Line2D]:
    lines = []
    for method in METHODS:
        algorithm, _, sampler = method.partition("/")
        online, hue = sampler == "on", colour(algorithm)
        lines.append(
            Line2D(
                [], [], color=hue, marker="o" if online else "s", mfc=hue if online else "white", ls="none", ms=7,
                label=algorithm if online else f"{algorithm}, offline",
            )
        )  # fmt: skip
    return lines


def verdicts(records: Records) -> list[Verdict]:
    """The mean over the tasks, by the score at the end and over the run."""
    note = (
        "Seven algorithms are few ranks, and the interval is over runs alone: not over tasks, models or the choice of "
        "toys. Rates were tuned by the final score; where many sit at the ceiling, who got there first is partly luck."
    )
    used = [record.hash for record in records.values()]
    found = cells(records)
    twice = [key for method, key in found.get("skew", {}).items() if found["min"].get(method) == key]
    gates = [
        edges(EDGE, *records.values()),
        Gate("shared arms", not twice, f"{len(twice)} of skew's {len(found.get('skew', {}))} arms are min's records"),
    ]
    return [
        row_of(judged, "lm", correlations(records, MEASURES[judged.part])["all"], FIGURE.name, used, note, gates)
        for judged in (FINAL, DURING)
    ]


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    toy, model = (records[key].arrays for key in ("toy/min/dpo/on", "min/dpo/on"))
    sizes = [f"{len(arrays['gold'])} runs of {arrays['samples'][-1]:,} samples" for arrays in (toy, model)]
    return (
        "Score: (reward − reference's) / (largest − reference's), at equal samples, at the end and averaged over the "
        f"run; mean and 95 % interval. Toys: table policy, {sizes[0]}. Language model: {sizes[1]}, of lm_lengths. "
        "A task is set beside the toy whose optimum lies alike: off the bulk of the reference (min), amid it (mode), "
        "off what was recorded (skew)."
    )


FIGURE = Figure(
    name="toy_to_lm",
    title="Do the toys' rankings of algorithms carry over to a language model?",
    tags=("lm", "bandit"),
    claims=("toy→lm",),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
    arms=lm_arms,
)
