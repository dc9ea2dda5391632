"""Who finds behaviour that the data never show, and can anyone add what the reference lacks? (C49, C64)"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.lines import Line2D

from figures.arms.gating import Part, agree, edges, effect_of
from figures.arms.sweeps import ROUNDS, TUNING
from figures.catalogue import claim
from figures.claims import Verdict, row_of, theorem_of
from figures.figure import Figure, Records
from figures.lab import Lab, Point, product
from figures.report.style import RC, LineStyle, bound, colour, curve
from sims.core.algorithms import find_algorithm
from sims.core.loop.protocols import PolicySpec
from sims.core.schedule import Schedule
from sims.core.spec import from_json
from sims.environments import Contextual
from sims.experiments.experiment import Experiment
from sims.experiments.store import Record
from sims.policies import MLP, Table
from sims.statistics.gates import Gate, positive_control, room
from sims.statistics.intervals import mean_interval

MASSES = (1e-1, 1e-2, 1e-3, 1e-6)
WITHIN_REACH, RARE = MASSES[:2], MASSES[2:]
POLICIES: dict[str, PolicySpec] = {"table": Table(), "mlp": MLP(hidden=(32, 32), fit_steps=500)}
RATES = {"table": (0.03, 0.1, 0.3, 1.0, 3.0), "mlp": (0.003, 0.01, 0.03, 0.1, 0.3)}
BETAS = (0.1, 2.0)  # of DPO; the others here have no penalty to weigh
# arm: algorithm, where its rewards and responses come from, line
ARMS: dict[str, tuple[str, str, LineStyle]] = {
    "rloo": ("rloo", "gold", "-"),
    "ppo": ("ppo", "gold", "-"),
    "dpo": ("dpo", "gold", "-"),
    "best_of_n": ("best_of_n", "gold", "-"),
    "ppo_learned": ("ppo", "learned", ":"),
    "dpo_offline": ("dpo", "recorded", "--"),
}
ONLINE_RL = ("rloo", "ppo")
PROMPTS, GENERATIONS = 32, 4  # an update's
UPDATES, RUNS = 250, 50
NEEDED = 400  # runs of a table with the smallest mass: that nobody finds it is to be told from one run in a hundred
SAMPLES = UPDATES * PROMPTS * GENERATIONS


CHANCE = Gate(
    "placebo",
    False,
    "none was run, and a network that gives responses it never saw equal shares is at chance, 1/8, which is beyond "
    "the margin; 100 responses or more, or a network trained on permuted rewards, would open it",
)


def arms() -> dict[str, Experiment]:
    """policy/mass/arm → experiment; the table also with a reference that gives the best response exactly 0."""
    found = {}
    draws = Schedule(batch_size=PROMPTS, num_generations=GENERATIONS)
    for name, policy in POLICIES.items():
        for mass in (*MASSES, 0.0) if name == "table" else MASSES:
            environment = Contextual(best_mass=mass, best_in_data=False)
            for arm, (algorithm, source, _) in ARMS.items():
                pairs = Schedule(batch_size=environment.recorded_pairs, source="dataset")
                found[f"{name}/{mass:g}/{arm}"] = Experiment(
                    name=f"absent_behaviour-{arm}",
                    environment=environment.replace(reward_model=name) if source == "learned" else environment,
                    policy=policy,
                    algorithm=find_algorithm(algorithm)(),
                    schedule=pairs if source == "recorded" else draws,
                    updates=UPDATES,
                    evaluations=5,
                    runs=RUNS,
                    seed=1,
                )
    return found


def collect(lab: Lab) -> Records:
    """Every arm tuned over as many points, at each reference mass anew; at exactly 0, where none can be better, as at
    the smallest."""
    chosen = {name: arm for name, arm in arms().items() if name.split("/")[1] != "0"}
    grids = {name: grid(name.split("/")[0], arm.algorithm.kind) for name, arm in chosen.items()}
    more = {name: NEEDED for name in chosen if name.startswith(f"table/{MASSES[-1]:g}/")}
    tuned = lab.tuned_records(chosen, grids, **TUNING, runs=more)
    return tuned | lab.records(at_zero(tuned))


def at_zero(tuned: Records) -> dict[str, Experiment]:
    """The arms whose reference gives the best response exactly 0, with the settings taken at the smallest mass."""
    found = {}
    for name, arm in arms().items():
        policy, mass, algorithm = name.split("/")
        if mass == "0":
            spec = tuned[f"{policy}/{MASSES[-1]:g}/{algorithm}"].spec
            settings = {part: from_json(spec[part]) for part in ("algorithm", "optimiser")}
            found[name] = arm.replace(**settings)
    return found


def grid(policy: str, algorithm: str) -> list[Point]:
    """Learning rates × two β for DPO, twice as many learning rates between the same ends for algorithms without β."""
    rates = RATES[policy]
    if algorithm == "dpo":
        return product(learning_rate=rates, beta=BETAS)
    spread = np.geomspace(rates[0], rates[-1], len(rates) * len(BETAS))
    return product(learning_rate=tuple(float(f"{rate:.2g}") for rate in spread))


def best_probability(records: Records, name: str, distribution: str = "logp_final") -> np.ndarray:
    """(runs,): final probability of the best response, mean over prompts; with distribution = "logp_ref" the
    reference's."""
    arrays = records[name].arrays
    best = arrays["rewards"].argmax(-1)[None, :, None].repeat(len(arrays[distribution]), 0)
    return np.exp(np.take_along_axis(arrays[distribution], best, -1)).mean((-2, -1))


