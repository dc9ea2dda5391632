"""Preferences on a language model: a reward model stands between the policy and what people want. (C13, C14, C22, C33,
C51)

SFT, a reward model fitted to noisy preferences, then DPO online and offline, PPO and Pref-FT: everything is trained by
the reward model or on its pairs, and tested by the gold reward.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.lines import Line2D

from figures.arms import language_model as lm
from figures.arms.sweeps import crossfit_best
from figures.catalogue import Claim, claim
from figures.claims import Verdict, row_of
from figures.figure import Figure, Records
from figures.gallery.lm_likelihoods import change, margin, per_nat
from figures.lab import Lab
from figures.report.style import OFFLINE, ONLINE, RC, bound, colour, key, marker
from sims.core.algorithms.contrastive import DPO
from sims.core.schedule import Schedule
from sims.experiments.experiment import Experiment
from sims.experiments.record_file import Record
from sims.statistics.gates import Gate, placebo, rises, trained
from sims.statistics.intervals import band, mean_interval

METHODS = ("dpo/on", "dpo/off", "dpo/semi", "dpo/stale", "ppo/on", "pref_ft/off")
SYNC = {"semi": 4.0, "stale": math.inf}  # updates between two copies of the policy to the sampler
BETAS, RATES = (0.1, 1.0), (3e-4, 1e-3, 3e-3)
SWEPT = ("dpo/on", "dpo/off")  # over β too
AT_KL = (*SWEPT, "ppo/on")  # tested along their path
# Too low and too high a β, of online DPO at one rate; those of BETAS are the arms above, the others are run besides.
ALL_BETAS, HELD_RATE = (0.01, 0.1, 1.0, 10.0, 100.0), 1e-3
RUNS, SEED = 10, 1  # each with a reward model of its own
SAMPLES, UPDATES, EVALUATIONS, PAIRS = 32, 24, 8, 512
# Along a path: evaluated every second update, at the two smaller rates, on other seeds than those that it was seen on.
# Sixteen, the ten of before among them, as a run in eight or so never reaches the last level of KL.
PATH_EVALUATIONS, PATH_RATES, PATH_SEED, PATH_RUNS = 12, RATES[:2], 101, 16
# Of offline DPO, which in so few updates went as far as END by 8 of 16 reward models; on seeds of its own.
LONGER, LONGER_SEED = 2, 131  # times as many updates and evaluations
LEVELS = (1.0, 2.0, 3.0, 4.0)  # nats of KL at which gold rewards are compared; among them the peak
END = 8.0  # nats at which a fall is tested
STEP = 1.0  # of √KL between two evaluations, beyond which a path is not interpolated

LONG = f"longer/dpo/off/{BETAS[0]:g}/{PATH_RATES[1]:g}"
EQUAL_KL = claim("C13", "online DPO against offline DPO, a reward model's preferences")
FALLS = {
    method: claim("C14", f"{name}, {'online' if sampler == 'on' else 'offline'}, a reward model's preferences")
    for method in AT_KL
    for name, sampler in [method.split("/")]
}
CHOSEN = claim("C22", "offline DPO, an annotator's pairs")
ENDS = {"low": ALL_BETAS[0], "high": ALL_BETAS[-1]}
EXTREME = {end: claim("C51", f"online DPO, a reward model's preferences: too {end}") for end in ENDS}
BEHIND = claim("C33", "dpo, a reward model's preferences")


def arms(scale: str) -> dict[str, Experiment]:
    """algorithm/sampler/β/rate → experiment; β is "–" where it is not swept.

    Samplers: on, the policy; semi, a copy of it that is renewed every 4 updates; stale, the reference; off, the
    recorded pairs. At large scales there is one reward model, one β and one rate, that of the presets.
    """
    if scale != "tiny":
        return {f"{method}/–/–": _large(scale, method) for method in METHODS}
    found = {}
    for method in METHODS:
        for beta, rate in product(BETAS if method in SWEPT else (None,), PATH_RATES if method in AT_KL else RATES):
            name = f"{method}/{'–' if beta is None else format(beta, 'g')}/{rate:g}"
            found[name] = _tiny(method, BETAS[0] if beta is None else beta, rate)
    for beta in ALL_BETAS:
        if beta not in BETAS:
            found[f"beta/on/{beta:g}/{HELD_RATE:g}"] = _tiny("dpo/on", beta, HELD_RATE)
    offline = found[f"dpo/off/{BETAS[0]:g}/{PATH_RATES[1]:g}"]
    found[LONG] = offline.replace(
        environment=offline.environment.replace(proxy_seed=LONGER_SEED),  # type: ignore[attr-defined]
        updates=LONGER * UPDATES,
        evaluations=LONGER * PATH_EVALUATIONS,
        seed=LONGER_SEED,
    )
    return found


def _tiny(method: str, beta: float, rate: float) -> Experiment:
    from llm.tasks import ProxyReward

    base, name = lm.preset("tiny", "min"), method.split("/")[0]
    path = (PATH_EVALUATIONS, PATH_RUNS, PATH_SEED)
    evaluations, runs, seed = path if method in AT_KL else (EVALUATIONS, RUNS, SEED)
    return base.replace(
        name=f"lm_preferences-{name}",
        environment=ProxyReward(recorded_prompts=PAIRS, evaluation_prompts=128, proxy_seed=seed),
        algorithm=DPO(beta=beta) if name == "dpo" else lm.ALGORITHMS[name],
        schedule=_schedule(method, SAMPLES),
        optimiser=base.optimiser.replace(learning_rate=rate),
        updates=UPDATES,
        evaluations=evaluations,
        runs=runs,
        seed=seed,
    )


def _large(scale: str, method: str) -> Experiment:
    """The presets' data, model and rate. The reward model is one that was fitted before by `python -m llm reward`, in
    the folder that `reward_model` names; the gold one is the presets'. On AlpacaFarm recorded pairs are labelled by
    the reward, as in Tajwar et al. 2024; those of UltraFeedback have their own labels."""
    from llm.training.presets import PRESETS

    base = PRESETS[{"pythia-1.4b": "pythia-1.4b-alpacafarm", "mistral-7b": "mistral-7b-ultrafeedback"}[scale]]
    task, name = base.environment, method.split("/")[0]
    if scale == "pythia-1.4b":
        sampler = "off" if method.endswith(("off", "stale")) else "on"
        base = base.replace(optimiser=base.optimiser.replace(learning_rate=lm.PYTHIA_RATES[f"{name}/{sampler}"]))
        if method.endswith("/off"):
            pairs = PRESETS["pythia-1.4b-skew-length"].environment
            task = task.replace(**{field: getattr(pairs, field) for field in _data_fields()})
    gold = task.reward_model  # type: ignore[attr-defined]
    return base.replace(
        name=f"lm_preferences-{name}",
        environment=task.replace(reward_model=f"proxy-{scale}", gold_reward_model=gold),
        algorithm=lm.ALGORITHMS[name],
        schedule=_schedule(method, base.schedule.samples_per_batch),
        runs=lm.LARGE_RUNS,
    )


def _data_fields() -> tuple[str, ...]:
    from llm.tasks import DataSource

    return (*DataSource.names(), "relabel")


def _schedule(method: str, samples: int) -> Schedule:
    name, sampler = method.split("/")
    generations = 2 if lm.ALGORITHMS[name].label_pairing is not None else 4
    found = Schedule(batch_size=samples // generations, num_generations=generations)
    if sampler == "off":
        return found.replace(source="dataset")
    return found.replace(sync_every_updates=SYNC[sampler]) if sampler in SYNC else found


def collect(lab: Lab) -> Records:
    """Nothing is tuned: each arm has the same sweep, and what is tested is at equal KL, or takes the rate that is best
    for the other half of the reward models."""
    chosen = arms(lab.scale)
    if lab.quick:
        chosen = {
            name: arm for name, arm in chosen.items() if name.split("/")[-2:] in (["0.1", "0.001"], ["–", "0.001"])
        }
    return lab.records(chosen)


def sweep(records: Records, method: str) -> list[Record]:
    """The records of a method, one for each β and rate."""
    return [record for name, record in records.items() if name.rsplit("/", 2)[0] == method]


def at_level(record: Record, level: float, of: str = "gold") -> np.ndarray:
    """(runs,): gold reward, or the reward model's score, "reward", where a run's KL to the reference first reaches a
    level, between two evaluations in proportion to √KL; NaN for a run that never does, or that goes further than STEP
    between the two."""
    curves, distance = record.arrays[of], np.sqrt(np.maximum(record.arrays["kl_policy_ref"], 0.0))
    found = np.full(len(curves), np.nan)
    for run, (values, path) in enumerate(zip(curves, distance, strict=True)):
        reached = np.flatnonzero(path >= math.sqrt(level))
        if len(reached) and (at := reached[0]) > 0 and path[at] - path[at - 1] <= STEP:
            share = (math.sqrt(level) - path[at - 1]) / (path[at] - path[at - 1])
            found[run] = values[at - 1] + share * (values[at] - values[at - 1])
    return found


def gold_at(records: Records, method: str, level: float) -> np.ndarray:
    """(reward models,): mean over the sweep of `at_level`; NaN where no setting reaches the level."""
    return mean_of_known(np.stack([at_level(record, level) for record in sweep(records, method)]))


def mean_of_known(found: np.ndarray) -> np.ndarray:
    """(..., runs) → (runs,): mean over the entries that are numbers, NaN where none is."""
    flat = found.reshape(-1, found.shape[-1])
    known = np.isfinite(flat)
    total = np.where(known, flat, 0.0).sum(0) / np.maximum(known.sum(0), 1)
    return np.where(known.any(0), total, np.nan)


def fall(record: Record, of: str = "gold") -> np.ndarray:
    """(runs,): gold reward at END less that at the level of LEVELS that is best for the other half of the runs, among
    those that most of this half have; NaN for a run that has not both. of: what is followed from that level on, if not
    gold itself."""
    levels, found = np.stack([at_level(record, level) for level in LEVELS]), at_level(record, END, of)
    followed = np.stack([at_level(record, level, of) for level in LEVELS])
    for half in (0, 1):
        others = levels[:, 1 - half :: 2]
        counted = np.isfinite(others).mean(1) > 0.5
        if not counted.any():
            return np.full_like(found, np.nan)
        means = np.where(counted, mean_of_known(others.T), -np.inf)
        found[half::2] -= followed[means.argmax(), half::2]
    return found


def best_rate(records: Records, method: str) -> np.ndarray:
    """(reward models,): final score by the reward model, at the rate that is best for the other half of them."""
    return crossfit_best(np.stack([lm.carried_on(x.arrays["reward"])[:, -1] for x in sweep(records, method)]))


def verdicts(records: Records) -> list[Verdict]:
    """C13 at equal KL, C14 for each method, C22 offline, C33, and C51 at both ends of β."""
    rows = [_equal_kl(records), *(_falls(records, method) for method in FALLS), _chosen(records)]
    swept = all(at_beta(beta) in records for beta in ALL_BETAS)  # not by --quick
    return [*rows, _behind(records), *(_extreme(records, end) for end in ENDS if swept)]


def at_beta(beta: float) -> str:
    """The name of online DPO at a β, at the one rate that all have."""
    return f"{'dpo' if beta in BETAS else 'beta'}/on/{beta:g}/{HELD_RATE:g}"


def gold_at_the_end(record: Record) -> np.ndarray:
    """(reward models,): gold reward at the end; of a run that diverged, where it was last evaluated."""
    return np.asarray(lm.carried_on(record.arrays["gold"])[:, -1], dtype=float)


def _extreme(records: Records, end: str) -> Verdict:
    tested, used = EXTREME[end], [records[at_beta(beta)] for beta in (*ALL_BETAS[1:-1], ENDS[end])]
    *between, last = map(gold_at_the_end, used)
    why = "β is all that the arms differ in; the data, the reward models and the first updates' samples are the same"
    moved = between[0] - used[0].arrays["gold"][:, 0]
    gates = [trained({f"gold reward at β = {BETAS[0]:g}": moved}), placebo(None, tested.margin, why)]
    note = (
        f"At one learning rate, {HELD_RATE:g}, and after {UPDATES} updates: with a smaller rate, or fewer updates, a "
        "low β does less harm. DPO's gradient is in proportion to β, and Adam takes that out."
    )
    return _row(tested, crossfit_best(np.stack(between)) - last, used, note, gates)


def _equal_kl(records: Records) -> Verdict:
    gaps = [
        [at_level(online, level) - at_level(offline, level) for level in LEVELS]
        for online, offline in zip(*(sweep(records, method) for method in SWEPT), strict=True)
    ]
    gap = mean_of_known(np.array(gaps))
    why = "offline is the placebo: the same loss, sweep and number of pairs, and its pairs never change"
    gates = [_reached(np.isfinite(gap)), placebo(None, EQUAL_KL.margin, why)]
    note = (
        f"Where the KL first reaches {_levels()} nats, mean over these and over the settings of a sweep, each against "
        "the same one. Offline pairs have the annotator's own labels, online ones the reward model's, which was fitted "
        f"to {PAIRS} of the former."
    )
    return _row(EQUAL_KL, gap[np.isfinite(gap)], [x for m in SWEPT for x in sweep(records, m)], note, gates)


def _falls(records: Records, method: str) -> Verdict:
    own = LONG if method == "dpo/off" else f"{method}/{BETAS[0] if method in SWEPT else '–'}/{RATES[1]:g}"
    record = records[own]
    found, rise = fall(record), at_level(record, LEVELS[-1]) - record.arrays["gold"][:, 0]
    known, proxy = np.isfinite(found), fall(record, "reward")
    why = "the reward model's score still rises where gold falls: without its error the two would rise together"
    gates = [_reached(known), placebo(None, FALLS[method].margin, why)]
    gates.append(rises("the reward model's score", _two(proxy[np.isfinite(proxy)])))
    gates.append(trained({f"gold reward up to {LEVELS[-1]:g} nats": _two(rise[np.isfinite(rise)])}))
    note = (
        f"Of the {known.sum()} of {len(known)} reward models whose runs reach {END:g} nats. "
        f"From the peak among {_levels()} nats, chosen on the other half of the reward models, to {END:g}. The fall is "
        "of coverage: recorded responses are longer than the gold optimum, and the reward model, which saw none that "
        "are shorter, goes on preferring shorter ones."
    )
    return _row(FALLS[method], found[known], [record], note, gates)


def _chosen(records: Records) -> Verdict:
    record = records[f"dpo/off/{BETAS[0]:g}/{RATES[1]:g}"]
    fell, grown = change(record, "chosen")[:, -1], margin(record)[:, -1]
    note = (
        f"DPO at the first β and the middle rate; the margin grew by {mean_interval(grown)} nats. The pairs are of "
        "each run's first batch."
    )
    why = "a claim about a mechanism: what a loss of pairs does to the pairs that it is of"
    gates = [trained({"the margin": grown}), placebo(None, CHOSEN.margin, why)]
    return _row(CHOSEN, per_nat(fell, grown), [record], note, gates)


def _behind(records: Records) -> Verdict:
    semi, stale = (best_rate(records, f"dpo/{sampler}") for sampler in SYNC)
    why = "offline is the placebo: it draws as many samples by the same rule, and its sampler is never renewed"
    gates = [placebo(None, BEHIND.margin, why)]
    note = (
        "The reward model's score at the end, which is what both are trained by, whatever becomes of the gold reward. "
        "Each arm takes, for half of the reward models, the rate that is best for the other half."
    )
    return _row(BEHIND, semi - stale, [x for s in SYNC for x in sweep(records, f"dpo/{s}")], note, gates)


def _reached(known: np.ndarray) -> Gate:
    """Whether a difference exists for enough reward models."""
    count, all_of = int(known.sum()), len(known)
    measured = f"{count} of {all_of} reward models have runs at every level of KL on all sides"
    enough = count >= max(2, 0.75 * all_of)
    return Gate("matched KL", enough, measured if enough else f"{measured}; more updates or larger rates would open it")


def _row(tested: Claim, effects: np.ndarray, used: Sequence[Record], note: str, gates: Sequence[Gate]) -> Verdict:
    return row_of(tested, "lm", mean_interval(_two(effects)), FIGURE.name, [x.hash for x in used], note, gates)


def _two(effects: np.ndarray) -> np.ndarray:
    """The effects, or two of nothing where they are fewer: a gate is closed, and there is no interval."""
    return effects if len(effects) > 1 else np.zeros(2)


def _levels() -> str:
    *first, last = (f"{level:g}" for level in LEVELS)
    return f"{', '.join(first)} and {last}"


def draw(records: Records) -> MatplotlibFigure:
    """The reward model's score and the gold reward against KL, and the gold reward at equal KL."""
    with plt.rc_context(RC):
        fig, panels = plt.subplots(2, 2, figsize=(11.5, 9.0), layout="constrained")
        axes = panels.ravel()
        for panel, reward in zip(axes, ("reward", "gold"), strict=False):
            for method in METHODS:
                _paths(panel, records, method, reward)
            panel.set_xscale("function", functions=(_root, np.square))
            panel.set_xticks([0, 1, 4, 9, 16, 25])
            panel.set(xlabel="KL(policy ‖ reference), nats", xlim=(0, 30))
        axes[0].set(ylabel="reward model's score, log-odds", title="What is trained on rises")
        axes[1].set(ylabel="gold reward, tokens", title="What is wanted rises, and falls")
        bound(axes[1], 0.0, "largest gold reward")
        _at_equal_kl(axes[2], records)
        _against_beta(axes[3], records)
        fig.legend(handles=_handles(), loc="outside lower center", ncols=8, fontsize=9.5)
    return fig


