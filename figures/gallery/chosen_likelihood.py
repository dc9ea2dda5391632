"""Does the likelihood of chosen responses fall while the margin grows? (C22) Against the number of prompts and the
capacity, on a fixed pool of pairs; and where the mass goes instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.lines import Line2D

from figures.catalogue import Setting, claim
from figures.claims import Verdict, row_of
from figures.figure import Figure, Records
from figures.lab import Lab
from figures.report.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, RC, VERMILION, LineStyle
from sims.core.algorithms import find_algorithm
from sims.core.loop.optimise import Optimiser
from sims.core.loop.protocols import PolicySpec
from sims.core.schedule import Schedule
from sims.environments import BanditR1
from sims.experiments.experiment import Experiment
from sims.policies import MLP, Table
from sims.statistics.gates import Gate, estimand, placebo
from sims.statistics.intervals import band, mean_interval


class Capacity(NamedTuple):
    """One kind of policy, with the learning rate at which margins grow to some nats within the updates."""

    label: str
    policy: PolicySpec
    learning_rate: float
    colour: str
    marker: str


CAPACITIES = {
    "table": Capacity("table: nothing shared", Table(), 0.1, BLUE, "o"),
    "wide": Capacity("network, width 64", MLP(hidden=(64, 64), features="uniform"), 0.002, VERMILION, "s"),
    "narrow": Capacity("network, width 8", MLP(hidden=(8, 8), features="uniform"), 0.004, PURPLE, "v"),
}
ALGORITHMS = ("dpo", "ipo")
PROMPTS = (1, 3, 10, 30, 100)
FEW, MANY = PROMPTS[0], PROMPTS[-1]
SHADES = {1: (GREEN, "^"), 10: (ORANGE, "X"), 100: (BLACK, "D")}  # hues that no capacity has
PAIRS_A_PROMPT, UPDATES, RUNS = 4, 150, 50
# A table whose pairs share nothing splits a margin evenly between chosen and rejected: the chosen rise by arithmetic.
# With so many pairs per prompt, what one pair chooses another rejects.
DENSE, DENSE_PROMPTS, DENSE_RATE = 64, 10, 0.3
MARGIN = 2.0  # nats that the mean margin has grown by where arms are drawn beside one another
NATS = {"first": 1, "second": 2, "third": 3}  # of growth of the margin
REACHED = 0.9  # share of an arm's runs whose margin must grow as far

CLAIMS = {
    ("dense", DENSE_PROMPTS, "third"): claim("C22", f"table, {DENSE} pairs per prompt, third nat"),
    ("wide", FEW, "third"): claim("C22", f"network, {FEW} prompt, third nat"),
} | {("wide", MANY, nat): claim("C22", f"network, {MANY} prompts, {nat} nat") for nat in NATS}
FEW_MANY = claim("C22", "network, many against few, third nat")
MECHANISM = "a claim about a mechanism: where likelihood goes while the margin grows"


def arms() -> dict[str, Experiment]:
    """Every capacity, number of prompts and loss, and the table with many pairs per prompt; the whole pool in each
    update."""
    found = {
        f"{name}/{prompts}/{algorithm}": experiment(
            algorithm, prompts, PAIRS_A_PROMPT, capacity.policy, capacity.learning_rate
        )
        for name, capacity in CAPACITIES.items()
        for prompts in PROMPTS
        for algorithm in ALGORITHMS
    }
    dense = {
        f"dense/{DENSE_PROMPTS}/{algorithm}": experiment(algorithm, DENSE_PROMPTS, DENSE, Table(), DENSE_RATE)
        for algorithm in ALGORITHMS
    }
    return found | dense


def experiment(algorithm: str, prompts: int, pairs: int, policy: PolicySpec, learning_rate: float) -> Experiment:
    """One arm. pairs: a prompt, on average."""
    pool = pairs * prompts
    return Experiment(
        name=f"chosen_likelihood-{algorithm}",
        environment=BanditR1(num_prompts=prompts),
        policy=policy,
        algorithm=find_algorithm(algorithm)().replace(beta=0.1),
        schedule=Schedule(batch_size=pool, num_generations=2, source="pool", pool_size=pool),
        optimiser=Optimiser(learning_rate=learning_rate),
        updates=UPDATES,
        evaluations=50,
        runs=RUNS,
    )


def collect(lab: Lab) -> Records:
    """The runs."""
    return lab.records(arms())


class Path(NamedTuple):
    """Changes since the reference, (runs, points) each, in nats; 0 at the first point."""

    chosen: np.ndarray
    rejected: np.ndarray

    @property
    def margin(self) -> np.ndarray:
        return self.chosen - self.rejected


def path(records: Records, name: str, prompts: int, algorithm: str) -> Path:
    """How far the mean log-probs of chosen and rejected have moved at each point."""
    arrays = records[f"{name}/{prompts}/{algorithm}"].arrays
    chosen, rejected = (arrays[f"pool_logp_{side}"] for side in ("chosen", "rejected"))
    return Path(chosen - chosen[:, :1], rejected - rejected[:, :1])


def at_margin(found: Path, margin: float = MARGIN) -> np.ndarray:
    """(runs,): change of log π(chosen) where the margin first grows beyond `margin`, linear between points.

    A run that never gets there counts with where it ends: its change would have gone on.
    """
    grown, chosen = found.margin, found.chosen
    after = np.where((grown >= margin).any(-1), (grown >= margin).argmax(-1), grown.shape[-1] - 1)
    rows = np.arange(len(grown))
    low, high = grown[rows, after - 1], grown[rows, after]
    share = np.clip((margin - low) / np.where(high > low, high - low, 1.0), 0.0, 1.0)
    return chosen[rows, after - 1] + share * (chosen[rows, after] - chosen[rows, after - 1])


def in_nat(found: Path, nat: str) -> np.ndarray:
    """(runs,): change of log π(chosen) while the margin grows through its first, second or third nat."""
    to = NATS[nat]
    return at_margin(found, to) - (at_margin(found, to - 1) if to > 1 else 0.0)


def draw(records: Records) -> MatplotlibFigure:
    """One row per loss: paths of chosen against margin, their height at one margin, and the mass outside the pairs."""
    with plt.rc_context(RC):
        fig, axes = plt.subplots(
            2, 3, figsize=(13.5, 7.8), layout="constrained", gridspec_kw={"width_ratios": (1.15, 1, 1)}
        )
        for row, algorithm in enumerate(ALGORITHMS):
            _paths(axes[row, 0], records, algorithm)
            _against_prompts(axes[row, 1], axes[row, 2], records, algorithm)
            axes[row, 0].set_ylabel(f"{algorithm.upper()}: change of log π(chosen), nats")
        axes[0, 0].set_title("As the margin grows")
        axes[0, 1].set_title(f"When the margin has grown by {MARGIN:g} nats")
        axes[0, 2].set_title("Where the mass goes: responses in no pair")
        axes[0, 0].legend(handles=_path_handles(), fontsize=8.5, loc="upper left")
        lines = [Line2D([], [], color=c.colour, marker=c.marker, ms=5, label=c.label) for c in CAPACITIES.values()]
        lines.append(Line2D([], [], color="0.3", linestyle=":", label="the reference"))
        axes[0, 2].legend(handles=lines, fontsize=8.5, loc="best")
    return fig


def _path_handles() -> list[Line2D]:
    shades = [
        Line2D([], [], color=shade, marker=mark, ms=5, label=f"{prompts} prompt{'s' * (prompts > 1)}")
        for prompts, (shade, mark) in SHADES.items()
    ]
    kinds: tuple[tuple[LineStyle, str], ...] = (
        ("-", "network, width 64"),
        ("--", "table"),
        (":", f"table, {DENSE} pairs per prompt"),
    )
    return shades + [Line2D([], [], color="0.3", linestyle=line, label=label) for line, label in kinds]


def _paths(panel: Axes, records: Records, algorithm: str) -> None:
    """Mean over runs of log π(chosen) at each margin that all runs reach."""
    lines: tuple[tuple[str, LineStyle], ...] = (("wide", "-"), ("table", "--"), ("dense", ":"))
    for name, line in lines:
        for prompts, (shade, mark) in SHADES.items():
            if name == "dense" and prompts != DENSE_PROMPTS:
                continue
            found = path(records, name, prompts, algorithm)
            margins = np.linspace(0.0, 4.5, 19)[1:]
            reached = np.array([m for m in margins if (found.margin.max(-1) >= m).mean() >= 0.9])
            if len(reached) == 0:
                continue
            heights = np.stack([at_margin(found, m) for m in reached], axis=-1)
            mean, low, high = band(np.concatenate([np.zeros((len(heights), 1)), heights], axis=-1), resamples=None)
            x = np.concatenate([[0.0], reached])
            panel.plot(x, mean, line, color=shade, linewidth=1.8, marker=mark, markevery=4, ms=5)
            panel.fill_between(x, low, high, color=shade, alpha=0.15, linewidth=0)
    panel.axhline(0, color="0.3", linewidth=0.8)
    for nats in NATS.values():  # between these the rows are tested
        panel.axvline(nats, color="0.5", linewidth=0.8, linestyle=":")
    panel.set(xlabel="growth of the margin, log π(chosen) − log π(rejected), nats", xlim=(0, 4.6))


def _against_prompts(height: Axes, mass: Axes, records: Records, algorithm: str) -> None:
    x = np.array(PROMPTS)
    for name, capacity in CAPACITIES.items():
        values = [at_margin(path(records, name, prompts, algorithm)) for prompts in PROMPTS]
        mean, low, high = band(np.stack(values, axis=-1), resamples=None)
        height.plot(x, mean, color=capacity.colour, marker=capacity.marker, ms=5)
        height.fill_between(x, low, high, color=capacity.colour, alpha=0.15, linewidth=0)
        for end, line in (("final", "-"), ("ref", ":")):
            parts = [records[f"{name}/{p}/{algorithm}"].arrays[f"unpaired_mass_{end}"] for p in PROMPTS]
            mean, low, high = band(np.stack(parts, axis=-1), resamples=None)
            mass.plot(x, mean, line, color=capacity.colour, marker=capacity.marker if line == "-" else "", ms=5)
            mass.fill_between(x, low, high, color=capacity.colour, alpha=0.15, linewidth=0)
    height.axhline(0, color="0.3", linewidth=0.8)
    for panel in (height, mass):
        panel.set(xscale="log", xlabel=f"prompts, with {PAIRS_A_PROMPT} pairs each on average")
        panel.set_xticks(x, [str(prompts) for prompts in PROMPTS])
        panel.minorticks_off()
    height.set(ylabel="change of log π(chosen), nats")
    mass.set(ylabel="mass, at the end", ylim=(-0.03, 1.03))


def verdicts(records: Records) -> list[Verdict]:
    """Whether the chosen fall: in a table, in a network with one prompt, with many, and many against few."""
    notes = {
        "dense": "Four pairs among 100 actions seldom contradict each other, and a table then raises the chosen by "
        "half of the margin, by arithmetic.",
        "wide": "All prompts have one reward, so that the mass that leaves the chosen finds better responses, which "
        "are in no pair. The answer turns with the margin: the figure shows the whole path.",
    }
    rows = []
    for (name, prompts, nat), tested in CLAIMS.items():
        each = {a: in_nat(path(records, name, prompts, a), nat) for a in ALGORITHMS}
        effect = mean_interval(np.mean(list(each.values()), axis=0))
        gates = [
            reaches(records, [(name, prompts)], nat),
            estimand({a: mean_interval(x) for a, x in each.items()}),
            placebo(None, tested.margin, MECHANISM),
        ]
        setting: Setting = "bandit" if name == "dense" else "mlp"
        hashes = [records[f"{name}/{prompts}/{a}"].hash for a in ALGORITHMS]
        rows.append(row_of(tested, setting, effect, FIGURE.name, hashes, notes[name], gates))
    each = {
        a: in_nat(path(records, "wide", MANY, a), "third") - in_nat(path(records, "wide", FEW, a), "third")
        for a in ALGORITHMS
    }
    effect = mean_interval(np.mean(list(each.values()), axis=0))
    gates = [
        reaches(records, [("wide", FEW), ("wide", MANY)], "third"),
        estimand({a: mean_interval(x) for a, x in each.items()}),
        placebo(None, FEW_MANY.margin, MECHANISM),
    ]
    note = "Prompts and pairs grow together, as they do in data sets: it is not told which of the two it takes."
    hashes = [records[f"wide/{prompts}/{a}"].hash for prompts in (FEW, MANY) for a in ALGORITHMS]
    return [*rows, row_of(FEW_MANY, "mlp", effect, FIGURE.name, hashes, note, gates)]


def reaches(records: Records, arms: Sequence[tuple[str, int]], nat: str) -> Gate:
    """Whether the margins of nearly all runs grow so far; a run that ends before counts with where it ends."""
    shares = {
        f"{name}/{prompts}/{a}": float((path(records, name, prompts, a).margin.max(-1) >= NATS[nat]).mean())
        for name, prompts in arms
        for a in ALGORITHMS
    }
    worst = min(shares, key=shares.__getitem__)
    said = f"the margin grows by {NATS[nat]} nats in {shares[worst]:.0%} of the runs of {worst}, or more"
    return Gate(
        "trained", shares[worst] >= REACHED, said if shares[worst] >= REACHED else f"{said}; more updates would open it"
    )


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    runs = len(records["table/1/dpo"].arrays["pool_logp_chosen"])
    return (
        f"1-D bandit R1, 100 actions, one reward for all prompts; {PAIRS_A_PROMPT} pairs per prompt on average, drawn "
        f"once from the reference and labelled without noise, all of them in each of {UPDATES} updates; β = 0.1; "
        f"{runs} runs per arm. Means over the pool's pairs; mean and 95 % band over runs; exact under each policy. "
        "Left: at each margin that nine runs in ten reach. Right: after the last update, whatever the margin then. "
        "Networks see fixed uniform noise for a prompt, as in the paper. Learning rates are set, not tuned: "
        + ", ".join(f"{c.label} {c.learning_rate:g}" for c in CAPACITIES.values())
        + "."
    )


FIGURE = Figure(
    name="chosen_likelihood",
    title="Does the likelihood of chosen responses fall?",
    tags=("bandit", "mlp", "contrastive"),
    claims=("C22",),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
)
