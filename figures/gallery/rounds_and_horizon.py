"""What can stand in for PPO, and what makes PPO work? (C08, C09, C10, C65) Iterated DPO in rounds, on one objective and
on two; PPO with and without three of its details; and a critic against DPO at horizons from 1 to 6."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure

from figures.arms.effect_row import effect_row, settings
from figures.arms.gating import Part, agree, effect_of, part, part_of_gold
from figures.arms.sweeps import spread_grid
from figures.catalogue import claim
from figures.claims import Verdict, row_of
from figures.figure import Figure, Records
from figures.lab import Lab
from figures.report.style import RC, bound, colour, key, marker, points, side_by_side
from sims.core.algorithms.clipped import PPO
from sims.core.algorithms.contrastive import DPO
from sims.core.algorithms.policy_gradient import RLOO
from sims.core.schedule import Schedule
from sims.environments import RatedResponses, TokenTree
from sims.experiments.experiment import Experiment
from sims.experiments.measures import final_scores, part_scores
from sims.policies import ResponseMLP, Table
from sims.statistics.gates import placebo, positive_control, room
from sims.statistics.intervals import student_interval

RUNS, UPDATES, EVALUATIONS, SAMPLES, COUNT, TRIED = 100, 160, 8, 32, 4, 12
ONE = RatedResponses(
    num_prompts=16,
    num_responses=8,
    unexplained=0.3,
    num_pairs=64,
    rating_noise=0.3,
    rating_flips=0.2,
    reference_tilt=-1.0,
)
OBJECTIVES = {"one": ONE, "two": ONE.replace(num_aspects=2, aspect_correlation=0.0)}
FRESH = Schedule(batch_size=SAMPLES // 2)
EACH_ROUND = UPDATES // COUNT
LEARNERS = {
    "offline": (DPO(), Schedule(batch_size=SAMPLES // 2, source="dataset")),
    "iterated": (
        DPO(),
        FRESH.replace(sync_every_updates=float(EACH_ROUND), reference="copy", reference_every_updates=EACH_ROUND),
    ),
    "online": (DPO(), FRESH),
    "ppo": (PPO(), Schedule(batch_size=SAMPLES // 4, num_generations=4)),
}
NAMES = {"offline": "DPO,\noffline", "iterated": f"DPO,\n{COUNT} rounds", "online": "DPO,\nonline", "ppo": "PPO"}
AWAY = {"offline": (-10, -38), "iterated": (40, -34), "online": (-96, 34), "ppo": (34, 26)}  # labels, in points
TREE = TokenTree(vocabulary=4, max_length=4, structure="path")
SMALL, LARGE, DRAWN = 16, 64, 5120
LADDER = list(itertools.product(("white", "plain"), ("large", "small"), ("ema", "fixed")))
FACTORS = {"advantages whitened": 0, "large batch": 1, "reference an average": 2}
HORIZONS = (1, 2, 4, 6)
STEPWISE = {"ppo": PPO(), "dpo": DPO(), "rloo": RLOO()}
RATES = {"network": (0.003, 0.3), "table": (0.01, 3.0)}
BETAS, PPO_BETAS, POINTS = (0.01, 0.1, 1.0, 10.0), (0.0003, 0.003, 0.03, 0.3), 16
# With two objectives, where iterated DPO stood at the end of the others' learning rates.
WIDER: dict[str, Any] = {"lowest": 0.003, "highest": 3.0, "count": 24}
WIDER_TRIED, SEED_OF = 24, {"one": 10, "two": 20}

GAINED, CLOSED = claim("C08", "what the rounds gain"), claim("C08", "what PPO is still ahead")
SECOND = claim("C09", "two objectives")
# Of a large batch a row for each kind of advantages: it helps with one and hurts with the other.
HELPS = {
    "advantages whitened": (0, ("white", "plain"), claim("C10", "advantages whitened")),
    "large batch, whitened": (1, ("white",), claim("C10", "large batch, whitened advantages")),
    "large batch, plain": (1, ("plain",), claim("C10", "large batch, plain advantages")),
    "reference an average": (2, ("white", "plain"), claim("C10", "reference an average")),
}
CREDIT = claim("C65", "horizon 6 against 1")


def arms() -> dict[str, Experiment]:
    """rounds/objectives/learner; ladder/advantages/batch/reference; horizon/tokens/algorithm."""
    shared: dict[str, Any] = {"evaluations": EVALUATIONS, "runs": RUNS, "seed": SEED_OF["one"]}
    found = {}
    for objectives, environment in OBJECTIVES.items():
        for name, (algorithm, schedule) in LEARNERS.items():
            arm = Experiment(
                f"rounds-{name}", environment, ResponseMLP(), algorithm, schedule, updates=UPDATES, **shared
            )
            found[f"rounds/{objectives}/{name}"] = arm.replace(seed=SEED_OF[objectives])
    for white, batch, reference in LADDER:
        size = LARGE if batch == "large" else SMALL
        moving: dict[str, Any] = {"reference": "ema", "reference_rate": 0.05} if reference == "ema" else {}
        schedule = Schedule(batch_size=size, num_generations=1, **moving)
        algorithm = PPO(beta=0.1, whiten_advantages=white == "white")
        name = f"ladder/{white}/{batch}/{reference}"
        found[name] = Experiment("ladder", TREE, Table(), algorithm, schedule, updates=DRAWN // size, **shared)
    for length in HORIZONS:
        tree = TokenTree(vocabulary=3, max_length=length, structure="path")
        for name, algorithm in STEPWISE.items():
            schedule = Schedule(batch_size=SAMPLES // 4, num_generations=4)
            found[f"horizon/{length}/{name}"] = Experiment(
                f"horizon-{name}", tree, Table(), algorithm, schedule, updates=UPDATES, **shared
            )
    return found


def collect(lab: Lab) -> Records:
    """Every arm tuned for itself."""
    chosen = arms()
    grids, wider = {}, {}
    for name, arm in chosen.items():
        betas = BETAS if arm.algorithm.kind == "dpo" else PPO_BETAS
        if name.startswith("rounds/two/"):
            wider[name] = spread_grid(arm, betas=betas, **WIDER)
        else:
            rates = RATES["network" if name.startswith("rounds/") else "table"]
            grids[name] = spread_grid(arm, *rates, betas, POINTS)
    found = lab.tuned_records({name: chosen[name] for name in grids}, grids, tuning_runs=TRIED)
    return found | lab.tuned_records({name: chosen[name] for name in wider}, wider, tuning_runs=WIDER_TRIED)


def draw(records: Records) -> MatplotlibFigure:
    """Rounds beside offline, online and PPO; both objectives; PPO's details; scores against the horizon."""
    with plt.rc_context(RC):
        fig, axes = plt.subplots(2, 2, figsize=(10.5, 8.2), layout="constrained")
        for objectives, shade in (("one", "0.2"), ("two", "0.6")):
            ends = [final_scores(records[f"rounds/{objectives}/{name}"]) for name in LEARNERS]
            at = np.arange(len(LEARNERS)) + (0.08 if objectives == "two" else -0.08)
            for x, end, name in zip(at, ends, LEARNERS, strict=True):
                points(axes[0, 0], np.array([x]), [end], "ppo" if name == "ppo" else "dpo", objectives == "one")
            axes[0, 0].plot(at, [end.mean() for end in ends], color=shade, linewidth=0.9, zorder=0)
        axes[0, 0].set_xticks(range(len(NAMES)), list(NAMES.values()))
        axes[0, 0].set(title="one objective (filled) and the mean of two", ylabel="score at the end")
        _objectives(axes[0, 1], records)
        _ladder(axes[1, 0], records)
        each = {name: [final_scores(records[f"horizon/{length}/{name}"]) for length in HORIZONS] for name in STEPWISE}
        side_by_side(axes[1, 1], each)
        axes[1, 1].set_xticks(range(len(HORIZONS)), [str(length) for length in HORIZONS])
        axes[1, 1].set(
            xlabel="tokens of a response, at most", ylabel="score at the end", title="reward at the last token"
        )
        for axis in (axes[0, 0], axes[1, 1]):
            bound(axis, 1.0, "largest reward")
            axis.set_ylim(top=1.1)
        fig.legend(handles=[key(name) for name in STEPWISE], loc="outside lower center", ncols=3, fontsize=9.5)
    return fig


