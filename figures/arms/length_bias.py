"""Do a length penalty, or short-but-right pairs, fix a length bias? (C56) Rows and pictures of
`figures.gallery.alarms`, from its records of one policy by their names."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from matplotlib.axes import Axes

from figures.catalogue import Claim, Setting, claim
from figures.claims import Verdict, row_of
from figures.figure import Records
from figures.report.style import BLACK, BLUE, VERMILION
from sims.experiments.measures import final_scores
from sims.experiments.store import Record
from sims.statistics.gates import Gate, placebo, positive_control, room, trained
from sims.statistics.intervals import mean_interval, student_interval

from .gating import tuned_well
from .monitors import growth

PAIRS = 32  # that the labellers label, per update
ADDED = {"1/5": 8, "1/2": 32}  # short-but-right ones, by their share of all: about half and twice what balances labels

SHORTER, BETTER = (
    {x: claim("C56", f"penalty of {words} the bias: {what}") for x, words in (("0.5", "half"), ("2", "twice"))}
    for what in ("length", "gold")
)
CURATED, CURATED_GAIN = (
    {
        x: claim("C56", f"short-but-right pairs, {words}: {what}")
        for x, words in (("1/5", "one in five"), ("1/2", "one in two"))
    }
    for what in ("length", "gold")
)


def length_rows(setting: Setting, at: Records, figure: str) -> list[Verdict]:
    """C56, of a table or a network."""
    rows = [
        row for share in SHORTER for row in _penalised(share, setting, at[f"penalty/{share}"], at["length"], figure)
    ]
    for share in ADDED:
        rows += _curated(share, setting, at[f"curated/{share}"], at[f"ordinary/{share}"], figure)
    return rows


def all_trained(*records: Record) -> Gate:
    """Whether every arm is away from the reference at the end."""
    return trained({f"arm {i + 1}": r.arrays["kl_policy_ref"][:, -1].astype(float) for i, r in enumerate(records)})


def _penalised(share: str, setting: Setting, fixed: Record, biased: Record, figure: str) -> list[Verdict]:
    note = (
        "A penalty of just the bias's size would undo it; nobody knows that size. Which way lengths go is arithmetic, "
        "as half of the bias or as much of the other sign is left: the rows say how far, and what gold gains."
    )
    alike = "the arms differ in the penalty alone"
    return _rows(SHORTER[share], BETTER[share], setting, (fixed, biased), figure, note, "without a penalty", alike)


def _curated(share: str, setting: Setting, curated: Record, ordinary: Record, figure: str) -> list[Verdict]:
    """Against as many ordinary pairs more: the control, and the placebo."""
    shrunk = float((growth(curated) < 0).mean())
    note = (
        f"{ADDED[share]} pairs beside {PAIRS} that the biased labellers label: of pairs that the policy draws, those "
        f"whose shorter response is right, labelled by gold; where it no longer draws such pairs, fewer. Responses end "
        f"shorter than they began in {shrunk:.0%} of the runs. Tuned by the reward that the labellers see, bias "
        "included. Not tried: other shares, curators who err, and as many right labels of pairs of any length."
    )
    without = "with as many ordinary pairs instead"
    alike = "the second arm is it: as many added pairs, which the labellers label"
    return _rows(CURATED[share], CURATED_GAIN[share], setting, (curated, ordinary), figure, note, without, alike)


BIASED = "arms are tuned by the reward that the labellers see, bias included, and gold is what is tested"


def _rows(
    length: Claim,
    gold: Claim,
    setting: Setting,
    arms: tuple[Record, Record],
    figure: str,
    note: str,
    without: str,
    alike: str,
) -> list[Verdict]:
    """How much longer responses get with a fix, and the gold that it wins over the arm without it.

    without: which arm that is, the control of the first row; alike: why the second needs no further placebo.
    """
    fixed, other = arms
    control = positive_control(mean_interval(growth(other)), length.margin, only_above=True)
    gates = [
        replace(control, why=f"{without}: {control.why}"),
        *tuned_well(length.margin, fixed, falls=BIASED),
        all_trained(fixed),
    ]
    rows = [row_of(length, setting, mean_interval(growth(fixed)), figure, [fixed.hash], note, gates)]
    scores = [final_scores(arm) for arm in arms]
    gates = [
        room(scores[0], scores[1], -1.0, 1.0, gold.margin),
        placebo(None, gold.margin, alike),
        *tuned_well(gold.margin, *arms, falls=BIASED),
        all_trained(*arms),
    ]
    gained = mean_interval(scores[0] - scores[1])
    return [*rows, row_of(gold, setting, gained, figure, [arm.hash for arm in arms], note, gates)]


def draw_penalties(axes: Axes, at: Records) -> None:
    """Growth and score by the size of the penalty."""
    shares = {0.0: at["length"], 0.5: at["penalty/0.5"], 2.0: at["penalty/2"]}
    growths, ends = ([of(r) for r in shares.values()] for of in (growth, final_scores))
    with_intervals(axes, list(shares), growths, "growth of length", VERMILION, "D", "--")
    with_intervals(axes, list(shares), ends, "score at the end", BLUE, "o")
    honest = float(final_scores(at["honest"]).mean())
    axes.axhline(honest, color=BLUE, linewidth=1, linestyle=":")
    axes.text(2.0, honest, "score without a bias", fontsize=7.5, ha="right", va="bottom")
    axes.axhline(0.0, color=BLACK, linewidth=1)
    axes.legend(fontsize=8, loc="center right")
    axes.set(xlabel="penalty, in units of the bias", ylabel="growth, share of the first length; score")
    axes.set(xticks=list(shares), ylim=(None, 1.15))


def draw_pairs(axes: Axes, at: Records) -> None:
    """Growth and score with short-but-right pairs, and with as many ordinary ones more."""
    shares = [ADDED[share] / PAIRS for share in ADDED]
    for kind, fill in (("curated", None), ("ordinary", "white")):
        said = "short but right" if kind == "curated" else "ordinary"
        records = [at[f"{kind}/{share}"] for share in ADDED]
        for of, what, shade, shape in ((growth, "growth", VERMILION, "D"), (final_scores, "score", BLUE, "o")):
            line: Literal["-", "--"] = "-" if kind == "curated" else "--"
            with_intervals(axes, shares, [of(r) for r in records], f"{what}, {said}", shade, shape, line, fill)
    axes.axhline(float(final_scores(at["honest"]).mean()), color=BLUE, linewidth=1, linestyle=":")
    axes.axhline(0.0, color=BLACK, linewidth=1)
    axes.legend(fontsize=8, loc="center", bbox_to_anchor=(0.5, 0.45), ncols=2)
    axes.set(xlabel="pairs added, as a share of the ordinary ones", ylabel="growth, share of the first length; score")
    axes.set(xticks=shares, xlim=(0.15, 1.1))


def with_intervals(
    axes: Axes,
    x: list[float],
    values: list[np.ndarray],
    label: str,
    shade: str,
    shape: str,
    line: Literal["-", "--", ""] = "-",
    fill: str | None = None,
) -> None:
    """Means over runs with their 95 % intervals. values: (runs,) at each x."""
    found = [student_interval(runs) for runs in values]
    spread = [[i.estimate - i.low for i in found], [i.high - i.estimate for i in found]]
    means = [i.estimate for i in found]
    axes.errorbar(x, means, spread, label=label, color=shade, marker=shape, linestyle=line, ms=4.5, mfc=fill)
