"""Does a negative gradient speed learning, and does it compound with on-policy sampling? (C27, C28) Contrastive losses
against Best-of-N, alone and with its negative gradients, after budgets for each of which they were tuned."""

from __future__ import annotations

import math
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.lines import Line2D

from figures.arms.sweeps import ROUNDS, TUNING
from figures.catalogue import Claim, Setting, claim
from figures.claims import Verdict, row_of
from figures.figure import Figure, Records
from figures.lab import Lab, Point, product
from figures.report.style import OFFLINE, ONLINE, RC, bound, colour
from sims.core.algorithms import Algorithm
from sims.core.algorithms.best_of_n import BestOfN, BestOfNNegative
from sims.core.algorithms.contrastive import DPO, IPO
from sims.core.loop.protocols import PolicySpec
from sims.core.schedule import Schedule
from sims.environments import Bandit, BanditR1, BanditR2
from sims.exact import best_of_n, expected_reward
from sims.experiments.experiment import Experiment
from sims.experiments.measures import best_reward, final_scores
from sims.experiments.store import Record
from sims.policies import MLP, Table
from sims.statistics.intervals import band, interaction, paired_effect


class Arm(NamedTuple):
    """One line of the figure. key: of its colour. marker: tells apart what shares a hue."""

    label: str
    algorithm: Algorithm
    key: str
    marker: str


ARMS = {
    "best_of_n": Arm("Best-of-N", BestOfN(), "best_of_n", "o"),
    "dpo": Arm("DPO, all pairs", DPO(pairing="all"), "dpo", "s"),
    "ipo": Arm("IPO, all pairs", IPO(pairing="all"), "ipo", "D"),
    "worst": Arm("+ β log π(worst)", BestOfNNegative(negatives="worst"), "negative_worst", "v"),
    "mean": Arm("+ β mean log π(rest)", BestOfNNegative(negatives="mean_of_rest"), "negative_mean", "^"),
    "sum": Arm("+ β Σ log π(rest)", BestOfNNegative(negatives="sum_of_rest"), "negative_sum", "<"),
    "complement": Arm(
        "− β Σ log(1 − π(rest))",
        BestOfNNegative(negatives="sum_of_rest", form="log_complement"),
        "negative_complement",
        ">",
    ),
}
CONTRASTIVE, VARIANTS = ("dpo", "ipo"), ("worst", "mean", "sum", "complement")


class Place(NamedTuple):
    """A row of the figure: where its arms run, the budgets that they get, in updates, and the learning rates to try."""

    title: str
    setting: Setting
    environment: Bandit
    policy: PolicySpec
    variants: tuple[str, ...]
    budgets: tuple[int, ...]
    rates: tuple[float, ...]
    lowest: float

    @property
    def arms(self) -> tuple[str, ...]:
        return ("best_of_n", *CONTRASTIVE, *self.variants)


