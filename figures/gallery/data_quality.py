"""What is worth more: better data, a better algorithm, a better reward model or a larger policy? (C24, C43 … C47, C89)
Preference data of several kinds, from which DPO learns directly and PPO by a reward model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure

from figures.arms.effect_row import Terms, effect_row, settings
from figures.arms.gating import IN_SCORES, effect_of, part, with_tuning_of
from figures.arms.sweeps import spread_grid
from figures.catalogue import Claim, claim
from figures.claims import Verdict, row_of
from figures.figure import Figure, Records
from figures.lab import Lab
from figures.report.style import RC, bound, key, points, side_by_side
from sims.core.algorithms import find_algorithm
from sims.core.schedule import Schedule
from sims.core.spec import from_json
from sims.environments import RatedResponses
from sims.experiments.experiment import Experiment
from sims.experiments.measures import final_scores, scores
from sims.policies import ResponseMLP
from sims.statistics.gates import Gate, estimand, positive_control
from sims.statistics.intervals import Interval, mean_interval
from sims.statistics.jackknife import pseudo_values

UPDATES, EVALUATIONS, RUNS, SAMPLES, TRIED = 80, 5, 400, 32, 24
PAIRS, FEW, FLIPS, GOOD = 64, 16, 0.3, 1.5
BASE = RatedResponses(
    num_prompts=16, num_responses=8, unexplained=0.3, num_pairs=PAIRS, reference_tilt=-0.5, rating_noise=0.3
)
SETS = {
    "clean": BASE,
    "noisy": BASE.replace(rating_flips=FLIPS),
    "good": BASE.replace(pair_tilt=GOOD),
    "good_noisy": BASE.replace(pair_tilt=GOOD, rating_flips=FLIPS),
    "few": BASE.replace(num_pairs=FEW),
}
SHOWN = {
    "clean": f"{PAIRS} pairs",
    "noisy": f"{FLIPS:.0%} of the\nlabels flipped",
    "good": "better\nresponses",
    "good_noisy": "better,\nand flipped",
    "few": f"{FEW} pairs",
}
SAID = {
    "clean": "clean pairs",
    "noisy": "flipped labels",
    "good": "better responses",
    "good_noisy": "better responses, flipped labels",
    "few": "few pairs",
}
ALGORITHMS = ("dpo", "ppo", "pref_ft")
PAPER = ("dpo", "ppo")
ASPECTS, ASPECT_PAIRS, TIMES = 4, 32, (1, 4, 15)
ASPECT = BASE.replace(num_aspects=ASPECTS, rating_noise=1.5, num_pairs=ASPECT_PAIRS)
DIFFICULTY = {"easy": 1.0, "hard": -1.0}
MODELS = {"poor": 16, "good": 256}  # pairs
WIDTHS = (2, 8, 32)
HARD = BASE.replace(reference_tilt=-1.0)
CHEAPER = 10  # synthetic labels for the price of one
LABELS = {
    "human": BASE.replace(rating_noise=1.5),
    "number": BASE.replace(rating_bias=0.7),
    "cost": BASE.replace(rating_bias=0.7, num_pairs=CHEAPER * PAIRS),
}
BETAS = {"dpo": (1e-7, 1e-5, 0.001, 0.03, 1.0, 30.0, 1000.0), "ppo": (1e-6, 1e-5, 0.0003, 0.01, 0.3, 10.0, 300.0)}
RATES, POINTS = (0.003, 300.0), 42

AHEAD = {name: claim("C43", said) for name, said in SAID.items()}
VARIANCE = {part: claim("C44", part) for part in ("DPO and PPO", "three algorithms")}
LABEL = {name: claim("C45", name.upper()) for name in PAPER}
WORTH = {(name, n): claim("C46", f"{name.upper()}: {n} × the pairs") for name in PAPER for n in (4, 15)}
MODEL = claim("C47", "PPO: pairs of the reward model × difficulty")
EASY, EASY_SEED = claim("C47", "PPO: pairs of the reward model, where it is easy"), 48
SIZE = claim("C24", f"DPO: width {WIDTHS[0]} against {WIDTHS[-1]}")
SYNTHETIC = {(name, how): claim("C89", f"{name.upper()}: equal {how}") for name in PAPER for how in ("number", "cost")}


def arms() -> dict[str, Experiment]:
    """sets/set/algorithm, aspects/how/algorithm, labels/whose/algorithm, model/difficulty/pairs, width/width/source."""
    found = {f"sets/{name}/{algorithm}": _arm(algorithm, e) for name, e in SETS.items() for algorithm in ALGORITHMS}
    for algorithm in PAPER:
        found[f"aspects/all/{algorithm}"] = _arm(algorithm, ASPECT.replace(rated="aspects"))
        for n in TIMES:
            found[f"aspects/{n}/{algorithm}"] = _arm(algorithm, ASPECT.replace(num_pairs=n * ASPECT_PAIRS))
        for labels, environment in LABELS.items():
            found[f"labels/{labels}/{algorithm}"] = _arm(algorithm, environment)
    for difficulty, tilt in DIFFICULTY.items():
        for model, pairs in MODELS.items():
            environment = BASE.replace(reference_tilt=tilt, pair_tilt=-tilt, num_pairs=pairs)
            found[f"model/{difficulty}/{model}"] = _arm("ppo", environment)
    for width in WIDTHS:
        offline = _arm("dpo", HARD).replace(policy=ResponseMLP(hidden=(width,)))
        found[f"width/{width}/offline"] = offline
        found[f"width/{width}/online"] = offline.replace(schedule=Schedule(batch_size=SAMPLES // 2))
    return found


def _arm(algorithm: str, environment: RatedResponses) -> Experiment:
    """DPO and SFT on the recorded pairs; PPO on samples that their reward model rates."""
    schedule = Schedule(batch_size=SAMPLES // 2, source="dataset")
    return Experiment(
        name=f"data_quality-{algorithm}",
        environment=environment,
        policy=ResponseMLP(),
        algorithm=find_algorithm(algorithm)(),
        schedule=Schedule(batch_size=SAMPLES // 4, num_generations=4) if algorithm == "ppo" else schedule,
        updates=UPDATES,
        evaluations=EVALUATIONS,
        runs=RUNS,
        seed=44,
    )


def collect(lab: Lab) -> Records:
    """Every arm tuned for itself; and arms of the reward model's pairs once more, by the same settings, on other
    seeds."""
    chosen = arms()
    grids = {name: spread_grid(arm, *RATES, BETAS.get(arm.algorithm.kind, ()), POINTS) for name, arm in chosen.items()}
    tuned = lab.tuned_records(chosen, grids, tuning_runs=TRIED)
    again: dict[str, Experiment] = {}
    for name, arm in chosen.items():
        if name.startswith("model/"):
            spec = tuned[name].spec
            same = {part: from_json(spec[part]) for part in ("algorithm", "optimiser")}
            again[f"again/{name}"] = arm.replace(**same, seed=EASY_SEED)
    return tuned | with_tuning_of(lab.records(again), {f"again/{name}": record for name, record in tuned.items()})


def draw(records: Records) -> MatplotlibFigure:
    """Final scores by data, algorithm, labels, reward model and width; and what explains them."""
    with plt.rc_context(RC):
        fig, axes = plt.subplots(3, 2, figsize=(10.5, 11.0), layout="constrained")
        _by_name(axes[0, 0], records, {n: [f"sets/{s}/{n}" for s in SETS] for n in ALGORITHMS}, list(SHOWN.values()))
        axes[0, 0].set_title("preference data × algorithm")
        _explained(axes[0, 1], records)
        _worth(axes[1, 0], records)
        _by_name(
            axes[1, 1],
            records,
            {n: [f"labels/{x}/{n}" for x in LABELS] for n in PAPER},
            [f"human: noisy,\n{PAIRS} pairs", f"synthetic: biased,\n{PAIRS} pairs", f"{CHEAPER * PAIRS} pairs"],
        )
        axes[1, 1].set_title("human or synthetic labels")
        models = {"ppo": [f"model/{d}/{m}" for d in DIFFICULTY for m in MODELS]}
        names = [f"{d},\n{pairs} pairs" for d in DIFFICULTY for pairs in MODELS.values()]
        _by_name(axes[2, 0], records, models, names, joined=False)
        axes[2, 0].set_title("difficulty × pairs of the reward model")
        for source in ("online", "offline"):
            ends = [final_scores(records[f"width/{width}/{source}"]) for width in WIDTHS]
            at = np.arange(len(WIDTHS)) + (0.06 if source == "online" else -0.06)
            axes[2, 1].plot(at, points(axes[2, 1], at, ends, "dpo", source == "online"), color="0.5", linewidth=1)
        axes[2, 1].set_xticks(range(len(WIDTHS)), [str(width) for width in WIDTHS])
        axes[2, 1].set(xlabel="width of the policy", ylabel="score at the end", title="DPO online (filled) and offline")
        for axis in (axes[0, 0], axes[1, 0], axes[1, 1], axes[2, 0], axes[2, 1]):
            bound(axis, 1.0, "largest reward")
            axis.set_ylim(top=1.1)
        fig.legend(handles=[key(name) for name in ALGORITHMS], loc="outside lower center", ncols=4, fontsize=9.5)
    return fig


def _by_name(
    axes: Axes, records: Records, arms: Mapping[str, Sequence[str]], names: Sequence[str], joined: bool = True
) -> None:
    ends = {name: [final_scores(records[arm]) for arm in each] for name, each in arms.items()}
    if joined:
        side_by_side(axes, ends, apart=0.08)
    else:
        for name, each in ends.items():
            points(axes, np.arange(len(each)), each, name)
    axes.set_xticks(range(len(names)), names, fontsize=8.5)
    axes.set(ylabel="score at the end", xlim=(-0.5, len(names) - 0.5))


def _explained(axes: Axes, records: Records) -> None:
    """What share of the variance of the cells' means each factor explains."""
    for y, (name, algorithms) in enumerate({"DPO and PPO": PAPER, "three algorithms": ALGORITHMS}.items()):
        left = 0.0
        for share, shade in zip(explained(_table(records, algorithms).mean(0)), ("0.25", "0.6", "0.85"), strict=True):
            axes.barh(y, share, left=left, color=shade, edgecolor="white")
            if share > 0.06:
                axes.text(
                    left + share / 2, y, f"{share:.0%}", ha="center", va="center", color="w" if shade < "0.5" else "k"
                )
            left += share
        axes.text(0.0, y + 0.46, name, fontsize=9)
    axes.set(title="variance explained by data (dark), algorithm, both", xlabel="share", ylim=(-0.6, 1.8), yticks=[])


