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

from figures.arms.gating import NOTHING_TO_LEARN, at_the_end, effect_of, of_differences, part, sides, tuned_well
from figures.arms.sweeps import ROUNDS, TUNING
from figures.catalogue import Claim, Setting, claim
from figures.claims import Verdict, row_of
from figures.figure import Figure, Records
from figures.lab import Lab, Point, product
from figures.report.style import OFFLINE, ONLINE, RC, bound, colour, marker
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
from sims.statistics.gates import Gate, placebo
from sims.statistics.intervals import Interval, band


class Arm(NamedTuple):
    """One line of the figure. key: of its colour and marker."""

    label: str
    algorithm: Algorithm
    key: str


ARMS = {
    "best_of_n": Arm("Best-of-N", BestOfN(), "best_of_n"),
    "dpo": Arm("DPO, all pairs", DPO(pairing="all"), "dpo"),
    "ipo": Arm("IPO, all pairs", IPO(pairing="all"), "ipo"),
    "worst": Arm("+ β log π(worst)", BestOfNNegative(negatives="worst"), "negative_worst"),
    "mean": Arm("+ β mean log π(rest)", BestOfNNegative(negatives="mean_of_rest"), "negative_mean"),
    "sum": Arm("+ β Σ log π(rest)", BestOfNNegative(negatives="sum_of_rest"), "negative_sum"),
    "complement": Arm(
        "− β Σ log(1 − π(rest))",
        BestOfNNegative(negatives="sum_of_rest", form="log_complement"),
        "negative_complement",
    ),
}
CONTRASTIVE, VARIANTS = ("dpo", "ipo"), ("worst", "mean", "sum", "complement")


class Environment(NamedTuple):
    """A row of the figure: what its arms are trained on, the budgets that they get, in updates, and the learning rates
    to try."""

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
# The shortest budgets want larger steps, and are tested: they have wider grids, and more runs.
SHORT, SHORT_RATES, NEEDED = 10, (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0), 200
SHORT_BETAS, SHORT_WEIGHTS = (0.003, 0.03, 0.2, 1.0, 5.0, 25.0), (0.003, 0.05, 0.4, 3.0, 20.0, 100.0)
BETAS, WEIGHTS = (0.03, 0.2, 1.0), (0.05, 0.4, 3.0)  # of contrastive losses, and of Best-of-N's negative gradients
POINTS = len(BETAS) * len(TABLE_RATES)
NETWORK = MLP(hidden=(32, 32), features="uniform")
ENVIRONMENTS = {
    "R1": Environment(
        "R1: optimum unlikely", "bandit", BanditR1(), Table(), VARIANTS, (3, 10, 30, 100, 300), TABLE_RATES, -0.05
    ),
    "R2": Environment(
        "R2: optimum likely", "bandit", BanditR2(), Table(), VARIANTS, (2, 3, 10, 30, 100, 300), TABLE_RATES, 0.0
    ),
    "network": Environment(
        "R1, network, 4 prompts", "mlp", BanditR1(num_prompts=4), NETWORK, ("sum",), (3, 10, 100), NETWORK_RATES, -0.05
    ),
}
SAMPLERS = {"off": math.inf, "on": None}
PROMPTS, GENERATIONS, RUNS = 16, 4, 50


# By whom C27 and C28 are tested. On R2 all are near the largest reward after three updates: one row there.
FASTER = {"R1": (*CONTRASTIVE, *VARIANTS), "R2": ("dpo",), "network": (*CONTRASTIVE, "sum")}
COMPOUND = {"R1": (*CONTRASTIVE, *VARIANTS), "R2": ("dpo",), "network": ("dpo",)}


# After which budgets C27 is tested: what is gained turns with the budget.
AFTER = {"R1": (3, 10), "R2": (2,), "network": (3, 10)}


class Row(NamedTuple):
    """What a row is about. samplers: on-policy, and for C28 offline too. budgets: in updates; of several the shortest
    at which every gate is open."""

    id: str
    environment: str
    name: str
    samplers: tuple[str, ...]
    budgets: tuple[int, ...]


def claims() -> dict[Row, Claim]:
    """What is claimed of each row."""
    faster = {
        Row("C27", environment, name, ("on",), (budget,)): claim("C27", f"{name}, {environment}, {budget} updates")
        for environment, names in FASTER.items()
        for name in names
        for budget in AFTER[environment]
    }
    compound = {
        Row("C28", environment, name, ("on", "off"), ENVIRONMENTS[environment].budgets): claim(
            "C28", f"{name}, {environment}"
        )
        for environment, names in COMPOUND.items()
        for name in names
    }
    return faster | compound


