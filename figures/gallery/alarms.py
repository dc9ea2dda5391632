"""Who finds a flaw of the labels first, which alarm tells, and what helps? (C55, C56, C57, C58, C63) Labellers who like
length, or a style; alarms of length and of entropy; a length penalty, short-but-right pairs; a head-to-head gate."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure

from figures.arms.exploits import RATES as ONE_RATE
from figures.arms.exploits import draw_exploits, exploit_rows, exploiters
from figures.arms.gating import IN_SCORES, deployed_at_the_end, tuned_well
from figures.arms.length_bias import ADDED, PAIRS, all_trained, draw_pairs, draw_penalties, length_rows, with_intervals
from figures.arms.monitors import (
    FLATTER,
    LONGER,
    Alarm,
    above_chance,
    falls_at,
    growth,
    has_grown,
    lost,
    roc,
    warned,
)
from figures.arms.sweeps import ROUNDS, TUNING, spread_grid
from figures.catalogue import Claim, Setting, claim
from figures.claims import Verdict, row_of
from figures.figure import Figure, Records
from figures.lab import Lab
from figures.report.style import BLACK, BLUE, PURPLE, RC, VERMILION
from sims.core.algorithms.contrastive import DPO
from sims.core.loop.deployment import Deployment
from sims.core.loop.protocols import PolicySpec
from sims.core.schedule import Schedule
from sims.core.spec import from_json
from sims.environments import Drifting
from sims.experiments.experiment import Experiment
from sims.experiments.measures import deployed_scores, scores
from sims.experiments.store import Record
from sims.policies import MLP, Table
from sims.statistics.bounded import bounded_interval
from sims.statistics.gates import placebo, room
from sims.statistics.intervals import Interval, mean_interval

WEEKS, WEEK, RUNS, EVALUATIONS = 20, 10, 100, 40
BIAS, DRIFT = 0.3, 0.3
POLICIES: dict[str, tuple[Setting, PolicySpec]] = {"table": ("bandit", Table()), "network": ("mlp", MLP(hidden=(32,)))}
TITLES = {"table": "a table", "network": "a network, shared by the prompts"}
RATES = {"table": (0.003, 3.0), "network": (0.0003, 0.3)}
WIDER = (0.003, 30.0)  # of the table with added pairs, which took the end of the others' rates
BETAS = (0.01, 0.1, 1.0, 10.0)
GATED_BETAS = (0.01, 0.1, 1.0, 10.0, 100.0)  # with a gate, a larger one
POINTS, GATED_POINTS = 7 * len(BETAS), 7 * len(GATED_BETAS)
COMPARISONS = 100
TOO_FAST = 10.0

STILL = Drifting(updates_per_cycle=WEEK, cycles=WEEKS, preference_drift=0.0)
MOVING = STILL.replace(preference_drift=DRIFT, prompt_drift=DRIFT, prompt_spread=1.0)
WEEKLY = Schedule(batch_size=PAIRS, sync_every_updates=WEEK)
LENGTH, STYLE = STILL.replace(bias=BIAS), STILL.replace(bias=BIAS, bias_of="style")

BIASED = {  # weekly DPO, tuned by the reward that the learner sees
    "honest": STILL,
    "length": LENGTH,
    "style": STYLE,
    "penalty/0.5": LENGTH.replace(length_penalty=0.5 * BIAS),
    "penalty/2": LENGTH.replace(length_penalty=2.0 * BIAS),
}
JUDGES = {  # who labels the pairs and compares two models
    "right": MOVING,
    "noisy": MOVING.replace(flip_rate=0.3),
    "biased": MOVING.replace(bias=BIAS),
}

TELLS = {name: claim("C57", f"hacks about {name}") for name in ("length", "style")}
WARNS = claim("C58", "entropy halved a week before")
RANKS = claim("C58", "entropy as a ranking")
GATED = {name: claim("C63", f"{name} judge") for name in JUDGES}


def arms() -> dict[str, Experiment]:
    """policy/what is wrong, to be tuned by the reward that the learner sees."""
    found = {}
    for kind, (_, policy) in POLICIES.items():
        for name, environment in BIASED.items():
            found[f"{kind}/{name}"] = Experiment(
                name="alarms-dpo",
                environment=environment,
                policy=policy,
                algorithm=DPO(),
                schedule=WEEKLY,
                updates=WEEK * WEEKS,
                evaluations=EVALUATIONS,
                runs=RUNS,
                seed=31,
            )
        for share, added in ADDED.items():
            more = WEEKLY.replace(batch_size=PAIRS + added)
            arm = found[f"{kind}/length"].replace(seed=35 if kind == "table" else 34, schedule=more)
            found[f"{kind}/ordinary/{share}"] = arm
            found[f"{kind}/curated/{share}"] = arm.replace(deployment=Deployment(curated_pairs=added))
    return found


def gated_arms() -> dict[str, Experiment]:
    """policy/judge/gate or none, to be tuned by the gold score of what users get."""
    return {
        f"{kind}/{judge}/{gate}": arms()[f"{kind}/honest"].replace(
            environment=environment,
            seed=32,
            deployment=Deployment(gate_comparisons=COMPARISONS) if gate == "gate" else Deployment(),
        )
        for kind in POLICIES
        for judge, environment in JUDGES.items()
        for gate in ("gate", "none")
    }


def too_fast(tuned: Records) -> dict[str, Experiment]:
    """A learning rate ten times the best: runs that collapse."""
    found = {}
    for kind in POLICIES:
        spec = tuned[f"{kind}/right/none"].spec
        arm, optimiser = gated_arms()[f"{kind}/right/none"], from_json(spec["optimiser"])
        optimiser = optimiser.replace(learning_rate=TOO_FAST * optimiser.learning_rate)
        found[f"{kind}/too_fast"] = arm.replace(algorithm=from_json(spec["algorithm"]), optimiser=optimiser)
    return found


def rates_of(name: str) -> tuple[float, float]:
    """The ends of an arm's learning rates, tuned by what the learner sees."""
    kind, what, *_ = name.split("/")
    return WIDER if kind == "table" and what in ("curated", "ordinary") else RATES[kind]


