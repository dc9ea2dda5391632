"""Does who classifies preferences better also train better? (C20, C21, C67, C70) Accuracies of reward models and of the
policies' implicit rewards, on pairs of the reference and of the policy, against the gold reward in the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure
from scipy import stats

from figures.arms import proxies
from figures.arms.gating import Part, edges, effect_of, luck, tuned_well
from figures.arms.over_updates import ERRS
from figures.arms.sweeps import ROUNDS, TUNING
from figures.catalogue import Claim, claim
from figures.claims import Verdict, row_of
from figures.figure import Figure, Records
from figures.lab import Lab, product
from figures.report.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, RC, SKY, VERMILION, bound
from sims.core.algorithms import find_algorithm
from sims.core.loop.labelling import Labelling
from sims.core.schedule import Schedule
from sims.core.spec import from_json
from sims.experiments.experiment import Experiment
from sims.experiments.measures import final_scores, scores
from sims.experiments.store import Record
from sims.policies import Table
from sims.statistics.gates import Gate, placebo, positive_control, room, runs_at_a_bound, trained
from sims.statistics.intervals import Interval, band, mean_interval

SOURCES = {"offline": "offline", "online": "pointwise"}  # as the sweep of `figures.arms.proxies` calls them
WHERE = {"held-out": "", "on-policy": "_on_policy"}  # pairs of two draws of the reference, or of the policy
UNITS, PAIRS, SIZED_RUNS, SIZED_L2 = (0, 8, 32, 128), (32, 128, 512, 1024), 100, 1.0
FIRST = 40  # updates on the reward model's labels, before the policy's own replace them
RATES, BETAS = (0.001, 0.003, 0.01, 0.03, 0.1), (0.03, 0.1, 0.3)

BETTER = {(name, where): claim("C20", f"{name}, {where}") for name in proxies.ALGORITHMS for where in WHERE}
NO_GUIDE = {source: claim("C21", source) for source in SOURCES}
OWN = {what: claim("C67", what) for what in ("own labels, gain", "own labels, against gold", "reward model, gain")}
LARGER, MORE = claim("C70", "larger reward models"), claim("C70", "more pairs")


def swept() -> dict[str, Experiment]:
    """The arms of `gold_and_proxy` that are looked at again: sweep/algorithm/source/β/learning rate."""
    return {key: arm for key, arm in proxies.sweep().items() if key.split("/")[2] in SOURCES.values()}


def sized() -> dict[str, Experiment]:
    """size/units/pairs: reward models of some size and data; the policy, a table, is not looked at."""
    return {
        f"size/{units}/{pairs}": Experiment(
            name="accuracy_and_reward-size",
            environment=proxies.ENVIRONMENT.replace(num_features=units, num_pairs=pairs, proxy_l2=SIZED_L2),
            policy=Table(),
            algorithm=find_algorithm("dpo")(),
            schedule=Schedule(batch_size=2),
            updates=1,
            evaluations=1,
            runs=SIZED_RUNS,
            seed=31,
        )
        for units in UNITS
        for pairs in PAIRS
    }


def labelled() -> dict[str, Experiment]:
    """labels/who: online DPO on labels by gold, by the reward model, and after FIRST updates by the policy itself."""
    arms = {who: proxies.arm("dpo", source, 0.1, 200) for who, source in (("gold", "gold"), ("proxy", "pointwise"))}
    arms["own"] = arms["proxy"].replace(labelling=Labelling(labels="implicit", implicit_after_updates=FIRST))
    return {f"labels/{who}": arm.replace(name="accuracy_and_reward-labels", seed=33) for who, arm in arms.items()}


def stopped(own: Record) -> Experiment:
    """The arm with labels of its own as it was tuned, stopped before it uses them."""
    spec = own.spec
    arm = labelled()["labels/proxy"].replace(updates=FIRST, evaluations=4)
    return arm.replace(algorithm=from_json(spec["algorithm"]), optimiser=from_json(spec["optimiser"]))


def collect(lab: Lab) -> Records:
    """The sweep and the offline arms of `gold_and_proxy`, tuned as they were there; arms by labels tuned likewise."""
    offline = {key: arm for key, arm in proxies.to_tune().items() if key.endswith("/offline")}
    grid = product(learning_rate=proxies.TUNED_RATES, beta=proxies.TUNED_BETAS)
    tuned = lab.tuned_records(offline, dict.fromkeys(offline, grid), **TUNING)
    by_labels, own_grid = labelled(), product(learning_rate=RATES, beta=BETAS)
    labels = lab.tuned_records(by_labels, dict.fromkeys(by_labels, own_grid), **TUNING)
    rest = lab.records(swept() | sized() | {"labels/stopped": stopped(labels["labels/own"])})
    return {**tuned, **labels, **rest}


def final(record: Record, name: str) -> np.ndarray:
    """(runs,): an array's last evaluation."""
    return np.asarray(record.arrays[name][:, -1].astype(float))


