"""Does on-policy sampling matter, and when? (C25) The 1-D bandit, with the reward's optimum likely or unlikely at
first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.lines import Line2D

from figures.arms.gating import (
    NOTHING_TO_LEARN,
    effect_of,
    last_with_room,
    likelihood,
    of_differences,
    over_the_run,
    part,
    sides,
    tuned_for,
    tuned_well,
)
from figures.arms.sweeps import TRIED, TUNING, at_the_edge, equal_grid
from figures.catalogue import Claim, claim
from figures.claims import Verdict, row_of
from figures.figure import Figure, Records
from figures.lab import Lab, product
from figures.report.style import OFFLINE, ONLINE, RC, bound, colour, curve, key, marker
from sims.core.algorithms import find_algorithm
from sims.core.schedule import Schedule
from sims.environments import Bandit, BanditOverlap, BanditR1, BanditR2
from sims.experiments.experiment import Experiment
from sims.experiments.measures import final_scores, kl_of_best_response, scores
from sims.experiments.store import Record
from sims.policies import Table
from sims.statistics.gates import placebo, positive_control
from sims.statistics.intervals import band, mean_interval

ALGORITHMS = ("rloo", "best_of_n", "rwr", "dpo", "ipo")
OVERLAPS = (0.5, 0.1, 1e-2, 1e-4, 1e-6)
SAMPLERS = {"on": None, "off": math.inf}
UPDATES, RUNS, SEED = 500, 100, 40  # runs: as many as are asked for where some are at a bound
NEEDED = 200  # runs of the contrastive arms on R2: a claim of no difference, at the largest reward
# DPO and IPO are at the largest reward on R2 long before the end: they are tested over runs short enough to see them
# rise, and tuned for these.
SHORT, SHORT_UPDATES, SHORT_EVALUATIONS = ("dpo", "ipo"), 10, 10
SHORT_SEEDS = {"dpo": 0, "ipo": 20}  # beyond the other arms'
SHORT_GRID = product(
    learning_rate=(0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0), beta=(0.0003, 0.003, 0.03, 0.3, 3.0)
)
WIDER = (0.03, 100.0)  # rwr's learning rates, whose best lay at the end of the others'
UNLIKELY, LIKELY = 1e-2, 0.5  # tested along the axis: at 1e-4 and below nobody is more than a margin above the floor

R1_R2 = {name: claim("C25", f"{name}: R1 against R2{', short runs' * (name in SHORT)}") for name in ALGORITHMS}
OVERLAP = {name: claim("C25", f"{name}: overlap axis{', short runs' * (name in SHORT)}") for name in ALGORITHMS}
OTHERWISE = {name: claim("C25", f"{name}: not otherwise") for name in ALGORITHMS}


def environments() -> dict[str, Bandit]:
    """The environments, by the name used in the arms' keys."""
    return {"R1": BanditR1(), "R2": BanditR2()} | {f"{o:g}": BanditOverlap(overlap=o) for o in OVERLAPS}


def arms(bandits: Mapping[str, Bandit], runs: int, seed: int) -> dict[str, Experiment]:
    """Every algorithm on every environment, drawn on-policy or from the reference for ever, at equal samples."""
    found = {}
    for name, bandit in bandits.items():
        for algorithm in ALGORITHMS:
            for sampler, period in SAMPLERS.items():
                found[f"{name}/{algorithm}/{sampler}"] = Experiment(
                    name=f"online_offline-{algorithm}",
                    environment=bandit,
                    policy=Table(),
                    algorithm=find_algorithm(algorithm)(),
                    schedule=Schedule(batch_size=16, num_generations=4, sync_every_updates=period),
                    updates=UPDATES,
                    runs=runs,
                    seed=seed,
                )
    return found


def short_arms(bandits: Mapping[str, Bandit], algorithm: str, runs: int, seed: int) -> dict[str, Experiment]:
    """environment/algorithm/sampler/short → the arms of an algorithm of SHORT, stopped while they rise."""
    return {
        f"{name}/short": arm.replace(updates=SHORT_UPDATES, evaluations=SHORT_EVALUATIONS)
        for name, arm in arms(bandits, runs, seed + SHORT_SEEDS[algorithm]).items()
        if name.split("/")[-2] == algorithm
    }


def tuned(
    lab: Lab,
    bandits: Mapping[str, Bandit],
    short: Mapping[str, Bandit],
    more: Mapping[str, int] | None = None,
    algorithms: Sequence[str] = SHORT,
    runs: int = RUNS,
    seed: int = SEED,
) -> Records:
    """Each arm tuned over as many points as the others: learning rate × β where the algorithm has one, else more
    learning rates. The short ones, of these algorithms, by the score over the run, by which they are tested. more: test
    runs of arms that take more than the others."""
    chosen = arms(bandits, runs, seed)
    grids = {name: equal_grid(arm, *(WIDER if "/rwr/" in name else ())) for name, arm in chosen.items()}
    found: Records = {}
    for wide in (False, True):
        these = {name: arm for name, arm in chosen.items() if ("/rwr/" in name) == wide}
        found = {**found, **lab.tuned_records(these, {name: grids[name] for name in these}, **TUNING, runs=more)}
    for algorithm in algorithms:
        brief = short_arms(short, algorithm, runs, seed)
        found = {**found, **lab.tuned_records(brief, dict.fromkeys(brief, SHORT_GRID), **TUNING, by="run")}
    return found