def _root(x: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(x, 0.0))


def _paths(axes: Axes, records: Records, method: str, reward: str) -> None:
    """Every setting of the sweep: means over reward models, evaluation by evaluation."""
    name, sampler = method.split("/")
    if sampler in SYNC:
        return
    line = ONLINE if sampler == "on" else OFFLINE
    for record in sweep(records, method):
        x, y = (lm.carried_on(record.arrays[array]).mean(0) for array in ("kl_policy_ref", reward))
        face = colour(name) if sampler == "on" else "white"
        axes.plot(
            np.maximum(x, 0), y, line, color=colour(name), marker=marker(name), ms=3.5, mfc=face, lw=1.1, alpha=0.75
        )


def _at_equal_kl(axes: Axes, records: Records) -> None:
    for i, method in enumerate(FALLS):
        name, sampler = method.split("/")
        found = [gold_at(records, method, level) for level in (*LEVELS, END)]
        found = [x[np.isfinite(x)] for x in found]
        shown = [k for k, x in enumerate(found) if len(x) > 1]
        if not shown:
            continue
        mean, low, high = (
            np.concatenate(x) for x in zip(*(band(found[k][:, None], resamples=None) for k in shown), strict=True)
        )
        at = np.array(shown) + 0.12 * (i - 1)
        face = colour(name) if sampler == "on" else "white"
        line = ONLINE if sampler == "on" else OFFLINE
        axes.errorbar(
            at, mean, [mean - low, high - mean], fmt=marker(name), ls=line, color=colour(name), mfc=face, ms=6, lw=1.6
        )
    axes.set_xticks(range(len(LEVELS) + 1), [f"{level:g}" for level in (*LEVELS, END)])
    axes.set(
        xlabel="KL first reached, nats",
        ylabel="gold reward, tokens",
        title="At equal KL",
        xlim=(-0.4, len(LEVELS) + 0.4),
    )


