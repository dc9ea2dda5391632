"""Does too low a β collapse, and too high a one learn nothing (C51), and which algorithm is the most sensitive to it
(C90)? Contrastive losses on a small pool with flipped labels, and on-policy reinforcement learning: of the true reward,
and of a reward learned from few flipped labels, where there is something to over-fit; and all of them on fresh samples
of the true reward, over the usual values of β."""

from __future__ import annotations

from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.lines import Line2D

from figures.arms.gating import NOTHING_TO_LEARN, Part, agree, effect_of, lowest_score, tuned_well
from figures.arms.sensitivity import FRESH, NEAR, RATES, USUAL, draw_spread, near_arms, sensitive_rows
from figures.arms.sensitivity import RUNS as NEAR_RUNS
from figures.arms.sweeps import LEARNING_RATES, TUNING, crossfit_best, exact_score, tables
from figures.catalogue import Setting, claim
from figures.claims import Verdict, row_of
from figures.figure import Figure, Records
from figures.lab import Lab, product
from figures.report.style import OFFLINE, ONLINE, RC, colour, key, points
from sims import exact
from sims.core.algorithms import find_algorithm
from sims.core.schedule import Schedule
from sims.core.spec import from_json
from sims.environments import BanditR1, BanditR2, Contextual
from sims.environments.enumerable import EnumerableSpec
from sims.experiments.experiment import Experiment
from sims.experiments.measures import final_scores
from sims.experiments.store import Record
from sims.policies import MLP, Table
from sims.statistics.gates import placebo, room


class Family(NamedTuple):
    """Algorithms that are tested together. data: where their rewards or labels come from. ends: of β, that are tested;
    each tuple of `tested` is a row's environments."""

    algorithms: tuple[str, str]
    data: str
    environments: tuple[str, ...]
    tested: tuple[tuple[str, ...], ...]
    ends: tuple[str, ...]
    schedule: Schedule


