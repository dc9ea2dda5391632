"""Can a mean reward stand in for a critic? (C50) The noise of policy gradients at equal samples, exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.lines import Line2D
from scipy.optimize import brentq

from figures.catalogue import Setting, claim
from figures.claims import Verdict, row_of
from figures.figure import Figure, Records
from figures.lab import Lab
from figures.report.style import RC, colour
from sims.core.spec import to_json
from sims.environments import BanditR1, BanditR2
from sims.environments.space import TokenSpace
from sims.exact import expected_reward, optimum
from sims.exact.variance import (
    Answers,
    Moments,
    angle,
    batch_noise,
    dr_grpo,
    grpo,
    ppo,
    reinforce,
    reward_gradient,
    rloo,
    table_answers,
    true_values,
)
from sims.experiments.store import Arrays, Record
from sims.statistics.gates import positive_control
from sims.statistics.intervals import mean_interval

SAMPLES = 64  # a batch
GROUP_SIZES = (1, 2, 4, 8, 16, 32)
TESTED = (4, 8, 16)  # group sizes at which the claim is tested
LEVELS = 5  # of the rewards: 0, 1/4, 1/2, 3/4, 1
PROMPTS, TABLE_SEED, TABLES = 8, 50, 50
SPACES = {"actions": TokenSpace(16), "tokens": TokenSpace(3, 4, eos=True)}
POLICIES = ("at the reference", "halfway to the optimum")
TITLES = {
    "R1": "R1: optimum unlikely, 1 prompt",
    "R2": "R2: optimum likely, 1 prompt",
    "actions": f"{PROMPTS} prompts, 16 actions",
    "tokens": f"{PROMPTS} prompts, 31 sequences of 1–4 tokens",
}


class Estimator(NamedTuple):
    """One line of the figure. smallest: the fewest responses per prompt that it can do without."""

    label: str
    algorithm: str
    line: str
    marker: str
    smallest: int
    moments: Callable[[Answers, int], Moments]


ESTIMATORS = {
    "none": Estimator("REINFORCE, no baseline", "reinforce", ":", "o", 1, reinforce),
    "running_mean": Estimator(
        "REINFORCE, running mean", "reinforce", "-", "o", 1, lambda a, k: reinforce(a, k, a.mean_reward)
    ),
    "untrained": Estimator("PPO, untrained critic", "ppo", ":", "s", 1, lambda a, k: ppo(a, k, 0.0 * true_values(a))),
    "perfect": Estimator("PPO, perfect critic", "ppo", "-", "s", 1, lambda a, k: ppo(a, k, true_values(a))),
    "rloo": Estimator("RLOO", "rloo", "-", "^", 2, rloo),
    "dr_grpo": Estimator("Dr. GRPO", "dr_grpo", "--", "", 2, dr_grpo),
    "grpo": Estimator("GRPO", "grpo", "-", "D", 2, grpo),
}
ORDER = list(ESTIMATORS)

C50 = {size: claim("C50", f"RLOO against a perfect critic, K = {size}") for size in TESTED}


def bandit(environment: BanditR1 | BanditR2) -> Answers:
    """R1 or R2 at the reference, its rewards rounded to the levels, so that GRPO can be counted."""
    rewards = np.round(environment.rewards() * (LEVELS - 1)) / (LEVELS - 1)
    return answers(environment.reference_logp(), rewards, environment.space)


def drawn_table(space: TokenSpace, instance: int) -> Answers:
    """Prompts of different difficulty d ~ U(0, 1), rewards binomial(4, d)/4, a reference with normal logits."""
    random = np.random.default_rng([TABLE_SEED, instance])
    difficulty = random.uniform(size=(PROMPTS, 1))
    rewards = random.binomial(LEVELS - 1, difficulty, size=(PROMPTS, len(space.all_responses[0]))) / (LEVELS - 1)
    return answers(random.normal(size=(PROMPTS, space.nodes, space.vocabulary)), rewards, space)


def answers(logits: np.ndarray, rewards: np.ndarray, space: TokenSpace) -> Answers:
    """`table_answers` on a token space."""
    responses, mask = (x.numpy() for x in space.all_responses)
    return table_answers(logits, rewards, responses, mask)


def halfway(reference: Answers, space: TokenSpace) -> Answers:
    """π* ∝ π_ref·e^{r/β} at the β that has half of the reward that is to be had."""
    logp, rewards = np.log(reference.distribution), reference.rewards
    aim = (reference.mean_reward + rewards.max(-1).mean()) / 2

    def miss(log_beta: float) -> float:
        distribution = optimum(logp, rewards, math.exp(log_beta))
        return float(expected_reward(distribution, rewards).mean()) - aim

    distribution = np.exp(optimum(logp, rewards, math.exp(brentq(miss, -7.0, 7.0, xtol=1e-13))))
    # The distribution as a table: a token's probability is the mass that passes it over the mass that reaches its
    # prefix.
    responses, mask = (x.numpy() for x in space.all_responses)
    mass = np.zeros((len(distribution), space.nodes, space.vocabulary))
    for row, own in zip(mass, distribution, strict=True):
        np.add.at(row, (reference.nodes[mask], responses[mask]), np.broadcast_to(own[:, None], mask.shape)[mask])
    return answers(np.log(np.where(mass > 0, mass, 1.0)), rewards, space)


def measure(reference: Answers, space: TokenSpace, group_sizes: Sequence[int]) -> Arrays:
    """relative, within, angle: (policies, estimators, group sizes), NaN where a group is too small.

    relative: tr Cov/|mean|²; within: its part that is due to the responses; angle: degrees of the mean to ∇E[r].
    """
    shape = (len(POLICIES), len(ESTIMATORS), len(group_sizes))
    found = {name: np.full(shape, np.nan) for name in ("relative", "within", "angle")}
    for p, policy in enumerate((reference, halfway(reference, space))):
        truth = reward_gradient(policy)
        for e, estimator in enumerate(ESTIMATORS.values()):
            for k, size in enumerate(group_sizes):
                if size >= estimator.smallest:
                    moments = estimator.moments(policy, size)
                    noise = batch_noise(moments, SAMPLES // size)
                    found["relative"][p, e, k] = noise.relative
                    found["within"][p, e, k] = noise.within / noise.signal
                    found["angle"][p, e, k] = angle(moments.mean, truth)
    return found


def collect(lab: Lab) -> Records:
    """A record a column, and one of many drawn tables for each of the two kinds."""
    sizes = GROUP_SIZES[:3] if lab.quick else GROUP_SIZES
    tables = 4 if lab.quick else lab.runs or TABLES
    common = {"samples": SAMPLES, "levels": LEVELS, "estimators": ORDER, "policies": list(POLICIES)}

    def record(key: str, problem: dict[str, Any], compute: Callable[[], Arrays], group_sizes: Sequence[int]) -> Record:
        spec = {**common, "group_sizes": list(group_sizes), "problem": problem}
        return lab.exact(f"gradient_variance-{key}", spec, compute, [f"{__name__}:collect"])

    found = {}
    for name, environment in (("R1", BanditR1()), ("R2", BanditR2())):
        compute = _compute([bandit(environment)], environment.space, sizes)
        found[name] = record(name, to_json(environment), compute, sizes)
    for name, space in SPACES.items():
        problem = {"vocabulary": space.vocabulary, "length": space.length, "eos": space.eos, "prompts": PROMPTS}
        for key, count, group_sizes in ((name, 1, sizes), (f"{name}-tables", tables, TESTED)):
            compute = _compute([drawn_table(space, i) for i in range(count)], space, group_sizes)
            seeds = {"seed": TABLE_SEED, "tables": count}
            found[key] = record(key, {**problem, **seeds}, compute, group_sizes)
    return found


def _compute(problems: Sequence[Answers], space: TokenSpace, group_sizes: Sequence[int]) -> Callable[[], Arrays]:
    """What measures problems: arrays of `measure` with an axis for them in front."""

    def compute() -> Arrays:
        each = [measure(problem, space, group_sizes) for problem in problems]
        return {name: np.stack([one[name] for one in each]) for name in each[0]}

    return compute


def draw(records: Records) -> MatplotlibFigure:
    """Relative noise against the group size at two policies; below, how far the mean points away from ∇E[r]."""
    with plt.rc_context(RC):
        fig, axes = plt.subplots(3, len(TITLES), figsize=(14, 9.6), layout="constrained", sharex=True, sharey="row")
        for column, (name, title) in enumerate(TITLES.items()):
            sizes = np.array(records[name].spec["group_sizes"])
            for row in range(len(POLICIES)):
                _noise(axes[row, column], records[name], sizes, row, prompts=1 if name in ("R1", "R2") else PROMPTS)
            _angles(axes[2, column], records[name], sizes)
            axes[0, column].set_title(title)
            axes[2, column].set_xlabel(f"group size K ({SAMPLES}/K prompts per batch)")
            axes[2, column].set_xticks(sizes, [str(size) for size in sizes])
            axes[2, column].minorticks_off()
        axes[2, 0].set_ylim(bottom=-1.5)  # shared, so only once all angles are drawn
        for row, policy in enumerate(POLICIES):
            axes[row, 0].set_ylabel(f"{policy}:\nnoise of a batch, tr Cov(g) / |E g|²")
        axes[2, 0].set_ylabel("bias: angle of E g to ∇E[r], degrees\n(strong: at the reference, pale: halfway)")
        fig.legend(handles=_handles(), loc="outside lower center", ncols=len(ESTIMATORS) + 1, fontsize=9)
    return fig


def _style(estimator: Estimator) -> dict[str, Any]:
    """A hollow marker has no baseline; a dashed line lies on another."""
    fill = "white" if estimator.line == ":" else colour(estimator.algorithm)
    return {
        "color": colour(estimator.algorithm),
        "linestyle": estimator.line,
        "marker": estimator.marker,
        "markersize": 7 if estimator.marker == "o" else 4.5,
        "markerfacecolor": fill,
        "linewidth": 1.7,
    }


def _handles() -> list[Line2D]:
    lines = [Line2D([], [], label=estimator.label, **_style(estimator)) for estimator in ESTIMATORS.values()]
    return [*lines, Line2D([], [], color="0.55", linewidth=1, label="choice of prompts alone")]


def _noise(panel: Axes, record: Record, sizes: np.ndarray, policy: int, prompts: int) -> None:
    for e, estimator in enumerate(ESTIMATORS.values()):
        panel.plot(sizes, record.arrays["relative"][0, policy, e], **_style(estimator))
    if prompts > 1:
        panel.plot(sizes, (prompts - 1) * sizes / SAMPLES, color="0.55", linewidth=1)
    panel.set(xscale="log", yscale="log")


def _angles(panel: Axes, record: Record, sizes: np.ndarray) -> None:
    degrees = record.arrays["angle"][0]
    panel.axhline(0, color="0.4", linewidth=0.8)
    for name in ("grpo", "untrained"):
        lines = degrees[:, ORDER.index(name)]
        if np.nanmax(lines) > 1e-6:
            for line, alpha in zip(lines, (1.0, 0.4), strict=True):
                panel.plot(sizes, line, alpha=alpha, **_style(ESTIMATORS[name]))
    panel.text(sizes[0], 0.3, "all others: 0", ha="left", va="bottom", fontsize=8.5)


def octaves(record: Record, name: str, size: int) -> np.ndarray:
    """(tables,): log2 of an estimator's noise over the perfect critic's, given the prompts, mean over the policies."""
    within = record.arrays["within"][..., record.spec["group_sizes"].index(size)]
    return np.log2(within[:, :, ORDER.index(name)] / within[:, :, ORDER.index("perfect")]).mean(-1)


def verdicts(records: Records) -> list[Verdict]:
    """On single actions, where a perfect critic knows the prompt's mean reward, and on tokens, where it knows more."""
    rows = []
    settings: tuple[tuple[str, Setting, str], ...] = (
        ("actions", "bandit", "On single actions a perfect critic is a mean too, the prompt's."),
        (
            "tokens",
            "token",
            "Responses have 1–4 tokens and unrelated rewards; longer ones leave a critic more to know.",
        ),
    )
    for name, setting, note in settings:
        record = records[f"{name}-tables"]
        for size, tested in C50.items():
            others = ", ".join(
                f"{ESTIMATORS[other].label} {octaves(record, other, size).mean():+.2f}"
                for other in ("running_mean", "grpo", "untrained")
            )
            said = f"{note} No real critic is perfect, and GRPO's mean is biased. The same effect of {others}."
            control = positive_control(mean_interval(octaves(record, "none", size)), tested.margin)
            gates = [replace(control, why=f"REINFORCE without a baseline: {control.why}")]
            effect = mean_interval(octaves(record, "rloo", size))
            rows.append(row_of(tested, setting, effect, FIGURE.name, [record.hash], said, gates))
    return rows


def caption(records: Records) -> str:
    """What the figure shows; it is exact, so that no run is counted."""
    return (
        f"Exact, no sampling, hence no bands: noise tr Cov(g)/|E g|² of the gradient of {SAMPLES} fresh samples by the "
        f"logits of a table, {SAMPLES}/K prompts drawn uniformly × K responses. Rewards have {LEVELS} levels (those of "
        "R1 and R2 are rounded to quarters). The two right columns are the first of the drawn tables, over all of "
        "which the claim is tested. Halfway: π* at the β that gains half of the reward to be had. Running mean: at its "
        "limit, the mean over prompts. Dr. GRPO's gradient is (K−1)/K of RLOO's, which leaves the noise as it is. On "
        "single actions an untrained critic (V = 0) is no baseline; on tokens its traces (λ = 0.95) shrink the credit "
        "of early ones, a bias. Grey: noise from the choice of prompts, which share nothing in a table."
    )


FIGURE = Figure(
    name="gradient_variance",
    title="A mean reward against a critic: the noise of policy gradients",
    tags=("bandit", "token", "exact"),
    claims=("C50",),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
)
