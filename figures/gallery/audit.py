"""The audit: the released token bandit scores tokens off by one and gives its arms learning rates 333 × apart. What is
left of "contrastive ≫ Best-of-N" when neither is so? (C27; and C25 in the token setting)"""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.lines import Line2D
from matplotlib.typing import HashableList

from figures.arms.audit_scoring import ShiftedScoringTransformer
from figures.arms.gating import (
    NOTHING_TO_LEARN,
    effect_of,
    last_with_room,
    lowest_score,
    of_differences,
    part,
    sides,
    tuned_for,
    tuned_well,
)
from figures.catalogue import claim
from figures.claims import Verdict, row_of
from figures.figure import Figure, Records
from figures.lab import Lab, Point, product
from figures.report.style import OFFLINE, ONLINE, RC, bound, curve, key
from sims.core.algorithms import Algorithm, find_algorithm
from sims.core.loop.optimise import Optimiser
from sims.core.schedule import Schedule
from sims.environments import TokenBanditR1, TokenBanditR2
from sims.experiments.experiment import Experiment
from sims.experiments.measures import best_reward, scores
from sims.policies import Transformer
from sims.statistics.gates import geometry, placebo, room
from sims.statistics.intervals import paired_effect

ALGORITHMS: dict[str, Algorithm] = {
    "best_of_n": find_algorithm("best_of_n")(),
    # The released (h − β)² with β = 10 aims at the margin 10 = 1/(2·0.05), over all 45 pairs of a prompt.
    "ipo": find_algorithm("ipo")().replace(beta=0.05, pairing="all"),
}
RELEASED_RATES = {"best_of_n": 3e-5, "ipo": 1e-2}
RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)  # the released code's own list
ENVIRONMENTS = {
    "R1": TokenBanditR1(reward_prompt=True, evaluation_samples=64),
    "R2": TokenBanditR2(reward_prompt=True, evaluation_samples=64),
}
POLICIES = {"released": ShiftedScoringTransformer(), "right": Transformer()}
CONDITIONS = {
    "a": ("released", "released"),
    "b": ("released", "tuned"),
    "c": ("right", "released"),
    "d": ("right", "tuned"),
}
UPDATES, RUNS, TUNING_RUNS = 100, 20, 5

GAPS = {
    (environment, condition): claim("audit", f"{environment}, {scoring} scoring, {rates} learning rates")
    if condition != "d"
    else claim("C27", f"token bandit, {environment}")
    for environment in ENVIRONMENTS
    for condition, (scoring, rates) in CONDITIONS.items()
}
INTERACTION = {name: claim("C25", f"token bandit, {name}: R1 against R2") for name in ALGORITHMS}


def arm(environment: str, scoring: str, algorithm: str, online: bool = True) -> Experiment:
    """Five prompts × ten responses, gone through ten times, as in the released scripts but for ten prompts there."""
    return Experiment(
        name=f"audit-{algorithm}",
        environment=ENVIRONMENTS[environment],
        policy=POLICIES[scoring],
        algorithm=ALGORITHMS[algorithm],
        schedule=Schedule(batch_size=5, num_generations=10, epochs=10, sync_every_updates=None if online else math.inf),
        optimiser=Optimiser(learning_rate=RELEASED_RATES[algorithm]),
        updates=UPDATES,
        runs=RUNS,
    )


def collect(lab: Lab) -> Records:
    """The released learning rates as they are; else each arm's is the best of the same eight, on other seeds."""
    released: dict[str, Experiment] = {}
    tuned: dict[str, Experiment] = {}
    for environment in ENVIRONMENTS:
        for condition, (scoring, rates) in CONDITIONS.items():
            for algorithm in ALGORITHMS:
                arms = tuned if rates == "tuned" else released
                arms[f"{environment}/{condition}/{algorithm}"] = arm(environment, scoring, algorithm)
        for algorithm in ALGORITHMS:
            tuned[f"{environment}/offline/{algorithm}"] = arm(environment, "right", algorithm, online=False)
    grid: list[Point] = product(learning_rate=RATES)
    return lab.records(released) | lab.tuned_records(tuned, dict.fromkeys(tuned, grid), TUNING_RUNS)


