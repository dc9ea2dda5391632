"""Do the toys' rankings of algorithms carry over to a language model? The question that this package is named for.

`python -m figures toy_to_lm --full` computes it again, a quarter of an hour a task on a core. It may be stopped at any
moment, and goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.lines import Line2D

from figures.arms import matched
from figures.arms.gating import tuned_well
from figures.catalogue import claim
from figures.claims import Verdict, row_of
from figures.figure import Figure, Records
from figures.lab import Lab
from figures.report.style import BLACK, RC, colour
from sims.experiments.measures import final_scores, mean_scores
from sims.experiments.store import Record
from sims.statistics.gates import Gate, placebo, positive_control
from sims.statistics.intervals import LEVEL, Interval, student_interval

SCALES: tuple[matched.Scale, ...] = ("toy", "lm")
TASKS = tuple(matched.LENGTHS)
GROUPS = {"on-policy": matched.ONLINE, "offline": matched.OFFLINE}
SAMPLERS = {"on-policy": "on", "offline": "off"}  # as the keys of records say it
MEASURES = {"score over the run": mean_scores, "final score": final_scores}
RESAMPLES = 2000
EDGE = 0.05  # a score that matters, where an arm took the end of its grid
LEAST_TASKS, LEAST_ARMS = 8, {"on-policy": 15, "offline": 7}  # said before the runs to be enough for a verdict

MORE = {  # of a row's note: whether more runs of the model would do
    "on-policy": "More runs of the model would not do: resampled from the spread of its runs, the ranks of ten agree "
    "with those of ten others by τ .32 alone. ",
    "offline": "",
}
TESTED = {(group, measure): claim("toy→lm", f"{group}, {measure}") for measure in MEASURES for group in GROUPS}
MARKERS = ("o", "s", "^", "v", "D", "P", "X", "<", ">", "p", "*", "h", "d", "8", "H")


class Sides(NamedTuple):
    """Scores of the same arms on both sides, task by task: (tuning seeds, runs) of each algorithm; none where it was
    not run."""

    toy: list[dict[str, np.ndarray]]
    model: list[dict[str, np.ndarray]]


def collect(lab: Lab) -> Records:
    """Both sides of every task, toys first; of the model's offline arms the runs of `matched.more_runs`. A shrunken run
    has four methods on two tasks."""
    tasks, methods = (TASKS[:2], ("rloo/on", "dpo/on", "rwr/on", "dpo/off")) if lab.quick else (TASKS, matched.METHODS)
    found: dict[str, Record] = {}
    for scale in SCALES:
        for task in tasks:
            found |= matched.records(lab, scale, task, methods)
    return found | matched.more_runs(lab, found)


def tasks_of(records: Records) -> list[str]:
    """The tasks that both sides have."""
    return [task for task in TASKS if any(k.startswith(f"lm/{task}/") for k in records)]


def of_group(records: Records, group: str) -> dict[str, Record]:
    """The records of a group's arms, of both sides."""
    return {key: record for key, record in records.items() if key.split("/")[3] == SAMPLERS[group]}


def sides_of(records: Records, group: str, measure: Callable[[Record], np.ndarray]) -> Sides:
    """Scores of a group's algorithms, task by task."""
    sampler = SAMPLERS[group]

    def scores(scale: str, task: str) -> dict[str, np.ndarray]:
        keys = {name: f"{scale}/{task}/{name}/{sampler}" for name in GROUPS[group]}
        return {name: tuned(records, key, measure) for name, key in keys.items() if f"{key}/0" in records}

    tasks = tasks_of(records)
    return Sides([scores("toy", task) for task in tasks], [scores("lm", task) for task in tasks])


def tuned(records: Records, key: str, measure: Callable[[Record], np.ndarray]) -> np.ndarray:
    """(tuning seeds, runs): an arm's scores, with the settings that each seed chose."""
    seeds = [f"{key}/{k}" for k in range(len(matched.TUNING_SEEDS))]
    return np.stack([measure(records[name]) for name in seeds if name in records])


