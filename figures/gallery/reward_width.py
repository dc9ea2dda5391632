"""Does it hang on how wide the reward is that on-policy sampling matters where the optimum is unlikely? (C25) The 1-D
bandit's R1 and R2 with the published widths of the bump."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.lines import Line2D

from figures.arms.sweeps import TRIED, at_the_edge
from figures.catalogue import claim
from figures.claims import Verdict
from figures.figure import Figure, Records
from figures.gallery.online_offline import ALGORITHMS, gain, interaction_row, tuned
from figures.lab import Lab
from figures.report.style import RC, colour, key, points
from sims.environments import Bandit, BanditR1, BanditR2

SHORT = ("dpo",)
RUNS = 50
WIDTHS = (10.0, 20.0, 30.0)  # the first is tested with the overlap axis, by online_offline
CLAIMS = {
    (name, width): claim("C25", f"{name}: R1 against R2, width {width:g}{', short runs' * (name in SHORT)}")
    for name in ALGORITHMS
    for width in WIDTHS[1:]
}


def environments() -> dict[str, Bandit]:
    """R1 and R2 of each width."""
    return {f"{cls.kind[-2:].upper()}/{width:g}": cls(width=width) for cls in (BanditR1, BanditR2) for width in WIDTHS}


def collect(lab: Lab) -> Records:
    """Each arm tuned anew for its width, over as many points."""
    bandits = environments()
    tested = {name: bandit for name, bandit in bandits.items() if float(name.split("/")[1]) in WIDTHS[1:]}
    return tuned(lab, bandits, tested, algorithms=SHORT, runs=RUNS, seed=0)


def draw(records: Records) -> MatplotlibFigure:
    """What on-policy sampling gains against the width, on R1 and on R2."""
    with plt.rc_context(RC):
        fig, axes = plt.subplots(1, 2, figsize=(10.5, 4.6), layout="constrained", sharey=True)
        for panel, environment in zip(axes, ("R1", "R2"), strict=True):
            _panel(panel, records, environment)
        axes[0].set(title="R1: optimum unlikely under the reference", ylabel="on-policy − offline, score at the end")
        axes[1].set_title("R2: optimum likely under the reference")
        lines = [key(name) for name in ALGORITHMS]
        lines.append(Line2D([], [], color="k", linewidth=1.4, linestyle="--", label="mean"))
        fig.legend(handles=lines, loc="outside lower center", ncols=len(lines), fontsize=9.5)
    return fig


def _panel(axes: Axes, records: Records, environment: str) -> None:
    x = np.arange(len(WIDTHS), dtype=float)
    for i, algorithm in enumerate(ALGORITHMS):
        at = x + 0.06 * (i - (len(ALGORITHMS) - 1) / 2)  # side by side, where they would cover one another
        gains = [gain(records, f"{environment}/{width:g}", algorithm) for width in WIDTHS]
        axes.plot(at, points(axes, at, gains, algorithm), color=colour(algorithm), linewidth=1.2)
    mean = [np.mean([gain(records, f"{environment}/{width:g}", name) for name in ALGORITHMS]) for width in WIDTHS]
    axes.plot(x, mean, "k--", linewidth=1.4)
    axes.axhline(0, color="0.4", linewidth=0.8)
    masses = [environments()[f"{environment}/{width:g}"].overlap_mass() for width in WIDTHS]
    axes.set_xticks(x, [f"{width:g}\n({mass:.2g})" for width, mass in zip(WIDTHS, masses, strict=True)])
    axes.set_xlabel("width of the bump, in actions (reference's mass within it)")


def verdicts(records: Records) -> list[Verdict]:
    """The interaction of R1 and R2, for each algorithm, at the widths that online_offline does not test."""
    rows = []
    for (name, width), tested in CLAIMS.items():
        mass = environments()[f"R1/{width:g}"].overlap_mass()
        note = (
            f"With this width {100 * mass:.0f} % of the reference's mass lies within R1's bump, whose optimum is then "
            "less unlikely than with width 10; the overlap axis of online_offline changes that mass alone."
        )
        rows.append(interaction_row(tested, records, f"R1/{width:g}", f"R2/{width:g}", name, FIGURE.name, note, SHORT))
    return rows


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    record = records["R1/10/dpo/on"]
    runs, samples = len(record.arrays["reward"]), int(record.arrays["samples"][-1])
    return (
        f"1-D bandit, 100 actions, table policy, {runs} runs per arm, {samples:,} samples per run, 16 × 4 per update, "
        "noiseless labels; the reward is exp(−((action − peak)/width)²), its peak at 70 (R1) or 20 (R2). Mean and 95 % "
        f"interval over runs, paired. Each arm was tuned on other seeds, over {TRIED} "
        f"and, where it has one, β, listed below; {at_the_edge(records)} The score counts from the "
        "reference's own reward, which a wider bump raises."
    )


FIGURE = Figure(
    name="reward_width",
    title="Does the width of the reward change when on-policy sampling matters?",
    tags=("bandit", "online-offline"),
    claims=("C25",),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
)
