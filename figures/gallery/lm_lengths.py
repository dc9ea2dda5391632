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
from figures.arms import matched
from figures.arms.gating import NOTHING_TO_LEARN, effect_of, larger, last_with_room, of_all, part, sides, tuned_well
from figures.catalogue import claim
from figures.claims import Verdict, row_of
from figures.figure import Figure, Records
from figures.lab import Lab
from figures.report.style import OFFLINE, ONLINE, RC, bound, colour, key, marker, symlog
from sims.experiments.experiment import Experiment
from sims.experiments.measures import final_scores, scores
from sims.experiments.store import Record
from sims.statistics.gates import Gate, Overlap, geometry, placebo, positive_control, shared_arms
from sims.statistics.intervals import interaction, paired_effect, student_interval
from sims.statistics.verdicts import over_tunings

TASKS: tuple[lm.TaskName, ...] = ("min", "mode", "skew")
METHODS = ("dpo/on", "dpo/off", "ppo/on", "rloo/on", "rwr/on", "best_of_n/on", "pref_ft/off")
TESTED_RUNS = 20  # of the arms that rows compare; the others are drawn only
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

PEAKS = {
    "mode": "peak likely, data overlap (mode length)",
    "min": "peak unlikely, data overlap (min length)",
    "skew": "peak unlikely, data do not overlap (skew length)",
}

SKEW, MODE = claim("C25", "skew against min length"), claim("C25", "mode length")


def arms(scale: str) -> dict[str, Experiment]:
    """task/algorithm/sampler → experiment. tiny: those of `figures.arms.matched`. At the other scales skew is min
    online: fresh samples know nothing of what was recorded, and runs cost too much to repeat."""
    if scale == "tiny":
        return {f"{task}/{method}": matched.arm("lm", task, method) for task in TASKS for method in METHODS}
    found = {}
    for task in TASKS:
        for method in METHODS:
            algorithm, _, sampler = method.partition("/")
            if task != "skew" or sampler == "off":
                found[f"{task}/{method}"] = lm.arm("lm_lengths", scale, task, algorithm, sampler)  # type: ignore[arg-type]
    return found


def collect(
    lab: Lab, wanted: tuple[str, ...] = (*METHODS[:3], METHODS[-1]), tasks: tuple[lm.TaskName, ...] = TASKS
) -> Records:
    """Every arm is tuned on its own task, as in `figures.arms.matched`.

    wanted: the methods that a shrunken run should have; tasks: those that are wanted.
    """
    every = {name: arm for name, arm in arms(lab.scale).items() if name.split("/")[0] in tasks}
    chosen = {name: arm for name, arm in every.items() if not lab.quick or name.partition("/")[2] in wanted}
    if lab.scale != "tiny":
        return lab.records(chosen)
    tested = {name: arm for name, arm in chosen.items() if "/dpo/" in name}
    first, *others = matched.TUNING_SEEDS
    found = matched.tuned_on(lab, "lm", chosen, first, dict.fromkeys(tested, TESTED_RUNS))
    for k, seed in enumerate(others, 1):
        again = {f"{name}/{k}": arm for name, arm in tested.items()}
        found |= matched.tuned_on(lab, "lm", again, seed, dict.fromkeys(again, TESTED_RUNS))
    return found


def learning_rate(records: Records, method: str, task: str = "min") -> float:
    """What was tuned for a method, as "algorithm/sampler"."""
    return float(records[f"{task}/{method}"].spec["optimiser"]["learning_rate"])


def cells(records: Records) -> dict[str, dict[str, str]]:
    """task → method → key of its record: on skew, online arms that were not run are those of min."""
    found: dict[str, dict[str, str]] = {}
    for task in TASKS:
        keys = {m: key for m in METHODS if (key := f"{task}/{m}") in records}
        if task == "skew" and keys:
            keys = {m: key for m in METHODS if (key := f"{'skew' if m in keys else 'min'}/{m}") in records}
        if keys:
            found[task] = keys
    return found