def settings(records: Records, source: str) -> list[Record]:
    """Both algorithms' sweeps on a source of data."""
    return [record for key, record in records.items() if key.startswith("sweep/") and key.split("/")[2] == source]


# Verdicts


def verdicts(records: Records) -> list[Verdict]:
    """C20 of offline IPO and DPO, C21 online and offline, C67 of online DPO, C70."""
    rows = [_better(records[f"tuned/{name}/offline"], name, where) for name, where in BETTER]
    rows += [_no_guide(records, source) for source in NO_GUIDE]
    who = {name: records[f"labels/{name}"] for name in ("gold", "proxy", "own", "stopped")}
    after = f"After {FIRST} updates on the reward model's labels, at which the arm it is compared with stops."
    other = f"The other arm stops after {FIRST} updates, tuned for own labels."
    rows.append(_labels("own labels, gain", who["own"], who["stopped"], after))
    rows.append(_against_gold(who["gold"], who["own"], who["stopped"]))
    rows.append(_labels("reward model, gain", who["proxy"], who["stopped"], other))
    most = {units: records[f"size/{units}/{PAIRS[-1]}"] for units in UNITS}
    middle = {pairs: records[f"size/{UNITS[2]}/{pairs}"] for pairs in PAIRS}
    rows.append(_sizes(LARGER, most[UNITS[-1]], most[UNITS[0]], f"Fitted to {PAIRS[-1]:,} pairs; 0 units are linear."))
    rows.append(_sizes(MORE, middle[PAIRS[-1]], middle[PAIRS[0]], f"Of {UNITS[2]} units."))
    return rows


def _better(record: Record, name: str, where: str) -> Verdict:
    tested = BETTER[name, where]
    proxy, policy = (final(record, f"{who}_accuracy{WHERE[where]}") for who in ("proxy", "policy"))
    gates = [
        room(proxy, policy, 0.0, 1.0, tested.margin),
        placebo(None, tested.margin, "both have learned from the same pairs; of noise alone either would be at ½"),
        edges(ERRS.margin, record),
        luck(ERRS.margin, record),
        trained({"the policy": final(record, "kl_policy_ref")}),
    ]
    note = (
        "Exact, over all pairs that are unequal by gold. The policy is tuned by gold, stops after "
        f"{proxies.UPDATES} updates and trains its hidden layer; the reward model has random units and is fitted to "
        "the end. The policy's implicit reward is β·log π/π_ref."
    )
    return row_of(tested, "mlp", mean_interval(proxy - policy), FIGURE.name, [record.hash], note, gates)


def _no_guide(records: Records, source: str) -> Verdict:
    tested, arms = NO_GUIDE[source], settings(records, SOURCES[source])
    accuracy = np.stack([final(record, "policy_accuracy") for record in arms])
    score = np.stack([final_scores(record) for record in arms]).astype(float)
    effect = mean_interval(chosen_by(accuracy, score) - score.mean(0))
    control = positive_control(mean_interval(score.mean(0)), tested.margin)
    gates = [replace(control, why=f"all settings against the policy before training: {control.why}")]
    rho = within(accuracy, score)
    note = (
        f"Chosen of {len(arms)} settings of algorithm, β and learning rate. Within a setting, over problems, "
        f"Spearman's ρ of accuracy and score is {np.median(rho):+.2f} in the median, {rho.min():+.2f} … "
        f"{rho.max():+.2f}: problems differ in how hard they are, for both."
    )
    return row_of(tested, "mlp", effect, FIGURE.name, [record.hash for record in arms], note, gates)


