"""What goes wrong between online and offline? (C35, C36, C37) A stale sampler on few prompts, the length of responses
when the reference follows the policy, and entropy under a reward that is right or wrong against a dense one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure

from figures.arms import gating
from figures.arms.collapsing import interaction_of_falls, measured, preventable
from figures.arms.entropies import DRAWS, PAIRS, PLACES, TREE, draw_entropies, entropy_arms, entropy_rows
from figures.arms.gating import last_with_room, sides, tuned_well
from figures.arms.sweeps import ROUNDS, TUNING, spread_grid
from figures.catalogue import Claim, claim
from figures.claims import Verdict, row_of
from figures.figure import Figure, Records
from figures.lab import Lab
from figures.report.style import RC, bound, curve, points
from sims.core.algorithms.contrastive import DPO
from sims.core.loop.optimise import Optimiser
from sims.core.schedule import Schedule
from sims.core.spec import from_json
from sims.environments import Contextual
from sims.experiments.experiment import Experiment
from sims.experiments.measures import scores
from sims.experiments.store import Record
from sims.policies import MLP, Table
from sims.statistics.gates import placebo, room
from sims.statistics.intervals import mean_interval

RUNS, BATCH, GENERATIONS = 100, 8, 4
UPDATES = {"prompts": 400, "tree": 200}
FEW, MANY, SEMI, RARE = 4, 32, 10.0, 100.0
ALIKE = 0.35  # probability that a response is right, whatever its length: the placebo of C36
LOWEST, HIGHEST = 0.003, 3.0  # learning rates of what is tuned
BETAS = (0.01, 0.1, 1.0, 10.0)
HELD = Optimiser(learning_rate=0.05)  # of C36, with β = 1: tuned for their score, both arms end before a length falls
POINTS = 6 * len(BETAS)

UNSTABLE = {"held": claim("C35", "settings of s = 10"), "prompts": claim("C35", "each tuned")}
LENGTH = claim("C36", "DPO, s = 10")


def arms() -> dict[str, Experiment]:
    """prompts/number/s; length/task/reference; and those of entropies."""
    # Seeds: a setting that was changed after its runs takes fresh ones (the history in claims.toml).
    shared: dict[str, Any] = {"evaluations": 20, "runs": RUNS, "seed": 13}
    again = {**shared, "updates": UPDATES["tree"], "seed": 14}
    long = {**shared, "updates": UPDATES["prompts"]}
    drawn = Schedule(batch_size=BATCH, num_generations=GENERATIONS)
    found = {}
    for number in (FEW, MANY):
        prompts = Contextual(num_prompts=number, coverage=0.5, best_mass=0.02)
        for period in (SEMI, RARE):
            schedule = drawn.replace(sync_every_updates=period)
            policy = MLP(hidden=(32,), fit_steps=200)
            found[f"prompts/{number}/{period:g}"] = Experiment("few_prompts", prompts, policy, DPO(), schedule, **long)
    semi = drawn.replace(sync_every_updates=SEMI)
    references = {"fixed": semi, "copied": semi.replace(reference="copy", reference_every_updates=int(SEMI))}
    for task, tree in {"short": TREE, "alike": TREE.replace(right_short=ALIKE, right_long=ALIKE)}.items():
        for reference, schedule in references.items():
            name = f"length/{task}/{reference}"
            found[name] = Experiment(
                "length_collapse", tree, Table(), PAIRS.replace(beta=1.0), schedule, optimiser=HELD, **again
            )
    found |= entropy_arms(drawn)
    return found


def collect(lab: Lab) -> Records:
    """Every arm of C35 tuned for itself, and the rare sync by the settings of the frequent one too."""
    held, chosen = arms(), dict[str, Experiment]()
    for name in list(held):
        if name.startswith("prompts/"):
            chosen[name] = held.pop(name)
    grids = {name: spread_grid(arm, LOWEST, HIGHEST, BETAS, POINTS) for name, arm in chosen.items()}
    found = lab.tuned_records(chosen, grids, **TUNING)
    for number in (FEW, MANY):
        spec = found[f"prompts/{number}/{SEMI:g}"].spec
        like = {part: from_json(spec[part]) for part in ("algorithm", "optimiser")}
        held[f"held/{number}/{RARE:g}"] = chosen[f"prompts/{number}/{RARE:g}"].replace(**like)
    return {**found, **lab.records(held)}


def draw(records: Records) -> MatplotlibFigure:
    """Scores on few and many prompts; lengths by reference; entropy by reward."""
    with plt.rc_context(RC):
        fig = plt.figure(figsize=(13.5, 8.2), layout="constrained")
        grid = fig.add_gridspec(2, 6)
        few, many, lengths = (fig.add_subplot(grid[0, 2 * i : 2 * i + 2]) for i in range(3))
        for axis, number in ((few, FEW), (many, MANY)):
            _curves(axis, records, number)
        for i, task in enumerate(("short", "alike")):
            at = np.arange(2) + 0.08 * (i - 0.5)
            ends = [measured(records[f"length/{task}/{reference}"], "length") for reference in ("fixed", "copied")]
            points(lengths, at, ends, "dpo", task == "short")
        start = float(records["length/short/fixed"].arrays["length"][:, 0].mean())
        bound(lengths, start, "at the start")
        lengths.set_xticks(range(2), ["fixed reference", f"copied every {SEMI:g} updates"])
        lengths.set(xlim=(-0.5, 1.5), ylim=(0.0, 1.15 * start), ylabel="tokens before EOS at the end")
        lengths.set_title("filled: short responses more often right\nopen: all alike")
        for i, place in enumerate(PLACES):
            draw_entropies(fig.add_subplot(grid[1, 3 * i : 3 * i + 3]), records, place)
    return fig


def _curves(axes: Axes, records: Records, number: int) -> None:
    """Scores of DPO over the run; dashed the rare sync, dotted with the frequent one's settings, if others."""
    arms = {f"s = {SEMI:g}": (f"prompts/{number}/{SEMI:g}", "-"), f"s = {RARE:g}": (f"prompts/{number}/{RARE:g}", "--")}
    held = f"held/{number}/{RARE:g}"
    if records[held].hash != records[f"prompts/{number}/{RARE:g}"].hash:
        arms[f"s = {RARE:g}, settings of s = {SEMI:g}"] = (held, ":")
    for label, (name, line) in arms.items():
        record = records[name]
        curve(axes, record.arrays["updates"], scores(record), "dpo", line, label)
    bound(axes, 1.0, "largest reward", x=0.3)
    axes.set(title=f"{number} prompts", xlabel="updates", ylabel="score of DPO", ylim=(-0.05, 1.12))
    axes.legend(loc="lower right", fontsize=8.5)


