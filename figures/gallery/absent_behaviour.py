"""Who finds behaviour that the data never show, and can anyone add what the reference lacks? (C49, C64)"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.lines import Line2D

from figures.arms.gating import Part, agree, edges, effect_of, luck
from figures.arms.sweeps import ROUNDS, TUNING
from figures.catalogue import Setting, claim
from figures.claims import Verdict, row_of, theorem_of
from figures.figure import Figure, Records
from figures.lab import Lab, Point, best_probability, product
from figures.report.style import RC, LineStyle, bound, colour, key, marker, points
from sims.core.algorithms import find_algorithm
from sims.core.loop.protocols import PolicySpec
from sims.core.schedule import Schedule
from sims.core.spec import from_json
from sims.environments import Contextual
from sims.experiments.experiment import Experiment
from sims.experiments.store import Record
from sims.policies import MLP, Table
from sims.statistics.bounded import bounded_interval
from sims.statistics.gates import Gate, placebo, positive_control, room
from sims.statistics.intervals import mean_interval

MASSES = (1e-1, 1e-2, 1e-3, 1e-6)
WITHIN_REACH, LACKING = MASSES[:2], MASSES[-1]
RARE = {"table": 5e-3, "many": 3e-3}  # at 1e-3 nobody is a margin above 0
POLICIES: dict[str, PolicySpec] = {"table": Table(), "mlp": MLP(hidden=(32, 32), fit_steps=500)}
RATES = {"table": (0.03, 0.1, 0.3, 1.0, 3.0), "mlp": (0.003, 0.01, 0.03, 0.1, 0.3)}
# A network that gives responses it never saw equal shares is at chance. With 8 responses that is beyond the margins,
# with 104 within them: what is rare or lacking is tested there.
MANY = 104
CONTROL = 1e-2  # where RLOO must find the best of them
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
UPDATES, RUNS, SEED = 250, 50, 41
ENOUGH = 100  # runs where C49 is tested: as many as are asked for where some are at a bound
NEEDED = 400  # runs with the smallest mass: that nobody finds it is to be told from one run in a hundred
LACKING_SEED = 51  # of the network's, which were judged by too few runs of the others' seed before
SAMPLES = UPDATES * PROMPTS * GENERATIONS
NEARLY_NONE = 1e-4  # the most that a reference may give what it is said to all but lack


def arms() -> dict[str, Experiment]:
    """policy/mass/arm → experiment; the table also with a reference that gives the best response exactly 0."""
    return {
        f"{policy}/{mass:g}/{arm}": experiment(policy, Contextual(best_mass=mass, best_in_data=False), arm)
        for policy in POLICIES
        for mass in ((*MASSES, 0.0) if policy == "table" else MASSES)
        for arm in ARMS
    }


def rare_arms() -> dict[str, Experiment]:
    """The table where it is rare; and many/mass/arm, the network with MANY responses to each of 4 prompts, of which
    pairs show 8."""
    many = Contextual(num_prompts=4, num_responses=MANY, coverage=8 / MANY, best_in_data=False)
    found = {
        f"table/{RARE['table']:g}/{arm}": experiment(
            "table", Contextual(best_mass=RARE["table"], best_in_data=False), arm
        )
        for arm in ARMS
    }
    for mass in (CONTROL, RARE["many"], LACKING):
        for arm in ("rloo",) if mass == CONTROL else ARMS:
            made = experiment("mlp", many.replace(best_mass=mass), arm)
            found[f"many/{mass:g}/{arm}"] = made.replace(seed=LACKING_SEED) if mass == LACKING else made
    return found


def experiment(policy: str, environment: Contextual, arm: str) -> Experiment:
    """One arm."""
    algorithm, source, _ = ARMS[arm]
    pairs = Schedule(batch_size=environment.recorded_pairs, source="dataset")
    return Experiment(
        name=f"absent_behaviour-{arm}",
        environment=environment.replace(reward_model=policy) if source == "learned" else environment,
        policy=POLICIES[policy],
        algorithm=find_algorithm(algorithm)(),
        schedule=pairs if source == "recorded" else Schedule(batch_size=PROMPTS, num_generations=GENERATIONS),
        updates=UPDATES,
        evaluations=5,
        runs=RUNS,
        seed=SEED,
    )


def collect(lab: Lab) -> Records:
    """Every arm tuned over as many points, at each reference mass anew; at exactly 0, where none can be better, as at
    the smallest. What is rare is tuned by the best response's probability, by which it is tested."""
    chosen = {name: arm for name, arm in arms().items() if name.split("/")[1] != "0"}
    rare = rare_arms()
    tuned = lab.tuned_records(chosen, _grids(chosen), **TUNING, runs=_more_runs(chosen))
    sought = lab.tuned_records(rare, _grids(rare), **TUNING, by="best", runs=_more_runs(rare))
    return tuned | lab.records(at_zero(tuned)) | sought