def collect(lab: Lab) -> Records:
    """All environments, and the tested ones in short runs too."""
    bandits = environments()
    tested = {name: bandits[name] for name in ("R1", "R2", f"{UNLIKELY:g}", f"{LIKELY:g}")}
    more = {f"R2/{name}/{sampler}": NEEDED for name in ("dpo", "ipo") for sampler in SAMPLERS}
    return tuned(lab, bandits, tested, more)


def draw(records: Records) -> MatplotlibFigure:
    """Score and KL against samples on R1 and R2; final score and the on-policy gain along the overlap axis."""
    with plt.rc_context(RC):
        fig, axes = plt.subplots(2, 3, figsize=(13.5, 7.4), layout="constrained")
        for column, environment in enumerate(("R1", "R2")):
            _against_samples(axes[0, column], axes[1, column], records, environment)
        _along_overlap(axes[0, 2], axes[1, 2], records)
        axes[0, 0].set_title("R1: optimum unlikely under the reference")
        axes[0, 1].set_title("R2: optimum likely under the reference")
        axes[0, 2].set_title("From likely to unlikely")
        fig.legend(handles=_handles(), loc="outside lower center", ncols=len(ALGORITHMS) + 2, fontsize=9.5)
    return fig


def _handles() -> list[Line2D]:
    lines = [key(name) for name in ALGORITHMS]
    styles = ((ONLINE, "on-policy"), (OFFLINE, "offline: fresh draws from the reference"))
    return lines + [Line2D([], [], color="0.3", linestyle=style, label=label) for style, label in styles]


def _against_samples(top: Axes, bottom: Axes, records: Records, environment: str) -> None:
    for algorithm in ALGORITHMS:
        for sampler, line in (("on", ONLINE), ("off", OFFLINE)):
            record = records[f"{environment}/{algorithm}/{sampler}"]
            samples = record.arrays["samples"] / 1000
            curve(top, samples, scores(record), algorithm, line)
            curve(bottom, samples, record.arrays["kl_policy_ref"], algorithm, line)
    bound(top, 1.0, "largest reward")
    best = kl_of_best_response(records[f"{environment}/dpo/on"])
    bound(bottom, best, "KL of always giving the best action")
    top.set(ylabel="score (0: reference, 1: largest reward)", ylim=(-0.05, 1.12), xlabel="samples drawn (thousands)")
    bottom.set(
        ylabel="KL(policy ‖ reference), nats", ylim=(-0.02 * best, 1.15 * best), xlabel="samples drawn (thousands)"
    )


def gain(records: Records, environment: str, algorithm: str, at: int = -1) -> np.ndarray:
    """(runs,): on-policy − offline, score at an evaluation."""
    on, off = (scores(records[f"{environment}/{algorithm}/{sampler}"])[:, at] for sampler in SAMPLERS)
    return np.asarray(on - off)


def arms_of(records: Records, names: Sequence[str], algorithm: str, end: str = "") -> dict[str, Record]:
    """Both samplers' records of an algorithm on these problems, by their keys."""
    keys = [f"{environment}/{algorithm}/{sampler}{end}" for environment in names for sampler in SAMPLERS]
    return {key: records[key] for key in keys}


def interaction_row(
    tested: Claim,
    records: Records,
    unlikely: str,
    likely: str,
    algorithm: str,
    figure: str,
    note: str,
    brief: Sequence[str] = SHORT,
) -> Verdict:
    """(on-policy − offline where the optimum is unlikely) − (the same where it is likely), for one algorithm: at the
    last evaluation at which both differences have room; of an algorithm of `brief` over a short run."""
    short = algorithm in brief
    used = arms_of(records, (unlikely, likely), algorithm, "/short" * short)
    found = list(used.values())
    pairs = [sides([on], [off]) for on, off in (found[:2], found[2:])]
    at, room = (None, over_the_run(pairs, tested.margin)) if short else last_with_room(pairs, tested.margin)
    runs = min(len(record.arrays["gold"]) for record in found)  # the first runs are the same in longer records
    signs = (1.0, -1.0, -1.0, 1.0)
    effect = effect_of([part(sign, record, at, runs) for sign, record in zip(signs, found, strict=True)])
    updates = found[0].arrays["updates"]
    said = (
        f"Tested over {SHORT_UPDATES} updates, as later all arms are at the largest reward where the optimum is likely."
        if at is None
        else f"Tested after {int(updates[at])} updates, the last evaluation at which the scores leave room."
    )
    gates = [room, *tuned_well(tested.margin, *found), *of_differences(tested, found, at)]
    gates += [likelihood({"out": found[0], "in": found[2]}), placebo(None, tested.margin, NOTHING_TO_LEARN)]
    gates += [*([] if at is None else [tuned_for(at, *found)])]
    hashes = [record.hash for record in found]
    return row_of(tested, "bandit", effect, figure, hashes, f"{said} {note}", gates)