def _worth(axes: Axes, records: Records) -> None:
    for name in PAPER:
        ends = [final_scores(records[f"aspects/{n}/{name}"]) for n in TIMES]
        x = np.log2(TIMES)
        axes.plot(x, points(axes, x, ends, name), color=key(name).get_color(), linewidth=1.6)
        level = float(final_scores(records[f"aspects/all/{name}"]).mean())
        axes.axhline(level, color=key(name).get_color(), linestyle="--", linewidth=1.2)
    axes.set_xticks(np.log2(TIMES), [f"{n} ×" for n in TIMES])
    axes.set(
        xlabel=f"pairs with one overall label, in units of {ASPECT_PAIRS}",
        ylabel="score at the end",
        title=f"{ASPECT_PAIRS} pairs with {ASPECTS} aspect ratings each (dashed)",
    )


def explained(cells: np.ndarray) -> tuple[float, float, float]:
    """Shares of the variance of a table of means, (data sets, algorithms): of rows, of columns, of both together."""
    total = float(((cells - cells.mean()) ** 2).sum())
    by_row = float(cells.shape[1] * ((cells.mean(1) - cells.mean()) ** 2).sum())
    by_column = float(cells.shape[0] * ((cells.mean(0) - cells.mean()) ** 2).sum())
    if not total:
        return 0.0, 0.0, 0.0
    return by_row / total, by_column / total, (total - by_row - by_column) / total