def _more_runs(names: Iterable[str]) -> dict[str, int]:
    """Of the arms that are tested."""
    found = {}
    for name in names:
        policy, mass, _ = name.split("/")
        if (policy, mass) in (("table", f"{LACKING:g}"), ("many", f"{LACKING:g}")):
            found[name] = NEEDED
        elif float(mass) in ((RARE["many"],) if policy == "many" else (*WITHIN_REACH, RARE["table"])):
            found[name] = ENOUGH
    return found


def _grids(chosen: Mapping[str, Experiment]) -> dict[str, list[Point]]:
    return {
        name: grid("table" if name.startswith("table") else "mlp", arm.algorithm.kind) for name, arm in chosen.items()
    }


def at_zero(tuned: Records) -> dict[str, Experiment]:
    """The arms whose reference gives the best response exactly 0, with the settings taken at the smallest mass."""
    found = {}
    for name, arm in arms().items():
        policy, mass, algorithm = name.split("/")
        if mass == "0":
            spec = tuned[f"{policy}/{LACKING:g}/{algorithm}"].spec
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


def reference_probability(records: Records, policy: str, mass: float) -> float:
    """What the reference gives the best response: `mass` in a table, as near as a network was fitted to it."""
    return float(records[f"{policy}/{mass:g}/rloo"].arrays["best_mass_ref"].mean())


def draw(records: Records) -> MatplotlibFigure:
    """The best response's final probability against its probability under the reference."""
    with plt.rc_context(RC):
        fig, axes = plt.subplots(1, 3, figsize=(12.5, 5.4), layout="constrained", sharey=True)
        for axis, policy in zip(axes, ("table", "mlp", "many"), strict=True):
            _panel(axis, records, policy)
        axes[0].set_title("a table, 8 responses")
        axes[1].set_title("a network (MLP, 32 × 32), 8 responses")
        axes[2].set_title(f"the network, {MANY} responses")
        axes[0].set_ylabel("final probability of the best response")
        fig.legend(handles=_handles(), loc="outside lower center", ncols=3, fontsize=9.5)
    return fig


def _panel(axis: Axes, records: Records, policy: str) -> None:
    masses = {"table": (*MASSES[:2], RARE["table"], *MASSES[2:]), "mlp": MASSES, "many": (RARE["many"], LACKING)}[
        policy
    ]
    x = np.array([reference_probability(records, policy, mass) for mass in masses])
    for i, (arm, (algorithm, _, line)) in enumerate(ARMS.items()):
        at = x * 1.12 ** (i - len(ARMS) / 2)  # side by side, where they would cover one another
        runs = [best_probability(records[f"{policy}/{mass:g}/{arm}"])[:ENOUGH] for mass in masses]
        mean = points(axis, at, runs, algorithm, filled=line == "-")
        axis.plot(at, mean, line, color=colour(algorithm), linewidth=1.6)
        if policy == "table":
            zero = best_probability(records[f"table/0/{arm}"]).mean()
            axis.plot([1e-8 * at[0] / x[0]], [zero], marker(algorithm), color=colour(algorithm), ms=4)
    if policy == "many":
        control = [best_probability(records[f"many/{CONTROL:g}/rloo"])]
        points(axis, np.array([reference_probability(records, "many", CONTROL)]), control, "rloo")
        axis.axhline(1 / MANY, color="0.4", linewidth=0.8)
        axis.text(
            0.75,
            1 / MANY + 0.015,
            f"equal shares, 1/{MANY}",
            transform=axis.get_yaxis_transform(),
            ha="right",
            fontsize=8,
        )
    else:
        axis.axhline(1 / 8, color="0.4", linewidth=0.8)
        left = 0.4 if policy == "table" else 0.02  # where no curve passes
        axis.text(left, 1 / 8 + 0.01, "equal shares, 1/8", transform=axis.get_yaxis_transform(), fontsize=8)
    axis.plot(x, x, color="0.4", linewidth=1.0, linestyle=(0, (1, 3)))
    bound(axis, 1.0, "always the best response", x=0.98)
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
        key(
            algorithm,
            f"{algorithm}: {labels[source]}",
            linestyle=line,
            markerfacecolor=colour(algorithm) if line == "-" else "white",
        )
        for algorithm, source, line in ARMS.values()
    ]
    return [*lines, Line2D([], [], color="0.4", linestyle=(0, (1, 3)), label="reference")]