def _against_beta(axes: Axes, records: Records) -> None:
    shown = [beta for beta in ALL_BETAS if at_beta(beta) in records]
    if not shown:  # at large scales β is not swept
        axes.set_axis_off()
        return
    found = [band(gold_at_the_end(records[at_beta(beta)])[:, None], resamples=None) for beta in shown]
    mean, low, high = (np.concatenate(x) for x in zip(*found, strict=True))
    axes.errorbar(
        shown, mean, [mean - low, high - mean], fmt=marker("dpo"), ls=ONLINE, color=colour("dpo"), ms=6, lw=1.6
    )
    start = records[at_beta(shown[0])].arrays["gold"][:, 0].mean()
    bound(axes, float(start), "the reference's", x=0.3)
    axes.set(xscale="log", xlabel="β of online DPO", ylabel="gold reward, tokens", title="Too low a β, too high a β")


def _handles() -> list[Line2D]:
    lines = [key(name) for name in ("dpo", "ppo", "pref_ft")]
    return lines + [
        Line2D([], [], color="0.3", linestyle=style, marker="o", mfc=face, label=label)
        for style, face, label in ((ONLINE, "0.3", "on-policy"), (OFFLINE, "white", "offline, recorded pairs"))
    ]


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    record = sweep(records, "dpo/on")[0]
    spec, models = record.spec, len(record.arrays["gold"])
    samples = spec["schedule"]["batch_size"] * spec["schedule"]["num_generations"]
    start = (
        f"{lm.model_of(record)} as the SFT policy, {spec['updates']} updates of {samples} samples. "
        "Points are evaluations, lines the settings of a sweep, means alone, over "
    )
    if lm.scale_of(record) != "tiny":
        return f"{start}{models} runs with one reward model."
    task = spec["environment"]
    return (
        f"{start}{models} reward models with a run each ({RUNS} for semi, stale and Pref-FT); bottom, 95 % "
        f"intervals over them. Gold: −| |y| − {task['mode']} |. Each reward model is the same network with a "
        f"new head, fitted to {PAIRS} pairs of its own, "
        "which an annotator labelled by Bradley-Terry on gold, at a temperature of 2 tokens; offline methods train on "
        "these pairs. Bottom right: online DPO at the end, β "
        f"{ALL_BETAS[0]:g} … {ALL_BETAS[-1]:g}, at rate {HELD_RATE:g}. Swept: "
        f"learning rate {', '.join(f'{rate:g}' for rate in PATH_RATES)} (semi, stale and Pref-FT: {RATES[-1]:g} "
        f"too), and of DPO β {BETAS[0]:g} and {BETAS[1]:g}. C14 of DPO offline is by {LONGER * UPDATES} updates on as "
        "many other reward models, which are not drawn."
    )


FIGURE = Figure(
    name="lm_preferences",
    title="Preferences on a language model: the reward model's score, and what is wanted",
    tags=("lm", "online-offline", "overoptimisation"),
    claims=("C13", "C14", "C22", "C33", "C51"),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
    arms=arms,
)
