"""Length rewards on a language model: which algorithms find the length that is asked for, and when does it matter who
draws? (C25)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.lines import Line2D

from figures.arms import language_model as lm
from figures.arms.gating import edges
from figures.catalogue import claim
from figures.claims import Verdict, row_of
from figures.figure import Figure, Records
from figures.lab import Lab, apply, product
from figures.report.style import OFFLINE, ONLINE, RC, bound, colour, key, marker, symlog
from sims.experiments.experiment import Experiment
from sims.experiments.measures import final_scores
from sims.statistics.gates import shared_arms
from sims.statistics.intervals import interaction, paired_effect, student_interval

TASKS: tuple[lm.TaskName, ...] = ("min", "mode", "skew")
METHODS = ("dpo/on", "dpo/off", "ppo/on", "rloo/on", "rwr/on", "best_of_n/on", "pref_ft/off")
GRID = product(learning_rate=(3e-4, 1e-3, 3e-3))
TUNING_RUNS = 3
TITLES = {
    "min": "Min length, r = −|y|",
    "mode": "Mode length, r = −| |y| − {mode} |",
    "skew": "Skew length: min, recorded data cut short",
}
ROWS = {
    "length": "completion length, tokens",
    "reward": "reward, tokens",
    "kl_policy_ref": "KL(policy ‖ reference), nats",
}

SKEW, MODE = claim("C25", "skew against min length"), claim("C25", "mode length")


def arms(scale: str) -> dict[str, Experiment]:
    """task/algorithm/sampler → experiment. Online, skew is min: fresh samples know nothing of what was recorded."""
    found = {}
    for task in TASKS:
        for method in METHODS:
            algorithm, _, sampler = method.partition("/")
            if task != "skew" or sampler == "off":
                found[f"{task}/{method}"] = lm.arm("lm_lengths", scale, task, algorithm, sampler)  # type: ignore[arg-type]
    return found


def collect(lab: Lab, wanted: tuple[str, ...] = (*METHODS[:3], METHODS[-1])) -> Records:
    """Learning rates are tuned on min, over equal grids, and hold for the same algorithm's other tasks too.

    wanted: the methods that a shrunken run should have; a full one has all, as they are tuned together.
    """
    chosen = {name: arm for name, arm in arms(lab.scale).items() if not lab.quick or name.partition("/")[2] in wanted}
    if lab.scale != "tiny":
        return lab.records(chosen)
    short = {name: arm for name, arm in chosen.items() if name.startswith("min/")}
    found = lab.tuned_records(short, dict.fromkeys(short, GRID), TUNING_RUNS)
    others = {
        name: apply(arm, {"learning_rate": learning_rate(found, name.partition("/")[2])})
        for name, arm in chosen.items()
        if name not in short
    }
    return found | lab.records(others)


def learning_rate(records: Records, method: str) -> float:
    """What was tuned for a method, as "algorithm/sampler"."""
    return float(records[f"min/{method}"].spec["optimiser"]["learning_rate"])


def cells(records: Records) -> dict[str, dict[str, str]]:
    """task → method → key of its record: on skew, online arms are those of min."""
    found: dict[str, dict[str, str]] = {}
    for task in TASKS:
        keys = {m: key for m in METHODS if (key := f"{task}/{m}") in records}
        if task == "skew" and keys:
            keys = {m: key for m in METHODS if (key := f"{'skew' if m in keys else 'min'}/{m}") in records}
        if keys:
            found[task] = keys
    return found


def draw(records: Records) -> MatplotlibFigure:
    """Length, reward and KL against updates, one column a task."""
    tasks = cells(records)
    with plt.rc_context(RC):
        fig, axes = plt.subplots(
            3, len(tasks), figsize=(4.6 * len(tasks), 9.6), layout="constrained", squeeze=False, sharex=True
        )
        for column, (task, keys) in enumerate(tasks.items()):
            for row, name in enumerate(ROWS):
                _curves(axes[row, column], records, keys, name)
            _bounds(axes[:, column], records, task)
            axes[0, column].set_title(TITLES[task].format(mode=_mode(records)))
            axes[-1, column].set_xlabel("updates")
        for row, label in enumerate(ROWS.values()):
            axes[row, 0].set_ylabel(label)
        fig.legend(handles=_handles(tasks), loc="outside lower center", ncols=8, fontsize=9.5)
    return fig


def _curves(axes: Axes, records: Records, keys: Mapping[str, str], name: str) -> None:
    for method, place in keys.items():
        algorithm, _, sampler = method.partition("/")
        arrays = records[place].arrays
        line = ONLINE if sampler == "on" else OFFLINE
        # Student's: of a run that leaves the others behind, a bootstrap makes a band wider than all of them.
        found = [student_interval(runs) for runs in lm.carried_on(arrays[name]).T]
        mean, low, high = ([getattr(interval, end) for interval in found] for end in ("estimate", "low", "high"))
        face = colour(algorithm) if sampler == "on" else "white"
        style: dict[str, Any] = {"marker": marker(algorithm), "ms": 5, "mfc": face, "color": colour(algorithm)}
        axes.plot(arrays["updates"], mean, line, linewidth=1.8, **style)
        axes.fill_between(arrays["updates"], low, high, color=colour(algorithm), alpha=0.18, linewidth=0)


def _bounds(column: np.ndarray, records: Records, task: str) -> None:
    length, reward, kl = column
    best, what, at = (0, "an immediate EOS", 0.9)
    if task == "mode":
        best, what, at = _mode(records), "the mode that is asked for", 0.03
    bound(length, best, "")
    length.text(0.98, at, f"dotted: {what}", transform=length.transAxes, fontsize=8.5, ha="right")
    bound(reward, 0, "largest reward")
    symlog(kl)
    kl.set_ylim(bottom=0)
    length.set_ylim(bottom=-2)


def _mode(records: Records) -> int:
    tasks = (record.spec["environment"] for record in records.values())
    return next((int(task["mode"]) for task in tasks if "mode" in task), 0)


def _handles(tasks: Mapping[str, Mapping[str, str]]) -> list[Line2D]:
    drawn = {method.partition("/")[0]: None for keys in tasks.values() for method in keys}
    lines = [key(name) for name in drawn]
    styles = ((ONLINE, "on-policy"), (OFFLINE, "offline"))
    return lines + [Line2D([], [], color="0.3", linestyle=style, label=label) for style, label in styles]


def verdicts(records: Records) -> list[Verdict]:
    """What online sampling adds to DPO where recorded data lie off the optimum, and where the optimum is amid them."""
    final = {key: final_scores(record) for key, record in records.items()}
    rows = []
    if "skew/dpo/off" in records:
        online = final["min/dpo/on"]
        note = (
            "Both online arms are the same runs. Data cut short are a way of having no overlap that the authors chose; "
            "more updates would let offline DPO extrapolate further."
        )
        effect = interaction(online, final["skew/dpo/off"], online, final["min/dpo/off"])
        used = [records[key].hash for key in ("min/dpo/off", "skew/dpo/off")]  # the online arm cancels
        gates = [
            shared_arms(*([records[key].hash] for key in ("min/dpo/on", "skew/dpo/off", "min/dpo/on", "min/dpo/off"))),
            edges(SKEW.margin, records["min/dpo/on"], records["min/dpo/off"]),
        ]
        rows.append(row_of(SKEW, "lm", effect, FIGURE.name, used, note, gates))
    note = "DPO alone, at the learning rates that suit min length; longer runs would pull the arms further apart."
    effect = paired_effect(final["mode/dpo/on"], final["mode/dpo/off"])
    used = [records[f"mode/dpo/{sampler}"].hash for sampler in ("on", "off")]
    gates = [edges(MODE.margin, records["min/dpo/on"], records["min/dpo/off"])]  # whose rates it takes over
    return [*rows, row_of(MODE, "lm", effect, FIGURE.name, used, note, gates)]


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    record = records["min/dpo/on"]
    spec, runs = record.spec, len(record.arrays["reward"])
    samples = spec["schedule"]["batch_size"] * spec["schedule"]["num_generations"]
    skew = ""
    if "skew/dpo/off" in records:
        task = records["skew/dpo/off"].spec["environment"]
        skew = (
            f"; on skew the recorded responses, cut to {task['cut_from']} to {task['cut_to']} tokens, an immediate EOS "
            "never among them. The online arms there are those of min, as fresh samples know nothing of recorded ones"
        )
    if lm.scale_of(record) == "tiny":
        rates = ", ".join(
            f"{method} {learning_rate(records, method):g}" for method in METHODS if f"min/{method}" in records
        )
        how = f"Learning rates were chosen on min length, among three on other seeds, and hold for all tasks: {rates}."
    else:
        how = "Settings are those of the presets."
    return (
        f"{lm.model_of(record)}, {runs} runs an arm, {samples} samples an update. Means over fresh samples, with a "
        f"95 % band over runs. Offline: fresh draws from the reference for ever{skew}. {how}"
    )


FIGURE = Figure(
    name="lm_lengths",
    title="Which algorithms find the length that is asked for?",
    tags=("lm", "online-offline"),
    claims=("C25",),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
    arms=arms,
)
