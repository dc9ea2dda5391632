"""Does online contrastive training match PPO at a lower cost? (C68) The 1-D bandit and a network, at equal samples and
at equal compute."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.lines import Line2D

from figures.arms.gating import Part, effect_of, lowest_score, part, stopped_early, tuned_well
from figures.arms.sweeps import TRIED, TUNING, best_arm, crossfit_best, equal_grid
from figures.catalogue import Setting, claim
from figures.claims import Verdict, row_of
from figures.figure import Figure, Records
from figures.lab import Lab, Measure
from figures.report.style import OFFLINE, ONLINE, RC, bound, colour, curve, key
from sims.core.algorithms import find_algorithm
from sims.core.loop.protocols import PolicySpec
from sims.core.schedule import Schedule
from sims.environments import Bandit, BanditR1, BanditR2
from sims.experiments.experiment import Experiment
from sims.experiments.measures import final_scores, mean_scores, scores
from sims.experiments.store import Record
from sims.policies import MLP, Table
from sims.statistics.gates import Gate, positive_control
from sims.statistics.intervals import Interval

ALGORITHMS = ("ppo", "dpo", "ipo")
CONTRASTIVE = ALGORITHMS[1:]
PASSES = (1, 4)
PROMPTS, GENERATIONS = 4, 4
SAMPLES = {"R1": 2048, "R2": 128, "network": 2048}  # on R2 all arms are at the largest reward soon after
ON: dict[str, tuple[Setting, Bandit, PolicySpec]] = {
    "R1": ("bandit", BanditR1(), Table()),
    "R2": ("bandit", BanditR2(), Table()),
    "network": ("mlp", BanditR1(num_prompts=4), MLP(hidden=(32, 32), features="uniform")),
}
TITLES = {"network": "R1, network, 4 prompts"}
NETWORK_RATES = (0.001, 3.0)
CRITIC = {"R1": "a bandit's is one number", "network": "this one is one more output of its last layer"}
WIDER = (0.1, 300.0)  # learning rates for so short a run
RUNS = 50
NEEDED = 200  # test runs: many arms are at the largest reward, of which no loss is claimed
STYLES = {1: ONLINE, 4: OFFLINE}


@dataclass(frozen=True)
class Cost:
    """Passes of a network as large as the policy, for each sample; a backward pass counts as two."""

    draw: float  # one forward pass gives the tokens and their log-probs
    reference: float
    critic: float  # values at collection, then forward and backward in each epoch
    update: float

    @property
    def total(self) -> float:
        return sum(asdict(self).values())


def cost(algorithm: str, passes: int) -> Cost:
    """What a sample costs. PPO has a critic and no KL penalty here; contrastive losses have a reference, no critic."""
    chosen = find_algorithm(algorithm)()
    return Cost(
        draw=1.0,
        reference=1.0 if chosen.needs_reference else 0.0,
        critic=1.0 + 3.0 * passes if chosen.needs_critic else 0.0,
        update=3.0 * passes,
    )


# What online DPO without reuse takes for all samples, in passes.
COMPUTE = {environment: n * cost("dpo", 1).total for environment, n in SAMPLES.items()}
PANELS = tuple((environment, equal) for environment in SAMPLES for equal in ("samples", "compute"))
# On R2 it is tested, and tuned, over the run: at its end nothing can be told.
OVER_THE_RUN = "R2"
CLAIMS = {
    (environment, equal, name): claim(
        "C68", f"{name}: {environment}, equal {equal}{', over the run' if environment == OVER_THE_RUN else ''}"
    )
    for environment, equal in PANELS
    for name in CONTRASTIVE
}


def batches(environment: str, algorithm: str, passes: int, equal: str) -> int:
    """How many batches of 16 samples an arm may draw."""
    samples = SAMPLES[environment] if equal == "samples" else COMPUTE[environment] / cost(algorithm, passes).total
    return int(samples // (PROMPTS * GENERATIONS))


def arms() -> dict[str, Experiment]:
    """environment/equal what/algorithm/passes."""
    return {
        f"{environment}/{equal}/{algorithm}/{passes}": Experiment(
            name=f"online_contrastive_ppo-{algorithm}",
            environment=ON[environment][1],
            policy=ON[environment][2],
            algorithm=find_algorithm(algorithm)(),
            schedule=Schedule(batch_size=PROMPTS, num_generations=GENERATIONS, epochs=passes),
            updates=passes * batches(environment, algorithm, passes, equal),
            evaluations=min(16, passes * batches(environment, algorithm, passes, equal)),
            runs=RUNS,
        )
        for environment, equal in PANELS
        for algorithm in ALGORITHMS
        for passes in PASSES
    }


def collect(lab: Lab) -> Records:
    """Every arm tuned for its own environment, budget and number of passes, by what it is tested by."""
    found: dict[str, Record] = {}
    groups: tuple[tuple[str, Measure, tuple[float, ...]], ...] = (
        ("R1", "end", ()),
        (OVER_THE_RUN, "run", WIDER),
        ("network", "end", NETWORK_RATES),
    )
    for environment, by, ends in groups:
        chosen = {name: arm for name, arm in arms().items() if name.split("/")[0] == environment}
        grids = {name: equal_grid(arm, *ends) for name, arm in chosen.items()}
        runs = dict.fromkeys(chosen, NEEDED)
        found |= lab.tuned_records(chosen, grids, **TUNING, runs=runs, by=by)
    return found


def draw(records: Records) -> MatplotlibFigure:
    """Score against samples, and against compute; what a sample costs, counted and measured."""
    with plt.rc_context(RC):
        fig, axes = plt.subplots(3, 3, figsize=(14, 11.0), layout="constrained", width_ratios=(1, 1, 0.85))
        for panel, (environment, equal) in zip(axes[:, :2].flat, PANELS, strict=True):
            _against(panel, records, environment, equal)
        _counted(axes[0, 2])
        _measured(axes[1, 2], records, "R1", "… measured on this bandit")
        _measured(axes[2, 2], records, "network", "… and on this network")
        lines = [key(name) for name in ALGORITHMS]
        lines += [
            Line2D([], [], color="0.3", linestyle=style, label=f"{passes} pass{'es' * (passes > 1)} over a batch")
            for passes, style in STYLES.items()
        ]
        fig.legend(handles=lines, loc="outside lower center", ncols=len(lines), fontsize=9.5)
    return fig


def _against(axes: Axes, records: Records, environment: str, equal: str) -> None:
    for algorithm in ALGORITHMS:
        for passes, line in STYLES.items():
            record = records[f"{environment}/{equal}/{algorithm}/{passes}"]
            scale = cost(algorithm, passes).total if equal == "compute" else 1.0
            curve(axes, record.arrays["samples"] * scale / 1000, scores(record), algorithm, line)
    bound(axes, 1.0, "largest reward")
    label = "samples drawn" if equal == "samples" else "passes of a network, counted"
    axes.set(xlabel=f"{label} (thousands)", ylabel="score", ylim=(-0.05, 1.12))
    axes.set_title(f"{TITLES.get(environment, environment)} · equal {equal}")


def _rows() -> list[tuple[str, int]]:
    return [(algorithm, passes) for algorithm in reversed(ALGORITHMS) for passes in reversed(PASSES)]


def _counted(axes: Axes) -> None:
    left = np.zeros(len(_rows()))
    shades = {"draw": "0.75", "reference": "#B4A7D6", "critic": "#7A9BB5", "update": "#3D3D3D"}
    names = {"draw": "draw", "reference": "reference", "critic": "critic", "update": "update the policy"}
    for what, shade in shades.items():
        width = np.array([asdict(cost(*row))[what] for row in _rows()])
        axes.barh(range(len(left)), width, left=left, color=shade, label=names[what])
        left += width
    for at, total in enumerate(left):
        axes.text(total + 0.4, at, f"{total:g}", va="center", fontsize=9)
    axes.set_yticks(range(len(left)), [f"{name}, {passes}×" for name, passes in _rows()])
    axes.set(xlabel="network passes per sample (backward = 2)", xlim=(0, 31), title="What a sample costs, counted")
    axes.legend(fontsize=8.5, loc="center right")
    axes.grid(False)


def _measured(axes: Axes, records: Records, environment: str, title: str) -> None:
    rows = [records[f"{environment}/samples/{name}/{passes}"] for name, passes in _rows()]
    width = [1e6 * r.provenance["seconds"] / (len(r.arrays["reward"]) * r.arrays["samples"][-1]) for r in rows]
    axes.barh(range(len(rows)), width, color=[colour(name) for name, _ in _rows()])
    for at, total in enumerate(width):
        axes.text(total + 0.01 * max(width), at, f"{total:.2f}", va="center", fontsize=9)
    axes.set_yticks(range(len(rows)), [f"{name}, {passes}×" for name, passes in _rows()])
    axes.set(xlabel="core-microseconds per sample", xlim=(0, 1.15 * max(width)), title=title)
    axes.grid(False)


class Tested(NamedTuple):
    """A row: PPO's score minus the other's; the passes that are better in the mean of all runs."""

    effect: Interval
    gates: tuple[Gate, ...]
    passes: dict[str, str]
    used: tuple[Record, ...]


def tested_at_better_passes(records: Records, environment: str, equal: str, name: str) -> Tested:
    """PPO against one contrastive algorithm, each at the better number of passes."""
    margin = CLAIMS[environment, equal, name].margin
    used = {n: {str(p): records[f"{environment}/{equal}/{n}/{p}"] for p in PASSES} for n in ("ppo", name)}
    measure = mean_scores if environment == OVER_THE_RUN else final_scores
    scored = {n: {p: measure(record) for p, record in group.items()} for n, group in used.items()}
    passes = {n: best_arm(group) for n, group in scored.items()}
    every = tuple(record for group in used.values() for record in group.values())
    low = lowest_score(every)
    ours, theirs = (crossfit_best(np.stack(list(scored[n].values()))).astype(float) for n in ("ppo", name))
    lost = effect_of([Part(1.0, ours, low), Part(-1.0, theirs, low)])
    best = {n: used[n][passes[n]] for n in used}
    gates = (_control(environment, best["ppo"], best[name], margin), *tuned_well(margin, *best.values()))
    return Tested(lost, gates, passes, every)


def verdicts(records: Records) -> list[Verdict]:
    """One row for each algorithm, environment and way of comparing; the claim falls where PPO is ahead in both ways."""
    rows = []
    for (environment, equal, name), tested in CLAIMS.items():
        row = tested_at_better_passes(records, environment, equal, name)
        passes = ", ".join(f"{n} {p}" for n, p in row.passes.items())
        note = (
            f"Passes over a batch, the better of 1 and 4 in the mean of all runs: {passes}. The claim falls where PPO "
            "is ahead at both equal samples and equal compute. Compute is counted as for language models, where a "
            f"critic is as large as the policy; {CRITIC.get(environment, CRITIC['R1'])}."
            + ("" if environment == OVER_THE_RUN else " The score at the end is blind to who rises first.")
        )
        hashes = [record.hash for record in row.used]
        rows.append(row_of(tested, ON[environment][0], row.effect, FIGURE.name, hashes, note, row.gates))
    return rows


def _control(environment: str, ppo: Record, other: Record, margin: float) -> Gate:
    """PPO against the contrastive arm stopped early; over the run, that arm against itself at its first evaluation."""
    if environment != OVER_THE_RUN:
        return stopped_early([ppo], [other], margin)
    found = positive_control(effect_of([part(1.0, other, None), part(-1.0, other, 1)]), margin, only_above=True)
    return replace(found, why=f"of the whole run against its first evaluation, {found.why}")


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    runs = len(records["R1/samples/ppo/1"].arrays["reward"])
    return (
        f"1-D bandit, 100 actions, {runs} runs per arm, mean and 95 % band; a table policy, and below a network of two "
        "hidden layers of 32 on four prompts. Batches of 16 samples "
        f"(4 × 4), all on-policy, gone through once or four times. Equal samples: {SAMPLES['R1']:,} on R1 and "
        f"the network, and {SAMPLES['R2']:,} on R2, where later all are at the largest reward. Equal compute: "
        f"{COMPUTE['R1']:,.0f} and "
        f"{COMPUTE['R2']:,.0f} passes of a network as large as the policy, what DPO pays for these samples; a "
        "sample costs 1 to draw, 1 to score under the reference (contrastive), 1 for its value (PPO), and for each "
        "pass over it 3 for the policy and 3 for PPO's critic. Each arm was tuned for its own budget on other seeds, "
        f"on R1 and the network by the score at the end and on R2 over the run, over {TRIED} "
        f"(network {NETWORK_RATES[0]:g} … {NETWORK_RATES[1]:g}, R2 {WIDER[0]:g} … {WIDER[1]:g}) "
        "and β or, in four passes, clip range, "
        "listed below. Noiseless labels; PPO sees the rewards themselves. The measured seconds are of stacked runs, "
        "and other work on the machine shows in them."
    )


FIGURE = Figure(
    name="online_contrastive_ppo",
    title="Online contrastive training against PPO, at equal samples and at equal compute",
    tags=("bandit", "mlp", "sweep"),
    claims=("C68",),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
)