def _objectives(axes: Axes, records: Records) -> None:
    for name, label in NAMES.items():
        found = [
            student_interval(part_scores(records[f"rounds/two/{name}"], part)[:, -1]) for part in ("first", "second")
        ]
        x, y = (each.estimate for each in found)
        across, up = ([[each.estimate - each.low], [each.high - each.estimate]] for each in found)
        algorithm = "ppo" if name == "ppo" else "dpo"
        axes.errorbar(x, y, up, across, fmt=marker(algorithm), color=colour(algorithm), ms=7, elinewidth=1)
        away: dict[str, Any] = {"xytext": AWAY[name], "textcoords": "offset points", "fontsize": 9}
        axes.annotate(label.replace("\n", " "), (x, y), arrowprops={"arrowstyle": "-", "color": "0.6"}, **away)
    axes.set(xlabel="score, first objective", ylabel="score, second objective", title="two objectives, at the end")
    axes.margins(0.25)


def _ladder(axes: Axes, records: Records) -> None:
    """Each detail's effect, once for each combination of the two others."""
    for y, (factor, place) in enumerate(FACTORS.items()):
        for i, (on, off) in enumerate(_pairs(place)):
            found = student_interval(final_scores(records[on]) - final_scores(records[off]))
            ends = [[found.estimate - found.low], [found.high - found.estimate]]
            axes.errorbar([found.estimate], [y + 0.12 * (i - 1.5)], xerr=ends, fmt="s", ms=4, color=colour("ppo"))
        axes.text(0.0, y + 0.32, f" {factor}", fontsize=9)
    axes.axvline(0.0, color="0.4", linewidth=1)
    axes.set(title="PPO's details: what each adds", xlabel="score with it − without", yticks=[], ylim=(-0.5, 2.7))


