"""The phase map: which algorithm reaches the optimum, by how likely the optimum is at first and how fresh the samples
are. The 1-D bandit, at a fixed number of samples."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_hex, to_rgb
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.patches import Rectangle

from figures.arms.sweeps import (
    SAMPLES_AN_UPDATE,
    TRIED,
    TUNING,
    at_the_edge,
    batch_schedule,
    equal_grid,
    exact_score,
    tables,
)
from figures.claims import Verdict
from figures.figure import Figure, Records
from figures.lab import Lab
from figures.report.style import RC, colour
from sims import exact
from sims.core.algorithms import find_algorithm
from sims.environments import BanditOverlap
from sims.experiments.experiment import Experiment
from sims.experiments.measures import final_scores
from sims.experiments.store import Record
from sims.policies import Table
from sims.statistics.intervals import paired_effect

FAMILIES = {
    "rloo": "policy gradient: RLOO",
    "ppo": "clipped: PPO",
    "best_of_n": "likelihood: best of 4",
    "rwr": "likelihood: RWR",
    "dpo": "contrastive: DPO",
    "ipo": "contrastive: IPO",
}
OVERLAPS = (0.5, 0.1, 1e-2, 1e-3, 1e-4, 1e-6)
PERIODS = (1.0, 16.0, 64.0, 256.0, math.inf)
UPDATES, RUNS = 512, 20
SCORES = Normalize(0.0, 1.0)
MAP = "viridis"


def arms(overlaps: tuple[float, ...] = OVERLAPS, periods: tuple[float, ...] = PERIODS) -> dict[str, Experiment]:
    """algorithm/overlap/sync period."""
    return {
        f"{algorithm}/{overlap:g}/{period:g}": Experiment(
            name=f"phase_map-{algorithm}",
            environment=BanditOverlap(overlap=overlap),
            policy=Table(),
            algorithm=find_algorithm(algorithm)(),
            schedule=batch_schedule(period * SAMPLES_AN_UPDATE),
            updates=UPDATES,
            evaluations=4,
            runs=RUNS,
        )
        for algorithm in FAMILIES
        for overlap in overlaps
        for period in periods
    }


def collect(lab: Lab) -> Records:
    """Every cell tuned for itself; a quick look takes the corners."""
    chosen = arms(OVERLAPS[::3], PERIODS[::4]) if lab.quick else arms()
    return lab.tuned_records(chosen, {name: equal_grid(arm) for name, arm in chosen.items()}, **TUNING)


def final(records: Records) -> tuple[np.ndarray, list[float], list[float]]:
    """Final scores (algorithms, overlaps, periods, runs), and the overlaps and periods that were run."""
    overlaps = [o for o in OVERLAPS if f"rloo/{o:g}/1" in records]
    periods = [s for s in PERIODS if f"rloo/0.5/{s:g}" in records]
    table = [[[final_scores(records[f"{a}/{o:g}/{s:g}"]) for s in periods] for o in overlaps] for a in FAMILIES]
    return np.array(table), overlaps, periods


def lead(scores: np.ndarray, leads: int = 1) -> tuple[int, int, float, bool]:
    """Best algorithm, runner-up, how far it leads, and whether the interval of its lead excludes 0.

    scores: (algorithms, runs), paired by run. leads: how many are looked at together; intervals then hold all of them
    at 95 % (Bonferroni).
    """
    second, first = np.argsort(scores.mean(1), kind="stable")[-2:]
    effect = paired_effect(scores[first], scores[second], level=1.0 - 0.05 / leads)
    return int(first), int(second), effect.estimate, effect.low > 0


def offline_optimum(record: Record) -> float:
    """Score of what IPO aims at with noiseless labels of the reference's pairs: π ∝ π_ref·e^{P(beats a draw)/β}, the
    chance of beating a draw of π_ref counting ties as half (Azar et al. 2024). Exact, mean over runs."""
    logp_ref, rewards = tables(record)
    win = 0.5 * (np.sign(rewards[..., :, None] - rewards[..., None, :]) + 1.0)
    chance = (win * np.exp(logp_ref)[..., None, :]).sum(-1)
    return exact_score(record, exact.optimum(logp_ref, chance, record.spec["algorithm"]["beta"]))


def draw(records: Records) -> MatplotlibFigure:
    """Six maps of the score under one colour bar, and who leads."""
    scores, overlaps, periods = final(records)
    with plt.rc_context(RC | {"axes.grid": False, "axes.spines.top": True, "axes.spines.right": True}):
        fig = plt.figure(figsize=(14.5, 8.3), layout="constrained")
        grid = fig.add_gridspec(2, 4, width_ratios=(1, 1, 1, 1.55))
        panels = [fig.add_subplot(grid[i % 2, i // 2]) for i in range(len(FAMILIES))]
        for i, (axes, title) in enumerate(zip(panels, FAMILIES.values(), strict=True)):
            _map(axes, scores[i].mean(-1))
            axes.set_title(title)
        winner = fig.add_subplot(grid[:, 3])
        _winners(winner, scores)
        for axes in (*panels, winner):
            _label(axes, overlaps, periods, left=axes in (*panels[:2], winner), bottom=axes in (*panels[1::2], winner))
        bar = fig.colorbar(ScalarMappable(SCORES, MAP), ax=panels, location="bottom", shrink=0.75, aspect=45)
        bar.set_label("score at the end: share of the way from the reference's reward (0) to the exact optimum's (1)")
    return fig


def _map(axes: Axes, mean: np.ndarray) -> None:
    axes.imshow(mean, cmap=MAP, norm=SCORES, aspect="auto")
    for (row, column), value in np.ndenumerate(mean):
        dark = SCORES(value) < 0.6
        axes.text(column, row, _short(value), ha="center", va="center", fontsize=8.5, color="w" if dark else "k")


def _short(value: float) -> str:
    """Two digits: .07, .98; what rounds to 1 is 1."""
    return f"{value:.2f}".replace("-0.00", "0.00").replace("0.", ".").replace("1.00", "1")


def _winners(axes: Axes, scores: np.ndarray) -> None:
    names = list(FAMILIES)
    for row, column in np.ndindex(scores.shape[1:3]):
        first, second, ahead, sure = lead(scores[:, row, column], leads=scores.shape[1] * scores.shape[2])
        corner = (column - 0.5, row - 0.5)
        face = faded(colour(names[first]), float(scores[first, row, column].mean())) if sure else "0.93"
        axes.add_patch(Rectangle(corner, 1, 1, facecolor=face, edgecolor="w"))
        if not sure:
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, hatch="////", edgecolor="0.82", linewidth=0))
        who = names[first] if sure else f"{names[first]},\n{names[second]}"
        ink = ("w" if _dark(face) else "k") if sure else "0.25"
        weight = "bold" if sure else "normal"
        text = f"{who}\n" + (f"+{ahead:.3f}".replace("+0.", "+.") if ahead >= 0.0005 else "<.001")
        axes.text(column, row, text, ha="center", va="center", fontsize=8.5, color=ink, weight=weight, linespacing=1.3)
    axes.set(xlim=(-0.5, scores.shape[2] - 0.5), ylim=(scores.shape[1] - 0.5, -0.5))
    axes.set_title(
        "who leads, and by how much over the next\n(paler: reached less; hatched: not sure, at 95 % for all cells)"
    )


def faded(hexadecimal: str, score: float) -> str:
    """The colour, towards white as the score goes from 1 to 0."""
    weight = 0.2 + 0.8 * float(np.clip(score, 0.0, 1.0))
    red, green, blue = (weight * part + (1.0 - weight) for part in to_rgb(hexadecimal))
    return to_hex((red, green, blue))


def _dark(hexadecimal: str) -> bool:
    red, green, blue = (int(hexadecimal[i : i + 2], 16) for i in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue < 140


def _label(axes: Axes, overlaps: list[float], periods: list[float], left: bool, bottom: bool) -> None:
    powers = [f"$10^{{{math.log10(o):.0f}}}$" if o < 0.1 else f"{o:g}" for o in overlaps]
    axes.set_yticks(range(len(overlaps)), powers if left else [""] * len(overlaps))
    ticks = [f"{s:g}" if math.isfinite(s) else "offline\n(∞)" for s in periods]
    axes.set_xticks(range(len(periods)), ticks if bottom else [""] * len(periods))
    axes.tick_params(length=0)
    if left:
        axes.set_ylabel("overlap of reference and reward")
    if bottom:
        axes.set_xlabel("sync period s (updates)")


def no_verdicts(records: Records) -> list[Verdict]:
    """A map to look at: the claims along its axes are tested by figures made for them."""
    return []


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    scores, overlaps, periods = final(records)
    algorithms, runs = len(scores), scores.shape[-1]
    ipo = records["ipo/0.001/inf"]
    reached, aimed_at = final_scores(ipo).mean(), offline_optimum(ipo)
    return (
        f"1-D bandit, 100 actions, table policy, {int(ipo.arrays['samples'][-1]):,} samples per run, 16 (4 × 4) per "
        f"update, noiseless labels; {algorithms} algorithms × {len(overlaps)} overlaps × {len(periods)} sync periods, "
        f"{runs} test runs per cell: the map tests no claim, and figures that do have more. s: updates between "
        "copies of the policy to the sampler, which draws the 16·s samples between them at once. Every cell was tuned "
        f"for itself on other seeds, over {TRIED} and β or, where it does anything, clip range; "
        f"{at_the_edge(records, 'cells')} A run that diverged counts as the reference, a Gaussian, moved away from the "
        "reward until so much of its mass is left within ±10 actions of the peak. Offline: fresh responses of the "
        "reference for ever. The lead is that of the two best means of the same runs, its interval paired and "
        "corrected for the number of cells (Bonferroni). In a table no action learns from its "
        "neighbours, and a policy that follows its own samples stops exploring: a network, or an entropy bonus, may "
        "draw another map. Offline IPO leads by overshooting and not by its objective: the optimum that it aims at "
        f"scores {aimed_at:.3f} at overlap 0.001, where it reached {reached:.2f}; Adam at a large learning rate takes "
        "large steps on actions that are drawn rarely. What PPO gains from s = 64 is its clip range's: GRPO, and RLOO "
        "with a clip range, gain from it too (tuned alike, not shown). RLOO is drawn here without one."
    )


FIGURE = Figure(
    name="phase_map",
    title="The phase map: overlap × freshness, by algorithm",
    tags=("bandit", "sweep", "online-offline"),
    claims=(),
    collect=collect,
    draw=draw,
    verdicts=no_verdicts,
    caption=caption,
)
