"""What keeps a model aligned while users drift? (C52, C53, C54, C62, C66) Twenty weeks of offline, iterative and online
training, in which prompts and preferences move."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure

from figures.arms.gating import IN_SCORES, deployed_at_the_end, effect_of, over_the_run, part, sides, tuned_well
from figures.arms.sweeps import ROUNDS, TUNING, spread_grid
from figures.catalogue import Claim, Setting, claim
from figures.claims import Verdict, row_of
from figures.figure import Figure, Records
from figures.lab import Lab
from figures.report.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, RC, SKY, VERMILION
from sims.core.algorithms import find_algorithm
from sims.core.loop.deployment import Deployment
from sims.core.loop.protocols import PolicySpec
from sims.core.schedule import Schedule
from sims.core.spec import from_json
from sims.environments import Drifting
from sims.experiments.experiment import Experiment
from sims.experiments.measures import deployed_scores, scores
from sims.experiments.store import Record
from sims.policies import MLP, Table
from sims.statistics.gates import Gate, placebo, positive_control, room, trained
from sims.statistics.intervals import Interval, band, mean_interval, student_interval

WEEKS, PAIRS = 20, 32  # pairs per update
WEEK, LONG_WEEK = 10, 16  # updates; the longer one of the arms that vary the trigger
RUNS, PROBLEMS, SPREAD_RUNS = 100, 50, 200
DRIFT = 0.3
POLICIES: dict[str, tuple[Setting, PolicySpec]] = {"table": ("bandit", Table()), "network": ("mlp", MLP(hidden=(32,)))}
TITLES = {"table": "a table", "network": "a network, shared by the prompts"}
RATES = {"table": (0.003, 3.0), "network": (0.0003, 0.3)}
BETAS = (0.01, 0.1, 1.0, 10.0)
POINTS = 7 * len(BETAS)
TRIGGERS = {64: 2, 512: 16, 1024: 32, 5120: 160}  # pairs → updates between deployments

ENVIRONMENT = Drifting(
    updates_per_cycle=WEEK, cycles=WEEKS, preference_drift=DRIFT, prompt_drift=DRIFT, prompt_spread=1.0
)
WEEKLY = Schedule(batch_size=PAIRS, sync_every_updates=WEEK)
SCHEDULES: dict[str, tuple[str, Schedule]] = {
    "pool": ("dpo", Schedule(batch_size=PAIRS, source="pool", pool_size=PAIRS * WEEK * WEEKS)),
    "first": ("dpo", WEEKLY.replace(sync_every_updates=math.inf)),
    "fixed": ("dpo", WEEKLY),
    "previous": ("dpo", WEEKLY.replace(reference="copy", reference_every_updates=WEEK)),
    "average": ("dpo", WEEKLY.replace(reference="ema", reference_rate=0.05)),
    "online": ("dpo", Schedule(batch_size=PAIRS)),
    "rejection": ("best_of_n", WEEKLY),
    "rloo": ("rloo", Schedule(batch_size=PAIRS)),
    "ppo": ("ppo", Schedule(batch_size=PAIRS)),
    "chosen": ("dpo", WEEKLY),
}
LOOKS = {  # of an arm in the picture: label, colour, line and marker
    "ppo": ("PPO, online", "#004466", "-s"),
    "rloo": ("RLOO, online", SKY, "-o"),
    "online": ("DPO, online", BLUE, "--d"),
    "fixed": ("DPO weekly, reference fixed", VERMILION, "-D"),
    "previous": ("DPO weekly, reference previous", PURPLE, "-v"),
    "average": ("DPO weekly, reference an average", PURPLE, ":>"),
    "rejection": ("rejection sampling weekly", GREEN, "-^"),
    "first": ("DPO, pairs of the first model", ORANGE, "-p"),
    "pool": ("DPO, pool of the first week", ORANGE, "--X"),
}

DRIFTS, COLLAPSES, LOSES = (claim("C52", part) for part in ("KL to the first model", "entropy", "score, each tuned"))
STALE = {"first": claim("C53", "old samples, new labels"), "pool": claim("C53", "old samples, old labels")}
WEAKER = claim("C53", "gradient norm")
LIKE_PPO, STEADIER = claim("C54", "score"), claim("C54", "spread across runs")
ENOUGH = {pairs: claim("C62", f"{pairs:,} pairs against 64") for pairs in (512, 1024)}
TOO_LATE = claim("C62", "512 pairs against 5,120")
CHOSEN = claim("C66", "least certain of four")


def experiment(kind: str, name: str) -> Experiment:
    algorithm, schedule = SCHEDULES[name]
    return Experiment(
        name=f"weeks_of_drift-{algorithm}",
        environment=ENVIRONMENT,
        policy=POLICIES[kind][1],
        algorithm=find_algorithm(algorithm)(),
        schedule=schedule,
        deployment=Deployment(label_candidates=4) if name == "chosen" else Deployment(),
        updates=WEEK * WEEKS,
        evaluations=WEEKS,
        runs=RUNS,
        seed=11,
    )


def arms() -> dict[str, Experiment]:
    """policy/arm, each to be tuned for itself by what users get every week."""
    return {f"{kind}/{name}": experiment(kind, name) for kind in POLICIES for name in SCHEDULES}


def trigger_arms() -> dict[str, Experiment]:
    """policy/trigger/pairs: users get the policy of the last deployment until the next one."""
    found = {}
    for kind in POLICIES:
        like = experiment(kind, "fixed")
        for pairs, updates in TRIGGERS.items():
            found[f"{kind}/trigger/{pairs}"] = like.replace(
                environment=ENVIRONMENT.replace(updates_per_cycle=LONG_WEEK),
                schedule=WEEKLY.replace(sync_every_updates=updates),
                updates=LONG_WEEK * WEEKS,
                evaluations=64,
            )
    return found


def held(tuned: Records) -> dict[str, Experiment]:
    """Other references and samples by the settings that were best with a fixed one; and more runs of fewer problems."""
    found = {}
    for kind in POLICIES:
        for name, settings in (
            ("held/previous", "fixed"),
            ("held/average", "fixed"),
            ("held/first", "fixed"),
            ("spread/fixed", "fixed"),
            ("spread/ppo", "ppo"),
        ):
            spec = tuned[f"{kind}/{settings}"].spec
            arm = experiment(kind, name.split("/")[1])
            arm = arm.replace(algorithm=from_json(spec["algorithm"]), optimiser=from_json(spec["optimiser"]))
            if name.startswith("spread"):
                environment = ENVIRONMENT.replace(problems=PROBLEMS)
                arm = arm.replace(environment=environment, runs=SPREAD_RUNS)
            found[f"{kind}/{name}"] = arm
    return found


def collect(lab: Lab) -> Records:
    """Every arm tuned for itself over as many points."""
    chosen, triggers = arms(), trigger_arms()
    grids = {
        name: spread_grid(arm, *RATES[name.split("/")[0]], BETAS, POINTS) for name, arm in (chosen | triggers).items()
    }
    tuned = lab.tuned_records(chosen, {name: grids[name] for name in chosen}, by="run", **TUNING)
    deployed = lab.tuned_records(triggers, {name: grids[name] for name in triggers}, by="deployed", **TUNING)
    return {**tuned, **deployed, **lab.records(held(tuned))}


def draw(records: Records) -> MatplotlibFigure:
    """Score by week; distance from the first model and entropy; what the trigger and the choice of pairs do."""
    with plt.rc_context(RC):
        fig, axes = plt.subplots(2, 4, figsize=(13.0, 7.6), layout="constrained", width_ratios=(1.6, 1, 1, 1))
        for row, kind in enumerate(POLICIES):
            _by_week(axes[row, 0], records, kind)
            for axis, name, label in ((axes[row, 1], "kl_policy_ref", "KL to the first model, nats"),
                                      (axes[row, 2], "entropy", "entropy, nats")):  # fmt: skip
                _references(axis, records, kind, name)
                axis.set(xlabel="week", ylabel=label)
            _triggers(axes[row, 3], records, kind)
            axes[row, 0].set_title(TITLES[kind], loc="left")
        axes[0, 1].set_title("settings of the fixed reference", fontsize=9.5)
        axes[0, 2].set_title("settings of the fixed reference", fontsize=9.5)
        axes[0, 3].set_title("what users get, over the run", fontsize=9.5)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=9)
    return fig


def _line(axes: Axes, x: np.ndarray, runs: np.ndarray, look: tuple[str, str, str], low: bool = True) -> None:
    label, shade, line = look
    mean, lower, upper = band(runs, resamples=None)
    axes.plot(x, mean, line, color=shade, label=label, linewidth=1.6, ms=4.5, markevery=max(1, len(x) // 5))
    if low:
        axes.fill_between(x, lower, upper, color=shade, alpha=0.12, linewidth=0)


def _by_week(axes: Axes, records: Records, kind: str) -> None:
    for name, look in LOOKS.items():
        record = records[f"{kind}/{name}"]
        found = scores(record)
        _line(axes, np.linspace(0, WEEKS, found.shape[1]), found, look)
    axes.axhline(0.0, color=BLACK, linewidth=1, linestyle=":")
    axes.text(WEEKS, 0.0, "the first model, never trained", ha="right", va="bottom", fontsize=8)
    axes.set(xlabel="week", ylabel="score with this week's users", xticks=range(0, WEEKS + 1, 5))


def _references(axes: Axes, records: Records, kind: str, name: str) -> None:
    for arm in ("fixed", "held/previous", "held/average"):
        found = records[f"{kind}/{arm}"].arrays[name]
        _line(axes, np.linspace(0, WEEKS, found.shape[1]), found, LOOKS[arm.split("/")[-1]])
    axes.set_ylim(bottom=0.0)


def _triggers(axes: Axes, records: Records, kind: str) -> None:
    found = [student_interval(_deployed(records[f"{kind}/trigger/{pairs}"])) for pairs in TRIGGERS]
    mean = [i.estimate for i in found]
    spread = [[i.estimate - i.low for i in found], [i.high - i.estimate for i in found]]
    axes.errorbar(list(TRIGGERS), mean, spread, color=VERMILION, marker="D", ms=4.5, label="trigger")
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(TRIGGERS), [f"{pairs:,}" for pairs in TRIGGERS], fontsize=8)
    for name, y in (("fixed", 0.2), ("chosen", 0.05)):
        i = student_interval(scores(records[f"{kind}/{name}"])[:, 1:].mean(1))
        words = "random pairs" if name == "fixed" else "least certain of 4"
        axes.text(0.03, y, f"weekly, {words}:\n{i.estimate:.2f} [{i.low:.2f}, {i.high:.2f}]", fontsize=8,
                  transform=axes.transAxes)  # fmt: skip
    axes.set(xlabel="new pairs at which to retrain", ylabel="score", ylim=(0, None))


def verdicts(records: Records) -> list[Verdict]:
    """C52, C53, C54, C62 and C66, of the table and of the network."""
    rows = []
    for kind, (setting, _) in POLICIES.items():
        at = {name.removeprefix(f"{kind}/"): r for name, r in records.items() if name.startswith(f"{kind}/")}
        rows += _references_rows(setting, at)
        rows += [_ahead(STALE[name], setting, at["fixed"], at[name], _NOTES[name]) for name in STALE]
        rows += [_gradients(setting, at["fixed"], at["held/first"])]
        rows += _against_ppo(setting, at)
        rows += _trigger_rows(setting, {pairs: at[f"trigger/{pairs}"] for pairs in TRIGGERS})
        rows += [_ahead(CHOSEN, setting, at["chosen"], at["fixed"], _NOTES["chosen"])]
    return rows


_NOTES = {
    "first": "The first model's samples with this week's labels, against a policy's of at most one week ago, which "
    "grow alike as its entropy falls.",
    "pool": "As many pairs as the weekly loop gets, all drawn and labelled in the first week: this counts drifting "
    "preferences too, not only the age of samples.",
    "chosen": "One rule of choice, the smallest implicit margin; unlabelled candidates are drawn for nothing.",
}


def _references_rows(setting: Setting, at: Records) -> list[Verdict]:
    fixed, previous = at["fixed"], at["held/previous"]
    rows = []
    for tested, name, sign in ((DRIFTS, "kl_policy_ref", 1.0), (COLLAPSES, "entropy", -1.0)):
        effect = mean_interval(sign * (previous.arrays[name][:, -1] - fixed.arrays[name][:, -1]).astype(float))
        note = "At the learning rate and β that are best with a fixed reference; one rate of drift, twenty weeks."
        rows.append(
            row_of(tested, setting, effect, FIGURE.name, [fixed.hash, previous.hash], note,
                   [_mechanism(tested), *tuned_well(IN_SCORES, fixed), *_trained(fixed, previous)])
        )  # fmt: skip
    note = "Both tuned: a fixed reference can be given a β so small that it hardly holds."
    return [*rows, _ahead(LOSES, setting, fixed, at["previous"], note)]


def _mechanism(tested: Claim) -> Gate:
    return placebo(None, tested.margin, "a claim about a mechanism; the fixed reference is the control")


def _trained(*records: Record) -> list[Gate]:
    return [trained({f"arm {i + 1}": r.arrays["kl_policy_ref"][:, -1].astype(float) for i, r in enumerate(records)})]


def _ahead(tested: Claim, setting: Setting, more: Record, less: Record, note: str) -> Verdict:
    effect = effect_of([part(1.0, more, None), part(-1.0, less, None)])
    why = "the arms differ in what the claim names alone, and share their problems and random numbers"
    gates = [over_the_run([sides([more], [less])], tested.margin), placebo(None, tested.margin, why)]
    gates += [*tuned_well(tested.margin, more, less), *_trained(more, less)]
    return row_of(tested, setting, effect, FIGURE.name, [more.hash, less.hash], note, gates)


def _gradients(setting: Setting, fresh: Record, stale: Record) -> Verdict:
    """log2 of the norm, mean over the second half of the weeks."""

    def octaves(record: Record) -> np.ndarray:
        norm = record.arrays["grad_norm"].astype(float)
        half = norm[:, -(norm.shape[1] // 2) :]
        return np.asarray(np.log2(np.maximum(half, 1e-12)).mean(1))

    effect = mean_interval(octaves(fresh) - octaves(stale))
    note = "The norm of one update's gradient each week, at the settings of the weekly loop: a norm is not information."
    gates = [_mechanism(WEAKER), _at_one_score(fresh, stale), *tuned_well(IN_SCORES, fresh), *_trained(fresh, stale)]
    return row_of(WEAKER, setting, effect, FIGURE.name, [fresh.hash, stale.hash], note, gates)


def _at_one_score(fresh: Record, stale: Record) -> Gate:
    """Whether both arms are at one score meanwhile: a gradient is small near an optimum, and where all samples of a
    policy are alike, whatever its data tell."""
    ahead = mean_interval(scores(fresh)[:, -(WEEKS // 2) :].mean(1) - scores(stale)[:, -(WEEKS // 2) :].mean(1))
    same = ahead.low >= -IN_SCORES and ahead.high <= IN_SCORES
    said = f"the weekly arm is ahead in score by {ahead} meanwhile"
    closed = ": of other policies, a norm says how near each is to where its own vanishes; equal scores would open it"
    return Gate("estimand", same, said if same else said + closed)


def _against_ppo(setting: Setting, at: Records) -> list[Verdict]:
    ppo, fixed, pool = at["ppo"], at["fixed"], at["pool"]
    effect = effect_of([part(1.0, ppo, None), part(-1.0, fixed, None)])
    control = positive_control(effect_of([part(1.0, fixed, None), part(-1.0, pool, None)]), LIKE_PPO.margin)
    control = replace(control, why=f"DPO weekly against its pool: {control.why}")
    gates = [control, *tuned_well(LIKE_PPO.margin, ppo, fixed), *_trained(ppo, fixed)]
    note = "PPO is online and sees rewards; DPO sees which of two is better, once a week from new samples."
    rows = [row_of(LIKE_PPO, setting, effect, FIGURE.name, [ppo.hash, fixed.hash], note, gates)]
    one, other = at["spread/ppo"], at["spread/fixed"]
    lacking = _lacking(one)
    effect = mean_interval(np.zeros(2) if lacking else _log_spread(one) - _log_spread(other))
    note = (
        f"Of the score over the run, over {SPREAD_RUNS // PROBLEMS} runs each of {PROBLEMS} problems: what the "
        "problems contribute is left out."
    )
    gates = [*lacking, _mechanism(STEADIER), *tuned_well(LIKE_PPO.margin, ppo, fixed), *_trained(one, other)]
    return [*rows, row_of(STEADIER, setting, effect, FIGURE.name, [one.hash, other.hash], note, gates)]


def _lacking(record: Record) -> list[Gate]:
    """A closed gate where --runs leaves problems that have one run or none, and no spread."""
    if (runs := len(record.arrays["gold"])) >= 2 * PROBLEMS:
        return []
    return [Gate("repeats", False, f"{runs} runs of {PROBLEMS} problems; {2 * PROBLEMS} runs would open it")]


def _log_spread(record: Record) -> np.ndarray:
    """(problems,): log2 of the standard deviation over the runs of each, as many of each."""
    found = scores(record)[:, 1:].mean(1)
    found = found[: len(found) // PROBLEMS * PROBLEMS].reshape(-1, PROBLEMS)  # run r has problem r mod PROBLEMS
    return np.asarray(np.log2(found.std(0, ddof=1)))


def _deployed(record: Record) -> np.ndarray:
    """(runs,): the score of what users get, over the run."""
    return np.asarray(deployed_scores(record)[:, 1:].mean(1))


def _trigger_rows(setting: Setting, at: dict[int, Record]) -> list[Verdict]:
    found = {pairs: _deployed(record) for pairs, record in at.items()}

    def row(tested: Claim, more: int, less: int, note: str, gates: Sequence[Gate]) -> Verdict:
        effect = mean_interval(found[more] - found[less])
        moved = trained({f"{pairs:,} pairs": found[pairs] for pairs in (more, less)})  # from the first model's score, 0
        every = [*gates, *tuned_well(tested.margin, at[more], at[less], by=deployed_at_the_end), moved]
        hashes = [at[more].hash, at[less].hash]
        return row_of(tested, setting, effect, FIGURE.name, hashes, note, every)

    note = f"{LONG_WEEK * PAIRS} pairs come in a week; retraining costs nothing here, and a gate nothing."
    rows = []
    for pairs, tested in ENOUGH.items():
        late: Interval = mean_interval(found[64] - found[5120])
        control = replace(positive_control(late, tested.margin, only_above=True), name="positive control")
        gates = [replace(control, why=f"64 against 5,120 pairs: {control.why}")]
        rows.append(row(tested, 64, pairs, note, gates))
    gates = [room(found[512], found[5120], -1.0, 1.0, TOO_LATE.margin), _mechanism(TOO_LATE)]
    return [*rows, row(TOO_LATE, 512, 5120, note, gates)]


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    runs = len(records["table/fixed"].arrays["gold"])
    return (
        f"{runs} runs an arm, each with a problem of its own: 16 prompts × 16 responses, {WEEKS} weeks of {WEEK} "
        f"updates of {PAIRS} pairs; per week, gold rewards and the popularity of prompts drift by d = {DRIFT:g} (after "
        "twenty weeks a score's correlation with its first value is .39). 0 is the first model and 1 the best "
        "response, as of the week; mean and 95 % band. Noiseless labels; PPO and RLOO see the rewards. Pool: as many "
        "pairs as the weekly loop gets, all of the first week. Columns 2, 3: the references at one learning rate and "
        "β. "
        f"Right: retraining at so many new pairs, {LONG_WEEK * PAIRS} of which come in a week; score of the policy in "
        f"use. Tuned on other seeds by the score over the weeks, over {POINTS} points ({ROUNDS}) of learning rate "
        f"(table {RATES['table'][0]:g} … {RATES['table'][1]:g}, network {RATES['network'][0]:g} … "
        f"{RATES['network'][1]:g}) and, where there is one, β ({BETAS[0]:g} … {BETAS[-1]:g})."
    )


FIGURE = Figure(
    name="weeks_of_drift",
    title="What keeps a model aligned while users drift?",
    tags=("contextual", "mlp", "drift", "online-offline"),
    claims=("C52", "C53", "C54", "C62", "C66"),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
)
