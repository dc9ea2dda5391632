"""Are smaller, fresher batches better (C26), and is freshness needed where the optimum is likely (C31)? The 1-D bandit,
at a fixed number of samples, drawn in batches of 16 … 1,024, or all by the initial policy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.lines import Line2D

from figures.arms.gating import (
    NOTHING_TO_LEARN,
    Part,
    agree,
    effect_of,
    last_with_room,
    likelihood,
    lowest_score,
    mean_of,
    part,
    sides,
    tuned_for,
    tuned_well,
)
from figures.arms.sweeps import (
    SAMPLES_AN_UPDATE,
    TRIED,
    TUNING,
    batch_schedule,
    best_arm,
    crossfit_best,
    equal_grid,
    exact_score,
    tables,
)
from figures.catalogue import Claim, claim
from figures.claims import Verdict, row_of
from figures.figure import Figure, Records
from figures.lab import Lab
from figures.report.style import OFFLINE, ONLINE, RC, bound, colour, curve, key, points
from sims import exact
from sims.core.algorithms import find_algorithm
from sims.environments import BanditR1, BanditR2
from sims.experiments.experiment import Experiment
from sims.experiments.measures import final_scores, scores
from sims.experiments.store import Record
from sims.policies import MLP, Table
from sims.statistics.gates import Gate, placebo, positive_control

ALGORITHMS = ("rloo", "ppo", "best_of_n", "rwr", "dpo", "ipo")
ON_THE_NETWORK = ("rloo", "best_of_n", "dpo")
LIKELY_NETWORK = "network R2"  # apart from the others, with which it is not tuned
OFFLINE_ONLY = "pref_ft"
SUPERVISED = ("best_of_n", "rwr", OFFLINE_ONLY)
BATCHES = (16.0, 64.0, 256.0, 1024.0, math.inf)
FRESH, STALE = BATCHES[0], BATCHES[-2]
BUDGETS = {"short": 2048, "long": 8192}
NETWORK_RATES = (0.001, 3.0)
RUNS, SEED = 50, 40
ENOUGH = 100  # runs on R1 where B is tested: as many as are asked for where some are at a bound
NEEDED = 200  # runs on R2 where a claim of no loss is tested: nearly all arms are at the largest reward

SHORT, LONG = claim("C26", "R1, 2,048 samples"), claim("C26", "R1, 8,192 samples")
NETWORK = claim("C26", "R1, 2,048 samples, network")
SUFFICES = {"short": claim("C31", "R2, 2,048 samples"), "long": claim("C31", "R2, 8,192 samples")}
LIKELIHOOD = claim("C31", "R2, 8,192 samples, supervised alone")
SUFFICES_NETWORK = claim("C31", "R2, 2,048 samples, network")


def arms(batches: tuple[float, ...] = BATCHES) -> dict[str, Experiment]:
    """environment/budget/algorithm/samples per batch; the networks for the short budget alone."""
    found = {}
    for environment in ("R1", "R2", "network", LIKELY_NETWORK):
        likely, network = environment.endswith("R2"), environment.startswith("network")
        for budget, samples in BUDGETS.items():
            if network and budget == "long":
                continue
            for algorithm in (*(ON_THE_NETWORK if network else ALGORITHMS), OFFLINE_ONLY):
                if environment == "network" and algorithm == OFFLINE_ONLY:
                    continue
                for batch in batches:
                    if algorithm == OFFLINE_ONLY and not math.isinf(batch):
                        continue
                    found[f"{environment}/{budget}/{algorithm}/{batch:g}"] = Experiment(
                        name=f"batch_size-{algorithm}",
                        environment=(BanditR2 if likely else BanditR1)(num_prompts=4 if network and likely else 1),
                        policy=MLP(hidden=(32,)) if network else Table(),
                        algorithm=find_algorithm(algorithm)(),
                        schedule=batch_schedule(batch),
                        updates=samples // SAMPLES_AN_UPDATE,
                        evaluations=16,
                        runs=RUNS,
                        seed=SEED,
                    )
    return found


def collect(lab: Lab) -> Records:
    """Every cell tuned for itself: a stale batch may want another learning rate, and a longer run too."""
    chosen = arms((FRESH, STALE, math.inf)) if lab.quick else arms()
    found: dict[str, Record] = {}
    for apart, ends in ((False, ()), (True, NETWORK_RATES)):
        group = {name: arm for name, arm in chosen.items() if name.startswith(LIKELY_NETWORK) == apart}
        grids = {name: equal_grid(arm, *ends) for name, arm in group.items()}
        found |= lab.tuned_records(group, grids, **TUNING, runs=_more_runs(group))
    return found


def _more_runs(names: Iterable[str]) -> dict[str, int]:
    """Of the arms that are tested: on R2 the freshest and those offline, elsewhere the freshest and the stalest."""
    found = {}
    for name in names:
        likely, batch = "R2" in name, name.split("/")[-1]
        if batch in (f"{FRESH:g}", "inf" if likely else f"{STALE:g}"):
            found[name] = NEEDED if likely else ENOUGH
    return found


TITLES = {
    "R1": "R1: optimum unlikely",
    "network": "R1, a network",
    "R2": "R2: optimum likely",
    LIKELY_NETWORK: "R2, a network, 4 prompts",
}


PLACES = {
    ("R1", "short"): (0, 0), ("R1", "long"): (0, 1),
    ("R2", "short"): (1, 0), ("R2", "long"): (1, 1),
    ("network", "short"): (2, 0), (LIKELY_NETWORK, "short"): (2, 1),
}  # fmt: skip


def draw(records: Records) -> MatplotlibFigure:
    """Final score against the batch's size, a row a budget; and two learning curves of each arm on R1."""
    with plt.rc_context(RC):
        fig, axes = plt.subplots(3, 3, figsize=(13.5, 10.4), layout="constrained")
        for (environment, budget), place in PLACES.items():
            _against_batch(axes[place], records, environment, budget)
            axes[place].set_title(f"{TITLES[environment]} · {BUDGETS[budget]:,} samples")
        _learning(axes[0, 2], records)
        for row in (1, 2):
            axes[row, 2].set_axis_off()
        axes[1, 2].legend(handles=_handles(), loc="center", fontsize=10)
    return fig