def speed(records: Records, environment: str, condition: str, algorithm: str) -> np.ndarray:
    """(runs,) the score averaged over the gradient steps, the start left out."""
    return scores(records[f"{environment}/{condition}/{algorithm}"])[:, 1:].mean(-1)


def gap(records: Records, environment: str, condition: str) -> tuple[np.ndarray, np.ndarray]:
    """What a verdict compares: the speeds of IPO and of Best-of-N, (runs,) each."""
    return speed(records, environment, condition, "ipo"), speed(records, environment, condition, "best_of_n")


def draw(records: Records) -> MatplotlibFigure:
    """Reward against gradient steps in the four conditions, R1 above R2; and the gap that each condition leaves."""
    mosaic: list[HashableList[str]] = [
        [*(f"{environment}/{condition}" for condition in CONDITIONS), "gap"] for environment in ENVIRONMENTS
    ]
    with plt.rc_context(RC):
        fig, axes = plt.subplot_mosaic(
            mosaic, figsize=(13.5, 6.6), layout="constrained", width_ratios=[1, 1, 1, 1, 1.25]
        )
        for environment in ENVIRONMENTS:
            for condition in CONDITIONS:
                _curves(axes[f"{environment}/{condition}"], records, environment, condition)
        _gaps(axes["gap"], records)
        lines = [key(name) for name in ALGORITHMS]
        lines += [
            Line2D([], [], color="0.3", linestyle=style, label=label)
            for style, label in ((ONLINE, "on-policy"), (OFFLINE, "offline: fresh draws from the reference (d alone)"))
        ]
        fig.legend(handles=lines, loc="outside lower center", ncols=4, fontsize=9.5)
    return fig


def _curves(axes: Axes, records: Records, environment: str, condition: str) -> None:
    scoring, rates = CONDITIONS[condition]
    notes = []
    for algorithm in ALGORITHMS:
        record = records[f"{environment}/{condition}/{algorithm}"]
        curve(axes, record.arrays["updates"], record.arrays["gold"], algorithm, ONLINE)
        notes.append(f"{algorithm}: lr {record.spec['optimiser']['learning_rate']:g}")
        if condition == "d":
            offline = records[f"{environment}/offline/{algorithm}"]
            curve(axes, offline.arrays["updates"], offline.arrays["gold"], algorithm, OFFLINE)
    bound(axes, best_reward(record), f"largest reward {best_reward(record):.3f}")
    place = (0.38, 0.42) if environment == "R1" else (0.03, 0.16)  # where no curve passes
    axes.text(*place, "\n".join(notes), transform=axes.transAxes, fontsize=8, va="top")
    axes.set(ylim=(0, 1.02), xlim=(0, record.arrays["updates"][-1]))
    if environment == "R1":
        axes.set_title(f"{condition}: {scoring} scoring,\n{rates} learning rates")
    else:
        axes.set_xlabel("gradient steps")
    if condition == "a":
        axes.set_ylabel(f"{environment}: reward")
    else:
        axes.tick_params(labelleft=False)


def _gaps(axes: Axes, records: Records) -> None:
    for environment, shift, marker in (("R1", -0.12, "o"), ("R2", 0.12, "s")):
        found = [paired_effect(*gap(records, environment, condition)) for condition in CONDITIONS]
        at = np.arange(len(found)) + shift
        middle = np.array([effect.estimate for effect in found])
        error = np.array([(e.estimate - e.low, e.high - e.estimate) for e in found]).T
        axes.errorbar(at, middle, error, fmt=marker, ms=6, capsize=3, color="0.2", mfc="0.2" if marker == "o" else "w")
        for x, y in zip(at, middle, strict=True):
            axes.annotate(f"{y:+.2f}", (x, y), (7, 4), textcoords="offset points", fontsize=8)
    axes.axhspan(-0.05, 0.05, color="0.5", alpha=0.12, linewidth=0)
    axes.axhline(0, color="0.4", linewidth=0.8)
    labels = [f"{condition}\n{scoring}\nscoring,\n{rates} lr" for condition, (scoring, rates) in CONDITIONS.items()]
    axes.set_xticks(np.arange(len(labels)), labels, fontsize=8.5)
    axes.set(xlim=(-0.5, 3.75), ylabel="IPO − Best-of-N, score averaged over 100 steps")
    axes.set_title("What is left of the gap\n(● R1, □ R2; grey: within the margin)")


