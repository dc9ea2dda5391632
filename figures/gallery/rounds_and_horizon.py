"""What can stand in for PPO, and what makes PPO work? (C08, C09, C10, C65) Iterated DPO in rounds, on one objective and
on two; PPO with and without three of its details; and a critic against DPO at horizons from 1 to 6 of a tree, and to 16
of the token bandit."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure

from figures.arms.credit import by_horizon, credit_row, draw_horizons, without_critic
from figures.arms.effect_row import effect_row, settings
from figures.arms.gating import agree, effect_of, part
from figures.arms.second_objective import CORRELATION, COUNT, NAMES, draw_objectives, second_rows
from figures.arms.sweeps import spread_grid
from figures.catalogue import claim
from figures.claims import Verdict, row_of
from figures.figure import Figure, Records
from figures.lab import Lab, Measure, Point
from figures.report.style import RC, bound, colour, key, points
from sims.core.algorithms.clipped import PPO
from sims.core.algorithms.contrastive import DPO
from sims.core.algorithms.policy_gradient import RLOO
from sims.core.schedule import Schedule
from sims.environments import RatedResponses, TokenBanditR1, TokenTree
from sims.experiments.experiment import Experiment
from sims.experiments.measures import final_scores
from sims.experiments.store import Record
from sims.policies import ResponseMLP, Table, Transformer
from sims.statistics.gates import positive_control
from sims.statistics.intervals import student_interval

RUNS, UPDATES, EVALUATIONS, SAMPLES, TRIED = 100, 160, 8, 32, 12
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
AWAY = {"offline": (-10, -38), "iterated": (40, -34), "online": (-96, 34), "ppo": (34, 26)}  # labels, in points
# DPO's labels are of the first of two objectives, which correlate, and a reward model of both is PPO's.
BOTH = ONE.replace(num_aspects=2, aspect_correlation=CORRELATION)
LABELS = {"both": BOTH, "first": BOTH.replace(rated="first")}
LABELLED = ("first/offline", "first/iterated", "both/iterated", "both/ppo")
# And on seeds of their own, where PPO's reward model is of the first alone too.
ALIKE = ("first/offline", "first/iterated", "first/ppo", "both/iterated", "both/ppo")
APART = {"first/offline": (-70, -44), "first/iterated": (-40, 42), "both/iterated": (-84, 26), "both/ppo": (20, 22)}
TREE = TokenTree(vocabulary=4, max_length=4, structure="path")
SMALL, LARGE, DRAWN = 16, 64, 5120
LADDER = list(itertools.product(("white", "plain"), ("large", "small"), ("ema", "fixed")))
FACTORS = {"advantages whitened": 0, "large batch": 1, "reference an average": 2}
HORIZONS, LONG = (1, 2, 4, 6), (1, 4, 16)
SHORT_RUN, FEW = 12, Schedule(batch_size=2, num_generations=4)  # of the token bandit: longer runs leave no room
SMALLEST = Transformer(num_layers=1, num_heads=1, hidden_size=16)
STEPWISE = {"ppo": PPO(), "dpo": DPO(), "rloo": RLOO()}
RATES = {"network": (0.003, 0.3), "table": (0.01, 3.0)}
BETAS, PPO_BETAS, POINTS = (0.01, 0.1, 1.0, 10.0), (0.0003, 0.003, 0.03, 0.3), 16
# With two objectives, where iterated DPO stood at the end of the others' learning rates, and of what came later.
WIDER: dict[str, Any] = {"lowest": 0.003, "highest": 3.0, "count": 24}
WIDER_TRIED, SEED_OF, LATER, LATEST, LAST = 24, {"one": 10, "two": 20}, 30, 40, 50
# Of the token bandit, where PPO and DPO stood at the lowest β of the others.
LOWER: dict[str, Any] = {"lowest": 0.003, "highest": 3.0, "count": 36}
LOWER_BETAS, LOWER_PPO_BETAS = (1e-4, 1e-3, *BETAS), (3e-6, 3e-5, *PPO_BETAS)

GAINED, CLOSED = claim("C08", "what the rounds gain"), claim("C08", "what PPO is still ahead")
# Of a large batch a row for each kind of advantages: it helps with one and hurts with the other.
HELPS = {
    "advantages whitened": (0, ("white", "plain"), claim("C10", "advantages whitened")),
    "large batch, whitened": (1, ("white",), claim("C10", "large batch, whitened advantages")),
    "large batch, plain": (1, ("plain",), claim("C10", "large batch, plain advantages")),
    "reference an average": (2, ("white", "plain"), claim("C10", "reference an average")),
}
CREDIT, LONGER = claim("C65", "horizon 6 against 1"), claim("C65", "horizon 16 against 1, token bandit")


def arms() -> dict[str, Experiment]:
    """rounds/objectives/learner; labels/objectives/learner; ladder/advantages/batch/reference; horizon/tokens/algorithm
    of the tree, tokens/tokens/algorithm of the token bandit."""
    shared: dict[str, Any] = {"evaluations": EVALUATIONS, "runs": RUNS, "seed": SEED_OF["one"]}
    found = {}
    for objectives, environment in OBJECTIVES.items():
        for name, (algorithm, schedule) in LEARNERS.items():
            arm = Experiment(
                f"rounds-{name}", environment, ResponseMLP(), algorithm, schedule, updates=UPDATES, **shared
            )
            found[f"rounds/{objectives}/{name}"] = arm.replace(seed=SEED_OF[objectives])
    for group, names, seed in (("labels", LABELLED, LATER), ("alike", ALIKE, LAST)):
        for name in names:
            labels, learner = name.split("/")
            found[f"{group}/{name}"] = found[f"rounds/two/{learner}"].replace(environment=LABELS[labels], seed=seed)
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
    shared |= {"evaluations": SHORT_RUN // 2, "seed": LATEST}
    for length, name in itertools.product(LONG, STEPWISE):
        bandit = TokenBanditR1(num_prompts=1, length=length)
        found[f"tokens/{length}/{name}"] = Experiment(
            f"tokens-{name}", bandit, SMALLEST, STEPWISE[name], FEW, updates=SHORT_RUN, **shared
        )
    return found


def collect(lab: Lab) -> Records:
    """Every arm tuned for itself: where labels are of the first objective, by that one."""
    chosen, found = arms(), dict[str, Record]()
    groups: list[tuple[tuple[str, ...], int, Measure]] = [
        (("rounds/one/", "ladder/", "horizon/"), TRIED, "end"),
        (("rounds/two/",), WIDER_TRIED, "end"),
        (("labels/both/",), WIDER_TRIED, "end"),
        (("tokens/",), WIDER_TRIED, "end"),
        (("labels/first/",), WIDER_TRIED, "first"),
        (("alike/both/",), WIDER_TRIED, "end"),
        (("alike/first/",), WIDER_TRIED, "first"),
    ]
    for names, tried, by in groups:
        tuned = {name: arm for name, arm in chosen.items() if name.startswith(names)}
        grids = {name: _grid(name, arm) for name, arm in tuned.items()}
        found |= lab.tuned_records(tuned, grids, tuning_runs=tried, by=by)
    return found


def _grid(name: str, arm: Experiment) -> list[Point]:
    betas = BETAS if arm.algorithm.kind == "dpo" else PPO_BETAS
    if name.startswith("tokens/"):
        return spread_grid(arm, betas=LOWER_BETAS if betas is BETAS else LOWER_PPO_BETAS, **LOWER)
    if name.startswith(("rounds/two/", "labels/", "alike/")):
        return spread_grid(arm, betas=betas, **WIDER)
    return spread_grid(arm, *RATES["network" if name.startswith("rounds/") else "table"], betas, POINTS)


def draw(records: Records) -> MatplotlibFigure:
    """Rounds beside offline, online and PPO; two objectives; PPO's details; scores against both horizons."""
    with plt.rc_context(RC):
        fig, axes = plt.subplots(2, 3, figsize=(14.0, 8.2), layout="constrained")
        for objectives, shade in (("one", "0.2"), ("two", "0.6")):
            ends = [final_scores(records[f"rounds/{objectives}/{name}"]) for name in LEARNERS]
            at = np.arange(len(LEARNERS)) + (0.08 if objectives == "two" else -0.08)
            for x, end, name in zip(at, ends, LEARNERS, strict=True):
                points(axes[0, 0], np.array([x]), [end], "ppo" if name == "ppo" else "dpo", objectives == "one")
            axes[0, 0].plot(at, [end.mean() for end in ends], color=shade, linewidth=0.9, zorder=0)
        axes[0, 0].set_xticks(range(len(NAMES)), list(NAMES.values()))
        axes[0, 0].set(title="one objective (filled) and the mean of two", ylabel="score at the end")
        draw_objectives(axes[0, 1], {f"rounds/two/{name}": away for name, away in AWAY.items()}, records)
        axes[0, 1].set_title("labels of two objectives, at the end")
        draw_objectives(axes[0, 2], {f"labels/{name}": away for name, away in APART.items()}, records)
        axes[0, 2].set_title("DPO: labels of the first, or of both")
        _ladder(axes[1, 0], records)
        draw_horizons(axes[1, 1], records, "horizon", HORIZONS, list(STEPWISE))
        axes[1, 1].set(xlabel="tokens of a response, at most", title="tree: reward at the last token")
        draw_horizons(axes[1, 2], records, "tokens", LONG, list(STEPWISE))
        axes[1, 2].set(xlabel="tokens of a response", title="token bandit: reward at the last token")
        for axis in (axes[0, 0], axes[1, 1], axes[1, 2]):
            bound(axis, 1.0, "largest reward")
            axis.set_ylim(top=1.1)
        fig.legend(handles=[key(name) for name in STEPWISE], loc="outside lower center", ncols=3, fontsize=9.5)
    return fig


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
    """C08 and C09 of iterated DPO, C10 of each detail of PPO, C65 of the longest horizons."""
    note = f"{COUNT} rounds of {EACH_ROUND} updates; labels by the reward model that PPO sees too."
    why = "the arms differ in where pairs come from alone; offline DPO is the placebo"
    terms = [(1.0, "rounds/one/iterated"), (-1.0, "rounds/one/offline")]
    rows = [effect_row(GAINED, "mlp", FIGURE.name, terms, records, note, why), _closed(records)]
    rows += second_rows(records, FIGURE.name)
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
    note = "Every token's worth is part of the reward, which is paid at the last one."
    own = (
        "A table has no prefix in common with another, so that the critic learns each prefix alone; responses of 16 "
        "tokens are too many for it."
    )
    shared = (
        "A token's worth is the same after any prefix; the critic is one layer on the policy's own transformer. Scores "
        "are of samples: so many responses cannot be listed."
    )
    terms = by_horizon("horizon", HORIZONS[-1], HORIZONS[0], "ppo", "dpo")
    rows.append(credit_row(CREDIT, FIGURE.name, terms, records, f"{note} {own}"))
    terms, critic = by_horizon("tokens", LONG[-1], LONG[0], "ppo", "dpo"), f"tokens/{LONG[-1]}/ppo"
    return [
        *rows,
        credit_row(
            LONGER,
            FIGURE.name,
            terms,
            records,
            f"{note} {shared} {without_critic(records, SHORT_RUN * FEW.batch_size * FEW.num_generations)}",
            critic,
        ),
    ]