def reference_probability(records: Records, policy: str, mass: float) -> float:
    """What the reference gives the best response: `mass` in a table, as near as a network was fitted to it."""
    return float(best_probability(records, f"{policy}/{mass:g}/rloo", "logp_ref").mean())


def draw(records: Records) -> MatplotlibFigure:
    """The best response's final probability against its probability under the reference."""
    with plt.rc_context(RC):
        fig, axes = plt.subplots(1, 2, figsize=(12, 5.2), layout="constrained", sharey=True)
        for axis, policy in zip(axes, POLICIES, strict=True):
            _panel(axis, records, policy)
        axes[0].set_title("a table")
        axes[1].set_title("a network (MLP, 32 × 32), which generalises")
        axes[0].set_ylabel("final probability of the best response")
        fig.legend(handles=_handles(), loc="outside lower center", ncols=3, fontsize=9.5)
    return fig


def _panel(axis: Axes, records: Records, policy: str) -> None:
    x = np.array([reference_probability(records, policy, mass) for mass in MASSES])
    for arm, (algorithm, _, line) in ARMS.items():
        runs = np.stack([best_probability(records, f"{policy}/{mass:g}/{arm}")[:RUNS] for mass in MASSES], axis=-1)
        curve(axis, x, runs, algorithm, line)
        if policy == "table":
            axis.plot([1e-8], [best_probability(records, f"table/0/{arm}").mean()], "o", color=colour(algorithm), ms=5)
    axis.plot(x, x, color="0.4", linewidth=1.0, linestyle=(0, (1, 3)))
    bound(axis, 1.0, "always the best response", x=0.6)
    axis.set(xscale="log", xlabel="probability of the best response under the reference", ylim=(-0.04, 1.1))
    if policy == "table":
        axis.set_xticks([1e-8, *MASSES], ["0", *[f"$10^{{{round(np.log10(m))}}}$" for m in MASSES]])
        axis.axvspan(3e-9, 5e-8, color="0.92", zorder=0)
    axis.minorticks_off()
    axis.invert_xaxis()


def _handles() -> list[Line2D]:
    labels = {
        "gold": "on-policy, gold reward",
        "learned": "on-policy, reward learned from the data",
        "recorded": "on the recorded pairs",
    }
    lines = [
        Line2D([], [], color=colour(algorithm), linestyle=line, linewidth=2, label=f"{algorithm}: {labels[source]}")
        for algorithm, source, line in ARMS.values()
    ]
    return [*lines, Line2D([], [], color="0.4", linestyle=(0, (1, 3)), label="reference")]