def _pairs(place: int) -> list[tuple[str, str]]:
    """Names of arms with a factor on and off, for each combination of the others."""
    on = [levels for levels in LADDER if levels[place] in ("white", "large", "ema")]
    other = {"white": "plain", "large": "small", "ema": "fixed"}

    def name(levels: tuple[str, ...]) -> str:
        return "ladder/" + "/".join(levels)

    return [(name(x), name((*x[:place], other[x[place]], *x[place + 1 :]))) for x in on]


def verdicts(records: Records) -> list[Verdict]:
    """C08 and C09 of iterated DPO, C10 of each detail of PPO, C65 of the longest horizon."""
    note = f"{COUNT} rounds of {EACH_ROUND} updates; labels by the reward model that PPO sees too."
    why = "the arms differ in where pairs come from alone; offline DPO is the placebo"
    terms = [(1.0, "rounds/one/iterated"), (-1.0, "rounds/one/offline")]
    rows = [effect_row(GAINED, "mlp", FIGURE.name, terms, records, note, why), _closed(records), _second(records)]
    ladder = np.concatenate([final_scores(records["ladder/" + "/".join(levels)]) for levels in LADDER])
    stuck = float(np.median(ladder))
    share = float((np.abs(ladder - stuck) < 0.02).mean())
    for place, advantages, tested in HELPS.values():
        pairs = [pair for pair in _pairs(place) if pair[0].split("/")[1] in advantages]
        terms = [term for on, off in pairs for term in ((1 / len(pairs), on), (-1 / len(pairs), off))]
        each = {on: [part(1.0, records[on]), part(-1.0, records[off])] for on, off in pairs}
        said = ", ".join(f"{effect_of(parts).estimate:+.2f}" for parts in each.values())
        note = (
            f"Mean over the other details, by which it is {said}. At equal samples, {DRAWN:,}: a larger batch "
            f"makes fewer updates. Of all arms' runs {share:.0%} end within 0.02 of {stuck:.2f}, a local optimum, "
            "with any details. The paper adds one detail to the other, so that its steps hold in one order alone."
        )
        why = "the arms differ in one detail; PPO without it is the placebo"
        rows.append(effect_row(tested, "token", FIGURE.name, terms, records, note, why, [agree(each)]))
    names = [f"horizon/{length}/{name}" for length in (HORIZONS[-1], HORIZONS[0]) for name in ("ppo", "dpo")]
    note = (
        "Every token's worth is part of the reward, which is paid at the last one. A table has no prefix in common "
        "with another, so that the critic learns each prefix alone; a horizon of 16 cannot be listed, and is not run."
    )
    why = "a horizon of 1, where there is no credit to assign, is the placebo"
    terms = list(zip((1.0, -1.0, -1.0, 1.0), names, strict=True))
    return [*rows, effect_row(CREDIT, "token", FIGURE.name, terms, records, note, why)]