def jackknife(values: np.ndarray) -> np.ndarray:
    """(runs,) pseudo-values of data's share less the algorithm's: their mean is without the bias of order 1/runs, and
    their spread gives its error (Tukey 1958). values: (runs, data sets, algorithms)."""

    def effect(cells: np.ndarray) -> float:
        data, algorithm, _ = explained(cells)
        return data - algorithm

    return pseudo_values(effect, values)


def _table(records: Records, algorithms: Sequence[str]) -> np.ndarray:
    """(runs, data sets, algorithms): final scores."""
    cells = [[final_scores(records[f"sets/{s}/{a}"]) for a in algorithms] for s in SETS]
    return np.moveaxis(np.array(cells), -1, 0)


def verdicts(records: Records) -> list[Verdict]:
    """One row for each claim and algorithm."""
    rows = [*(_ahead(records, name) for name in SETS), *(_variance(records, name) for name in VARIANCE)]
    for name, tested in LABEL.items():
        note = (
            f"Two levels each, chosen before: no flips against {FLIPS:.0%}, and responses of the reference against "
            f"better ones (tilt {GOOD:g}). The main effects differ by clean labels of ordinary responses less flipped "
            "labels of better ones. At other levels the order may turn: a flip and a tilt have no common unit."
        )
        rows.append(_effect(tested, [(1.0, f"sets/clean/{name}"), (-1.0, f"sets/good_noisy/{name}")], records, note))
    rows += [_worth_at(tested, records, *place) for place, tested in WORTH.items()]
    names = [f"model/{d}/{m}" for d in ("hard", "easy") for m in ("good", "poor")]
    note = (
        f"{MODELS['poor']} or {MODELS['good']} pairs; hard is a reference that avoids what is good, easy one that "
        "favours it; the pairs are the same. Scores are shares of what is to be gained in either."
    )
    terms = list(zip((1.0, -1.0, -1.0, 1.0), names, strict=True))
    rows += [_effect(MODEL, terms, records, note, [_either_unit(records, terms)]), _where_easy(records)]
    names = [f"width/{width}/{source}" for width in (WIDTHS[0], WIDTHS[-1]) for source in ("online", "offline")]
    gaps = [effect_of([part(1.0, records[on]), part(-1.0, records[off])]) for on, off in (names[:2], names[2:])]
    said = " and ".join(f"{gap.estimate:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]" for gap in gaps)
    note = (
        f"The gaps are {said}: to shrink by the margin is to close nearly all of it. Online, the reward model of the "
        "same pairs labels samples. One hidden layer; the problem's features are given. Another tuning puts the effect "
        "at the margin or above (figures/records/again.json), and a gap that halves is within it too."
    )
    rows.append(_effect(SIZE, list(zip((1.0, -1.0, -1.0, 1.0), names, strict=True)), records, note))
    for (name, how), tested in SYNTHETIC.items():
        note = (
            f"Noise {LABELS['human'].rating_noise:g} and no bias against noise {BASE.rating_noise:g} and a bias of "
            f"{LABELS['number'].rating_bias:g}, in standard deviations of an aspect; a cost ratio of {CHEAPER}. These "
            "sizes are assumed: how noisy and how biased real raters are decides, and is not known here. Arms of DPO "
            "may stand at the corner of their grid, the largest rate with the smallest β, on a plateau."
        )
        rows.append(_effect(tested, [(1.0, f"labels/{how}/{name}"), (-1.0, f"labels/human/{name}")], records, note))
    return rows