def kendall(x: np.ndarray, y: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
    """Kendall's τ-b of each row; 0 where a side is all ties. x, y: (rows, arms), NaN for an arm that is not there.

    counts: (rows, arms), how often each arm was drawn in resampling; a pair counts as often as the product, and an arm
    against itself does not.
    """
    weight = np.ones_like(x) if counts is None else counts.astype(float)
    there = np.isfinite(x) & np.isfinite(y)
    weight = np.where(there, weight, 0.0)
    first, second = np.triu_indices(x.shape[1], 1)
    of_x, of_y = (np.sign(np.nan_to_num(z[:, first]) - np.nan_to_num(z[:, second])) for z in (x, y))
    pairs = weight[:, first] * weight[:, second]
    untied = np.sqrt((pairs * of_x**2).sum(1) * (pairs * of_y**2).sum(1))
    return np.asarray((pairs * of_x * of_y).sum(1) / np.where(untied > 0, untied, 1.0))


def correlations(toy: Sequence[Mapping[str, np.ndarray]], model: Sequence[Mapping[str, np.ndarray]]) -> list[Interval]:
    """Kendall's τ of each task, and last their mean. A task's interval is over runs, tuning seeds and algorithms; that
    of the mean over tasks too, all resampled at once, the same algorithms on every task. Runs are counted over all of
    the model's arms, with the settings of one seed."""
    rng = np.random.default_rng(0)
    names = list(dict.fromkeys(name for task in toy for name in task))
    drawn = rng.integers(len(names), size=(RESAMPLES, len(names)))
    counts = np.stack([np.bincount(row, minlength=len(names)) for row in drawn])
    counts = np.concatenate([np.ones((1, len(names)), int), counts])
    values, runs = [], []
    for one, other in zip(toy, model, strict=True):
        x, y = (_means(task, names, rng) for task in (one, other))
        values.append(kendall(x, y, counts))
        runs.append(sum(scores.shape[-1] for scores in other.values()))
    every = np.stack(values)  # (tasks, 1 + RESAMPLES)
    chosen = rng.integers(len(every), size=(RESAMPLES, len(every)))
    resampled = every[chosen.T, np.arange(1, RESAMPLES + 1)]
    means = np.concatenate([[every[:, 0].mean()], resampled.mean(0)])
    return [_interval(row, n) for row, n in zip([*every, means], [*runs, sum(runs)], strict=True)]


def _means(task: Mapping[str, np.ndarray], names: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """(1 + RESAMPLES, arms): means over runs, in the first row of all, then of runs drawn with replacement from those
    of a tuning seed that was drawn; 0, the reference's, of an arm that is not `above_it`."""
    found = np.full((1 + RESAMPLES, len(names)), np.nan)
    for i, name in enumerate(names):
        if name in task:
            scores = task[name]
            seeds, runs = scores.shape
            found[0, i] = scores.mean()
            seed = rng.integers(seeds, size=(RESAMPLES, 1))
            found[1:, i] = scores[seed, rng.integers(runs, size=(RESAMPLES, runs))].mean(1)
            found[:, i] *= above_it(scores)
    return found


def above_it(scores: np.ndarray) -> bool:
    """Whether an arm is above the reference's 0 beyond noise. One that is not might as well not be trained, which is a
    choice that tuning had, and counts as the reference; two of them are a tie, which agrees with nothing: how they rank
    is noise, whatever it is on the other side; one run shows nothing. scores: (tuning seeds, runs)."""
    runs = scores.mean(0)
    return len(runs) > 1 and student_interval(runs).low > 0


def _interval(values: np.ndarray, runs: int) -> Interval:
    low, high = np.quantile(values[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(values[0]), float(low), float(high), LEVEL, runs, "percentile bootstrap")


def halves(side: Sequence[Mapping[str, np.ndarray]]) -> tuple[list[dict[str, np.ndarray]], list[dict[str, np.ndarray]]]:
    """A side twice over: the odd runs of the first tuning seed, and the even ones of the others; of the same one, where
    there is no other."""
    one = [{name: x[:1, ::2] for name, x in task.items()} for task in side]
    other = [{name: x[min(1, len(x) - 1) :, 1::2] for name, x in task.items()} for task in side]
    return one, other


def draw(records: Records) -> MatplotlibFigure:
    """The model's score against the toy's, a point per algorithm and a panel per task; below, the rank correlations."""
    tasks = tasks_of(records)
    rows = -(-len(tasks) // 5)
    columns = -(-len(tasks) // rows)
    with plt.rc_context(RC):
        fig = plt.figure(figsize=(3.0 * columns + 1.2, 3.1 * rows + 4.6), layout="constrained")
        grid = fig.add_gridspec(rows + 1, 2 * columns, height_ratios=[*[3.1] * rows, 4.0])
        for i, task in enumerate(tasks):
            column = 2 * (i % columns)
            axes = fig.add_subplot(grid[i // columns, column : column + 2])
            _scatter(axes, records, task)
            if i % columns == 0:
                axes.set_ylabel("language model's score")
            if i + columns >= len(tasks):
                axes.set_xlabel("toy's score")
        forests = [fig.add_subplot(grid[rows, i * columns : (i + 1) * columns]) for i in range(2)]
        for axes, group in zip(forests, GROUPS, strict=True):
            _forest(axes, records, group)
        forests[1].tick_params(labelleft=False)
        fig.legend(handles=_handles(records), loc="outside lower center", ncols=8, fontsize=9)
    return fig


def _scatter(axes: Axes, records: Records, task: str) -> None:
    for key in sorted(records):
        scale, its_task, name, sampler, seed = key.split("/")
        if (scale, its_task, seed) != ("lm", task, "0"):
            continue
        x, y = (tuned(records, f"{where}/{task}/{name}/{sampler}", mean_scores) for where in ("toy", "lm"))
        hue = colour(name)
        face = hue if sampler == "on" else "white"
        axes.plot(x.mean(), y.mean(), _marker(name), ms=6.5, color=hue, mfc=face, ls="none")
    title = matched.TITLES.get(task, f"length {task}")
    axes.set_title(f"{title}: overlap {matched.overlap_of(task):.2g}", fontsize=10)
    axes.set_yscale("symlog", linthresh=1.0)  # few arms fall far below the reference's 0
    axes.set_yticks([t for t in (-10, -3, -1, -0.5, 0, 0.5, 1) if axes.get_ylim()[0] <= t])
    axes.yaxis.set_major_formatter("{x:g}")


def _marker(name: str) -> str:
    return MARKERS[matched.ONLINE.index(name)]


def _forest(axes: Axes, records: Records, group: str) -> None:
    labels = [*(matched.TITLES.get(task, f"length {task}") for task in tasks_of(records)), "mean over tasks"]
    for offset, (measure, score), marker in zip((0.14, -0.14), MEASURES.items(), ("o", "D"), strict=True):
        found = correlations(*sides_of(records, group, score))
        for i, interval in enumerate(found):
            y, last = len(found) - 1 - i + offset, i == len(found) - 1
            axes.plot([interval.low, interval.high], [y, y], color=BLACK, lw=2.4 if last else 1.2)
            face = BLACK if marker == "o" else "white"
            label = measure if last else None
            axes.plot(interval.estimate, y, marker, color=BLACK, mfc=face, ms=7 if last else 5, ls="none", label=label)
    margin = TESTED[group, "final score"].margin
    axes.axvline(0, color="0.5", lw=0.8)
    axes.axvline(margin, color=BLACK, lw=1, ls=":")
    axes.text(margin, len(labels) - 0.2, " margin", fontsize=8, va="center")
    axes.set_yticks(range(len(labels)), labels[::-1])
    axes.set_xlim(-1.05, 1.05)
    axes.set_ylim(-0.6, len(labels) + 0.6)
    axes.set_title(f"{group}: Kendall's τ, toy against model")
    if group == "on-policy":
        axes.legend(loc="upper left", fontsize=8.5)


def _handles(records: Records) -> list[Line2D]:
    names = [name for name in matched.ONLINE if any(key.split("/")[2] == name for key in records)]
    lines = [Line2D([], [], color=colour(n), marker=_marker(n), ls="none", ms=6.5, label=n) for n in names]
    return [*lines, Line2D([], [], color="0.4", marker="o", mfc="white", ls="none", ms=6.5, label="hollow: offline")]


def verdicts(records: Records) -> list[Verdict]:
    """Within on-policy arms and within offline arms, by the score over the run and by that at the end."""
    rows = []
    for (group, measure), tested in TESTED.items():
        sides = sides_of(records, group, MEASURES[measure])
        effect = correlations(*sides)[-1]
        used = of_group(records, group)
        hashes, gates = [r.hash for r in used.values()], _gates(group, sides, list(used.values()))
        rows.append(row_of(tested, "lm", effect, FIGURE.name, hashes, _note(group, used, sides), gates))
    return rows


def _gates(group: str, sides: Sides, used: Sequence[Record]) -> list[Gate]:
    tasks, algorithms = len(sides.toy), len({name for task in sides.toy for name in task})
    enough = tasks >= LEAST_TASKS and algorithms >= LEAST_ARMS[group]
    wanted = f"{LEAST_ARMS[group]} on {LEAST_TASKS} would open it"
    why = f"{algorithms} algorithms on {tasks} tasks{'' if enough else f'; {wanted}'}"
    controls = []
    for where, side in (("toys", sides.toy), ("the model", sides.model)):
        own = correlations(*halves(side))[-1]
        found = positive_control(own, 0.2)
        controls.append(Gate("ranks", found.open, f"{where}, odd against even runs: {found.why}"))
    names = "names permuted at random on one side have τ = 0 in the mean, by symmetry"
    tuned = tuned_well(EDGE, *used, falls="an arm that is not above the reference beyond noise counts as it")
    return [Gate("size", enough, why), *controls, placebo(None, 0.2, names), *tuned]


def _note(group: str, used: Records, sides: Sides) -> str:
    """What a row does not show. used: its own records."""
    toy, model = (runs_of(used, scale) for scale in SCALES)
    found = [scores for task in sides.model for scores in task.values()]
    still = sum(not above_it(scores) for scores in found)
    return (
        f"One model, one kind of toy for a task, {toy} runs per arm on toys and {model} on the model. {MORE[group]}"
        f"{still} of {len(found)} arms of the model are not above the reference beyond noise: they count as it, and "
        "are ties, which agree with nothing. The rewards differ in shape: the toy's is a peak, flat far from it, and "
        "the model's falls evenly; a table does not generalise from one action to the next, and a model does from one "
        "length to the next. Tasks differ in one length, so that they are less unlike than tasks could be. The model "
        f"was tuned once, by one run a rate, offline on skew by {matched.AGAIN_RUNS}: its intervals do not know what "
        "another tuning would choose. τ-b leaves out pairs that are tied on a side, and which arms are above the "
        "reference is not resampled."
    )


def runs_of(records: Records, scale: str) -> int:
    """How many runs an arm of a scale has among these."""
    return next(len(r.arrays["gold"]) for key, r in records.items() if key.startswith(f"{scale}/"))


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    sides = {
        scale: [r for k, r in records.items() if k.startswith(f"{scale}/") and k.endswith("/0")] for scale in SCALES
    }
    toys, models = (f"{len(found)} arms" for found in sides.values())
    samples = [f"{found[0].arrays['samples'][-1]:,}" for found in sides.values()]
    runs = " and ".join(f"{runs_of(of_group(records, group), 'lm')} {group}" for group in GROUPS)
    return (
        "Score: (reward − reference's) / (largest − reference's), averaged over the run, at equal samples. Overlap: "
        "the reference's probability of lengths within 5 tokens of the best, on the toy of actions within the peak's "
        f"width. Toys: {toys} of a table, {runs_of(records, 'toy')} runs of {samples[0]} samples. The embedded Pythia: "
        f"{models}, {runs} runs of {samples[1]} samples. Every arm is tuned on its task, on other seeds: toys "
        f"{matched.TUNINGS['toy']} times, the model once. Kendall's τ over algorithms, 95 %: of a task over "
        f"algorithms, runs and tunings, of the mean over {len(tasks_of(records))} tasks too."
    )


FIGURE = Figure(
    name="toy_to_lm",
    title="Do the toys' rankings of algorithms carry over to a language model?",
    tags=("bandit",),
    claims=("toy→lm",),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
)