def _closed(records: Records) -> Verdict:
    ppo, iterated, offline = (records[f"rounds/one/{name}"] for name in ("ppo", "iterated", "offline"))
    lost = effect_of([part(1.0, ppo), part(-1.0, iterated)])
    control = positive_control(effect_of([part(1.0, ppo), part(-1.0, offline)]), CLOSED.margin, only_above=True)
    gates = [replace(control, why=f"PPO against offline DPO: {control.why}")]
    note = "At equal updates; a gap that never was cannot be closed."
    gates += settings(CLOSED.margin, [ppo, iterated])
    return row_of(CLOSED, "mlp", lost, FIGURE.name, [ppo.hash, iterated.hash], note, gates)


def _second(records: Records) -> Verdict:
    ppo, iterated, offline = (records[f"rounds/two/{name}"] for name in ("ppo", "iterated", "offline"))
    parts = [part_of_gold(1.0, ppo, "second"), part_of_gold(-1.0, iterated, "second")]
    of_offline = Part(-1.0, part_scores(offline, "second")[:, -1].astype(float), parts[0].low)  # on the same problems
    gap = effect_of([parts[0], of_offline])
    control = positive_control(gap, SECOND.margin, only_above=True)
    gates = [
        replace(control, why=f"PPO against offline DPO, second objective: {control.why}"),
        room(parts[0].scores, parts[1].scores, min(p.low for p in parts), 1.0, SECOND.margin),
        placebo(None, SECOND.margin, "the arms see the same reward model; equal arms give 0"),
        *settings(SECOND.margin, [ppo, iterated]),
    ]
    note = (
        "Labels and the reward model are of the mean of two unrelated objectives, for DPO as for PPO: nothing tells "
        "the second from the first, and the row is whether rounds close a gap on half of what is labelled. In the "
        "paper PPO had a reward model of each, and the pairs of iterated DPO were labelled for safety alone: DPO on "
        "labels of the first objective alone would be that, and was not run."
    )
    return row_of(SECOND, "mlp", effect_of(parts), FIGURE.name, [ppo.hash, iterated.hash], note, gates)


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    runs = len(records["rounds/one/ppo"].arrays["gold"])
    return (
        f"{runs} runs an arm; mean and 95 % interval. Top: {ONE.num_pairs} recorded pairs of a reference that avoids "
        "what is good, each run a problem of its own, and a network that scores responses by their features; "
        f"{UPDATES} updates of {SAMPLES} samples, or of {SAMPLES // 2} recorded pairs. In rounds: every {EACH_ROUND} "
        "updates the policy becomes sampler and reference; the reward model of the recorded pairs labels. Bottom: a "
        "tree of tokens with EOS and a table; every prefix gives each token a worth, the reward is their mean. Left, "
        f"{DRAWN:,} samples in batches of {SMALL} or {LARGE}, the reference fixed or an average (weight 0.05 per "
        "update); four points a detail, one for each combination of the others. Right, 3 kinds of token. Every arm was "
        f"tuned on other seeds over {POINTS} points ({TRIED} runs each) of learning rate ({RATES['network'][0]:g} … "
        f"{RATES['network'][1]:g}, tables {RATES['table'][0]:g} … {RATES['table'][1]:g}) and β (DPO {BETAS[0]:g} … "
        f"{BETAS[-1]:g}, PPO and RLOO {PPO_BETAS[0]:g} … {PPO_BETAS[-1]:g})."
    )


FIGURE = Figure(
    name="rounds_and_horizon",
    title="What can stand in for PPO, and what makes it work?",
    tags=("contextual", "mlp", "token", "online-offline"),
    claims=("C08", "C09", "C10", "C65"),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
)