def _effect(tested: Claim, terms: Terms, records: Records, note: str, more: Sequence[Gate] = ()) -> Verdict:
    why = "the arms differ in what the claim is about alone, and share problems and random numbers; equal arms give 0"
    return effect_row(tested, "mlp", FIGURE.name, terms, records, note, why, more)


def _ahead(records: Records, name: str) -> Verdict:
    note = f"PPO draws {UPDATES * SAMPLES:,} samples that the reward model rates; DPO has the pairs alone."
    if name == "noisy":
        flipped, clean = (
            float((final_scores(records[f"sets/{s}/ppo"]) - final_scores(records[f"sets/{s}/dpo"])).mean())
            for s in (name, "clean")
        )
        note += (
            f" No row tests whether flipped labels hurt DPO more than PPO: at the end PPO is {flipped:+.3f} ahead with "
            f"them and {clean:+.3f} without."
        )
    return _effect(AHEAD[name], [(1.0, f"sets/{name}/ppo"), (-1.0, f"sets/{name}/dpo")], records, note)


def _variance(records: Records, name: str) -> Verdict:
    tested, algorithms = VARIANCE[name], PAPER if name == "DPO and PPO" else ALGORITHMS
    used = [records[f"sets/{s}/{a}"] for s in SETS for a in algorithms]
    table = _table(records, algorithms)
    effect = _within(mean_interval(jackknife(table)))
    shares = ", ".join(f"{x:.0%}" for x in explained(table.mean(0)))
    note = (
        f"Data, algorithm and both together explain {shares} of the variance of {table[0].size} means. Which sets and "
        "which algorithms are compared decides: one more that fails would explain much."
    )
    spread = Gate("trained", bool(table.mean(0).std() > 0), "the cells' means differ")
    gates = [spread, beyond_chance(table.mean(0)), *settings(IN_SCORES, used)]
    return row_of(tested, "mlp", effect, FIGURE.name, [record.hash for record in used], note, gates)