def verdicts(records: Records) -> list[Verdict]:
    """C35 by both settings of the rare sync, C36, and C37 of both algorithms, online and offline, in both places."""
    rows = []
    for which, tested in UNSTABLE.items():
        rare, semi = (
            [records[f"{folder}/{number}/{s:g}"] for number in (FEW, MANY)]
            for folder, s in ((which, RARE), ("prompts", SEMI))
        )
        rows.append(_unstable(tested, rare, semi))
    fixed, copied = (records[f"length/short/{reference}"] for reference in ("fixed", "copied"))
    rows.append(_length(fixed, copied, [records[f"length/alike/{reference}"] for reference in ("copied", "fixed")]))
    return [*rows, *entropy_rows(records, FIGURE.name)]


def _unstable(tested: Claim, rare: Sequence[Record], semi: Sequence[Record]) -> Verdict:
    """Interaction: by how much more the rare sync falls than the frequent one on few prompts than on many."""
    values = interaction_of_falls(rare, semi)
    diverged = [int((record.arrays["diverged_at"] >= 0).sum()) for record in rare]
    why = f"s = {SEMI:g} and {MANY} prompts are the placebos: each takes away one of the two that the claim needs"
    few, many = (scores(record).max(-1) for record in rare)
    gates = [room(few, many, 0.0, math.inf, tested.margin), placebo(None, tested.margin, why)]
    gates.append(gating.larger_fall(tested, rare, semi))
    tuned = [*rare, *semi] if tested is UNSTABLE["prompts"] else semi
    gates += tuned_well(tested.margin, *tuned, falls="the claim is that an arm falls")
    note = (
        f"Of {RUNS} runs with s = {RARE:g}, {diverged[0]} diverged on {FEW} prompts and {diverged[1]} on {MANY}. "
        f"{UPDATES['prompts']} updates of {BATCH} prompts pass {FEW} prompts {MANY // FEW} times as often as {MANY}."
    )
    hashes = [record.hash for record in (*rare, *semi)]
    return row_of(tested, "mlp", mean_interval(values), FIGURE.name, hashes, note, gates)