def collect(lab: Lab) -> Records:
    """Every arm tuned for itself over as many points; those of C55 by one learning rate for all."""
    biased, gated = arms(), gated_arms()
    grids = {name: spread_grid(arm, *rates_of(name), BETAS, POINTS) for name, arm in biased.items()}
    grids |= {
        name: spread_grid(arm, *RATES[name.split("/")[0]], GATED_BETAS, GATED_POINTS) for name, arm in gated.items()
    }
    by_seen = lab.tuned_records(biased, {name: grids[name] for name in biased}, by="seen", **TUNING)
    by_gold = lab.tuned_records(gated, {name: grids[name] for name in gated}, by="deployed", **TUNING)
    like = {kind: biased[f"{kind}/honest"] for kind in POLICIES}
    alike = exploiters(like, {"biased": LENGTH, "unbiased": STILL})
    return {**by_seen, **by_gold, **lab.records({**too_fast(by_gold), **alike})}


def verdicts(records: Records) -> list[Verdict]:
    """C55 to C58 and C63, of the table and of the network."""
    rows: list[Verdict] = []
    for kind, (setting, _) in POLICIES.items():
        at = {name.removeprefix(f"{kind}/"): r for name, r in records.items() if name.startswith(f"{kind}/")}
        rows += exploit_rows(kind, setting, at, FIGURE.name)
        rows += length_rows(setting, at, FIGURE.name)
        for name in TELLS:
            _, area = roc(growth(at[name]), growth(at["honest"]))
            said = f"{_NOTES[name]} At any limit in place of +30 %, the area below the ROC curve is {area:.2f}."
            rows.append(_told(TELLS[name], setting, at[name], at["honest"], has_grown, said))
        fallen = float((falls_at(at["too_fast"]) < at["too_fast"].arrays["gold"].shape[1]).mean())
        note = (
            f"{fallen:.0%} of the runs at {TOO_FAST:g} times the best learning rate fall by a tenth below their best. "
        )
        rows.append(_told(WARNS, setting, at["too_fast"], at["right/none"], warned, note + _NOTES["entropy"]))
        rows.append(_ranked(setting, at["too_fast"], at["right/none"], note + _NOTES["entropy"]))
        rows += [_gated(judge, setting, at[f"{judge}/gate"], at[f"{judge}/none"]) for judge in JUDGES]
    return rows