TABLE_RATES, NETWORK_RATES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0), (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
BETAS, WEIGHTS = (0.03, 0.2, 1.0), (0.05, 0.4, 3.0)  # of contrastive losses, and of Best-of-N's negative gradients
POINTS = len(BETAS) * len(TABLE_RATES)
NETWORK = MLP(hidden=(32, 32), features="uniform")
PLACES = {
    "R1": Place(
        "R1: optimum unlikely", "bandit", BanditR1(), Table(), VARIANTS, (10, 30, 100, 300), TABLE_RATES, -0.05
    ),
    "R2": Place("R2: optimum likely", "bandit", BanditR2(), Table(), VARIANTS, (10, 30, 100, 300), TABLE_RATES, 0.5),
    "network": Place(
        "R1, network, 4 prompts", "mlp", BanditR1(num_prompts=4), NETWORK, ("sum",), (10, 100), NETWORK_RATES, -0.05
    ),
}
SAMPLERS = {"off": math.inf, "on": None}
PROMPTS, GENERATIONS, RUNS = 16, 4, 50


def parts(place: Place) -> dict[str, tuple[str, ...]]:
    """Which algorithms with a negative gradient are judged together."""
    return {"contrastive": CONTRASTIVE, "Best-of-N's own": place.variants}


def claims() -> dict[tuple[str, str], tuple[Claim, Claim]]:
    """C27 and C28 of each part and place."""
    return {
        (part, key): (claim("C27", f"{part}, {key}"), claim("C28", f"{part}, {key}"))
        for key, place in PLACES.items()
        for part in parts(place)
    }


def arms() -> dict[str, Experiment]:
    """Every algorithm at every place, on samples of the reference or its own, stopped after each budget."""
    return {
        f"{key}/{name}/{sampler}/{updates}": Experiment(
            name=f"negative_gradient-{name}",
            environment=place.environment,
            policy=place.policy,
            algorithm=ARMS[name].algorithm,
            schedule=Schedule(batch_size=PROMPTS, num_generations=GENERATIONS, sync_every_updates=period),
            updates=updates,
            evaluations=1,
            runs=RUNS,
        )
        for key, place in PLACES.items()
        for name in place.arms
        for sampler, period in SAMPLERS.items()
        for updates in place.budgets
    }


def grid(place: Place, name: str) -> list[Point]:
    """POINTS: learning rates × β, or learning rates alone between the same ends where there is no β."""
    if name == "best_of_n":
        rates = np.round(np.geomspace(place.rates[0], place.rates[-1], POINTS), 5)
        return product(learning_rate=tuple(map(float, rates)))
    return product(learning_rate=place.rates, beta=BETAS if name in CONTRASTIVE else WEIGHTS)


def collect(lab: Lab) -> Records:
    """Each arm tuned for each budget."""
    chosen = arms()
    grids = {}
    for key in chosen:
        place, name, *_ = key.split("/")
        grids[key] = grid(PLACES[place], name)
    return lab.tuned_records(chosen, grids, **TUNING)


def by_budget(records: Records, place: str, name: str, sampler: str) -> np.ndarray:
    """(runs, budgets): the score at the end of each budget."""
    found = [final_scores(records[f"{place}/{name}/{sampler}/{b}"]) for b in PLACES[place].budgets]
    return np.stack(found, axis=-1)


def speed(records: Records, place: str, names: tuple[str, ...], sampler: str) -> np.ndarray:
    """(runs,): score, mean over budgets and over the algorithms."""
    return np.mean([by_budget(records, place, name, sampler).mean(-1) for name in names], axis=0)


def best_of_n_score(record: Record) -> float:
    """The score of the best-of-K distribution of the reference, to which Best-of-N converges on the reference's
    samples."""
    logp, rewards = record.arrays["logp_ref"].astype(float), record.arrays["rewards"].astype(float)
    rewards = np.broadcast_to(rewards, logp.shape)
    reference = float(expected_reward(logp, rewards).mean())
    reward = float((best_of_n(logp, rewards, GENERATIONS) * rewards).sum(-1).mean())
    return (reward - reference) / (best_reward(record) - reference)


def draw(records: Records) -> MatplotlibFigure:
    """Score against budget, on the same samples and on-policy; and each arm's gain over Best-of-N."""
    with plt.rc_context(RC):
        fig, axes = plt.subplots(
            len(PLACES), 3, figsize=(13.5, 11.0), layout="constrained", gridspec_kw={"width_ratios": (1, 1, 1.1)}
        )
        for row, place in enumerate(PLACES):
            for column, sampler in enumerate(SAMPLERS):
                _against_budget(axes[row, column], records, place, sampler)
            _gains(axes[row, 2], records, place)
        axes[0, 0].set_title("The same samples, of the reference")
        axes[0, 1].set_title("On-policy: each its own samples")
        axes[0, 2].set_title("Gain over Best-of-N, mean over budgets")
        handles = [
            Line2D([], [], color=colour(arm.key), marker=arm.marker, ms=5, linewidth=1.8, label=arm.label)
            for arm in ARMS.values()
        ]
        fig.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9.5)
    return fig


def _against_budget(panel: Axes, records: Records, place: str, sampler: str) -> None:
    samples = np.array(PLACES[place].budgets) * PROMPTS * GENERATIONS
    line = OFFLINE if sampler == "off" else ONLINE
    for name in PLACES[place].arms:
        key, marker = ARMS[name].key, ARMS[name].marker
        mean, low, high = band(by_budget(records, place, name, sampler))
        panel.plot(samples, mean, line, color=colour(key), marker=marker, ms=5, linewidth=1.6)
        panel.fill_between(samples, low, high, color=colour(key), alpha=0.15, linewidth=0)
    bound(panel, 1.0, "largest reward", x=0.3)
    if sampler == "off":
        limit = best_of_n_score(records[f"{place}/best_of_n/off/{PLACES[place].budgets[0]}"])
        panel.axhline(limit, color="black", linewidth=1, linestyle=":")
        panel.annotate(
            f"limit of Best-of-{GENERATIONS}", (0.99, limit), (0, -3), panel.get_yaxis_transform(), "offset points",
            ha="right", va="top", fontsize=8,
        )  # fmt: skip
    panel.set(xscale="log", ylim=(PLACES[place].lowest, 1.1), xlabel="budget, samples drawn")
    panel.set_xticks(samples, [f"{n:,}" for n in samples])
    panel.minorticks_off()
    panel.set_ylabel(f"score ({PLACES[place].title})")


