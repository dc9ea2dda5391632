"""Does gold reward fall while a proxy's rises? (C11, C12, C13, C14, C42) Online and offline IPO and DPO over a sweep of
β, against the KL to the reference, with reward models that were fitted to the same few noisy pairs."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.lines import Line2D

from figures.arms.gating import Part, effect_of, tuned_well
from figures.arms.over_kl import (
    LEVELS,
    Frontier,
    fall,
    frontier,
    gao_fit,
    pooled,
    pooled_by_share,
    reached,
    shared,
)
from figures.arms.over_updates import (
    EXPLOITS,
    LENGTH_BIAS,
    LONGER,
    LOOKS,
    MANY_PAIRS,
    TREE,
    along,
    draw_lengths,
    draw_over_updates,
    errs_row,
    exploits_row,
    level_room,
    longer_row,
    mean_path,
    no_fall,
)
from figures.arms.proxies import (
    ALGORITHMS,
    BATCH,
    BETAS,
    CONVERGED,
    ENVIRONMENT,
    PAIRS,
    POLICY,
    RATES,
    REGULARISED,
    TUNED_BETAS,
    TUNED_RATES,
    UPDATES,
    lowest,
    of_sweep,
    sweep,
    to_tune,
)
from figures.arms.sweeps import ROUNDS, TUNING
from figures.catalogue import Claim, claim
from figures.claims import Verdict, row_of
from figures.figure import Figure, Records
from figures.lab import Lab, product
from figures.report.style import BLACK, BLUE, GREEN, RC, SKY, bound
from sims.experiments.measures import final_scores, scores
from sims.experiments.store import Record
from sims.statistics.gates import placebo, room, runs_at_a_bound
from sims.statistics.intervals import Interval, mean_interval

WHOLE = "all that online training does is compared with all that offline training does; the order of data is C16's"
AHEAD = {
    (how, name, source): claim("C13", f"{name}, {how}, {source}")
    for how in ("pooled", "tuned")
    for name in ALGORITHMS
    for source in ("pointwise", "pairwise")
}
FALLS = {
    (name, source): claim("C14", f"{name}, {source}")
    for name in ALGORITHMS
    for source in ("offline", "pointwise", "pairwise", "converged")
}


def collect(lab: Lab) -> Records:
    """The sweep is tested whole; six arms are tuned besides."""
    tuned = to_tune()
    grid = product(learning_rate=TUNED_RATES, beta=TUNED_BETAS)
    return {**lab.records(sweep() | along()), **lab.tuned_records(tuned, dict.fromkeys(tuned, grid), **TUNING)}


# Verdicts


def verdicts(records: Records) -> list[Verdict]:
    """C11 of RLOO, C12 of offline DPO, C13 and C14 of both contrastive losses, and C42 of both online algorithms."""
    rows = [exploits_row(records, source, FIGURE.name) for source in EXPLOITS]
    rows.append(errs_row(records[f"steps/{PAIRS}"], records[f"steps/{MANY_PAIRS}"], FIGURE.name))
    for (how, name, source), tested in AHEAD.items():
        if how == "pooled":
            rows.append(_ahead(tested, of_sweep(records, name, source), of_sweep(records, name, "offline")))
        else:
            rows.append(_tuned(tested, records[f"tuned/{name}/{source}"], records[f"tuned/{name}/offline"]))
    rows += [_falls(records, name, source) for name, source in FALLS]
    return [*rows, *(longer_row(records, name, FIGURE.name) for name in LONGER)]


def _ahead(tested: Claim, online: list[Record], offline: list[Record]) -> Verdict:
    levels = shared(reached(online), reached(offline))
    one, other = (pooled(side)[:, levels] for side in (online, offline))
    effect = mean_interval((one - other).mean(1))
    gates = [
        room(one.mean(1), other.mean(1), lowest(offline[0]), 1.0, tested.margin),
        placebo(None, tested.margin, WHOLE),
    ]
    note = (
        f"Mean over levels of KL from {LEVELS[levels][0]:.2g} to {LEVELS[levels][-1]:.2g} nats, on either side of "
        "which 90 % of the problems have evaluations, online and offline; all β, learning rates and evaluations "
        "pooled, as in the paper. The reward model has seen the very pairs that offline training has, and has a hidden "
        "layer that is not trained."
    )
    return row_of(tested, "mlp", effect, FIGURE.name, [r.hash for r in (*online, *offline)], note, gates)


def _tuned(tested: Claim, online: Record, offline: Record) -> Verdict:
    low = lowest(offline)
    parts = [Part(1.0, final_scores(online).astype(float), low), Part(-1.0, final_scores(offline).astype(float), low)]
    gates = [
        room(parts[0].scores, parts[1].scores, lowest(offline), 1.0, tested.margin),
        placebo(None, tested.margin, WHOLE),
        *tuned_well(tested.margin, online, offline),
        runs_at_a_bound({"online": parts[0].scores, "offline": parts[1].scores}, low, 1.0),
    ]
    one, other = (float(record.arrays["kl_policy_ref"][:, -1].mean()) for record in (online, offline))
    note = (
        f"Each side tuned by gold on other problems, so that neither over-optimises, and not at equal KL: {one:.2g} "
        f"nats online, {other:.2g} offline. The reward model has seen the very pairs that offline training has."
    )
    return row_of(tested, "mlp", effect_of(parts), FIGURE.name, [online.hash, offline.hash], note, gates)


def _falls(records: Records, name: str, source: str) -> Verdict:
    tested, own = FALLS[name, source], of_sweep(records, name, source)
    effect = mean_interval(fall(pooled_by_share(own)))
    if source == "offline":
        why = f"none over the sweep: with {MANY_PAIRS:,} pairs it is run over the updates of one setting (C12)"
        check = placebo(None, tested.margin, why)
    else:
        check = no_fall(fall(pooled_by_share(of_sweep(records, name, "gold"))), tested.margin)
    furthest = np.max([record.arrays["kl_policy_ref"].max(1) for record in own], axis=0)
    note = (
        "KL as a share of the largest that a problem's own sweep comes to, "
        f"{np.quantile(furthest, 0.1):.2g} … {np.quantile(furthest, 0.9):.2g} nats for most problems; from the level "
        "at which the mean over the other half of the problems peaks to the last. How much is lost depends on the "
        "reward model: with many more pairs there is little to exploit."
    )
    gates = [check, level_room(tested.margin, *own)]
    return row_of(tested, "mlp", effect, FIGURE.name, [record.hash for record in own], note, gates)


# Pictures


def draw(records: Records) -> MatplotlibFigure:
    """Gold score over KL, pooled; rewards over √KL, exact and with fits; over updates; tuned; length."""
    with plt.rc_context(RC):
        fig, axes = plt.subplots(2, 3, figsize=(13.5, 8.2), layout="constrained")
        for axis, name in zip(axes[0, :2], ALGORITHMS, strict=True):
            _over_kl(axis, records, name)
        _with_fits(axes[0, 2], records)
        draw_over_updates(axes[1, 0], records)
        _finals(axes[1, 1], records)
        draw_lengths(axes[1, 2], records)
        lines = [
            Line2D([], [], color=colour, linestyle=line, linewidth=2, label=label)
            for colour, line, label in LOOKS.values()
        ]
        lines.append(Line2D([], [], color=BLACK, linestyle=":", label="exact frontier: nothing is above"))
        fig.legend(handles=lines, loc="outside lower center", ncols=3, fontsize=9.5)
    return fig


def _over_kl(axes: Axes, records: Records, name: str) -> None:
    for source, (colour, line, _) in LOOKS.items():
        own = of_sweep(records, name, source)
        levels = reached(own)
        mean_path(axes, LEVELS[levels], pooled(own)[:, levels], colour, line)
    best = frontier(records["tuned/dpo/pointwise"], "rewards", "rl")
    inside = (best.kl >= LEVELS[0]) & (best.kl <= LEVELS[-1])
    axes.plot(best.kl[inside], best.gold[inside], color=BLACK, linestyle=":")
    axes.set(xscale="log", xlabel="KL to the reference, nats", ylabel="gold score, pooled", title=name.upper())
    axes.set(ylim=(0, 1.05), xlim=(LEVELS[0], LEVELS[-1]))


def _with_fits(axes: Axes, records: Records) -> None:
    """Exact best-of-n and RL on the proxy, and RLOO; the fits of Gao et al."""
    for family, colour, shape in (("rl", BLUE, "s"), ("best of n", GREEN, "^")):
        found: Frontier = frontier(records["tuned/dpo/pointwise"], "learned_rewards", family)
        d = np.sqrt(found.kl)
        fit = gao_fit(found.kl, found.gold, family)
        name = "exact RL" if family == "rl" else "best of n"
        look: Any = {"color": colour, "marker": shape, "markersize": 4, "markevery": max(1, len(d) // 6)}
        axes.plot(d, found.proxy, linestyle="--", linewidth=1.2, mfc="white", **look)
        axes.plot(d, found.gold, linewidth=1.8, label=f"{name}; fit errs by {fit.error:.0%}", **look)
        axes.plot(d, fit.curve(d), color=colour, linewidth=4, alpha=0.25)
    record = records["rl/pointwise"]
    d = np.sqrt(record.arrays["kl_policy_ref"].mean(0))
    axes.plot(d, scores(record).mean(0), "o-", color=SKY, markersize=4, linewidth=1, label="RLOO, trained")
    axes.set(xlabel="√KL, √nats", ylabel="score", title="gold, and dashed the proxy's own", ylim=(0, 1.05))
    axes.legend(fontsize=8, loc="lower right")


def _finals(axes: Axes, records: Records) -> None:
    x, labels = 0, []
    for name in ALGORITHMS:
        for source in ("offline", "pointwise", "pairwise"):
            found: Interval = mean_interval(final_scores(records[f"tuned/{name}/{source}"]))
            error = [[found.estimate - found.low], [found.high - found.estimate]]
            axes.errorbar(x, found.estimate, error, fmt="o", color=LOOKS[source][0], capsize=3)
            labels.append(f"{name.upper()}\n{source}")
            x += 1
    axes.set_xticks(range(x), labels, fontsize=8)
    bound(axes, 1.0, "largest reward")
    axes.set(ylabel="gold score at the end", title="tuned by gold, on other problems", ylim=(0, 1.12))


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    runs = {key: len(records[key].arrays["gold"]) for key in ("sweep/dpo/offline/0.1/0.01", "tuned/dpo/offline")}
    swept, others = runs.values()
    errors = {}
    for family in ("rl", "best of n"):
        drawn = frontier(records["tuned/dpo/pointwise"], "learned_rewards", family)
        errors[family] = gao_fit(drawn.kl, drawn.gold, family).error
    rates = ", ".join(f"{rate:g}" for rate in RATES)
    size, points = ENVIRONMENT, len(TUNED_RATES) * len(TUNED_BETAS)
    return (
        f"Every run is a problem of its own: {size.num_prompts} prompts × {size.num_responses} responses, described by "
        f"{size.num_inputs} numbers, of which gold is a random network and the reference an exponential; the policy is "
        f"a network of {POLICY.hidden[0]} units. {PAIRS} recorded pairs, labelled by gold at temperature 1; reward "
        f"models are fitted to these pairs, exactly, with an L2 penalty of {REGULARISED:g}, which held-out accuracy "
        f"was largest with, or to convergence, {CONVERGED:g}. Online: fresh pairs, labelled by the reward model "
        f"without noise. Top left and middle: {swept} problems, β {BETAS[0]:g} … {BETAS[-1]:g} × learning rate "
        f"{rates}, {UPDATES} updates of {BATCH} pairs, all evaluations pooled by KL; mean and 95 % band. Top right: "
        "exact distributions; thick and pale the fits of Gao et al., d·(α − β·log d) for RL and d·(α − β·d) for best "
        f"of n, d = √KL, whose errors are {errors['rl']:.1%} and {errors['best of n']:.1%} of the largest gold score. "
        f"Bottom left: RLOO at β = 0.03 and offline DPO at β = 0.1, {others} problems. Bottom middle: tuned over "
        f"{points} points ({ROUNDS}). Bottom right: sequences of up to {TREE.max_length} tokens, {TREE.num_pairs} "
        "pairs, a reward model that counts tokens, and a labeller to whom a token is worth "
        f"{LENGTH_BIAS:g} or nothing."
    )


FIGURE = Figure(
    name="gold_and_proxy",
    title="Does gold fall while a proxy's reward rises?",
    tags=("mlp", "token", "sweep", "online-offline", "reward-model"),
    claims=("C11", "C12", "C13", "C14", "C42"),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
)
