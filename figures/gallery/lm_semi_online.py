"""Is semi-online training enough on a language model? (C32, C33, C34, C38, C39) The policy is copied to the sampler at
every update, every fifth or tenth, or never, and responses are to be of 26 tokens, of which the reference has few.

Every arm is tuned, by its score at the end. A length that can be missed on both sides keeps all of them below the
largest reward, and too large a rate below what a smaller one reaches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure

from figures.arms import language_model as lm
from figures.arms.syncing import added_row, behind_row, control, epsilon_row, not_behind_row, same_row
from figures.catalogue import claim
from figures.claims import Verdict
from figures.committed import Point
from figures.figure import Figure, Records
from figures.lab import Lab, product
from figures.report.style import BLACK, BLUE, GREEN, PURPLE, RC, bound, colour, curve, points
from sims.core.algorithms import Algorithm
from sims.core.algorithms.best_of_n import BestOfN
from sims.core.algorithms.clipped import GRPO
from sims.core.algorithms.contrastive import DPO, IPO, DPOWithNLL
from sims.core.algorithms.mixture import Mixture
from sims.core.schedule import Schedule
from sims.experiments.experiment import Experiment
from sims.experiments.measures import final_scores, scores
from sims.experiments.store import Record
from sims.statistics.intervals import band

RUNS, UPDATES, EVALUATIONS, PROMPTS, GENERATIONS, MODE = 20, 20, 4, 8, 4, 26
ONLINE, SEMI, RARE, OFFLINE = 1.0, 5.0, 10.0, math.inf  # updates between two copies of the policy to the sampler
LARGE_EPSILON = 1e-4


class Tuning(NamedTuple):
    """What arms are tuned over, and the seed that judges them. A grid that was changed after its runs takes a fresh one
    (claims.toml)."""

    grid: list[Point]
    seed: int


FOUR = Tuning(product(learning_rate=(3e-4, 1e-3, 3e-3, 1e-2)), 403)
SIX = Tuning(product(learning_rate=(3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)), 405)  # arms had taken the lowest of the four
TUNING_RUNS = 2

PLAIN = DPO(pairing="best_worst")  # of four
ALGORITHMS: dict[str, Algorithm] = {
    "dpo": PLAIN,
    "ipo": IPO(pairing="best_worst"),
    "best_of_n": BestOfN(),
    "grpo": GRPO(),
}
ADDITIONS: dict[str, Algorithm] = {
    "dpo_nll": DPOWithNLL(pairing="best_worst"),
    "dpo_grpo": Mixture((PLAIN, GRPO(beta=0.0))),
}
EPSILON_ARM = "dpo_epsilon"
TUNINGS = {"ipo": FOUR, "best_of_n": FOUR}  # every other arm is by six rates
SHOWN = {"dpo_nll": "dpo with NLL", "dpo_grpo": "dpo + grpo", EPSILON_ARM: f"dpo, Adam's ε = {LARGE_EPSILON:g}"}

COMPARED = [(name, SEMI) for name in ALGORITHMS] + [("dpo", RARE)]
SAME = {(name, s): claim("C32", f"{name}, lengths near {MODE}: s = {s:g}") for name, s in COMPARED}
BEHIND = {name: claim("C33", f"{name}, lengths near {MODE}") for name in ALGORITHMS}
NOT_BEHIND = claim("C34", f"lengths near {MODE}")
EPSILON = claim("C38", f"lengths near {MODE}, s = 5")
ADDED = {name: claim("C39", f"lengths near {MODE}, s = 5: {SHOWN[name]}") for name in ADDITIONS}


def arms() -> dict[str, Experiment]:
    """algorithm/s; at s = 5 with something added to DPO, or with another ε of Adam."""
    from llm.tasks import ModeLength

    base, task = lm.preset("tiny", "mode"), ModeLength(mode=MODE, evaluation_prompts=64)
    found = {(name, s): algorithm for name, algorithm in ALGORITHMS.items() for s in (ONLINE, SEMI, OFFLINE)}
    found |= {("dpo", RARE): PLAIN} | {(name, SEMI): algorithm for name, algorithm in ADDITIONS.items()}
    chosen = {
        f"{name}/{s:g}": base.replace(
            name=f"lm_semi_online-{name}",
            environment=task,
            algorithm=algorithm,
            schedule=Schedule(batch_size=PROMPTS, num_generations=GENERATIONS, sync_every_updates=_or_always(s)),
            updates=UPDATES,
            evaluations=EVALUATIONS,
            runs=RUNS,
            seed=TUNINGS.get(name, SIX).seed,
        )
        for (name, s), algorithm in found.items()
    }
    same = chosen[f"dpo/{SEMI:g}"]
    larger = same.optimiser.replace(adam_epsilon=LARGE_EPSILON)
    return chosen | {f"{EPSILON_ARM}/{SEMI:g}": same.replace(optimiser=larger)}


def _or_always(s: float) -> float | None:
    return None if s == ONLINE else s


def collect(lab: Lab) -> Records:
    """Every arm tuned for itself: a stale sampler may want another learning rate."""
    chosen = arms()
    found: dict[str, Record] = {}
    for tuning in (FOUR, SIX):
        tuned = {name: arm for name, arm in chosen.items() if arm.seed == tuning.seed}
        found |= lab.tuned_records(tuned, dict.fromkeys(tuned, tuning.grid), TUNING_RUNS)
    return {name: found[name] for name in chosen}


def draw(records: Records) -> MatplotlibFigure:
    """Score at the end against s; learning curves of DPO by s, and of what is added to it."""
    with plt.rc_context(RC):
        fig, axes = plt.subplots(1, 3, figsize=(12.5, 4.4), layout="constrained")
        _against_period(axes[0], records)
        paths_by_period(axes[1], {s: records[f"dpo/{s:g}"] for s in (ONLINE, SEMI, RARE, OFFLINE)})
        _path(axes[2], records, "dpo", "--", "dpo")
        for name, label in SHOWN.items():
            _path(axes[2], records, name, "-", label)
        for axis, title in zip(axes[1:], ("DPO by sync period s", f"what is added to DPO, s = {SEMI:g}"), strict=True):
            bound(axis, 1.0, "largest reward", x=0.3)
            axis.set(title=title, xlabel="updates", ylabel="score")
            axis.legend(loc="lower right", fontsize=8.5)
    return fig


def _against_period(axes: Axes, records: Records) -> None:
    ticks = [ONLINE, SEMI, RARE, OFFLINE]
    for i, name in enumerate(ALGORITHMS):
        tried = [s for s in ticks if f"{name}/{s:g}" in records]
        at = np.array([ticks.index(s) for s in tried]) + 0.08 * (i - (len(ALGORITHMS) - 1) / 2)
        ends = [final_scores(records[f"{name}/{s:g}"]) for s in tried]
        axes.plot(at, points(axes, at, ends, name), color=colour(name), linewidth=1.6, label=name)
    bound(axes, 1.0, "largest reward")
    axes.set_xticks(range(len(ticks)), ["never" if math.isinf(s) else f"{s:g}" for s in ticks])
    axes.set(title="at the end", xlabel="updates between syncs of the sampler (s)", ylabel="score")
    axes.legend(loc="lower left", fontsize=8.5)


def paths_by_period(axes: Axes, by_period: Mapping[float, Record]) -> None:
    """Mean score of DPO over the updates with its 95 % band, by sync period: four, from the most frequent to never."""
    looks: tuple[tuple[Any, str, str], ...] = (
        ("-", "o", BLACK),
        ((0, (8, 2)), "s", BLUE),
        ("-.", "D", GREEN),
        (":", "v", PURPLE),
    )
    for (s, record), (line, shape, shade) in zip(by_period.items(), looks, strict=True):
        updates, (mean, low, high) = record.arrays["updates"], band(lm.carried_on(scores(record)), resamples=None)
        label = "never" if math.isinf(s) else f"s = {s:g}"
        axes.plot(updates, mean, linestyle=line, marker=shape, ms=4.5, color=shade, label=label)
        axes.fill_between(updates, low, high, color=shade, alpha=0.15, linewidth=0)


def _path(axes: Axes, records: Records, name: str, line: str, label: str) -> None:
    record = records[f"{name}/{SEMI:g}"]
    curve(axes, record.arrays["updates"], lm.carried_on(scores(record)), name, line, label)


def verdicts(records: Records) -> list[Verdict]:
    """C32 and C33 for each algorithm, C34, C38, and C39 of each addition."""
    at = {(name, s): records[f"{name}/{s:g}"] for name in ALGORITHMS for s in (ONLINE, SEMI, OFFLINE)}
    at["dpo", RARE] = records[f"dpo/{RARE:g}"]
    grpo, offline, figure = at["grpo", ONLINE], at["grpo", OFFLINE], FIGURE.name
    rows = []
    for (name, s), tested in SAME.items():
        loses = control(grpo, offline, tested.margin)
        rows.append(same_row(tested, "lm", figure, at[name, ONLINE], at[name, s], loses, STALE))
    for name, tested in BEHIND.items():
        rows.append(behind_row(tested, "lm", figure, at[name, SEMI], at[name, OFFLINE], MOMENT))
    rows.append(not_behind_row(NOT_BEHIND, "lm", figure, at["dpo", ONLINE], grpo, offline))
    for name, tested in ADDED.items():
        added = records[f"{name}/{SEMI:g}"]
        rows.append(added_row(tested, "lm", figure, added, at["dpo", SEMI], offline, "Weights of 1. "))
    large = records[f"{EPSILON_ARM}/{SEMI:g}"]
    note = f"{_diverged(large)} of {RUNS} runs diverged with the larger ε, {_diverged(at['dpo', SEMI])} without."
    return [*rows, epsilon_row(EPSILON, "lm", figure, large, at["dpo", SEMI], f"{note} {ONE_DESIGN}")]


MOMENT = (
    "Lengths overshoot and come back, most with a stale sampler unless its rate is small, so that the end is one "
    "moment of it."
)
ONE_DESIGN = (
    "No second design was run: it would be, as on the network, the settings under which the small ε falls the most, "
    "looked for by that alone; of the network's 40 none fell by this margin."
)
STALE = (
    f"Each tuned for itself. s is in updates of {PROMPTS} × {GENERATIONS} samples, {UPDATES} in all; of s = 100 "
    f"`lm_rare_sync` has longer runs. A score of .1 is a token. {MOMENT}"
)


def _diverged(record: Record) -> int:
    return int((record.arrays["diverged_at"] >= 0).sum())


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    from llm.tasks import ModeLength

    record = records[f"dpo/{ONLINE:g}"]
    near = ModeLength(mode=MODE).overlap()["reference near optimum"]
    taken: dict[float, list[str]] = {}
    for name, one in records.items():
        taken.setdefault(one.spec["optimiser"]["learning_rate"], []).append(name)
    rates = "; ".join(f"{rate:g}: {', '.join(names)}" for rate, names in sorted(taken.items()))
    return (
        f"{lm.model_of(record)}, {len(record.arrays['gold'])} runs per arm, {UPDATES} updates of {PROMPTS} prompts × "
        f"{GENERATIONS} responses; mean and 95 % interval or band. Reward −|length − {MODE}|; {near:.2g} of the "
        "reference's responses are within five tokens of it, so that the optimum is out of its likelihood. Score: "
        "(reward − reference's) / (largest − reference's), on prompts that are not trained on. DPO and IPO with β = "
        f"{PLAIN.beta:g}, of the best of {GENERATIONS} against the worst. Arms are tuned by {TUNING_RUNS} runs of "
        f"another seed at each rate, for the score at the end: {' and '.join(TUNINGS)} at {_rates(FOUR)}, all else at "
        f"{_rates(SIX)}; they took {rates}."
    )


def _rates(tuning: Tuning) -> str:
    rates = [point["learning_rate"] for point in tuning.grid]
    return f"{len(rates)} rates, {rates[0]:g} … {rates[-1]:g}"


FIGURE = Figure(
    name="lm_semi_online",
    title="Is semi-online training enough on a language model?",
    tags=("sweep", "online-offline"),
    claims=("C32", "C33", "C34", "C38", "C39"),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
)