def _length(fixed: Record, copied: Record, alike: Sequence[Record]) -> Verdict:
    at, left = last_with_room([sides([copied], [fixed])], LENGTH.margin)
    one, other = (measured(x, "length", at) for x in (copied, fixed))
    without = mean_interval(measured(alike[0], "length", at) - measured(alike[1], "length", at))
    gates = [left, preventable(fixed, SEMI, at, LENGTH.margin), placebo(without, LENGTH.margin)]
    note = (
        f"Both with learning rate {HELD.learning_rate:g} and β = 1: tuned for their score, both are at the largest "
        f"reward before a reference matters. Tested after {int(fixed.arrays['updates'][at])} updates, the last "
        "evaluation at which the scores leave room. "
        f"The placebo: responses of every length are right with probability {ALIKE:g}. A response has up to "
        f"{TREE.max_length} tokens; a reference that is copied every {SEMI:g} updates holds the policy back "
        f"less. One draw of the tree for all runs: the interval does not cover trees."
    )
    effect, hashes = mean_interval(one - other), [copied.hash, fixed.hash]
    return row_of(LENGTH, "token", effect, FIGURE.name, hashes, note, gates)


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    runs = len(records[f"prompts/{FEW}/{SEMI:g}"].arrays["gold"])
    each = len(records[f"entropy/{PLACES['tree'].rates[0]:g}/dpo/dense/online/{DRAWS[0]}"].arrays["entropy"])
    single = PLACES["network"].environment
    rates = {name: ", ".join(f"{rate:g}" for rate in place.rates) for name, place in PLACES.items()}
    return (
        f"{runs} runs per arm, updates of {BATCH} prompts × {GENERATIONS} responses; mean and 95 % interval or band. "
        f"Top, {UPDATES['prompts']} updates: DPO on a network of one hidden layer of 32, whose best response has a "
        "reference probability of 0.02; every arm but the dotted ones tuned for its score on other seeds, over "
        f"{POINTS} points ({ROUNDS}) of learning rate ({LOWEST:g} … {HIGHEST:g}) and β ({BETAS[0]:g} … "
        f"{BETAS[-1]:g}), listed below. All else {UPDATES['tree']} updates, none tuned: tables on a token tree of "
        f"{TREE.num_prompts} prompts and responses of up to {TREE.max_length} tokens, right with a probability of "
        f"{TREE.right_short:g} (one token) to {TREE.right_long:g} (all), and a network of one hidden layer of 32 on "
        f"{single.num_prompts} prompts × {single.vocabulary} responses, right with a probability of "
        f"{single.right_short:g}; DPO takes the best and the worst of {GENERATIONS}. Top right, its sampler is copied "
        f"every {SEMI:g} updates, learning rate {HELD.learning_rate:g}, β = 1, at the end. Bottom, {len(DRAWS)} draws "
        f"of the rewards, of each the mean of {each} runs; it is copied before every batch or never, with learning "
        f"rates, from left to right, {rates['tree']} of the table and "
        f"{rates['network']} of the network, β = {PAIRS.beta:g} (GRPO has no KL penalty), at the last evaluation that "
        "leaves room. Noiseless labels."
    )


FIGURE = Figure(
    name="collapse",
    title="What collapses between online and offline?",
    tags=("contextual", "mlp", "token-tree", "online-offline"),
    claims=("C35", "C36", "C37"),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
)