def _handles() -> list[Line2D]:
    lines = [key(name) for name in ALGORITHMS]
    supervised = key(OFFLINE_ONLY, f"{OFFLINE_ONLY} (offline)", linestyle="")
    styles = ((ONLINE, "16 samples per batch"), (OFFLINE, "1,024 samples per batch (the way there)"))
    return [*lines, supervised, *(Line2D([], [], color="0.3", linestyle=s, label=label) for s, label in styles)]


def _against_batch(axes: Axes, records: Records, environment: str, budget: str) -> None:
    batches = [b for b in BATCHES if f"R1/short/dpo/{b:g}" in records]
    x = np.arange(len(batches), dtype=float)
    shown = ON_THE_NETWORK if environment.startswith("network") else ALGORITHMS
    for i, algorithm in enumerate(shown):
        final = [final_scores(records[f"{environment}/{budget}/{algorithm}/{b:g}"]) for b in batches]
        at = x + 0.05 * (i - (len(shown) - 1) / 2)  # side by side, where they would cover one another
        mean = points(axes, at, final, algorithm)
        axes.plot(at[:-1], mean[:-1], color=colour(algorithm), linewidth=1.6)
        axes.plot(at[-2:], mean[-2:], ":", color=colour(algorithm), linewidth=1.2)
    if environment != "network":
        supervised = records[f"{environment}/{budget}/{OFFLINE_ONLY}/inf"]
        points(axes, x[-1:] + 0.25, [final_scores(supervised)], OFFLINE_ONLY)
        for n in (2, 4):
            exactly = best_of_reference(supervised, n)
            axes.plot(x[-1] + np.array([-0.2, 0.4]), [exactly] * 2, color="k", linewidth=1)
            axes.text(x[-1] - 0.24, exactly, f"best of {n}", ha="right", va="center", fontsize=8)
    bound(axes, 1.0, "largest reward")
    labels = [f"{b:,.0f}" if math.isfinite(b) else "offline\n(∞)" for b in batches]
    axes.set_xticks(x, labels)
    axes.set(xlabel="samples drawn by one policy (B)", ylabel="score at the end", ylim=(-0.05, 1.12))


def best_of_reference(record: Record, n: int) -> float:
    """Score of the best of n responses of the reference, exactly, the mean over runs."""
    logp_ref, rewards = tables(record)
    with np.errstate(divide="ignore"):
        return exact_score(record, np.log(exact.best_of_n(logp_ref, rewards, n)))


def _learning(axes: Axes, records: Records) -> None:
    for algorithm in ALGORITHMS:
        for batch, line in ((FRESH, ONLINE), (STALE, OFFLINE)):
            record = records[f"R1/long/{algorithm}/{batch:g}"]
            curve(axes, record.arrays["samples"] / 1000, scores(record), algorithm, line)
    bound(axes, 1.0, "largest reward")
    axes.set(xlabel="samples drawn (thousands)", ylabel="score", ylim=(-0.05, 1.12))
    axes.set_title("R1, the way there · B = 16 and 1,024")