def arms() -> dict[str, Experiment]:
    """Every algorithm on every environment, on samples of the reference or its own, stopped after each budget."""
    return {
        f"{key}/{name}/{sampler}/{updates}": Experiment(
            name=f"negative_gradient-{name}",
            environment=of.environment,
            policy=of.policy,
            algorithm=ARMS[name].algorithm,
            schedule=Schedule(batch_size=PROMPTS, num_generations=GENERATIONS, sync_every_updates=period),
            updates=updates,
            evaluations=1,
            runs=RUNS,
        )
        for key, of in ENVIRONMENTS.items()
        for name in of.arms
        for sampler, period in SAMPLERS.items()
        for updates in of.budgets
    }


def grid(of: Environment, name: str, updates: int) -> list[Point]:
    """As many points for each arm of a budget: learning rates × β, or learning rates alone where there is no β."""
    tried = SHORT_RATES if updates <= SHORT else of.rates
    betas, weights = (SHORT_BETAS, SHORT_WEIGHTS) if updates <= SHORT else (BETAS, WEIGHTS)
    if name == "best_of_n":
        rates = np.round(np.geomspace(tried[0], tried[-1], len(tried) * len(betas)), 5)
        return product(learning_rate=tuple(map(float, rates)))
    return product(learning_rate=tried, beta=betas if name in CONTRASTIVE else weights)


def collect(lab: Lab) -> Records:
    """Each arm tuned for each budget."""
    found: dict[str, Record] = {}
    for short in (True, False):  # with grids of their own
        chosen = {key: arm for key, arm in arms().items() if (arm.updates <= SHORT) == short}
        grids = {}
        for key, arm in chosen.items():
            environment, name, *_ = key.split("/")
            grids[key] = grid(ENVIRONMENTS[environment], name, arm.updates)
        found |= lab.tuned_records(chosen, grids, **TUNING, runs=dict.fromkeys(chosen, NEEDED) if short else None)
    return found


def by_budget(records: Records, environment: str, name: str, sampler: str) -> np.ndarray:
    """(runs, budgets): the score at the end of each budget."""
    found = [
        final_scores(records[f"{environment}/{name}/{sampler}/{b}"])[:RUNS] for b in ENVIRONMENTS[environment].budgets
    ]
    return np.stack(found, axis=-1)


class Tested(NamedTuple):
    """A row: the budget at which it is tested, in updates, its effect, its gates and its records."""

    budget: int
    effect: Interval
    gates: tuple[Gate, ...]
    used: tuple[Record, ...]


def tested_at_shortest(records: Records, of: Row, tested: Claim) -> Tested:
    """What an algorithm gains over Best-of-N on-policy, or with both samplers how much more it gains there than
    offline: at the shortest budget at which every gate is open, or the shortest of all."""
    shortest: Tested | None = None
    margin = tested.margin
    _, environment, name, samplers, budgets = of
    for budget in budgets:
        pairs = [[records[f"{environment}/{arm}/{s}/{budget}"] for arm in (name, "best_of_n")] for s in samplers]
        gates = [at_the_end([sides([one], [other])], margin) for one, other in pairs]
        if "off" in samplers:
            imitation = pairs[samplers.index("off")][1]
            limit = best_of_n_score(records[f"{environment}/best_of_n/off/{ENVIRONMENTS[environment].budgets[0]}"])
            away = abs(float(final_scores(imitation).mean()) - limit)
            said = f"offline Best-of-N ends {away:.2g} from the best-of-{GENERATIONS} distribution that it converges to"
            gates.append(
                Gate("room", away >= margin, f"{said}; a shorter budget would open it" if away < margin else said)
            )
        used = tuple(record for pair in pairs for record in pair)
        if "off" in samplers:
            gates += of_differences(tested, used, -1)
        gates += [*tuned_well(margin, *used), placebo(None, margin, NOTHING_TO_LEARN)]
        effect = effect_of([part(t, record) for t, record in zip((1.0, -1.0, -1.0, 1.0), used, strict=False)])
        row = Tested(budget, effect, tuple(gates), used)
        if all(gate.open for gate in gates):
            return row
        shortest = shortest or row
    assert shortest is not None
    return shortest


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
            len(ENVIRONMENTS), 3, figsize=(13.5, 11.0), layout="constrained", gridspec_kw={"width_ratios": (1, 1, 1.1)}
        )
        for row, environment in enumerate(ENVIRONMENTS):
            for column, sampler in enumerate(SAMPLERS):
                _against_budget(axes[row, column], records, environment, sampler)
            _gains(axes[row, 2], records, environment)
        axes[0, 0].set_title("The same samples, of the reference")
        axes[0, 1].set_title("On-policy: each its own samples")
        axes[0, 2].set_title("Gain over Best-of-N, as tested\nfilled: on-policy (C27)\nopen: on-policy − offline (C28)")
        handles = [
            Line2D([], [], color=colour(arm.key), marker=marker(arm.key), ms=5, linewidth=1.8, label=arm.label)
            for arm in ARMS.values()
        ]
        fig.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9.5)
    return fig


