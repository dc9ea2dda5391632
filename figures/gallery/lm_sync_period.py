"""Between online and offline on the language model: is semi-online training enough, does a rare sync go wrong on few
prompts, do responses shorten, does entropy fall, and what do additions to DPO bring? (C32, C33, C35, C36, C37, C39)

The task is to avoid some words, `llm.tasks.forbidden`: right or wrong, or dense, with the same best responses, and
short responses are right more often at first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure

from figures.arms import language_model as lm
from figures.arms.collapsing import entropy_with_room, interaction_of_falls, measured
from figures.arms.gating import Sides, edges, effect_of, lowest_score, over_the_run, part
from figures.catalogue import Claim, claim
from figures.claims import Verdict, row_of
from figures.figure import Figure, Records
from figures.lab import Lab, product
from figures.report.style import RC, bound, curve, points
from figures.short_tuning import Short
from sims.core.algorithms import Algorithm
from sims.core.algorithms.clipped import GRPO
from sims.core.algorithms.contrastive import DPO, DPOWithNLL, GroupDPO
from sims.core.algorithms.mixture import Mixture
from sims.core.schedule import Schedule
from sims.core.spec import from_json
from sims.experiments.experiment import Experiment
from sims.experiments.measures import mean_scores, scores
from sims.experiments.store import Record
from sims.statistics.gates import Gate, placebo, positive_control, room
from sims.statistics.intervals import Interval, mean_interval

RUNS, SEED, UPDATES, EVALUATIONS, PROMPTS, GENERATIONS = 10, 400, 16, 4, 8, 4
ONLINE, SEMI, RARE, OFFLINE = None, 4.0, 8.0, math.inf  # updates between two copies of the policy to the sampler
FEW = 8  # prompts
GRID, TUNING_RUNS = product(learning_rate=(3e-4, 1e-3, 3e-3)), 1
SHORT = Short(UPDATES, EVALUATIONS, widen=2)

# The best of four against the worst, so that a prompt whose responses are all right or all wrong has no pair.
PLAIN = DPO(pairing="best_worst")
ADDITIONS: dict[str, Algorithm] = {
    "dpo_nll": DPOWithNLL(pairing="best_worst"),
    "group_dpo": GroupDPO(),
    "dpo_grpo": Mixture((PLAIN, GRPO(beta=0.0))),
}
SHOWN = {"dpo_nll": "dpo with NLL", "group_dpo": "dpo, all pairs of right and wrong", "dpo_grpo": "dpo + grpo"}

SAME = claim("C32", "dpo, forbidden words: s = 4")
BEHIND = claim("C33", "dpo, forbidden words")
UNSTABLE = claim("C35", "forbidden words, settings of s = 4")
LENGTH = claim("C36", "DPO, forbidden words, s = 4")
ENTROPY = {when: claim("C37", f"dpo, forbidden words, {when}") for when in ("online", "offline")}
ADDED = {name: claim("C39", f"forbidden words, s = 4: {label}") for name, label in SHOWN.items()}


def arms() -> dict[str, Experiment]:
    """Those that are tuned, each for itself: DPO by its sync period, by reward, and with something added."""
    from llm.tasks import ForbiddenWords

    words = ForbiddenWords(evaluation_prompts=64)
    found = {"online": (words, PLAIN, ONLINE), "semi": (words, PLAIN, SEMI), "offline": (words, PLAIN, OFFLINE)}
    for when, s in {"online": ONLINE, "offline": OFFLINE}.items():
        found[f"dense/{when}"] = (words.replace(dense=True), PLAIN, s)
    found |= {f"added/{name}": (words, algorithm, SEMI) for name, algorithm in ADDITIONS.items()}  # type: ignore[dict-item]
    base = lm.preset("tiny", "min")
    return {
        name: base.replace(
            name=f"lm_sync_period-{algorithm.kind}",
            environment=task,
            algorithm=algorithm,
            schedule=Schedule(batch_size=PROMPTS, num_generations=GENERATIONS, sync_every_updates=s),
            updates=UPDATES,
            evaluations=EVALUATIONS,
            runs=RUNS,
            seed=SEED,
        )
        for name, (task, algorithm, s) in found.items()
    }


def held(semi: Experiment) -> dict[str, Experiment]:
    """Those that differ from DPO at s = 4 in one thing, or two, and take its settings. answers: right answers are
    rewarded, which are right at any length."""
    from llm.tasks import Verifiable

    rare = semi.schedule.replace(sync_every_updates=RARE)
    copied = semi.schedule.replace(reference="copy", reference_every_updates=int(SEMI))
    few = semi.environment.replace(data_split=f"train[:{FEW}]")
    answers = semi.replace(environment=Verifiable(evaluation_prompts=64))
    return {
        "rare": semi.replace(schedule=rare),
        "few/semi": semi.replace(environment=few),
        "few/rare": semi.replace(environment=few, schedule=rare),
        "copied": semi.replace(schedule=copied),
        "answers/fixed": answers,
        "answers/copied": answers.replace(schedule=copied),
    }


def collect(lab: Lab) -> Records:
    """Every arm tuned; and what takes the settings of DPO at s = 4."""
    chosen = arms()
    found = lab.tuned_records(chosen, dict.fromkeys(chosen, GRID), TUNING_RUNS, short=SHORT)
    rate = from_json(found["semi"].spec["optimiser"]).learning_rate
    semi = chosen["semi"].replace(optimiser=chosen["semi"].optimiser.replace(learning_rate=rate))
    return {**found, **lab.records(held(semi))}


def draw(records: Records) -> MatplotlibFigure:
    """Scores by sync period, on few prompts and with additions; lengths by reference, entropies by reward."""
    with plt.rc_context(RC):
        fig, axes = plt.subplots(2, 2, figsize=(10.5, 8.2), layout="constrained")
        lines = {"online": ("s = 1", "-"), "semi": ("s = 4", "--"), "rare": ("s = 8", "-."), "offline": ("never", ":")}
        for name, (label, line) in lines.items():
            _path(axes[0, 0], records[name], "dpo", line, label)
        for name, label in (("few/semi", f"{FEW} prompts, s = 4"), ("few/rare", f"{FEW} prompts, s = 8")):
            _path(axes[0, 0], records[name], "ipo", lines[name[4:]][1], label)
        _path(axes[0, 1], records["semi"], "dpo", "-", "dpo")
        for name, label in SHOWN.items():
            _path(axes[0, 1], records[f"added/{name}"], name, "--", label)
        for axis, title in zip(axes[0], ("DPO by sync period s", "what is added to DPO, s = 4"), strict=True):
            bound(axis, 1.0, "largest reward")
            axis.set(title=title, xlabel="updates", ylabel="score")
            axis.legend(loc="lower right", fontsize=8.5)
        _lengths(axes[1, 0], records)
        _entropies(axes[1, 1], records)
    return fig


def _path(axes: Axes, record: Record, algorithm: str, line: str, label: str) -> None:
    curve(axes, record.arrays["updates"], lm.carried_on(scores(record)), algorithm, line, label)


def _lengths(axes: Axes, records: Records) -> None:
    for i, (task, names) in enumerate(LENGTHS.items()):
        ends = [measured(records[name], "length") for name in names]
        points(axes, np.arange(2) + 0.08 * (i - 0.5), ends, "dpo", task == "words")
    bound(axes, float(records["semi"].arrays["length"][:, 0].mean()), "at the start")
    axes.set_xticks(range(2), ["fixed reference", f"copied every {SEMI:g} updates"])
    axes.set(title="filled: forbidden words; open: right answers", ylabel="tokens before EOS at the end")
    axes.set_xlim(-0.5, 1.5)


LENGTHS = {"words": ("semi", "copied"), "answers": ("answers/fixed", "answers/copied")}


def _entropies(axes: Axes, records: Records) -> None:
    for when, line in (("online", "-"), ("offline", ":")):
        for name, shade in ((when, "dpo"), (f"dense/{when}", "grpo")):
            record = records[name]
            label = f"{'dense' if '/' in name else 'right or wrong'}, {when}"
            curve(axes, record.arrays["updates"], lm.carried_on(record.arrays["token_entropy"]), shade, line, label)
    axes.set(title="DPO by reward", xlabel="updates", ylabel="entropy, nats per token", ylim=(0.0, None))
    axes.legend(loc="lower left", fontsize=8.5)


def verdicts(records: Records) -> list[Verdict]:
    """C32, C33, C35, C36, C37 online and offline, and C39 of each addition."""
    online, semi, offline = (records[name] for name in ("online", "semi", "offline"))
    gap = _over(online, offline)
    rows = [_same(online, semi, gap), _behind(semi, offline), _unstable(records), _length(records)]
    rows += [_entropy(ENTROPY[when], records[f"dense/{when}"], records[when]) for when in ENTROPY]
    return [*rows, *(_added(name, records[f"added/{name}"], semi, offline) for name in ADDED)]


def _over(one: Record, other: Record) -> Interval:
    return effect_of([part(1.0, one, None), part(-1.0, other, None)])


def _control(found: Interval, margin: float) -> Gate:
    """Offline is an arm in the same setting that does lose."""
    gate = positive_control(found, margin, only_above=True)
    return replace(gate, why=f"against DPO offline, over the run: {gate.why}")


def _room(one: Record, other: Record, margin: float) -> Gate:
    return over_the_run([Sides(scores(one), scores(other), lowest_score([one, other]))], margin)


def _same(online: Record, semi: Record, gap: Interval) -> Verdict:
    gates = [_control(gap, SAME.margin), edges(SAME.margin, online, semi)]
    note = f"Each tuned for itself. s is in updates of {PROMPTS} × {GENERATIONS} samples, {UPDATES} in all."
    return _row(SAME, _over(online, semi), [online, semi], note, gates)


def _behind(semi: Record, offline: Record) -> Verdict:
    why = "offline is the placebo: it draws by the same rule as many samples, and its sampler is never synced"
    gates = [_room(semi, offline, BEHIND.margin), placebo(None, BEHIND.margin, why)]
    gates.append(edges(BEHIND.margin, semi, offline))
    note = "Offline is fresh draws from the reference for ever, more than a fixed data set has. Each tuned for itself."
    return _row(BEHIND, _over(semi, offline), [semi, offline], note, gates)


def _unstable(records: Records) -> Verdict:
    rare, semi = [records["few/rare"], records["rare"]], [records["few/semi"], records["semi"]]
    few, many = (scores(record).max(-1) for record in rare)
    why = f"s = {SEMI:g} and all prompts are the placebos: each takes away one of the two that the claim needs"
    gates = [room(few, many, 0.0, math.inf, UNSTABLE.margin), placebo(None, UNSTABLE.margin, why)]
    gates.append(edges(UNSTABLE.margin, records["semi"]))
    ends = ", ".join(f"{scores(record)[:, -1].mean():.2f}" for record in (*rare, *semi))
    note = (
        f"They end at {ends}. Few are the first {FEW} prompts of the language, each of which every update has once; "
        "many are all 597. "
        "Scores are of other prompts. The learning rate of all four is the one that was best for s = 4 on all prompts."
    )
    return _row(UNSTABLE, mean_interval(interaction_of_falls(rare, semi)), [*rare, *semi], note, gates)


def _length(records: Records) -> Verdict:
    fixed, copied = (records[name] for name in LENGTHS["words"])
    lost = fixed.arrays["length"][:, 0] - measured(fixed, "length")
    collapse = positive_control(mean_interval(lost), LENGTH.margin, only_above=True)
    collapse = replace(collapse, why=f"tokens that are lost with a fixed reference: {collapse.why}")
    alike = [measured(records[name], "length") for name in LENGTHS["answers"]]
    gates = [collapse, placebo(mean_interval(alike[1] - alike[0]), LENGTH.margin), edges(LENGTH.margin, fixed)]
    note = (
        "Of up to 13 tokens .45 of the reference's responses are right, of 19 or more .08. Both by the settings of the "
        "fixed reference. The placebo: right answers are rewarded, which are right at any length."
    )
    effect = mean_interval(measured(copied, "length") - measured(fixed, "length"))
    return _row(LENGTH, effect, [copied, fixed], note, gates)


def _entropy(tested: Claim, dense: Record, binary: Record) -> Verdict:
    at, left = entropy_with_room(dense, binary, tested.margin, "token_entropy")
    effect = mean_interval(measured(dense, "token_entropy", at) - measured(binary, "token_entropy", at))
    why = "none takes the effect away: a reward without information leaves both at the reference"
    gates = [left, placebo(None, tested.margin, why), edges(tested.margin, dense, binary)]
    note = (
        f"Tested after {int(dense.arrays['updates'][at])} updates, the last evaluation at which the entropies leave "
        "room; over the tokens of the policy's own samples. Each tuned for its own reward. Both rewards have the same "
        "best responses, and the dense one says how far the others are from them."
    )
    return _row(tested, effect, [dense, binary], note, gates)


def _added(name: str, added: Record, plain: Record, offline: Record) -> Verdict:
    tested = ADDED[name]
    gates = [_room(added, plain, tested.margin), _control(_over(added, offline), tested.margin)]
    gates.append(edges(tested.margin, added, plain))
    note = "Each tuned for itself. Weights of 1."
    return _row(tested, _over(added, plain), [added, plain], note, gates)


def _row(tested: Claim, effect: Interval, used: list[Record], note: str, gates: list[Gate]) -> Verdict:
    return row_of(tested, "lm", effect, FIGURE.name, [record.hash for record in used], note, gates)


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    record = records["online"]
    rates = _rates(records)
    means = ", ".join(f"{name} {mean_scores(records[name]).mean():.2f}" for name in ("online", "semi", "offline"))
    return (
        f"{lm.model_of(record)}, {len(record.arrays['gold'])} runs per arm, {UPDATES} updates of {PROMPTS} prompts × "
        f"{GENERATIONS} responses; mean and 95 % band or interval. Reward 1 for a response without a verb, else 0, or −"
        "(number of verbs). Score: (reward − reference's) / (largest − reference's), on prompts that are not trained "
        f"on; over the run: {means}. DPO with β = {PLAIN.beta:g}, of the best of {GENERATIONS} against the worst. Arms "
        f"are tuned by a run of another seed at each of three rates, {GRID[0]['learning_rate']:g} … "
        f"{GRID[-1]['learning_rate']:g}, and up to two beyond an end, for the score over the run; they took {rates}. "
        "What is on few prompts, at s = 8 or with another reference has the rate of s = 4."
    )


def _rates(records: Mapping[str, Record]) -> str:
    taken: dict[float, list[str]] = {}
    for name in arms():
        taken.setdefault(records[name].spec["optimiser"]["learning_rate"], []).append(name)
    return "; ".join(f"{rate:g}: {', '.join(names)}" for rate, names in sorted(taken.items()))


FIGURE = Figure(
    name="lm_sync_period",
    title="Between online and offline on a language model",
    tags=("sweep", "online-offline"),
    claims=("C32", "C33", "C35", "C36", "C37", "C39"),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
)