def _gains(panel: Axes, records: Records, place: str) -> None:
    names = PLACES[place].arms[1:]
    for i, name in enumerate(names):
        own = colour(ARMS[name].key)
        for sampler, shift in (("off", 0.15), ("on", -0.15)):
            base = speed(records, place, ("best_of_n",), sampler)
            effect = paired_effect(speed(records, place, (name,), sampler), base)
            panel.errorbar(
                effect.estimate,
                len(names) - i + shift,
                xerr=[[effect.estimate - effect.low], [effect.high - effect.estimate]],
                fmt=ARMS[name].marker,
                ms=6,
                color=own,
                markerfacecolor=own if sampler == "on" else "white",
            )
    panel.axvline(0, color="0.3", linewidth=0.8)
    panel.axvspan(-0.05, 0.05, color="0.5", alpha=0.12, linewidth=0)
    panel.set(xlabel="score − Best-of-N's (paired; grey: margin)", ylim=(0.2, len(names) + 0.6))
    panel.set_yticks(range(len(names), 0, -1), [ARMS[name].label for name in names])
    text = "open: same samples   filled: on-policy"
    panel.text(0.98, 0.02, text, transform=panel.transAxes, fontsize=8.5, ha="right")


NOTES = {
    "contrastive": "DPO and IPO differ from Best-of-N in more than the negative gradient: they also rank the responses "
    "between best and worst. ",
    "Best-of-N's own": "Large β win: pushing down all that was drawn but the best is elimination, which "
    "is easy among 100 actions and hard among sentences. ",
}
C27_NOTE = (
    "On fixed samples Best-of-N stops at the best-of-4 distribution of the reference, which what pushes down need not: "
    "the longer the budget, the more it is that limit and not speed that is measured."
)
C28_NOTE = (
    "Offline alone Best-of-N has its limit, and on-policy all arms come near the largest reward: either ceiling pulls "
    "the interaction below 0, and only the shortest budget is free of the second."
)


def verdicts(records: Records) -> list[Verdict]:
    """The effect of a negative gradient on the same samples, and its interaction with on-policy sampling."""
    rows, base = [], ("best_of_n",)
    for (part, place), (faster, compound) in claims().items():
        names = parts(PLACES[place])[part]
        with_on, alone_on, with_off, alone_off = (
            speed(records, place, arms, sampler) for sampler in ("on", "off") for arms in (names, base)
        )
        for judged, effect, note, samplers in (
            (faster, paired_effect(with_off, alone_off), C27_NOTE, ("off",)),
            (compound, interaction(with_on, alone_on, with_off, alone_off), C28_NOTE, ("on", "off")),
        ):
            used = [
                records[f"{place}/{n}/{s}/{b}"].hash
                for n in (*names, *base)
                for s in samplers
                for b in PLACES[place].budgets
            ]
            rows.append(row_of(judged, PLACES[place].setting, effect, FIGURE.name, used, NOTES[part] + note))
    return rows


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    runs = len(records["R1/dpo/on/10"].arrays["reward"])
    return (
        f"1-D bandit, 100 actions, table policies and below a network (one hidden vector for each of 4 prompts), "
        f"{runs} runs an arm, {PROMPTS} × {GENERATIONS} samples an update, noiseless labels. Every point is a run of "
        "that length, tuned for it (learning rate, and β where there is one; "
        f"{POINTS} points between the same ends, {ROUNDS}, other seeds, listed below; at the "
        "shortest budgets many arms take the largest). Left: fresh draws of the reference, the very same in every arm. "
        "Mean and 95 % band over runs. The released code's two variants with log-ratios to the reference have the "
        "gradients of those without, and are not drawn again; all six are one algorithm here, "
        "best_of_n_negative. Limit of Best-of-4: the reference's exact best-of-4 distribution."
    )


FIGURE = Figure(
    name="negative_gradient",
    title="Does a negative gradient speed learning?",
    tags=("bandit", "mlp", "negative-gradient"),
    claims=("C27", "C28"),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
)