_NOTES = {
    "length": "One bias, and responses whose length has nothing to do with their worth. Whether accuracy is flat "
    "is not asked: a loop would have to know it from a gold set.",
    "style": "The same bias, about something that no one measures. Whether accuracy is flat is not asked: it would "
    "make alarms rarer.",
    "entropy": "What is well trained loses entropy too: an alarm must tell the two apart.",
}


GOES_WRONG = "an alarm is about loops whose gold score falls; they are tuned by the reward that the labellers see"


def _told(tested: Claim, setting: Setting, wrong: Record, right: Record, alarm: Alarm, note: str) -> Verdict:
    """Share of the runs that raise the alarm, where something is wrong − where nothing is."""
    hits, false = alarm(wrong), alarm(right)
    effect: Interval = bounded_interval(hits - false, -1.0, 1.0)
    gates = [placebo(None, tested.margin, "the second arm is it: the same loop with nothing wrong")]
    gates += [*tuned_well(IN_SCORES, wrong, right, falls=GOES_WRONG), all_trained(wrong, right)]
    said = f"{note} Alarms: {hits.mean():.0%} where something is wrong, {false.mean():.0%} where nothing is."
    return row_of(tested, setting, effect, FIGURE.name, [wrong.hash, right.hash], said, gates)


def _ranked(setting: Setting, wrong: Record, right: Record, note: str) -> Verdict:
    """Area below the ROC curve of the fall of entropy as an alarm at any level."""
    effect = above_chance(lost(wrong), lost(right))
    gates = [placebo(None, RANKS.margin, "the second arm is it: the same loop with nothing wrong")]
    gates += [*tuned_well(IN_SCORES, wrong, right, falls=GOES_WRONG), all_trained(wrong, right)]
    said = f"{note} The area is {0.5 + effect.estimate:.2f}."
    return row_of(RANKS, setting, effect, FIGURE.name, [wrong.hash, right.hash], said, gates)


def _gated(judge: str, setting: Setting, gate: Record, none: Record) -> Verdict:
    tested = GATED[judge]
    one, other = (deployed_scores(r)[:, 1:].mean(1) for r in (gate, none))
    gates = [room(one, other, -1.0, 1.0, tested.margin), all_trained(gate, none)]
    gates += tuned_well(tested.margin, gate, none, by=deployed_at_the_end)
    gates.append(placebo(None, tested.margin, "the arms differ in the gate alone"))
    refused = float(gate.arrays["refused"][:, -1].mean())
    note = (
        f"{COMPARISONS} comparisons, half of which must be won; {refused:.1f} of {WEEKS - 1} weeks refused. The "
        "labeller of the pairs is the judge: the flaw of one is that of the other."
    )
    return row_of(tested, setting, mean_interval(one - other), FIGURE.name, [gate.hash, none.hash], note, gates)


SHOWN = (
    "the bias exploited, by update",
    "the bias exploited, by KL",
    "length at the end as an alarm",
    "entropy as an alarm",
    "a length penalty",
    "short-but-right pairs",
    "a gate",
)


def draw(records: Records) -> MatplotlibFigure:
    """Exploits by update and by KL; ROC of the length alarm; entropy; penalties; short-but-right pairs; gates."""
    with plt.rc_context(RC):
        fig, axes = plt.subplots(7, 2, figsize=(11.0, 23.3), layout="constrained")
        for column, kind in enumerate(POLICIES):
            at = {name.removeprefix(f"{kind}/"): r for name, r in records.items() if name.startswith(f"{kind}/")}
            draw_exploits(axes[0, column], kind, at, over_kl=False)
            draw_exploits(axes[1, column], kind, at, over_kl=True)
            _roc(axes[2, column], at)
            _entropies(axes[3, column], at)
            draw_penalties(axes[4, column], at)
            draw_pairs(axes[5, column], at)
            _gates(axes[6, column], at)
            for axis, what in zip(axes[:, column], SHOWN, strict=True):
                axis.set_title(f"{TITLES[kind]} · {what}", fontsize=10)
    return fig