def verdicts(records: Records) -> list[Verdict]:
    """The gap in each condition, and whether it takes an unlikely optimum for on-policy sampling to matter."""
    notes = {
        "a": "Two bugs are compared: the scoring is off by one, and the learning rates were chosen apart. The released "
        "run goes on for 1,000 steps, which would help its slow arm.",
        "b": "Each arm makes the best of a wrong score: which loss survives the bug is not which learns faster.",
        "c": "The learning rates were chosen for another score, 333 × apart; tuned alike is the fair comparison.",
        "d": "One network, one batch size, the released β for IPO; eight learning rates chosen by the final score of "
        "five tuning runs, and IPO's runs on R1 differ much from seed to seed. Another β might serve it better.",
    }
    rows = []
    for (environment, condition), tested in GAPS.items():
        used = [records[f"{environment}/{condition}/{algorithm}"].hash for algorithm in ALGORITHMS]
        effect = paired_effect(*gap(records, environment, condition))
        arms = [records[f"{environment}/{condition}/{algorithm}"] for algorithm in ALGORITHMS]
        gates = [room(*gap(records, environment, condition), lowest_score(arms), 1.0, tested.margin)]
        gates += [
            tuned_for(None, *arms),
            *tuned_well(tested.margin, *arms),
            placebo(None, tested.margin, NOTHING_TO_LEARN),
        ]
        rows.append(row_of(tested, "token", effect, FIGURE.name, used, notes[condition], gates))
    note = "R1's optimum is unlikely, not absent. Ten passes over a batch make on-policy arms up to nine updates stale."
    for name, tested in INTERACTION.items():
        arms = [records[f"{environment}/{c}/{name}"] for environment in ENVIRONMENTS for c in ("d", "offline")]
        at, gate = last_with_room([sides(arms[:1], arms[1:2]), sides(arms[2:3], arms[3:])], tested.margin)
        effect = effect_of([part(times, r, at) for times, r in zip((1.0, -1.0, -1.0, 1.0), arms, strict=True)])
        said = f"Tested after {arms[0].arrays['updates'][at]} updates, the last evaluation with room. {note}"
        masses = {environment: overlap(environment) for environment in ENVIRONMENTS}
        gates = [
            gate,
            tuned_for(at, *arms),
            *tuned_well(tested.margin, *arms),
            *of_differences(tested, arms, at),
            geometry(masses, {"R1": "out", "R2": "in"}),
            placebo(None, tested.margin, NOTHING_TO_LEARN),
        ]
        rows.append(row_of(tested, "token", effect, FIGURE.name, [r.hash for r in arms], said, gates))
    return rows


def overlap(environment: str) -> float:
    """The data policy's probability that a token lies within the peak's width."""
    bandit = ENVIRONMENTS[environment]
    near = np.abs(np.arange(bandit.vocabulary) - bandit.peak) <= bandit.width
    return float(bandit.data_policy()[near].sum())


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    record = records["R1/d/ipo"]
    runs, updates = len(record.arrays["gold"]), int(record.arrays["updates"][-1])
    return (
        f"Token bandit: 100 tokens, 9 per response, the prompt's token counted in the reward as the paper does; "
        f"transformer of 95,000 parameters; {runs} runs per arm, {updates} gradient steps, 5 prompts × 10 responses "
        "per collection, 10 passes over it. Reward of 64 fresh samples per run, mean and 95 % band. (a) scores tokens "
        "off by one and takes the scripts' learning rates, as the released code does; (b) and (d) take each arm's best "
        "of eight rates on other seeds, listed below. The released runs keep ten prompts; here they are drawn afresh."
    )


FIGURE = Figure(
    name="audit",
    title="The audit: what is left of “contrastive ≫ Best-of-N” in the released token bandit",
    tags=("token", "audit"),
    claims=("audit", "C25", "C27"),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
)