def beyond_chance(cells: np.ndarray, orders: int = 4000) -> Gate:
    """Whether the shares of data and algorithm differ by more, to this side, than those of cells that have nothing to
    do with either, in all but one of forty orders of them. cells: (data sets, algorithms). With more data sets than
    algorithms data explain more by chance: of independent cells (rows − columns)/(cells − 1) more on average."""
    found = np.random.default_rng(0).permuted(np.tile(cells.ravel(), (orders, 1)), axis=1)
    ahead = np.array([data - algorithm for data, algorithm, _ in map(explained, found.reshape(-1, *cells.shape))])
    data, algorithm, _ = explained(cells)
    further = (ahead >= data - algorithm - 1e-9).mean(), (ahead <= data - algorithm + 1e-9).mean()
    said = (
        f"of these {cells.size} cells in any order, data explain {ahead.mean():+.2f} more on average, and "
        f"{min(further):.1%} of {orders:,} orders are as far to this side"
    )
    if min(further) < 0.025:
        return Gate("placebo", True, said)
    return Gate("placebo", False, f"{said}, which is chance; more data sets and more algorithms would open it")


def _within(effect: Interval) -> Interval:
    """A difference of shares lies in [−1, 1]: pseudo-values, and so their interval, may not."""
    estimate, low, high = (float(np.clip(x, -1.0, 1.0)) for x in (effect.estimate, effect.low, effect.high))
    return replace(effect, estimate=estimate, low=low, high=high)


def _either_unit(records: Records, terms: Terms) -> Gate:
    """An interaction may turn with the scale, as what is to be gained differs by difficulty: a sign that is of the unit
    is no answer."""
    in_scores = mean_interval(sum(times * final_scores(records[name]) for times, name in terms))
    gold = {name: records[name].arrays["gold"][:, -1].astype(float) for _, name in terms}
    in_rewards = mean_interval(sum(times * gold[name] for times, name in terms))
    gate = estimand({"scores": in_scores, "rewards": in_rewards})
    said = f"in scores {in_scores.estimate:+.2f}, in rewards {in_rewards.estimate:+.2f}"
    return replace(gate, why=said if gate.open else f"{said}: the sign is that of the unit; one task would open it")


