"""Does the likelihood of chosen responses fall while the margin grows? (C22) DPO on a language model."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.lines import Line2D

from figures.arms import language_model as lm
from figures.arms.gating import IN_SCORES, tuned_well
from figures.catalogue import claim
from figures.claims import Verdict, row_of
from figures.figure import Figure, Records
from figures.gallery import lm_algorithms, lm_lengths
from figures.lab import Lab
from figures.report.style import BLUE, OFFLINE, ONLINE, RC, VERMILION, symlog
from sims.experiments.experiment import Experiment
from sims.experiments.measures import final_scores, scores
from sims.experiments.store import Record
from sims.statistics.gates import Gate, placebo, trained
from sims.statistics.intervals import band, mean_interval

HALF = 0.5  # a score from which on the policy draws little of what the reference does, so that all it drew must fall
METHODS = ("dpo/on", "dpo/off")
SAMPLERS = {"on": ("online", ONLINE), "off": ("offline", OFFLINE)}
COLOURS = {"chosen": BLUE, "rejected": VERMILION}
ARRAYS = {"chosen": "first_logp_winner", "rejected": "first_logp_loser"}
TITLES = lm_lengths.TITLES | {"mode": "Mode length"}

TESTED = {
    f"{task}/dpo/{sampler}": claim("C22", f"{SAMPLERS[sampler][0]} DPO, {task} length")
    for task in ("min", "mode")
    for sampler in SAMPLERS
}


def arms(scale: str) -> dict[str, Experiment]:
    """The DPO arms of lm_lengths: the same experiments, and the same records."""
    return {name: arm for name, arm in lm_lengths.arms(scale).items() if name.partition("/")[2] in METHODS}


def collect(lab: Lab) -> Records:
    """From lm_lengths' runs; those of other algorithms are left out. On min, offline DPO is that of lm_algorithms: by
    one run a rate it took one by which it ends below the reference."""
    found = lm_lengths.collect(lab, METHODS)
    found = {name: record for name, record in found.items() if name.partition("/")[2] in METHODS}
    if lab.scale == "tiny" and not lab.quick:
        found |= lm_algorithms.compared(lab, ["min/dpo/off"])
    return found


def change(record: Record, which: str) -> np.ndarray:
    """(runs, points): log π of the chosen or rejected of the first batch's pairs, less what the reference gives."""
    runs = lm.carried_on(record.arrays[ARRAYS[which]])
    return runs - runs[:, :1]


def margin(record: Record) -> np.ndarray:
    """(runs, points): how much more log π of the chosen rose than of the rejected."""
    return change(record, "chosen") - change(record, "rejected")


def per_nat(fall: np.ndarray, grown: np.ndarray) -> np.ndarray:
    """(runs,) whose mean is mean(fall)/mean(grown), and whose spread is that of this ratio, to first order in 1/runs
    (the delta method). fall, grown: (runs,). Zeros where nothing grew, of which there is no ratio."""
    if grown.mean() == 0.0:
        return np.zeros(len(grown))
    ratio = fall.mean() / grown.mean()
    return np.asarray(ratio + (fall - ratio * grown) / grown.mean())


def draw(records: Records) -> MatplotlibFigure:
    """Change of both log-probs, and the margin, against updates; one column per task."""
    tasks = [task for task in lm_lengths.TASKS if f"{task}/dpo/off" in records]
    with plt.rc_context(RC):
        fig, axes = plt.subplots(
            2,
            len(tasks),
            figsize=(4.4 * len(tasks), 6.8),
            layout="constrained",
            squeeze=False,
            sharex=True,
            sharey="row",
        )
        for column, task in enumerate(tasks):
            for sampler, (_, line) in SAMPLERS.items():
                if f"{task}/dpo/{sampler}" in records:
                    _curves(axes[:, column], records[f"{task}/dpo/{sampler}"], line)
            axes[0, column].set_title(TITLES[task])
            for panel in axes[:, column]:
                symlog(panel)  # online moves twenty times as far
            axes[1, column].set_xlabel("updates")
        axes[0, 0].set_ylabel("change of log π(response), nats")
        axes[1, 0].set_ylabel("margin: chosen − rejected, nats")
        fig.legend(handles=_handles(), loc="outside lower center", ncols=4, fontsize=9.5)
    return fig