def _closed(records: Records) -> Verdict:
    ppo, iterated, offline = (records[f"rounds/one/{name}"] for name in ("ppo", "iterated", "offline"))
    lost = effect_of([part(1.0, ppo), part(-1.0, iterated)])
    control = positive_control(effect_of([part(1.0, ppo), part(-1.0, offline)]), CLOSED.margin, only_above=True)
    gates = [replace(control, why=f"PPO against offline DPO: {control.why}")]
    note = "At equal updates; a gap that never was cannot be closed."
    gates += settings(CLOSED.margin, [ppo, iterated])
    return row_of(CLOSED, "mlp", lost, FIGURE.name, [ppo.hash, iterated.hash], note, gates)


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    runs = len(records["rounds/one/ppo"].arrays["gold"])
    return (
        f"{runs} runs an arm; mean and 95 % interval. Top: {ONE.num_pairs} recorded pairs of a reference that avoids "
        "what is good, each run a problem of its own, and a network that scores responses by their features; "
        f"{UPDATES} updates of {SAMPLES} samples, or of {SAMPLES // 2} recorded pairs. In rounds: every {EACH_ROUND} "
        "updates the policy becomes sampler and reference; the reward model of the recorded pairs labels. Middle, two "
        "unrelated objectives, whose mean is labelled; right, two that correlate by "
        f"{BOTH.aspect_correlation:g}: the labels that DPO sees are of the first alone where it says so; not drawn: "
        "PPO on a reward model of such labels, and its like on the same seeds. Bottom: a "
        "tree of tokens with EOS and a table; every prefix gives each token a worth, the reward is their mean. Left, "
        f"{DRAWN:,} samples in batches of {SMALL} or {LARGE}, the reference fixed or an average (weight 0.05 per "
        "update); four points a detail, one for each combination of the others. Middle, 3 kinds of token. Right, the "
        f"token bandit R1 and a transformer of one layer, {SHORT_RUN} updates of {FEW.batch_size} × "
        f"{FEW.num_generations} responses. Every arm was tuned on other seeds over {POINTS} points ({TRIED} runs each) "
        f"of learning rate ({RATES['network'][0]:g} … {RATES['network'][1]:g}, tables {RATES['table'][0]:g} … "
        f"{RATES['table'][1]:g}) and β (DPO {BETAS[0]:g} … {BETAS[-1]:g}, PPO and RLOO {PPO_BETAS[0]:g} … "
        f"{PPO_BETAS[-1]:g}); with two objectives over {WIDER['count']} ({WIDER_TRIED} runs each), with rates to "
        f"{WIDER['highest']:g}, and on the token bandit over {LOWER['count']}, with β from {LOWER_BETAS[0]:g} and "
        f"{LOWER_PPO_BETAS[0]:g}; by its score on what is labelled."
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