def _where_easy(records: Records) -> Verdict:
    """C47 by what is of no unit: whether a better reward model gains nothing where it is easy."""
    arm = {name: records[f"again/model/{name}"] for name in ("easy/good", "easy/poor", "hard/good", "hard/poor")}
    gain = {d: effect_of([part(1.0, arm[f"{d}/good"]), part(-1.0, arm[f"{d}/poor"])]) for d in DIFFICULTY}
    found = positive_control(gain["hard"], EASY.margin, only_above=True)
    used = [arm["easy/good"], arm["easy/poor"]]
    poor, before = arm["easy/poor"], [part(1.0 - 2.0 * (m == "poor"), records[f"model/easy/{m}"]) for m in MODELS]
    peak = int(scores(poor).mean(0).argmax())
    from_peak = effect_of([part(1.0, arm["easy/good"]), part(-1.0, poor, peak)])
    note = (
        f"Known before, on other seeds: {effect_of(before).estimate:+.2f}. PPO on the poor model has β = "
        f"{poor.spec['algorithm']['beta']:g} of up to {BETAS['ppo'][-1]:g}, and falls after its best evaluation, "
        f"{scores(poor).mean(0)[peak]:.2f}; from there the good one is {from_peak.estimate:+.2f} ahead. One easy task, "
        "by its reference alone: an easier one, on which every reward model is right, leaves none to help."
    )
    gates = [replace(found, why=f"where it is hard: {found.why}"), *settings(EASY.margin, used)]
    return row_of(EASY, "mlp", gain["easy"], FIGURE.name, [record.hash for record in used], note, gates)


def _worth_at(tested: Claim, records: Records, name: str, times: int) -> Verdict:
    """How far one overall label each of so many times the pairs is ahead."""
    more, aspects, equal = (records[f"aspects/{how}/{name}"] for how in (times, "all", 1))
    behind = effect_of([part(1.0, more), part(-1.0, aspects)])
    found = positive_control(effect_of([part(1.0, more), part(-1.0, equal)]), tested.margin, only_above=True)
    control = replace(found, why=f"{times} × the pairs against 1 ×: {found.why}")
    note = (
        f"{ASPECTS} aspects with independent errors: their mean has a {ASPECTS}th of an overall rating's error "
        f"variance, worth {ASPECTS} × the pairs where labels are mostly noise and less where they are not; errors "
        "that are shared, of a rater or of a response, make it less. More is out of reach by design: the claim is held "
        "against a model of raters, and not against raters."
    )
    gates = [control, *settings(tested.margin, [more, aspects])]
    return row_of(tested, "mlp", behind, FIGURE.name, [more.hash, aspects.hash], note, gates)


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    runs = len(records["sets/clean/dpo"].arrays["gold"])
    return (
        f"{runs} runs an arm, each a problem of its own: {BASE.num_prompts} prompts × {BASE.num_responses} responses "
        f"with {BASE.num_features} features, which explain {1 - BASE.unexplained:.0%} of an aspect's variance; a "
        "network of one hidden layer of 32 scores responses by them, the reward model is linear in them. The "
        f"reference avoids what is good (tilt {BASE.reference_tilt:g}). {UPDATES} updates of {SAMPLES // 2} recorded "
        f"pairs, or of PPO {SAMPLES} samples; mean and 95 % interval; 1 is the largest gold reward. Ratings have noise "
        f"{BASE.rating_noise:g} unless said. Every arm was tuned for itself on other seeds, over {POINTS} points "
        f"({TRIED} runs each) of learning rate ({RATES[0]:g} … {RATES[1]:g}) and, but for SFT, β, listed below."
    )


FIGURE = Figure(
    name="data_quality",
    title="Better data, or a better algorithm?",
    tags=("contextual", "mlp", "data"),
    claims=("C24", "C43", "C44", "C45", "C46", "C47", "C89"),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
)