class Finds(NamedTuple):
    """A row of C49. other: what online RL is held against; masses: none where each policy has its own, RARE; policies:
    of the bandit's row and of the network's."""

    part: str
    other: str
    masses: tuple[float, ...]
    policies: tuple[str, ...]
    note: str


FINDS = (
    Finds(
        "against offline DPO, within reach", "dpo_offline", WITHIN_REACH, ("table", "mlp"),
        "Online RL asks the gold reward of what it draws; with a reward learned from the data it finds nothing either, "
        "as the dotted line shows.",
    ),
    Finds(
        "against offline DPO, rare", "dpo_offline", (), ("table", "many"),
        f"{SAMPLES:,} samples were drawn; more samples, or a bonus for exploration, would move the edge of what is "
        "found.",
    ),
    Finds(
        "against online DPO, within reach", "dpo", WITHIN_REACH, ("mlp",),
        "What finds it is drawing and labelling fresh responses: where online DPO does as well, it does not take RL.",
    ),
    Finds(
        "against online DPO, rare", "dpo", (), ("table", "many"),
        "What finds it is drawing and labelling fresh responses: where online DPO does as well, it does not take RL.",
    ),
)  # fmt: skip


def verdicts(records: Records) -> list[Verdict]:
    """Within reach, rare, and impossible; and whether it takes RL to find it."""
    rows = [_finds(records, row, policy) for row in FINDS for policy in row.policies]
    rows += [_lacks(records, policy) for policy in ("table", "many")]
    tried = {arm: best_probability(records[f"table/0/{arm}"]) for arm in ARMS}
    best = max(tried, key=lambda arm: float(tried[arm].mean()))
    note = "It holds by arithmetic, since 0 times anything is 0; no softmax with finite logits has such a reference."
    hashes = [records[f"table/0/{arm}"].hash for arm in ARMS]
    return [*rows, theorem_of(claim("C64", "exactly 0"), "bandit", tried[best].tolist(), FIGURE.name, hashes, note)]


def found(records: Records, policy: str, arm: str, masses: tuple[float, ...]) -> np.ndarray:
    """(runs,): final probability of the best response, mean over reference masses."""
    each = [best_probability(records[f"{policy}/{mass:g}/{arm}"]) for mass in masses]
    runs = min(map(len, each))  # the first runs are the same in longer records
    return np.asarray(np.mean([x[:runs] for x in each], axis=0), float)


def _setting(policy: str) -> Setting:
    return "bandit" if policy == "table" else "mlp"


def _finds(records: Records, row: Finds, policy: str) -> Verdict:
    at = row.masses or (RARE[policy],)
    masses = {mass: reference_probability(records, policy, mass) for mass in at}
    tested = claim("C49", row.part, masses=", ".join(f"{mass:.2g}" for mass in masses.values()))
    ours = {arm: found(records, policy, arm, at) for arm in ONLINE_RL}
    theirs = found(records, policy, row.other, at)
    each = {arm: (Part(1.0, x, 0.0), Part(-1.0, theirs, 0.0)) for arm, x in ours.items()}
    effect = effect_of([*(Part(1.0 / len(ours), x, 0.0) for x in ours.values()), Part(-1.0, theirs, 0.0)])
    used = [records[f"{policy}/{mass:g}/{arm}"] for arm in (*ONLINE_RL, row.other) for mass in at]
    blind = mean_interval(found(records, policy, "ppo_learned", at) - np.mean(list(masses.values())))
    without = placebo(blind, tested.margin)
    gates = [
        room(np.mean(list(ours.values()), axis=0), theirs, 0.0, 1.0, tested.margin),
        edges(tested.margin, *used),
        luck(tested.margin, *used),
        agree(each),
        replace(without, why=f"PPO on a reward learned from the pairs, against the reference: {without.why}"),
        _geometry(masses.values(), 0.9 * min(at), 1.1 * max(at)),
    ]
    hashes = [record.hash for record in used]
    return row_of(tested, _setting(policy), effect, FIGURE.name, hashes, row.note, gates)