BETAS = (1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
ENDS = {"low": BETAS[0], "high": BETAS[-1]}
POOL, FLIPS = 64, 0.2
RATES_TRIED = (*LEARNING_RATES, 30.0, 100.0, 300.0, 1000.0)  # a large β wants steps that leap away from the penalty
NEAR_RATES = (*RATES_TRIED, 3000.0, 10000.0)
NETWORK_RATES = (1e-4, 3e-4, 1e-3, *LEARNING_RATES, 30.0)
# Where labels err. A table's pairs see rate × β alone (tests/figures/test_sweep_figures.py), and beyond some rate the
# policy is one response, whichever is ahead: scores saturate in the rate. Grids go on into that plateau, and of rates
# whose scores are as good the smallest is taken, as the best of them is a matter of luck. By name: rates, and runs of
# every point, whose means have standard errors near 0.03 (128 runs) and 0.04.
TO_A_MILLION = (*RATES_TRIED, 1e4, 1e6)
SATURATING = {
    "pool": (TO_A_MILLION, 128),
    "pool, network": ((1e-4, 1e-3, 1e-2, *LEARNING_RATES[3:], *RATES_TRIED[8:]), 64),
    "learned": (TO_A_MILLION, 64),
}
EQUAL = 0.05  # scores within a margin are as good
LEARNED_SEED = 61  # of what SEED found to stand at an end of its grid
UPDATES, RUNS, SEED = 400, 100, 51  # runs: as many as are asked for where some are at a bound
POOLED = Schedule(batch_size=16, num_generations=4, source="pool", pool_size=POOL)
# The contrastive losses' effects differ between R1 and R2, and are tested at each. The true reward cannot be
# over-optimised, so that too low a β is tested on a learned one.
FAMILIES = {
    "contrastive": Family(
        ("dpo", "ipo"),
        "noisy pool",
        ("R1", "R2", "network"),
        (("R1",), ("R2",), ("network",)),
        ("low", "high"),
        POOLED,
    ),
    "reinforcement": Family(("rloo", "ppo"), "on-policy", ("R1", "R2"), (("R1", "R2"),), ("high",), FRESH),
    "proxy": Family(
        ("rloo", "ppo"),
        "learned reward",
        ("learned", "learned network"),
        (("learned",), ("learned network",)),
        ("low", "high"),
        FRESH,
    ),
}
NETWORKS = {"network": MLP(hidden=(32, 32), features="uniform"), "learned network": MLP(hidden=(32,))}
TITLES = {"network": "R1, network", "learned": "8 × 8", "learned network": "8 × 8, network"}
BLOCKS = (("contrastive",), ("reinforcement", "proxy"))  # of the picture, one below the other


def _called(family: str, environments: tuple[str, ...]) -> str:
    if family == "proxy":
        return f"reinforcement, {' and '.join(environments).replace('learned', 'learned reward').replace(' n', ', n')}"
    return f"{family}, {FAMILIES[family].data} on {' and '.join(environments)}"


CLAIMS = {
    (name, end, rate, environments): claim("C51", f"{_called(name, environments)}: too {end}, {RATES[rate]}")
    for name, family in FAMILIES.items()
    for end in family.ends
    for rate in RATES
    for environments in family.tested
}


def environment_of(family: str, name: str) -> EnumerableSpec:
    """The bandits; learned: 8 prompts × 8 responses, a reward model that is a table, fitted to pairs with flips."""
    if name.startswith("learned"):
        return Contextual(reward_model="table", flip_rate=FLIPS)
    flips = FLIPS if family == "contrastive" else 0.0
    if name == "network":
        return BanditR1(num_prompts=4, flip_rate=flips)
    return BanditR1(flip_rate=flips) if name == "R1" else BanditR2(flip_rate=flips)


def arms() -> dict[str, Experiment]:
    """environment/algorithm/β."""
    return {
        f"{environment}/{algorithm}/{beta:g}": Experiment(
            name=f"beta_sweep-{algorithm}",
            environment=environment_of(name, environment),
            policy=NETWORKS.get(environment, Table()),
            algorithm=find_algorithm(algorithm)().replace(beta=beta),
            schedule=family.schedule,
            updates=UPDATES,
            evaluations=4,
            runs=RUNS,
            seed=LEARNED_SEED if environment == "learned" else SEED,
        )
        for name, family in FAMILIES.items()
        for environment in family.environments
        for algorithm in family.algorithms
        for beta in BETAS
    }


def collect(lab: Lab) -> Records:
    """Each β with the learning rate that is best for it, and all with the one that is best for the usual β."""
    chosen = arms()
    tuned: dict[str, Record] = {}
    for how in sorted({_tuning(name, arm) for name, arm in chosen.items()}):
        group = {name: arm for name, arm in chosen.items() if _tuning(name, arm) == how}
        if how in SATURATING:
            rates, runs = SATURATING[how]
            tuned |= lab.tuned_records(group, dict.fromkeys(group, product(learning_rate=rates)), runs, tolerance=EQUAL)
        else:
            grid = product(learning_rate=NETWORK_RATES if how == "network" else RATES_TRIED)
            tuned |= lab.tuned_records(group, dict.fromkeys(group, grid), **TUNING)
    near = near_arms()
    tuned |= lab.tuned_records(near, dict.fromkeys(near, product(learning_rate=NEAR_RATES)), **TUNING)
    every = chosen | near
    usual = {name: f"{name.rpartition('/')[0]}/{USUAL:g}" for name in every}
    held = {name: arm.replace(optimiser=from_json(tuned[usual[name]].spec["optimiser"])) for name, arm in every.items()}
    found = lab.records(held)
    return {f"tuned/{name}": r for name, r in tuned.items()} | {f"held/{name}": r for name, r in found.items()}


def _tuning(name: str, arm: Experiment) -> str:
    """How an arm is tuned: a key of SATURATING, or table or network."""
    where = name.split("/")[0]
    if arm.schedule.source == "pool":
        return "pool, network" if where in NETWORKS else "pool"
    return where if where in SATURATING else "network" if where in NETWORKS else "table"


def optimum(record: Record, beta: float) -> tuple[float, float]:
    """Gold score and entropy of π* ∝ π_ref·e^{r/β}, exactly, mean over runs."""
    distribution = exact.optimum(*tables(record), beta)
    return exact_score(record, distribution), float(exact.entropy(distribution).mean())


def draw(records: Records) -> MatplotlibFigure:
    """Gold score and entropy at the end against β, one above the other for each family and environment."""
    blocks = [
        [(name, environment) for name in names for environment in FAMILIES[name].environments] for names in BLOCKS
    ]
    across = max(map(len, blocks))
    with plt.rc_context(RC):
        fig, axes = plt.subplots(2 * len(blocks), across, figsize=(14, 13), layout="constrained", sharex=True)
        for pair, block in zip(axes.reshape(len(blocks), 2, across), blocks, strict=True):
            for column, (family, environment) in enumerate(block):
                score, entropy = pair[:, column]
                _against_beta(score, entropy, records, family, environment)
                where = TITLES.get(environment, environment)
                score.set_title(f"{where} · {', '.join(FAMILIES[family].algorithms)}\n{_data(family)}", fontsize=10)
                score.set_ylim(-0.2, 1.12)
                entropy.set_ylim(-0.15, 4.6)
                entropy.tick_params(labelbottom=True)
                for axis in pair[:, column] if column else ():
                    axis.tick_params(labelleft=False)
            for axis in pair[:, len(block) :].flat:
                axis.set_axis_off()
            pair[0, 0].set_ylabel("gold score at the end")
            pair[1, 0].set_ylabel("entropy at the end, nats")
        draw_spread(fig.add_subplot(axes[1, -1].get_subplotspec()), records)  # another x: not shared
        axes[0, -1].legend(handles=_handles(), loc="upper left", fontsize=10)
    return fig


def _data(family: str) -> str:
    responses = POOL * POOLED.num_generations
    return {
        "contrastive": f"{responses} responses, {FLIPS:.0%} of labels flipped",
        "reinforcement": "on-policy, true reward",
        "proxy": f"on-policy, learned reward, {FLIPS:.0%} flipped",
    }[family]


def _handles() -> list[Line2D]:
    names = dict.fromkeys(name for family in FAMILIES.values() for name in family.algorithms)
    lines = [key(name) for name in names]
    lines += [
        Line2D([], [], color="0.3", linestyle=style, label=RATES[rate])
        for rate, style in (("tuned", ONLINE), ("held", OFFLINE))
    ]
    return [*lines, Line2D([], [], color="k", linestyle=":", label="π* at β of the gold reward, exact")]


def _against_beta(top: Axes, bottom: Axes, records: Records, family: str, environment: str) -> None:
    record = records[f"tuned/{environment}/{FAMILIES[family].algorithms[0]}/{USUAL:g}"]
    fine = np.geomspace(BETAS[0], BETAS[-1], 80)
    exactly = np.array([optimum(record, float(beta)) for beta in fine])
    for axes, best in ((top, exactly[:, 0]), (bottom, exactly[:, 1])):
        axes.plot(fine, best, ":", color="k", linewidth=1.4)
    for algorithm in FAMILIES[family].algorithms:
        for rate, line in (("tuned", ONLINE), ("held", OFFLINE)):
            cells = [records[f"{rate}/{environment}/{algorithm}/{beta:g}"] for beta in BETAS]
            for axes, values in (
                (top, [final_scores(cell) for cell in cells]),
                (bottom, [cell.arrays["entropy"][:, -1] for cell in cells]),
            ):
                mean = points(axes, np.array(BETAS), values, algorithm, filled=rate == "tuned")
                axes.plot(BETAS, mean, line, color=colour(algorithm), linewidth=1.6)
    top.axhline(0, color="0.4", linewidth=0.8)
    top.set(xscale="log")
    bottom.set(xlabel="β")


def verdicts(records: Records) -> list[Verdict]:
    """Both ends of the axis, for each family and each way of setting the learning rate."""
    rows = []
    for (family, end, rate, environments), tested in CLAIMS.items():
        cells: dict[str, list[Record]] = {
            f"{algorithm} on {environment}": [records[f"{rate}/{environment}/{algorithm}/{beta:g}"] for beta in BETAS]
            for environment in environments
            for algorithm in FAMILIES[family].algorithms
        }
        parts = {name: _loss(tried, end) for name, tried in cells.items()}
        effect = effect_of([x._replace(times=x.times / len(parts)) for pair in parts.values() for x in pair])
        used = [r for tried in cells.values() for r in (*tried[1:-1], tried[BETAS.index(ENDS[end])])]
        level = [np.mean([pair[side].scores for pair in parts.values()], axis=0) for side in (0, 1)]
        gates = [
            room(level[0], level[1], lowest_score(used), 1.0, tested.margin),
            *tuned_well(tested.margin, *used, falls="too low a β is to collapse" if end == "low" else ""),
            agree(parts),
            placebo(None, tested.margin, NOTHING_TO_LEARN),
        ]
        setting: Setting = "mlp" if environments[0] in NETWORKS else "bandit"
        note = _note(family, rate, saturates=family == "contrastive" or environments == ("learned",))
        rows.append(row_of(tested, setting, effect, FIGURE.name, [r.hash for r in used], note, gates))
    return [*rows, *sensitive_rows(records, FIGURE.name)]


def _loss(tried: list[Record], end: str) -> tuple[Part, Part]:
    """The best interior β, chosen on the other half of the runs, minus the β at an end."""
    low = lowest_score(tried)
    final = np.array([final_scores(record) for record in tried], float)
    return Part(1.0, crossfit_best(final[1:-1]), low), Part(-1.0, final[BETAS.index(ENDS[end])], low)


def _note(family: str, rate: str, saturates: bool) -> str:
    why = {
        "contrastive": f"One size of pool ({POOL} prompts × 4) and one rate of flips ({FLIPS:g}); more data, or "
        "cleaner, would leave less to over-fit.",
        "reinforcement": "The reward is the true one, which nothing can over-optimise.",
        "proxy": "One kind of reward model, a table fitted once to all pairs of four responses per prompt, "
        f"{FLIPS:.0%} of labels flipped; a network errs otherwise on responses in no pair.",
    }[family]
    stop = (
        " A learning rate tuned by gold score can stop early on its own, or leap away from the penalty, which hides "
        "part of a collapse."
    )
    if saturates:
        stop += (
            f" Where scores no longer hang on the rate, the smallest of those within {EQUAL:g} of the best is taken: "
            "that is as much as the margin, by which an arm may be behind its best rate."
        )
    return f"{why}{stop if rate == 'tuned' else ''} The best interior β is chosen on the other half of the runs."


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    runs = len(records["tuned/R1/dpo/0.1"].arrays["reward"])
    return (
        f"1-D bandit, 100 actions, but for the two columns at the lower right; table policy, or a network where it is "
        f"said, {runs} runs per arm, {UPDATES} updates; mean and 95 % interval at the end. DPO and IPO: a pool of "
        f"{POOL} prompts × 4 responses of the reference, drawn once and gone through again and again, {FLIPS:.0%} of "
        "its labels flipped. RLOO and PPO (KL in the "
        "reward): 16 fresh samples per update; the true reward on the bandits, and at the lower right, where 8 prompts "
        f"have 8 responses, that of a table fitted to the pairs of half of the responses, {FLIPS:.0%} of them flipped. "
        "Collapse was defined beforehand as a gold score below that of the best interior β, with the entropy beside "
        "it. Filled and solid: the learning rate that was best for that β on other seeds, among "
        f"{len(RATES_TRIED)}; where labels err, the smallest within {EQUAL:g} of the best, among {len(TO_A_MILLION)} "
        f"(DPO and IPO's network: {len(SATURATING['pool, network'][0])}; RLOO and PPO's: the best of "
        f"{len(NETWORK_RATES)}); "
        f"open and dashed: the one that was best for β = {USUAL:g}. Dotted: the KL-regularised optimum of the gold "
        "reward at each β, which RLOO and PPO aim at on the true reward, and DPO and IPO do not on such labels. "
        f"Second row, right: {NEAR_RUNS} runs per arm of all four on 16 fresh samples per update, by the true reward "
        f"or noiseless labels of it; the score at the best of β = {', '.join(f'{beta:g}' for beta in NEAR)} less that "
        "at the worst, each chosen on the other half of the runs."
    )


FIGURE = Figure(
    name="beta_sweep",
    title="How β should be chosen: what too low and too high do",
    tags=("bandit", "mlp", "sweep"),
    claims=("C51", "C90"),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
)