def _against_budget(panel: Axes, records: Records, environment: str, sampler: str) -> None:
    samples = np.array(ENVIRONMENTS[environment].budgets) * PROMPTS * GENERATIONS
    line = OFFLINE if sampler == "off" else ONLINE
    for name in ENVIRONMENTS[environment].arms:
        key = ARMS[name].key
        mean, low, high = band(by_budget(records, environment, name, sampler))
        panel.plot(samples, mean, line, color=colour(key), marker=marker(key), ms=5, linewidth=1.6)
        panel.fill_between(samples, low, high, color=colour(key), alpha=0.15, linewidth=0)
    bound(panel, 1.0, "largest reward", x=0.3)
    if sampler == "off":
        limit = best_of_n_score(records[f"{environment}/best_of_n/off/{ENVIRONMENTS[environment].budgets[0]}"])
        panel.axhline(limit, color="black", linewidth=1, linestyle=":")
        panel.annotate(
            f"limit of Best-of-{GENERATIONS}", (0.99, limit), (0, -3), panel.get_yaxis_transform(), "offset points",
            ha="right", va="top", fontsize=8,
        )  # fmt: skip
    panel.set(xscale="log", ylim=(ENVIRONMENTS[environment].lowest, 1.1), xlabel="budget, samples drawn")
    near = [i > 0 and n < 2 * samples[i - 1] for i, n in enumerate(samples)]  # two labels would stand on one another
    panel.set_xticks(samples, ["" if close else f"{n:,}" for n, close in zip(samples, near, strict=True)])
    panel.minorticks_off()
    panel.set_ylabel(f"score ({ENVIRONMENTS[environment].title})")


def _gains(panel: Axes, records: Records, environment: str) -> None:
    shown = [row for row in claims() if row.environment == environment]
    names = [name for name in ENVIRONMENTS[environment].arms if any(row.name == name for row in shown)]
    for name in names:
        own, rows = colour(ARMS[name].key), [row for row in shown if row.name == name]
        for i, row in enumerate(rows):
            found = tested_at_shortest(records, row, claims()[row])
            closed = not all(gate.open for gate in found.gates)
            y = len(names) - names.index(name) + 0.24 * ((len(rows) - 1) / 2 - i)
            panel.errorbar(
                found.effect.estimate,
                y,
                xerr=[[found.effect.estimate - found.effect.low], [found.effect.high - found.effect.estimate]],
                fmt=marker(ARMS[name].key),
                ms=6,
                color="0.75" if closed else own,
                markerfacecolor=own if row.id == "C27" and not closed else "white",
            )
            panel.annotate(
                str(found.budget), (found.effect.high, y), (4, 0), textcoords="offset points", va="center", fontsize=7.5
            )
    panel.axvline(0, color="0.3", linewidth=0.8)
    panel.axvspan(-0.05, 0.05, color="0.5", alpha=0.12, linewidth=0)
    panel.set(xlabel="score (band: margin; pale: a gate is closed)", ylim=(0.2, len(names) + 0.6), xlim=(-0.4, 0.5))
    panel.set_yticks(range(len(names), 0, -1), [ARMS[name].label for name in names])


NOTES = {
    "contrastive": "It differs from Best-of-N in more than the negative gradient: it also ranks the responses between "
    "best and worst.",
    "own": "Large β win: pushing down all that was drawn but the best is elimination, which is easy among 100 actions "
    "and hard among sentences.",
}


def verdicts(records: Records) -> list[Verdict]:
    """What a negative gradient gains on-policy, and whether it gains more there than offline."""
    rows = []
    for of, tested in claims().items():
        row = tested_at_shortest(records, of, tested)
        chosen = "" if of.id == "C27" else ", the shortest budget at which every gate is open, or the shortest of all"
        kind = NOTES["contrastive" if of.name in CONTRASTIVE else "own"]
        note = f"{ARMS[of.name].label}, tested after {row.budget} updates{chosen}. {kind}"
        hashes = [record.hash for record in row.used]
        rows.append(
            row_of(tested, ENVIRONMENTS[of.environment].setting, row.effect, FIGURE.name, hashes, note, row.gates)
        )
    return rows


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    runs = len(records["R1/dpo/on/10"].arrays["reward"])
    return (
        f"1-D bandit, 100 actions, table policies and below a network (one hidden vector for each of 4 prompts), "
        f"{runs} runs per arm, {PROMPTS} × {GENERATIONS} samples per update, noiseless labels. Every point is a run of "
        "that length, tuned for it (learning rate, and β where there is one; "
        f"{POINTS} points between the same ends, {ROUNDS}, other seeds, listed below; up to {SHORT} updates "
        f"{len(SHORT_RATES) * len(SHORT_BETAS)} points of wider grids, and {NEEDED} runs to test by). "
        "Left: fresh draws of the reference, the very same in every arm. "
        "Mean and 95 % band over runs. The released code's two variants with log-ratios to the reference have the "
        "gradients of those without, and are not drawn again; all six are one algorithm here, "
        "best_of_n_negative. Limit of Best-of-4: the reference's exact best-of-4 distribution. Right: beside each "
        "interval the updates of its budget."
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
