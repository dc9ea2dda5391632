"""Does gold reward fall while a proxy's rises? (C11, C12, C13, C14, C42) Online and offline IPO and DPO over a sweep of
β, against the KL to the reference, with reward models that were fitted to the same few noisy pairs."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.lines import Line2D

from figures.arms.gating import Part, edges, effect_of
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
from figures.arms.proxies import (
    ALGORITHMS,
    BATCH,
    BETAS,
    CONVERGED,
    ENVIRONMENT,
    ENVIRONMENTS,
    EVALUATIONS,
    PAIRS,
    POLICY,
    RATES,
    REGULARISED,
    RUNS,
    TUNED_BETAS,
    TUNED_RATES,
    UPDATES,
    arm,
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
from figures.report.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, RC, SKY, VERMILION, bound
from sims.core.algorithms import find_algorithm
from sims.core.loop.optimise import Optimiser
from sims.core.schedule import Schedule
from sims.environments import ProxyTree
from sims.experiments.experiment import Experiment
from sims.experiments.measures import final_scores, scores
from sims.experiments.store import Record
from sims.policies import Table
from sims.statistics.gates import Gate, placebo, room, runs_at_a_bound, trained
from sims.statistics.intervals import Interval, band, mean_interval

MANY_PAIRS, TREE_RUNS = 2048, 100
TREE = ProxyTree(
    vocabulary=4, max_length=4, table_seed=None, label_temperature=0.3, num_pairs=512, fresh_labels="noiseless"
)
LENGTH_BIAS = 0.3  # in rewards, which lie in [0, 1], a token
WHOLE = "all that online training does is compared with all that offline training does; the order of data is C16's"
LOOKS: dict[str, tuple[str, Any, str]] = {  # colour, line, label
    "offline": (BLACK, "-", "offline, recorded pairs"),
    "pointwise": (VERMILION, (0, (6, 1)), "online, pointwise reward model"),
    "pairwise": (PURPLE, "-.", "online, pairwise reward model"),
    "converged": (ORANGE, (0, (4, 1, 1, 1, 1, 1)), "online, reward model fitted to convergence"),
    "gold": (SKY, "--", "online, labels by gold"),
}

EXPLOITS = {source: claim("C11", f"RLOO, {source}") for source in ("pointwise", "converged")}
ERRS = claim("C12", f"DPO, {PAIRS} pairs")
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
LONGER = {name: claim("C42", name) for name in ("rloo", "dpo")}


def along() -> dict[str, Experiment]:
    """rl/source: RLOO with a small penalty; steps/pairs: offline DPO on few and on many pairs, for three times as long;
    length/algorithm/labels: on token sequences, of labellers with and without a taste for length."""
    found = {
        f"rl/{source}": arm("rloo", source, 0.03, RUNS).replace(seed=23, optimiser=Optimiser(learning_rate=0.01))
        for source in ("pointwise", "converged", "gold")
    }
    offline = arm("dpo", "offline", 0.1, RUNS).replace(seed=24, optimiser=Optimiser(learning_rate=0.01))
    for pairs in (PAIRS, MANY_PAIRS):  # without a reward model, which offline DPO does not ask
        place = ENVIRONMENTS["gold"].replace(num_pairs=pairs)
        found[f"steps/{pairs}"] = offline.replace(environment=place, updates=3 * UPDATES, evaluations=15)
    for name in LONGER:
        for labels, bias in (("biased", LENGTH_BIAS), ("unbiased", 0.0)):
            found[f"length/{name}/{labels}"] = Experiment(
                name=f"gold_and_proxy-length-{name}",
                environment=TREE.replace(length_bias=bias),
                policy=Table(),
                algorithm=find_algorithm(name)(beta=0.03),  # type: ignore[call-arg]
                schedule=Schedule(batch_size=BATCH),
                optimiser=Optimiser(learning_rate=0.1),
                updates=UPDATES,
                evaluations=EVALUATIONS,
                runs=TREE_RUNS,
                seed=25,
            )
    return found


def collect(lab: Lab) -> Records:
    """The sweep is tested whole; six arms are tuned besides."""
    tuned = to_tune()
    grid = product(learning_rate=TUNED_RATES, beta=TUNED_BETAS)
    return {**lab.records(sweep() | along()), **lab.tuned_records(tuned, dict.fromkeys(tuned, grid), **TUNING)}


# Verdicts


def verdicts(records: Records) -> list[Verdict]:
    """C11 of RLOO, C12 of offline DPO, C13 and C14 of both contrastive losses, and C42 of both online algorithms."""
    rows = [_exploits(records, source) for source in EXPLOITS]
    rows.append(_errs(records[f"steps/{PAIRS}"], records[f"steps/{MANY_PAIRS}"]))
    for (how, name, source), tested in AHEAD.items():
        if how == "pooled":
            rows.append(_ahead(tested, of_sweep(records, name, source), of_sweep(records, name, "offline")))
        else:
            rows.append(_tuned(tested, records[f"tuned/{name}/{source}"], records[f"tuned/{name}/offline"]))
    rows += [_falls(records, name, source) for name, source in FALLS]
    return [*rows, *(_longer(records, name) for name in LONGER)]


def _exploits(records: Records, source: str) -> Verdict:
    tested, record, gold = EXPLOITS[source], records[f"rl/{source}"], records["rl/gold"]
    proxy = record.arrays["reward"].astype(float)
    effect = mean_interval(fall(scores(record)[:, 1:]))
    gates = [
        _no_fall(fall(scores(gold)[:, 1:]), tested.margin),
        trained({"the proxy": proxy[:, -1] - proxy[:, proxy.shape[1] // 2]}),
        _room(tested.margin, record),
    ]
    note = (
        f"From the evaluation at which gold peaks, on the other half of the problems, to update {UPDATES}; the placebo "
        "is the same run on gold, and the proxy must still rise in the second half. A stronger KL penalty, or "
        "stopping early, prevents it."
    )
    return row_of(tested, "mlp", effect, FIGURE.name, [record.hash], note, gates)


def _errs(few: Record, many: Record) -> Verdict:
    effect = mean_interval(fall(scores(few)[:, 1:]))
    gates = [_no_fall(fall(scores(many)[:, 1:]), ERRS.margin), _room(ERRS.margin, few)]
    unseen = few.arrays["unseen_mass"].mean(0)
    note = (
        f"Over {few.spec['updates']} updates; the placebo is {MANY_PAIRS:,} pairs. Of the policy's mass, "
        f"{unseen[0]:.0%} was on responses in no pair before, {unseen[-1]:.0%} at the end."
    )
    return row_of(ERRS, "mlp", effect, FIGURE.name, [few.hash], note, gates)


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
        room(parts[0].scores, parts[1].scores, low, 1.0, tested.margin),
        placebo(None, tested.margin, WHOLE),
        edges(tested.margin, online, offline),
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
        check = _no_fall(fall(pooled_by_share(of_sweep(records, name, "gold"))), tested.margin)
    furthest = np.max([record.arrays["kl_policy_ref"].max(1) for record in own], axis=0)
    note = (
        "KL as a share of the largest that a problem's own sweep comes to, "
        f"{np.quantile(furthest, 0.1):.2g} … {np.quantile(furthest, 0.9):.2g} nats for most problems; from the level "
        "at which the mean over the other half of the problems peaks to the last. How much is lost depends on the "
        "reward model: with many more pairs there is little to exploit."
    )
    gates = [check, _room(tested.margin, *own)]
    return row_of(tested, "mlp", effect, FIGURE.name, [record.hash for record in own], note, gates)


def _longer(records: Records, name: str) -> Verdict:
    tested = LONGER[name]
    biased, unbiased = (records[f"length/{name}/{labels}"] for labels in ("biased", "unbiased"))
    length = [record.arrays["length"].astype(float) for record in (biased, unbiased)]
    effect = mean_interval(length[0][:, -1] - length[1][:, -1])
    why = "the arms differ in the bias of the labeller alone, on the same problems and pairs"
    longest = TREE.max_length
    gates = [
        room(length[0][:, -1], length[1][:, -1], 0.0, longest, tested.margin),
        placebo(None, tested.margin, why),
    ]
    lost = mean_interval(final_scores(unbiased) - final_scores(biased))
    note = (
        f"Of {longest} tokens at most, {length[0][:, 0].mean():.2g} before training. The bias costs a gold score of "
        f"{lost.estimate:+.2f} [{lost.low:+.2f}, {lost.high:+.2f}]. A labeller who likes length, {LENGTH_BIAS:g} in "
        "reward a token; reward models of language learn theirs from people."
    )
    return row_of(tested, "token", effect, FIGURE.name, [biased.hash, unbiased.hash], note, gates)


def _no_fall(falls: np.ndarray, margin: float) -> Gate:
    """The placebo of a fall: a rise is none."""
    return placebo(mean_interval(falls), margin, only_above=True)


def _room(margin: float, *records: Record) -> Gate:
    """The level of a curve leaves room for a fall, and for as much of a rise."""
    level = np.mean([scores(record)[:, 1:].mean(1) for record in records], axis=0)
    return room(level, level, lowest(records[0]), 1.0, margin)


# Pictures


def draw(records: Records) -> MatplotlibFigure:
    """Gold score over KL, pooled; rewards over √KL, exact and with fits; over updates; tuned; length."""
    with plt.rc_context(RC):
        fig, axes = plt.subplots(2, 3, figsize=(13.5, 8.2), layout="constrained")
        for axis, name in zip(axes[0, :2], ALGORITHMS, strict=True):
            _over_kl(axis, records, name)
        _with_fits(axes[0, 2], records)
        _over_updates(axes[1, 0], records)
        _finals(axes[1, 1], records)
        _lengths(axes[1, 2], records)
        lines = [
            Line2D([], [], color=colour, linestyle=line, linewidth=2, label=label)
            for colour, line, label in LOOKS.values()
        ]
        lines.append(Line2D([], [], color=BLACK, linestyle=":", label="exact frontier: nothing is above"))
        fig.legend(handles=lines, loc="outside lower center", ncols=3, fontsize=9.5)
    return fig


def _mean(axes: Axes, x: np.ndarray, runs: np.ndarray, colour: str, line: Any = "-", label: str = "") -> None:
    mean, low, high = band(runs, resamples=None)
    axes.plot(x, mean, color=colour, linestyle=line, linewidth=1.8, label=label or None)
    axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)


def _over_kl(axes: Axes, records: Records, name: str) -> None:
    for source, (colour, line, _) in LOOKS.items():
        own = of_sweep(records, name, source)
        levels = reached(own)
        _mean(axes, LEVELS[levels], pooled(own)[:, levels], colour, line)
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


def _over_updates(axes: Axes, records: Records) -> None:
    for source in ("pointwise", "converged", "gold"):
        record = records[f"rl/{source}"]
        _mean(axes, record.arrays["updates"], scores(record), *LOOKS[source][:2])
    for pairs, line in ((PAIRS, "-"), (MANY_PAIRS, (0, (1, 1)))):
        record = records[f"steps/{pairs}"]
        _mean(axes, record.arrays["updates"], scores(record), BLACK, line)
        at = (record.arrays["updates"][-1], scores(record)[:, -1].mean())
        axes.annotate(f"{pairs:,} pairs", at, xytext=(0, 9), textcoords="offset points", fontsize=8, ha="right")
    axes.set(xlabel="updates", ylabel="gold score", title="RLOO online, and DPO offline", ylim=(0, 1.05))


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


def _lengths(axes: Axes, records: Records) -> None:
    for name, colour in (("rloo", BLUE), ("dpo", VERMILION)):
        for labels, line in (("biased", "-"), ("unbiased", "--")):
            record = records[f"length/{name}/{labels}"]
            _mean(axes, record.arrays["updates"], record.arrays["length"], colour, line, f"{name.upper()}, {labels}")
    axes.set(xlabel="updates", ylabel="tokens", title="length, labels with a taste for it or without")
    axes.set_ylim(0, TREE.max_length + 0.1)
    axes.legend(fontsize=8, loc="lower right")


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