def _roc(axes: Axes, at: Records) -> None:
    honest = growth(at["honest"])
    for name, label, shade, dot in (
        ("length", "hacks about length", VERMILION, "o"),
        ("style", "hacks about style", PURPLE, "s"),
    ):
        found = growth(at[name])
        rates, area = roc(found, honest)
        axes.plot(*zip(*rates, strict=True), color=shade)
        at_limit = (honest >= LONGER).mean(), (found >= LONGER).mean()
        axes.plot(*at_limit, dot, color=shade, ms=6, clip_on=False, label=f"{label}: area {area:.2f}")
    axes.plot([0, 1], [0, 1], ":", color=BLACK, linewidth=1)
    axes.legend(fontsize=8, loc="lower right", title="marked: +30 %", title_fontsize=8)
    axes.set(xlabel="false alarms, share of runs", ylabel="alarms, share of runs", xlim=(0, 1), ylim=(0, 1.02))


def _entropies(axes: Axes, at: Records) -> None:
    for name, label, shade, shape in (
        ("right/none", "well tuned", BLUE, "o"),
        ("too_fast", "ten times too fast", VERMILION, "s"),
    ):
        record = at[name]
        entropy = record.arrays["entropy"].astype(float)
        x = np.linspace(0, WEEKS, entropy.shape[1])
        look: Any = {"color": shade, "marker": shape, "ms": 4, "markevery": max(1, len(x) // 5)}
        axes.plot(x, scores(record).mean(0), label=f"{label}: score", **look)
        axes.plot(x, (entropy / entropy[:, :1]).mean(0), "--", mfc="white", label="entropy, of its start", **look)
    axes.axhline(FLATTER, color=BLACK, linewidth=1, linestyle=":")
    axes.legend(fontsize=7.5)
    axes.set(xlabel="week", ylabel="score; share of the first entropy", ylim=(0, 1.35), xticks=range(0, WEEKS + 1, 5))


def _gates(axes: Axes, at: Records) -> None:
    for i, (gate, label, shade) in enumerate((("none", "no gate", BLACK), ("gate", "gate", VERMILION))):
        values = [deployed_scores(at[f"{judge}/{gate}"])[:, 1:].mean(1) for judge in JUDGES]
        with_intervals(axes, [k + 0.12 * (i - 0.5) for k in range(len(JUDGES))], values, label, shade, "os"[i], line="")
    axes.set_xticks(range(len(JUDGES)), [f"{judge}\njudge" for judge in JUDGES])
    axes.legend(fontsize=8)
    axes.set(ylabel="score of what users get, over the weeks", ylim=(0, 1))


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    runs = len(records["table/honest"].arrays["gold"])
    return (
        f"{runs} runs an arm, each with a problem of its own: 16 prompts × 16 responses, {WEEKS} weeks of {WEEK} "
        f"updates of {PAIRS} pairs; mean and 95 % band or interval. Labellers see {BIAS:g} more reward per standard "
        "deviation of a response's log length, or of a style, which have nothing to do with gold; these arms are tuned "
        "by the reward that the learner sees, but for those of the first two rows, which all have one β and one "
        f"learning rate (table {_rates('table')}, network {_rates('network')}; drawn is the first). Third row: alarm "
        "if responses are so much longer at the end than at the start. Fourth, means: under a drift of "
        f"d = {DRIFT:g} per week, at the best learning rate and ten times "
        f"it. Sixth: beside {PAIRS} pairs per update, {ADDED['1/5']} or {ADDED['1/2']} more of which the shorter "
        "response is right, or as many more that the biased labellers label; dotted, the score without a bias. Last: "
        f"under the same drift, a week's policy must win half of {COMPARISONS} comparisons by the labeller, "
        f"who is right, flips 30 % of labels, or likes length; tuned by what they get. Tuned over {POINTS} points "
        f"({ROUNDS}) of learning rate (table {RATES['table'][0]:g} … {RATES['table'][1]:g}, with added pairs … "
        f"{WIDER[1]:g}, network {RATES['network'][0]:g} … {RATES['network'][1]:g}) and β ({BETAS[0]:g} … "
        f"{BETAS[-1]:g}; where there may be a gate {GATED_POINTS} points, up to {GATED_BETAS[-1]:g}), on other seeds."
    )


def _rates(kind: str) -> str:
    return " and ".join(f"{rate:g}" for rate in ONE_RATE[kind])


FIGURE = Figure(
    name="alarms",
    title="Which alarm tells that labels are being exploited?",
    tags=("contextual", "mlp", "drift", "reward-hacking"),
    claims=("C55", "C56", "C57", "C58", "C63"),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
)
