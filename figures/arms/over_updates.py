"""What over-optimisation looks like over the updates: RLOO on a reward model and offline DPO for long (C11, C12), and a
labeller with a taste for length (C42). Arms, rows and pictures of `figures.gallery.gold_and_proxy`."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from figures.catalogue import claim
from figures.claims import Verdict, row_of
from figures.figure import Records
from figures.report.style import BLACK, BLUE, ORANGE, PURPLE, SKY, VERMILION
from sims.core.algorithms import find_algorithm
from sims.core.loop.optimise import Optimiser
from sims.core.schedule import Schedule
from sims.environments import ProxyTree
from sims.experiments.experiment import Experiment
from sims.experiments.measures import final_scores, scores
from sims.experiments.store import Record
from sims.policies import Table
from sims.statistics.gates import Gate, placebo, rises, room, runs_at_a_bound
from sims.statistics.intervals import band, mean_interval

from .gating import Part, effect_of, in_brief
from .over_kl import fall
from .proxies import BATCH, ENVIRONMENTS, EVALUATIONS, PAIRS, RUNS, UPDATES, arm, lowest

MANY_PAIRS, TREE_RUNS = 2048, 100
TREE = ProxyTree(
    vocabulary=4, max_length=4, table_seed=None, label_temperature=0.3, num_pairs=512, fresh_labels="noiseless"
)
LENGTH_BIAS = 0.3  # in rewards, which lie in [0, 1], a token
LOOKS: dict[str, tuple[str, Any, str]] = {  # colour, line, label
    "offline": (BLACK, "-", "offline, recorded pairs"),
    "pointwise": (VERMILION, (0, (6, 1)), "online, pointwise reward model"),
    "pairwise": (PURPLE, "-.", "online, pairwise reward model"),
    "converged": (ORANGE, (0, (4, 1, 1, 1, 1, 1)), "online, reward model fitted to convergence"),
    "gold": (SKY, "--", "online, labels by gold"),
}

EXPLOITS = {source: claim("C11", f"RLOO, {source}") for source in ("pointwise", "converged")}
ERRS = claim("C12", f"DPO, {PAIRS} pairs")
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


# Rows


def exploits_row(records: Records, source: str, figure: str) -> Verdict:
    """C11: how far gold falls while a reward model is followed. source: the reward model."""
    tested, record, gold = EXPLOITS[source], records[f"rl/{source}"], records["rl/gold"]
    proxy = record.arrays["reward"].astype(float)
    effect = mean_interval(fall(scores(record)[:, 1:]))
    gates = [
        no_fall(fall(scores(gold)[:, 1:]), tested.margin),
        rises("the reward model's score in the second half", proxy[:, -1] - proxy[:, proxy.shape[1] // 2]),
        level_room(tested.margin, record),
    ]
    note = (
        f"From the evaluation at which gold peaks, on the other half of the problems, to update {UPDATES}; the placebo "
        "is the same run on gold, and the proxy must still rise in the second half. Other KL penalties were not run."
    )
    return row_of(tested, "mlp", effect, figure, [record.hash], note, gates)


def errs_row(few: Record, many: Record, figure: str) -> Verdict:
    """C12: how far gold falls over many updates on few recorded pairs."""
    effect = mean_interval(fall(scores(few)[:, 1:]))
    gates = [no_fall(fall(scores(many)[:, 1:]), ERRS.margin), level_room(ERRS.margin, few)]
    unseen = few.arrays["unseen_mass"].mean(0)
    note = (
        f"Over {few.spec['updates']} updates; the placebo is {MANY_PAIRS:,} pairs. Of the policy's mass, "
        f"{unseen[0]:.0%} was on responses in no pair before, {unseen[-1]:.0%} at the end."
    )
    return row_of(ERRS, "mlp", effect, figure, [few.hash], note, gates)


def longer_row(records: Records, name: str, figure: str) -> Verdict:
    """C42: by how much responses are longer for a labeller who likes length."""
    tested = LONGER[name]
    biased, unbiased = (records[f"length/{name}/{labels}"] for labels in ("biased", "unbiased"))
    length, longest = [record.arrays["length"].astype(float) for record in (biased, unbiased)], TREE.max_length
    ends = {"biased": length[0][:, -1], "unbiased": length[1][:, -1]}
    # Most responses of some arms are as long as can be: there an interval has to allow for runs that were not seen.
    parts = [Part(sign, x, 0.0, longest) for sign, x in zip((1.0, -1.0), ends.values(), strict=True)]
    effect = effect_of(parts)
    why = "the arms differ in the bias of the labeller alone, on the same problems and pairs"
    gates = [
        room(ends["biased"], ends["unbiased"], 0.0, longest, tested.margin),
        placebo(None, tested.margin, why),
        runs_at_a_bound(ends, 0.0, longest),
    ]
    lost = mean_interval(final_scores(unbiased) - final_scores(biased))
    note = (
        f"Of {longest} tokens at most, {length[0][:, 0].mean():.2g} before training. The bias costs a gold score of "
        f"{in_brief(lost)}. A labeller who likes length, {LENGTH_BIAS:g} in "
        "reward a token; reward models of language learn theirs from people."
    )
    return row_of(tested, "token", effect, figure, [biased.hash, unbiased.hash], note, gates)


def no_fall(falls: np.ndarray, margin: float) -> Gate:
    """The placebo of a fall: a rise is none."""
    return placebo(mean_interval(falls), margin, only_above=True)


def level_room(margin: float, *records: Record) -> Gate:
    """The level of a curve leaves room for a fall, and for as much of a rise."""
    level = np.mean([scores(record)[:, 1:].mean(1) for record in records], axis=0)
    return room(level, level, lowest(records[0]), 1.0, margin)


# Pictures


def mean_path(axes: Axes, x: np.ndarray, runs: np.ndarray, colour: str, line: Any = "-", label: str = "") -> None:
    """Mean over runs with its 95 % band. x: (points,); runs: (runs, points)."""
    mean, low, high = band(runs, resamples=None)
    axes.plot(x, mean, color=colour, linestyle=line, linewidth=1.8, label=label or None)
    axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)


def draw_over_updates(axes: Axes, records: Records) -> None:
    """Gold scores of RLOO by reward model, and of offline DPO on few and on many pairs."""
    for source in ("pointwise", "converged", "gold"):
        record = records[f"rl/{source}"]
        mean_path(axes, record.arrays["updates"], scores(record), *LOOKS[source][:2])
    for pairs, line in ((PAIRS, "-"), (MANY_PAIRS, (0, (1, 1)))):
        record = records[f"steps/{pairs}"]
        mean_path(axes, record.arrays["updates"], scores(record), BLACK, line)
        at = (record.arrays["updates"][-1], scores(record)[:, -1].mean())
        axes.annotate(f"{pairs:,} pairs", at, xytext=(0, 9), textcoords="offset points", fontsize=8, ha="right")
    axes.set(xlabel="updates", ylabel="gold score", title="RLOO online, and DPO offline", ylim=(0, 1.05))


def draw_lengths(axes: Axes, records: Records) -> None:
    """Tokens under labels of either kind."""
    for name, colour in (("rloo", BLUE), ("dpo", VERMILION)):
        for labels, line in (("biased", "-"), ("unbiased", "--")):
            record = records[f"length/{name}/{labels}"]
            mean_path(
                axes, record.arrays["updates"], record.arrays["length"], colour, line, f"{name.upper()}, {labels}"
            )
    axes.set(xlabel="updates", ylabel="tokens", title="length, labels with a taste for it or without")
    axes.set_ylim(0, TREE.max_length + 0.1)
    axes.legend(fontsize=8, loc="lower right")