def _curves(column: np.ndarray, record: Record, line: str) -> None:
    updates = record.arrays["updates"]
    for which, hue in COLOURS.items():
        _curve(column[0], updates, change(record, which), hue, line)
    _curve(column[1], updates, margin(record), "0.15", line)
    for axes in column:
        axes.axhline(0, color="0.5", linewidth=0.8)


def _curve(axes: Axes, x: np.ndarray, runs: np.ndarray, hue: str, line: str) -> None:
    mean, low, high = band(runs, resamples=None)
    mark = "v" if hue == COLOURS["rejected"] else "o"
    axes.plot(x, mean, line, color=hue, linewidth=1.8, marker=mark, ms=4.5, mfc=hue if line == ONLINE else "white")
    axes.fill_between(x, low, high, color=hue, alpha=0.18, linewidth=0)


def _handles() -> list[Line2D]:
    lines = [
        Line2D([], [], color=hue, linewidth=2.2, marker=mark, label=which)
        for (which, hue), mark in zip(COLOURS.items(), "ov", strict=True)
    ]
    return lines + [
        Line2D([], [], color="0.3", linestyle=line, label=f"{name} DPO") for name, line in SAMPLERS.values()
    ]


def verdicts(records: Records) -> list[Verdict]:
    """One row for each sampler on min and on mode."""
    rows = []
    for name, tested in TESTED.items():
        record = records[name]
        at, room = before_it_left(record)
        fall, grown = change(record, "chosen")[:, at], margin(record)[:, at]
        size = mean_interval(grown)
        note = (
            f"The margin grew by {size.estimate:.1f} [{size.low:.1f}, {size.high:.1f}] nats in "
            f"{record.arrays['updates'][at]} updates. The pairs are of the "
            "first batch, drawn from the reference and seen in one update: what is trained on again may rise. "
            "Online and offline DPO each have the rate tuned for them, which is larger online."
            f"{_later(record, at)}"
        )
        gates = [room, trained({"the margin": grown}), placebo(None, tested.margin, "a claim about a mechanism")]
        gates += tuned_well(IN_SCORES, record, by=final_scores)
        effect = mean_interval(per_nat(fall, grown))
        rows.append(row_of(tested, "lm", effect, FIGURE.name, [record.hash], note, gates))
    return rows


def _later(record: Record, at: int) -> str:
    """A sentence where a row is tested before the end."""
    updates = record.arrays["updates"]
    if at == len(updates) - 1:
        return ""
    return f" Tested after {updates[at]} of {updates[-1]} updates, as the score is {HALF:g} or above later."


def before_it_left(record: Record) -> tuple[int, Gate]:
    """The last evaluation, after the first, at which the mean score is below HALF, and whether there is one. What a
    policy drew at first loses its likelihood, chosen or not, when the reward sends it elsewhere."""
    level = scores(record).mean(0)
    near = [i for i in range(1, len(level)) if level[i] < HALF]
    at = max(near, default=len(level) - 1)
    said = f"the mean score is {level[at]:.2g} after {record.arrays['updates'][at]} updates"
    return at, Gate("room", bool(near), said if near else f"{said}: an earlier evaluation would open it")


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    record = records["min/dpo/on"]
    runs, beta = len(record.arrays["reward"]), record.spec["algorithm"]["beta"]
    skew = " (on skew: which were recorded)" if "skew/dpo/off" in records else ""
    return (
        f"{lm.model_of(record)}, DPO at β = {beta:g}, {runs} runs per arm, the runs of lm_lengths. Log-probs "
        f"of whole responses in the pairs of each run's first batch, which the reference drew{skew}, less what the "
        "reference gives them. Mean and 95 % band over runs."
    )


FIGURE = Figure(
    name="lm_likelihoods",
    title="Does the likelihood of chosen responses fall while the margin grows?",
    tags=("lm", "likelihood"),
    claims=("C22",),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
    arms=arms,
)