def chosen_by(measure: np.ndarray, score: np.ndarray) -> np.ndarray:
    """(runs,): the score of the arm whose measure is largest in the mean over the other half of the runs. Both (arms,
    runs)."""
    found = np.empty(score.shape[1])
    for half in (0, 1):
        means = measure[:, 1 - half :: 2].mean(1).round(12)  # of equal ones the first, whatever the rounding
        found[half::2] = score[means.argmax(), half::2]
    return found


def within(measure: np.ndarray, score: np.ndarray) -> np.ndarray:
    """(arms,): Spearman's rank correlation of both, over the runs of an arm; 0 where one is constant."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.array([np.nan_to_num(_spearman(x, y)) for x, y in zip(measure, score, strict=True)])


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    ranks = stats.rankdata(x), stats.rankdata(y)
    return float(np.corrcoef(*ranks)[0, 1])


def _labels(what: str, more: Record, less: Record, note: str) -> Verdict:
    """What an arm gains by labels of some kind over the one that stops before."""
    tested = OWN[what]
    parts = _ends(more, less)
    gates: list[Gate] = [
        room(parts[0].scores, parts[1].scores, parts[0].low, 1.0, tested.margin),
        placebo(None, tested.margin, "the arms differ in who labels, or in nothing before labels change hands"),
        *tuned_well(tested.margin, more, less),
        _enough(parts),
    ]
    return row_of(tested, "mlp", effect_of(parts), FIGURE.name, [more.hash, less.hash], f"{note} {_WHOSE}", gates)


def _against_gold(gold: Record, own: Record, stopped: Record) -> Verdict:
    """What own labels lose against gold's, if anything: a claim that they can stand in for it is one of at most the
    margin."""
    tested, parts = OWN["own labels, against gold"], _ends(gold, own)
    control = positive_control(effect_of(_ends(gold, stopped)), tested.margin, only_above=True)
    gates = [
        replace(control, why=f"against the arm that stops after {FIRST} updates: {control.why}"),
        *tuned_well(tested.margin, gold, own),
        _enough(parts),
    ]
    note = f"Gold labels from the first update on. {_WHOSE}"
    return row_of(tested, "mlp", effect_of(parts), FIGURE.name, [gold.hash, own.hash], note, gates)


_WHOSE = "Own labels are the implicit reward of the policy itself, of the last update."


def _ends(more: Record, less: Record) -> list[Part]:
    low = proxies.lowest(more)
    return [Part(1.0, final_scores(more).astype(float), low), Part(-1.0, final_scores(less).astype(float), low)]


def _enough(parts: Sequence[Part]) -> Gate:
    return runs_at_a_bound({"one arm": parts[0].scores, "the other": parts[1].scores}, parts[0].low, 1.0)


def _sizes(tested: Claim, more: Record, less: Record, note: str) -> Verdict:
    one, other = (final(record, "proxy_accuracy") for record in (more, less))
    gates = [
        room(one, other, 0.0, 1.0, tested.margin),
        placebo(None, tested.margin, "the reward models differ in this alone, on the same problems"),
    ]
    note = f"{note} Labels at temperature 1, an L2 penalty of {SIZED_L2:g} whatever the size; accuracy is exact."
    return row_of(tested, "mlp", mean_interval(one - other), FIGURE.name, [more.hash, less.hash], note, gates)


# Pictures


def draw(records: Records) -> MatplotlibFigure:
    """Who classifies better; accuracy against score; labels; reward models by size and pairs."""
    with plt.rc_context(RC):
        fig, axes = plt.subplots(2, 2, figsize=(11, 8.4), layout="constrained")
        _classify(axes[0, 0], records)
        _scatter(axes[0, 1], records)
        _by_labels(axes[1, 0], records)
        _by_size(axes[1, 1], records)
    return fig


def _bar(axes: Axes, x: float, values: np.ndarray, colour: str, shape: str = "o", label: str = "") -> None:
    found: Interval = mean_interval(values)
    ends = [[found.estimate - found.low], [found.high - found.estimate]]
    axes.errorbar(x, found.estimate, ends, fmt=shape, color=colour, capsize=3, label=label or None)


def _classify(axes: Axes, records: Records) -> None:
    places: Mapping[tuple[str, str], int] = {key: i for i, key in enumerate(BETTER)}
    for (name, where), x in places.items():
        record, first = records[f"tuned/{name}/offline"], x == 0
        for aside, who, colour, shape in ((-0.1, "proxy", VERMILION, "s"), (0.1, "policy", BLUE, "o")):
            label = {"proxy": "reward model", "policy": "policy's implicit reward"}[who] if first else ""
            _bar(axes, x + aside, final(record, f"{who}_accuracy{WHERE[where]}"), colour, shape, label)
    bound(axes, 0.5, "chance")
    axes.set_xticks(list(places.values()), [f"{name.upper()}\n{where}" for name, where in places])
    axes.set(ylabel="accuracy", title="offline, the same pairs", ylim=(0.4, 1.0))
    axes.legend(fontsize=8)


def _scatter(axes: Axes, records: Records) -> None:
    for source, colour, face in (("offline", BLACK, BLACK), ("online", VERMILION, "white")):
        for name, shape in (("ipo", "v"), ("dpo", "D")):
            arms = [r for r in settings(records, SOURCES[source]) if r.spec["algorithm"]["kind"] == name]
            x = [final(record, "policy_accuracy").mean() for record in arms]
            y = [final_scores(record).mean() for record in arms]
            axes.plot(x, y, shape, color=colour, mfc=face, markersize=5, label=f"{name.upper()}, {source}")
    axes.set(xlabel="held-out accuracy of the policy", ylabel="gold score at the end", title="settings of a sweep")
    axes.legend(fontsize=8)


def _by_labels(axes: Axes, records: Records) -> None:
    looks = {
        "gold": (SKY, "-", "by gold"),
        "proxy": (VERMILION, "--", "by the reward model"),
        "own": (PURPLE, "-.", "by itself"),
    }
    for who, (colour, line, label) in looks.items():
        record = records[f"labels/{who}"]
        updates, (mean, low, high) = record.arrays["updates"], band(scores(record), resamples=None)
        axes.plot(updates, mean, line, color=colour, linewidth=2, label=label)
        axes.fill_between(updates, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.axvline(FIRST, color=BLACK, linestyle=":", linewidth=1)
    axes.annotate("own labels from here", (FIRST, 0.03), xytext=(4, 0), textcoords="offset points", fontsize=8)
    axes.set(xlabel="updates", ylabel="gold score", title="online DPO, by who labels", ylim=(0, 1.05))
    axes.legend(fontsize=8)


def _by_size(axes: Axes, records: Records) -> None:
    for units, colour, shape in zip(UNITS, (BLACK, BLUE, GREEN, ORANGE), "osDv", strict=True):
        found = [final(records[f"size/{units}/{pairs}"], "proxy_accuracy") for pairs in PAIRS]
        for pairs, values in zip(PAIRS, found, strict=True):
            _bar(axes, pairs, values, colour, shape)
        axes.plot(PAIRS, [values.mean() for values in found], marker=shape, color=colour, label=f"{units} units")
    axes.set_xscale("log", base=2)
    axes.set_xticks(PAIRS, [f"{pairs:,}" for pairs in PAIRS])
    axes.set(xlabel="pairs", ylabel="held-out accuracy", title="reward models by size and data")
    axes.legend(fontsize=8)


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    runs, swept_ = (len(records[key].arrays["gold"]) for key in ("labels/own", "sweep/dpo/offline/0.1/0.01"))
    return (
        "The problems and reward models of the figure gold_and_proxy, each run a problem. Accuracy: the share of the "
        "pairs of two draws of the reference (held-out) or of the policy (on-policy), unequal by gold, that are "
        f"ordered as gold does; exact. Top left: offline IPO and DPO, {runs} problems, tuned by gold, and the reward "
        f"model of the same {proxies.PAIRS} noisy pairs; mean and 95 % interval. Top right: means alone, over {swept_} "
        "problems of each setting of the sweep of β and learning rate. Bottom left: pairs drawn by the policy and "
        f"labelled by gold, by the reward model, or after {FIRST} updates on its labels by the policy's implicit "
        f"reward; {runs} problems, each arm tuned over {len(RATES) * len(BETAS)} points ({ROUNDS}). Bottom right: "
        f"{SIZED_RUNS} problems, random "
        f"units beside a linear model, L2 penalty {SIZED_L2:g}."
    )


FIGURE = Figure(
    name="accuracy_and_reward",
    title="Is the better classifier the better teacher?",
    tags=("mlp", "sweep", "online-offline", "reward-model"),
    claims=("C20", "C21", "C67", "C70"),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
)