def draw(records: Records) -> MatplotlibFigure:
    """Length, reward and KL against updates, and reward against KL, one column per task."""
    tasks = cells(records)
    with plt.rc_context(RC):
        fig, axes = plt.subplots(
            4, len(tasks), figsize=(4.6 * len(tasks), 12.8), layout="constrained", squeeze=False, sharex="row"
        )
        for column, (task, keys) in enumerate(tasks.items()):
            for row, name in enumerate(ROWS):
                _curves(axes[row, column], records, keys, name)
            _bounds(axes[:3, column], records, task)
            _over_kl(axes[3, column], records, keys)
            axes[0, column].set_title(TITLES[task].format(mode=_mode(records)))
            axes[2, column].set_xlabel(f"updates, {_queries(records)} queries of the reward each")
            axes[3, column].set_xlabel(ROWS["kl_policy_ref"])
        for row, label in enumerate(ROWS.values()):
            axes[row, 0].set_ylabel(label)
        axes[3, 0].set_ylabel(ROWS["reward"])
        fig.legend(handles=_handles(tasks), loc="outside lower center", ncols=9, fontsize=9.5)
    return fig


def _curves(axes: Axes, records: Records, keys: Mapping[str, str], name: str) -> None:
    for method, cell in keys.items():
        algorithm, _, sampler = method.partition("/")
        arrays = records[cell].arrays
        line = ONLINE if sampler == "on" else OFFLINE
        # Student's: of a run that leaves the others behind, a bootstrap makes a band wider than all of them.
        found = [student_interval(runs) for runs in lm.carried_on(arrays[name]).T]
        mean, low, high = ([getattr(interval, end) for interval in found] for end in ("estimate", "low", "high"))
        face = colour(algorithm) if sampler == "on" else "white"
        style: dict[str, Any] = {"marker": marker(algorithm), "ms": 5, "mfc": face, "color": colour(algorithm)}
        axes.plot(arrays["updates"], mean, line, linewidth=1.8, **style)
        axes.fill_between(arrays["updates"], low, high, color=colour(algorithm), alpha=0.18, linewidth=0)


def _over_kl(axes: Axes, records: Records, keys: Mapping[str, str]) -> None:
    """What is gained for the distance that is gone: means over runs, evaluation by evaluation."""
    for method, cell in keys.items():
        algorithm, _, sampler = method.partition("/")
        distance, reward = (lm.carried_on(records[cell].arrays[name]).mean(0) for name in ("kl_policy_ref", "reward"))
        face, line = (colour(algorithm), ONLINE) if sampler == "on" else ("white", OFFLINE)
        style: dict[str, Any] = {"marker": marker(algorithm), "ms": 5, "mfc": face, "color": colour(algorithm)}
        axes.plot(np.maximum(distance, 0.0), reward, line, linewidth=1.4, **style)
    axes.set_xscale("symlog", linthresh=1.0)
    farthest = float(max(np.max(line.get_xdata()) for line in axes.lines))
    axes.set_xlim(0, max(1.0, 1.3 * farthest))  # of a few updates none has gone anywhere


def _queries(records: Records) -> int:
    schedule = next(iter(records.values())).spec["schedule"]
    return int(schedule["batch_size"] * schedule["num_generations"])


def details(records: Records) -> dict[str, list[str]]:
    """What on-policy sampling adds to DPO, by where the reward's peak lies and what the recorded data overlap with, as
    in the table of Tajwar et al. 2024; the first tuning."""
    lines = []
    for task, where in PEAKS.items():
        names = [f"{'min' if task == 'skew' and sampler == 'on' else task}/dpo/{sampler}" for sampler in ("on", "off")]
        if f"{task}/dpo/on" in records:
            names[0] = f"{task}/dpo/on"
        if all(name in records for name in names):
            online, offline = (records[name] for name in names)
            gain = effect_of([part(1.0, online), part(-1.0, offline)])
            lines.append(f"{where}: DPO on-policy − offline {gain} in score")
    return {"Where the peak is, and what the data overlap": lines} if lines else {}


def _bounds(column: np.ndarray, records: Records, task: str) -> None:
    length, reward, kl = column
    bound(length, _mode(records) if task == "mode" else 0, "")
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
    lines += [Line2D([], [], color="0.3", linestyle=style, label=label) for style, label in styles]
    return [*lines, Line2D([], [], color="k", linewidth=1, linestyle=":", label="the length asked for")]