def _along_overlap(top: Axes, bottom: Axes, records: Records) -> None:
    for algorithm in ALGORITHMS:
        final = {
            sampler: np.stack([final_scores(records[f"{o:g}/{algorithm}/{sampler}"]) for o in OVERLAPS], axis=-1)
            for sampler in SAMPLERS
        }
        curve(top, np.array(OVERLAPS), final["on"], algorithm, ONLINE)
        curve(top, np.array(OVERLAPS), final["off"], algorithm, OFFLINE)
        curve(bottom, np.array(OVERLAPS), final["on"] - final["off"], algorithm)
        for environment in ("R1", "R2"):
            mean, low, high = band(gain(records, environment, algorithm)[:, None])
            overlap = environments()[environment].overlap_mass()
            bottom.errorbar(
                overlap,
                mean[0],
                [mean - low, high - mean],
                fmt=marker(algorithm),
                ms=6,
                color=colour(algorithm),
                mfc=colour(algorithm) if environment == "R1" else "white",
            )
    bound(top, 1.0, "largest reward", x=0.6)
    bottom.axhline(0, color="0.4", linewidth=0.8)
    label = "overlap: reference's mass within the bump"
    top.set(xscale="log", xlabel=label, ylabel="score at the end", ylim=(-0.05, 1.12))
    bottom.set(xscale="log", xlabel=label, ylabel="on-policy − offline, score")
    bottom.axhspan(-OVERLAP["rloo"].margin, OVERLAP["rloo"].margin, color="0.5", alpha=0.12, linewidth=0)
    bottom.set_ylim(top=1.15 * bottom.get_ylim()[1])
    bottom.text(
        0.98,
        0.97,
        "single points, of another reference:\nR1 filled, R2 hollow",
        transform=bottom.transAxes,
        fontsize=8.5,
        ha="right",
        va="top",
    )
    for panel in (top, bottom):
        panel.invert_xaxis()


def verdicts(records: Records) -> list[Verdict]:
    """For each algorithm: the interaction on R1 against R2 and along the overlap axis; and that nothing is gained where
    the optimum is likely."""
    rows = []
    for name in ALGORITHMS:
        rows += [
            interaction_row(
                R1_R2[name], records, "R1", "R2", name, FIGURE.name,
                "R1's optimum is unlikely, not absent: 4.6 % of the reference's mass lies within ±10 of it.",
            ),
            interaction_row(
                OVERLAP[name], records, f"{UNLIKELY:g}", f"{LIKELY:g}", name, FIGURE.name,
                "At smaller overlaps no arm gets off the floor; a network, which generalises, may differ.",
            ),
            _otherwise(OTHERWISE[name], records, name),
        ]  # fmt: skip
    return rows


def _otherwise(tested: Claim, records: Records, name: str) -> Verdict:
    used = arms_of(records, ("R2",), name)
    on, off = used.values()
    effect = effect_of([part(1.0, on), part(-1.0, off)])
    other = "rwr" if name == "best_of_n" else "best_of_n"
    could = positive_control(mean_interval(gain(records, "R2", other)), tested.margin)
    control = replace(could, why=f"{other} in the same setting: {could.why}")
    hashes = [record.hash for record in used.values()]
    gates = [control, *tuned_well(tested.margin, *used.values()), likelihood({"in": on})]
    note = "At the end of the run; where an arm is slower on the way there, its curve shows it."
    return row_of(tested, "bandit", effect, FIGURE.name, hashes, note, gates)


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    record = records["R1/dpo/on"]
    runs, samples = len(record.arrays["reward"]), int(record.arrays["samples"][-1])
    return (
        f"1-D bandit, 100 actions, table policy, {runs} runs per arm, {samples:,} samples per run, 16 × 4 per update, "
        "noiseless labels. Mean and 95 % band over runs. Each arm was tuned on other seeds, over "
        f"{TRIED} and, where it has one, β, listed below; "
        f"{at_the_edge(records)} Offline: fresh draws from the reference for ever, so that both kinds draw equally "
        "many samples."
    )


FIGURE = Figure(
    name="online_offline",
    title="When does on-policy sampling matter?",
    tags=("bandit", "online-offline"),
    claims=("C25",),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
)