def verdicts(records: Records) -> list[Verdict]:
    """Within reach, rare, and impossible; and whether it takes RL to find it."""
    rows = []

    def found(policy: str, arm: str, masses: tuple[float, ...]) -> np.ndarray:
        each = [best_probability(records, f"{policy}/{mass:g}/{arm}") for mass in masses]
        runs = min(map(len, each))  # the first runs are the same in longer records
        return np.asarray(np.mean([x[:runs] for x in each], axis=0), float)

    def of(policy: str, arms: Iterable[str], masses: tuple[float, ...]) -> list[Record]:
        return [records[f"{policy}/{m:g}/{arm}"] for arm in arms for m in masses]

    for policy in POLICIES:
        setting: Literal["bandit", "mlp"] = "bandit" if policy == "table" else "mlp"
        given = {mass: f"{reference_probability(records, policy, mass):.2g}" for mass in MASSES}
        for part, other, masses, note in (
            ("against offline DPO, within reach", "dpo_offline", WITHIN_REACH, "Online RL asks the gold reward of what "
             "it draws; with a reward learned from the data it finds nothing either, as the dotted line shows."),
            ("against offline DPO, rare", "dpo_offline", RARE, f"{SAMPLES:,} samples were drawn; more samples, or a "
             "bonus for exploration, would move the edge of what is found."),
            ("against online DPO, within reach", "dpo", WITHIN_REACH, "What finds it is drawing and judging fresh "
             "responses: where online DPO does as well, it does not take RL."),
        ):  # fmt: skip
            judged = claim("C49", part, masses=", ".join(given[mass] for mass in masses))
            ours = {arm: found(policy, arm, masses) for arm in ONLINE_RL}
            theirs = found(policy, other, masses)
            each = {arm: (Part(1.0, x, 0.0), Part(-1.0, theirs, 0.0)) for arm, x in ours.items()}
            effect = effect_of([*(Part(1.0 / len(ours), x, 0.0) for x in ours.values()), Part(-1.0, theirs, 0.0)])
            used = of(policy, (*ONLINE_RL, other), masses)
            gates = [
                room(np.mean(list(ours.values()), axis=0), theirs, 0.0, 1.0, judged.margin),
                edges(judged.margin, *used),
                agree(each),
            ]
            if policy == "mlp" and masses == RARE:
                gates.append(CHANCE)
            rows.append(row_of(judged, setting, effect, FIGURE.name, [r.hash for r in used], note, gates))
        smallest = (MASSES[-1],)
        tried = {arm: found(policy, arm, smallest) for arm in ARMS}
        best = max(tried, key=lambda arm: float(tried[arm].mean()))
        lacking = claim("C64", "all but lacking", mass=given[MASSES[-1]], best=best)
        note = (
            "At this budget; that the largest of the arms is taken makes the effect look larger than one arm's. A "
            "network may give mass to what it never drew nor saw, because its weights are shared."
        )
        control = positive_control(mean_interval(found(policy, "rloo", WITHIN_REACH)), lacking.margin)
        gates = [replace(control, why=f"RLOO at {', '.join(given[m] for m in WITHIN_REACH)}: {control.why}")]
        if policy == "mlp":
            gates.append(CHANCE)
        hashes = [record.hash for record in of(policy, ARMS, smallest)]
        rows.append(
            row_of(lacking, setting, effect_of([Part(1.0, tried[best], 0.0)]), FIGURE.name, hashes, note, gates)
        )
    tried = {arm: best_probability(records, f"table/0/{arm}") for arm in ARMS}
    best = max(tried, key=lambda arm: float(tried[arm].mean()))
    note = "It holds by arithmetic, since 0 times anything is 0; no softmax with finite logits has such a reference."
    hashes = [record.hash for record in of("table", ARMS, (0.0,))]
    rows.append(theorem_of(claim("C64", "exactly 0"), "bandit", tried[best].tolist(), FIGURE.name, hashes, note))
    return rows


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    runs = len(records["table/0.1/dpo"].arrays["gold"])
    least = reference_probability(records, "mlp", MASSES[-1])
    return (
        f"8 prompts × 8 responses; recorded pairs show four of the eight, never the best; {runs} runs an arm, and "
        f"{NEEDED} of a table at {MASSES[-1]:g}, of which {RUNS} are drawn. Each "
        f"arm was tuned over {len(grid('table', 'dpo'))} points on other seeds ({ROUNDS}), at each reference mass but "
        f"0: DPO's learning rate and β, the others' learning rate. {UPDATES} updates: {PROMPTS} × {GENERATIONS} fresh "
        "responses each on-policy, full batches of the recorded pairs offline. Mean and 95 % band over runs. The "
        f"network was fitted to the reference's probabilities, and has {least:.1e} where {MASSES[-1]:g} was meant."
    )


FIGURE = Figure(
    name="absent_behaviour",
    title="Who finds what the data never show?",
    tags=("contextual", "online-offline"),
    claims=("C49", "C64"),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
)