def verdicts(records: Records) -> list[Verdict]:
    """What online sampling adds to DPO where recorded data lie off the optimum, and where the optimum is amid them."""
    rows = []
    if "skew/dpo/off" in records:
        tunings = [[found[task] for task in ("skew/on", "skew/off", "min/on", "min/off")] for found in dpo(records)]
        pairs = [sides([one], [other]) for arms in tunings for one, other in (arms[:2], arms[2:])]
        at, room = last_with_room(pairs, SKEW.margin)
        shared = shared_arms(*([arms[i].hash for arms in tunings] for i in range(4)))
        arms = [record for arms in tunings for record in arms]
        gates = [
            room,
            shared,
            of_all([larger(SKEW, [scores(record)[:, at] for record in tuning]) for tuning in tunings]),
            *tuned_well(SKEW.margin, *arms, by=final_scores),
            placebo(None, SKEW.margin, NOTHING_TO_LEARN),
        ]
        gates += _likelihood(records, {"skew": "out", "min": "in"})
        note = (
            f"{_overlap(records, 'skew')} Data cut short are a way of having no overlap that the authors chose; more "
            "updates would let offline DPO extrapolate further, and then break."
        )
        effects = []
        for tuning in tunings:
            a, b, c, d = (scores(record)[:, at] for record in tuning)
            effects.append(interaction(a, b, c, d))
        effect = over_tunings(effects)
        rows.append(row_of(SKEW, "lm", effect, FIGURE.name, [r.hash for r in arms], note, gates))
    both = [(found["mode/on"], found["mode/off"]) for found in dpo(records)]
    # From the reference's 0: an online arm that was not trained.
    gained = over_tunings([student_interval(scores(online)[:, -1]) for online, _ in both])
    arms = [record for pair in both for record in pair]
    gates = [
        positive_control(gained, MODE.margin),
        *tuned_well(MODE.margin, *arms, by=final_scores),
        *_likelihood(records, {"mode": "in"}),
    ]
    effect = over_tunings([paired_effect(scores(one)[:, -1], scores(other)[:, -1]) for one, other in both])
    note = f"{_overlap(records, 'mode')} DPO alone; longer runs would pull the arms further apart."
    return [*rows, row_of(MODE, "lm", effect, FIGURE.name, [r.hash for r in arms], note, gates)]


def dpo(records: Records) -> list[dict[str, Record]]:
    """DPO's arms as each tuning seed chose their settings, by task/sampler. At a large scale nothing is tuned, and skew
    online is min."""
    found = []
    for suffix in ("", *(f"/{k}" for k in range(1, len(matched.TUNING_SEEDS)))):
        keys = {f"{task}/{s}": f"{task}/dpo/{s}{suffix}" for task in TASKS for s in ("on", "off")}
        if suffix and "min/dpo/on" + suffix not in records:
            break
        here = {name: records[key] for name, key in keys.items() if key in records}
        found.append({"skew/on": here["min/on"], **here})
    return found


def _likelihood(records: Records, claimed: Mapping[str, Overlap]) -> list[Gate]:
    """Whether the optimum of each task is as likely under the reference as a row says that it is; none at a large
    scale, where that was not measured."""
    if any(lm.scale_of(records[f"{task}/dpo/off"]) != "tiny" for task in claimed):
        return []
    return [geometry({task: matched.overlap_of(task) for task in claimed}, claimed)]


def _overlap(records: Records, task: str) -> str:
    """How likely the reference is near the optimum, where that is known."""
    record = records[f"{task}/dpo/off"]
    if lm.scale_of(record) != "tiny":
        return "How likely the reference is near the optimum was not measured."
    return f"The reference is within 5 tokens of the optimum with probability {matched.overlap_of(task):.2g}."


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    record = records["min/dpo/on"]
    spec = record.spec
    runs = min(len(found.arrays["reward"]) for found in records.values())
    samples = spec["schedule"]["batch_size"] * spec["schedule"]["num_generations"]
    skew = ""
    if "skew/dpo/off" in records:
        task = records["skew/dpo/off"].spec["environment"]
        skew = (
            f"; on skew the recorded responses, cut to {task['cut_from']} to {task['cut_to']} tokens, an immediate EOS "
            "never among them. Online, skew is min on other seeds, as fresh samples know nothing of recorded ones"
        )
    if lm.scale_of(record) == "tiny":
        rates = "; ".join(
            f"{task} " + ", ".join(f"{m} {records[k].spec['optimiser']['learning_rate']:g}" for m, k in keys.items())
            for task, keys in cells(records).items()
        )
        most = len(record.arrays["reward"])
        how = (
            f"DPO has {most} runs, and its rows hold for each of {len(matched.TUNING_SEEDS)} tunings on other seeds; "
            f"drawn is the first. Learning rates: {rates}."
        )
    else:
        how = "Settings are those of the presets."
    return (
        f"{lm.model_of(record)}, {runs} runs per arm or more, {samples} samples per update. Means over fresh samples, "
        "with a 95 % band over runs; below, reward against KL, means alone. Offline: fresh draws from the reference "
        f"for ever{skew}. {how}"
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
    details=details,
)