def _lacks(records: Records, policy: str) -> Verdict:
    tried = {arm: found(records, policy, arm, (LACKING,)) for arm in ARMS}
    best = max(tried, key=lambda arm: float(tried[arm].mean()))
    mass = reference_probability(records, policy, LACKING)
    tested = claim("C64", "all but lacking", mass=f"{mass:.2g}", best=best)
    note = (
        "At this budget; that the largest of the arms is taken makes the effect look larger than one arm's. "
        f"{_who_finds(records, policy, tried, tested.margin)} All but lacking is by probability, not by budget, which "
        f"has {SAMPLES:,} samples on-policy."
    )
    masses = WITHIN_REACH if policy == "table" else (CONTROL,)
    control = positive_control(mean_interval(found(records, policy, "rloo", masses)), tested.margin)
    where = ", ".join(f"{reference_probability(records, policy, mass):.2g}" for mass in masses)
    gates = [
        replace(control, why=f"RLOO at {where}: {control.why}"),
        _chance(records[f"{policy}/{LACKING:g}/rloo"], tested.margin),
        _enough(len(tried[best]), tested.margin),
        _geometry([mass], 0.0, NEARLY_NONE),
    ]
    hashes = [records[f"{policy}/{LACKING:g}/{arm}"].hash for arm in ARMS]
    effect = effect_of([Part(1.0, tried[best], 0.0)])
    return row_of(tested, _setting(policy), effect, FIGURE.name, hashes, note, gates)


def _who_finds(records: Records, policy: str, tried: Mapping[str, np.ndarray], margin: float) -> str:
    """Which arms give the response more than the margin, and in how many of their runs. tried: (runs,) of each arm."""
    if policy == "table":
        return "A table shares no weights: it can raise only what it drew."
    said = []
    for arm in (arm for arm, mass in tried.items() if mass.mean() > margin):
        rate = records[f"{policy}/{LACKING:g}/{arm}"].spec["optimiser"]["learning_rate"]
        said.append(f"{arm}, with learning rate {rate:g}, in {(tried[arm] > margin).mean():.0%} of its runs")
    return (
        f"Beyond the margin: {'; '.join(said) or 'no arm'}. A network may give mass to what it never drew, because its "
        "weights are shared; but a run that draws it by luck and goes on from there looks the same."
    )


def _chance(record: Record, margin: float) -> Gate:
    """What a network that gives every response it never saw an equal share gives the best; a table gives it nothing."""
    if record.spec["policy"]["kind"] == "table":
        return Gate("placebo", True, "chance is the reference's probability, as a table shares nothing")
    responses = record.spec["environment"]["num_responses"]
    said = f"an equal share of {responses} responses is {1 / responses:.2g}"
    return Gate("placebo", 1 / responses <= margin, said if 1 / responses <= margin else f"{said}; more would open it")


def _enough(runs: int, margin: float) -> Gate:
    """Whether as many runs that all find nothing could support that nobody does."""
    most = bounded_interval(np.zeros(runs), 0.0, 1.0).high
    said = f"{runs} runs that find nothing leave a mean of up to {most:.2g}"
    return Gate("runs at a bound", most <= margin, said if most <= margin else f"{said}; more runs would open it")


def _geometry(masses: Iterable[float], least: float, most: float) -> Gate:
    """Whether references give the best response what they were meant to; a network's is fitted to it."""
    given = list(masses)
    said = f"the reference gives the best response {', '.join(f'{mass:.2g}' for mass in given)}"
    inside = least <= min(given) and max(given) <= most
    return Gate(
        "geometry", inside, said if inside else f"{said}, and should {least:.2g} to {most:.2g}, which would open it"
    )


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    least = reference_probability(records, "many", LACKING)
    return (
        "Left and centre 8 prompts × 8 responses, of which recorded pairs show four, never the best; right "
        f"4 × {MANY}, eight shown. {RUNS} runs per arm, {ENOUGH} where C49 is tested, and left and right {NEEDED} "
        f"at {LACKING:g}, of which {ENOUGH} are drawn. Each "
        f"arm was tuned over {len(grid('table', 'dpo'))} points on other seeds ({ROUNDS}), at each reference mass but "
        f"0, right and at {RARE['table']:g} by the probability shown, else by score: DPO's learning rate and β, the "
        f"others' learning rate. {UPDATES} updates: {PROMPTS} × {GENERATIONS} fresh "
        "responses each on-policy, full batches of the recorded pairs offline. Mean and 95 % interval over runs; arms "
        "are set side by side. The "
        f"network was fitted to the reference's probabilities, and has {least:.1e} where {LACKING:g} was meant."
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