def verdicts(records: Records) -> list[Verdict]:
    """C26 at both budgets on R1, and on the network; C31 on R2."""
    rows = []
    for tested, environment, budget, names, note in (
        (
            SHORT,
            "R1",
            "short",
            ALGORITHMS,
            "At this budget B = 1,024 is two batches: it shows speed, not where one ends.",
        ),
        (
            LONG,
            "R1",
            "long",
            ALGORITHMS,
            "At the end of this budget nearly all arms are at the largest reward, whatever their batch.",
        ),
        (NETWORK, "network", "short", ON_THE_NETWORK, "One small network on one prompt, and three of the algorithms."),
    ):
        fresh, stale = ([records[f"{environment}/{budget}/{name}/{b:g}"] for name in names] for b in (FRESH, STALE))
        at, room = last_with_room([sides(fresh, stale)], tested.margin)
        each = {n: [part(1.0, x, at), part(-1.0, y, at)] for n, x, y in zip(names, fresh, stale, strict=True)}
        gates = [room, tuned_for(at, *fresh, *stale), *tuned_well(tested.margin, *fresh, *stale), agree(each)]
        gates.append(placebo(None, tested.margin, NOTHING_TO_LEARN))
        effect = effect_of([*mean_of(1.0, fresh, at), *mean_of(-1.0, stale, at)])
        setting: Literal["bandit", "mlp"] = "mlp" if environment == "network" else "bandit"
        alone = ", ".join(f"{name} {effect_of(parts).estimate:+.2f}" for name, parts in each.items())
        after = f"{fresh[0].arrays['updates'][at] * SAMPLES_AN_UPDATE:,}"
        said = f"Tested after {after} samples. Each by itself: {alone}. {note}"
        hashes = [record.hash for record in (*fresh, *stale)]
        rows.append(row_of(tested, setting, effect, FIGURE.name, hashes, said, gates))
    for budget, tested in SUFFICES.items():
        rows.append(_suffices(records, tested, f"R2/{budget}", ALGORITHMS, (*ALGORITHMS, OFFLINE_ONLY)))
    rows.append(_suffices(records, LIKELIHOOD, "R2/long", ALGORITHMS, SUPERVISED))
    where, offline = f"{LIKELY_NETWORK}/short", (*ON_THE_NETWORK, OFFLINE_ONLY)
    return [*rows, _suffices(records, SUFFICES_NETWORK, where, ON_THE_NETWORK, offline, "mlp")]


def _suffices(
    records: Records,
    tested: Claim,
    where: str,
    fresh: tuple[str, ...],
    offline: tuple[str, ...],
    setting: Literal["bandit", "mlp"] = "bandit",
) -> Verdict:
    online = {name: records[f"{where}/{name}/{FRESH:g}"] for name in fresh}
    stale = {name: records[f"{where}/{name}/inf"] for name in offline}
    groups = [{name: final_scores(record) for name, record in group.items()} for group in (online, stale)]
    first, second = (best_arm(group) for group in groups)
    low = lowest_score([*online.values(), *stale.values()])
    lost = effect_of([Part(t, _best(group), low) for t, group in zip((1.0, -1.0), groups, strict=True)])
    gates = [
        _control(records[f"{where}/{OFFLINE_ONLY}/inf"], online[first], tested.margin),
        *tuned_well(tested.margin, online[first], stale[second]),
        likelihood({"in": stale[second]}),
    ]
    note = (
        f"In the mean of all runs the best of its kind is {first} on-policy, and {second} offline. "
        "Offline means fresh responses of the reference for ever: a fixed pool may run dry."
    )
    if second == "best_of_n" and setting == "bandit":
        drawn = int(stale[second].spec["schedule"]["num_generations"])
        ends = best_of_reference(records[f"{where}/{OFFLINE_ONLY}/inf"], drawn)
        note += (
            f" However long it trains, Best-of-N offline ends at the best of {drawn} draws of the reference, here "
            f"{ends:.2f}: a known number, which more draws per prompt would raise."
        )
    hashes = [record.hash for record in (*online.values(), *stale.values())]
    return row_of(tested, setting, lost, FIGURE.name, hashes, note, gates)


def _control(loses: Record, best: Record, margin: float) -> Gate:
    """An arm in the same setting that does lose: preference fine-tuning offline, which can learn the preferred of two
    responses and no more."""
    runs = min(len(record.arrays["gold"]) for record in (best, loses))
    found = positive_control(
        effect_of([part(1.0, best, runs=runs), part(-1.0, loses, runs=runs)]), margin, only_above=True
    )
    return replace(found, why=f"{OFFLINE_ONLY} offline against the best on-policy arm: {found.why}")


def _best(arms: Mapping[str, np.ndarray]) -> np.ndarray:
    return crossfit_best(np.stack(list(arms.values())).astype(float))


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    runs = len(records["R1/long/dpo/inf"].arrays["reward"])
    return (
        f"1-D bandit, 100 actions, {runs} runs per arm, {ENOUGH} of those of R1 that are tested, {NEEDED} of R2's, "
        "mean and 95 % interval or band. All arms of a panel draw "
        "equally many samples, 4 per prompt, and take one step on every 16: a batch of B "
        "samples is drawn by one policy and used once, so that at its end it is B/16 − 1 updates old. Offline: all by "
        "the reference. Table policy, or a network with one hidden layer of 32. Noiseless labels. "
        "Black ticks, exact: the best of 4 and of 2 responses of the reference, which is all that imitating the best "
        "of 4, or the preferred of 2, can learn offline. "
        f"Every cell was tuned for itself on other seeds, over {TRIED}, on R2's network {NETWORK_RATES[0]:g} … "
        f"{NETWORK_RATES[1]:g}, and β or, "
        "where it does anything, clip range, because a stale batch wants smaller steps than a fresh one; listed below."
    )


FIGURE = Figure(
    name="batch_size",
    title="Are smaller, fresher batches better?",
    tags=("bandit", "mlp", "sweep", "online-offline"),
    claims=("C26", "C31"),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
)
