"""Between online and offline on the language model, where some words are to be avoided: is semi-online training enough,
does a rare sync go wrong on few prompts, do responses shorten, does entropy fall, and what do all pairs of right and
wrong bring? (C32, C33, C35, C36, C37, C39)

The reward, `llm.tasks.forbidden`, is right or wrong, or dense, with the same best responses, and short responses are
right more often at first. Tuned for their scores, arms have the largest reward after four updates: here all have one
learning rate, at which none ends before the run does. `lm_semi_online` has tuned arms, on another task.
"""

from __future__ import annotations

import math
from dataclasses import replace

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure

from figures.arms import language_model as lm
from figures.arms.collapsing import entropy_with_room, interaction_of_falls, measured
from figures.arms.copied_references import BETAS, draw_lengths, length_rows
from figures.arms.copied_references import coin as coin_of
from figures.arms.copied_references import words as words_of
from figures.arms.gating import Sides, effect_of, larger_fall, lowest_score, over_the_run, part
from figures.catalogue import Claim, claim
from figures.claims import Verdict, row_of
from figures.figure import Figure, Records
from figures.gallery.lm_semi_online import paths_by_period
from figures.lab import Lab
from figures.report.style import RC, bound, curve
from sims.core.algorithms import Algorithm
from sims.core.algorithms.contrastive import DPO, GroupDPO
from sims.core.loop.protocols import EnvironmentSpec
from sims.core.schedule import Schedule
from sims.experiments.experiment import Experiment
from sims.experiments.measures import mean_scores, scores
from sims.experiments.store import Record
from sims.statistics.gates import Gate, placebo, positive_control, room
from sims.statistics.intervals import Interval, mean_interval

RUNS, SEED, UPDATES, EVALUATIONS, PROMPTS, GENERATIONS = 20, 402, 20, 4, 8, 4
MORE_RUNS, MORE_SEED = 60, 407  # of what 20 runs could not decide: offline against semi-online, and lengths
STRONG_SEED = 417  # of lengths at a larger β
ONLINE, SEMI, RARE, OFFLINE = None, 5.0, 10.0, math.inf  # updates between two copies of the policy to the sampler
FEW = 8  # prompts
RATE = 1e-3  # of every arm; from a pilot of three runs on other seeds

# The best of four against the worst, so that a prompt whose responses are all right or all wrong has no pair.
PLAIN, ALL_PAIRS = DPO(pairing="best_worst"), GroupDPO()

SAME = claim("C32", "dpo, forbidden words: s = 5")
BEHIND = claim("C33", "dpo, forbidden words")
UNSTABLE = claim("C35", "forbidden words")
ENTROPY = {when: claim("C37", f"dpo, forbidden words, {when}") for when in ("online", "offline")}
ADDED = claim("C39", "forbidden words, s = 5: dpo, all pairs of right and wrong")


def arms() -> dict[str, Experiment]:
    """DPO by its sync period, by reward, by prompts and by reference, and over all pairs. more/: with more runs; coin/:
    and by labels that say nothing, each flipped with probability ½; strong/: and at a larger β."""
    from llm.tasks import ForbiddenWords

    words, base = ForbiddenWords(evaluation_prompts=64), lm.preset("tiny", "min")
    dense, few = words.replace(dense=True), words.replace(data_split=f"train[:{FEW}]")
    coin = words.replace(flip_rate=0.5)
    semi = _every(SEMI)
    copied = semi.replace(reference="copy", reference_every_updates=int(SEMI))
    found: dict[str, tuple[EnvironmentSpec, Algorithm, Schedule]] = {
        "online": (words, PLAIN, _every(ONLINE)),
        "semi": (words, PLAIN, semi),
        "rare": (words, PLAIN, _every(RARE)),
        "offline": (words, PLAIN, _every(OFFLINE)),
        "dense/online": (dense, PLAIN, _every(ONLINE)),
        "dense/offline": (dense, PLAIN, _every(OFFLINE)),
        "group_dpo": (words, ALL_PAIRS, semi),
        "few/semi": (few, PLAIN, semi),
        "few/rare": (few, PLAIN, _every(RARE)),
        "more/semi": (words, PLAIN, semi),
        "more/offline": (words, PLAIN, _every(OFFLINE)),
        "more/copied": (words, PLAIN, copied),
        "coin/semi": (coin, PLAIN, semi),
        "coin/copied": (coin, PLAIN, copied),
    }
    for name in (*words_of(""), *coin_of("")):
        task, algorithm, schedule = found[name]
        found[f"strong/{name.removeprefix('more/')}"] = (task, algorithm.replace(beta=BETAS["strong/"]), schedule)
    seeds = {"more": MORE_SEED, "coin": MORE_SEED, "strong": STRONG_SEED}
    return {
        name: base.replace(
            name=f"lm_sync_period-{algorithm.kind}",
            environment=task,
            algorithm=algorithm,
            schedule=schedule,
            optimiser=base.optimiser.replace(learning_rate=RATE),
            updates=UPDATES,
            evaluations=EVALUATIONS,
            runs=MORE_RUNS if name.split("/")[0] in seeds else RUNS,
            seed=seeds.get(name.split("/")[0], SEED),
        )
        for name, (task, algorithm, schedule) in found.items()
    }


def _every(s: float | None) -> Schedule:
    return Schedule(batch_size=PROMPTS, num_generations=GENERATIONS, sync_every_updates=s)


def collect(lab: Lab) -> Records:
    """Every arm, at the one learning rate."""
    return lab.records(arms())


def draw(records: Records) -> MatplotlibFigure:
    """Scores by sync period, and on few prompts and over all pairs; lengths by reference, entropies by reward."""
    with plt.rc_context(RC):
        fig, axes = plt.subplots(2, 2, figsize=(10.5, 8.2), layout="constrained")
        periods = {1.0: "online", SEMI: "semi", RARE: "rare", OFFLINE: "offline"}
        paths_by_period(axes[0, 0], {s: records[name] for s, name in periods.items()})
        _path(axes[0, 1], records["semi"], "dpo", "--", f"dpo, s = {SEMI:g}")
        _path(axes[0, 1], records["group_dpo"], "group_dpo", "--", f"all pairs of right and wrong, s = {SEMI:g}")
        for s, line in ((SEMI, "--"), (RARE, "-.")):
            _path(axes[0, 1], records[f"few/{periods[s]}"], "few prompts", line, f"dpo, {FEW} prompts, s = {s:g}")
        for axis, title in zip(axes[0], ("DPO by sync period s", "on few prompts, and over all pairs"), strict=True):
            bound(axis, 1.0, "largest reward")
            axis.set(title=title, xlabel="updates", ylabel="score")
            axis.legend(loc="lower right", fontsize=8.5)
        draw_lengths(axes[1, 0], records, SEMI)
        _entropies(axes[1, 1], records)
    return fig


def _path(axes: Axes, record: Record, algorithm: str, line: str, label: str) -> None:
    curve(axes, record.arrays["updates"], lm.carried_on(scores(record)), algorithm, line, label)


def _entropies(axes: Axes, records: Records) -> None:
    for when, line in (("online", "-"), ("offline", ":")):
        for name, shade in ((when, "dpo"), (f"dense/{when}", "grpo")):
            record = records[name]
            label = f"{'dense' if '/' in name else 'right or wrong'}, {when}"
            curve(axes, record.arrays["updates"], lm.carried_on(record.arrays["token_entropy"]), shade, line, label)
    axes.set(title="DPO by reward", xlabel="updates", ylabel="entropy, nats per token", ylim=(0.0, None))
    axes.legend(loc="lower left", fontsize=8.5)


ONE_RATE = f"All arms have the learning rate {RATE:g}: none is tuned."


def verdicts(records: Records) -> list[Verdict]:
    """C32, C33, C35, C36, C37 online and offline, and C39 of all pairs."""
    online, semi, offline = (records[name] for name in ("online", "semi", "offline"))
    gap, behind = _over(online, offline), _behind(records["more/semi"], records["more/offline"])
    rows = [_same(online, semi, gap), behind, _unstable(records)]
    rows += length_rows(records, FIGURE.name, SEMI, ONE_RATE)
    rows += [_entropy(ENTROPY[when], records[f"dense/{when}"], records[when]) for when in ENTROPY]
    return [*rows, _added(records["group_dpo"], semi, offline)]


def _over(one: Record, other: Record) -> Interval:
    return effect_of([part(1.0, one, None), part(-1.0, other, None)])


def _control(found: Interval, margin: float) -> Gate:
    """Offline is an arm in the same setting that does lose."""
    gate = positive_control(found, margin, only_above=True)
    return replace(gate, why=f"against DPO offline, over the run: {gate.why}")


def _room(one: Record, other: Record, margin: float) -> Gate:
    return over_the_run([Sides(scores(one), scores(other), lowest_score([one, other]))], margin)


def _same(online: Record, semi: Record, gap: Interval) -> Verdict:
    note = (
        f"{ONE_RATE} s is in updates of {PROMPTS} × {GENERATIONS} samples, {UPDATES} in all; a stale sampler is late."
    )
    gates = [_control(gap, SAME.margin)]
    return _row(SAME, _over(online, semi), [online, semi], note, gates)


def _behind(semi: Record, offline: Record) -> Verdict:
    why = "offline is the placebo: it draws by the same rule as many samples, and its sampler is never synced"
    gates = [_room(semi, offline, BEHIND.margin), placebo(None, BEHIND.margin, why)]
    note = f"Offline is fresh draws from the reference for ever, more than a fixed data set has. {ONE_RATE}"
    return _row(BEHIND, _over(semi, offline), [semi, offline], note, gates)


def _unstable(records: Records) -> Verdict:
    rare, semi = [records["few/rare"], records["rare"]], [records["few/semi"], records["semi"]]
    few, many = (scores(record).max(-1) for record in rare)
    why = f"s = {SEMI:g} and all prompts are the placebos: each takes away one of the two that the claim needs"
    gates = [
        room(few, many, 0.0, math.inf, UNSTABLE.margin),
        larger_fall(UNSTABLE, rare, semi),
        placebo(None, UNSTABLE.margin, why),
    ]
    ends = ", ".join(f"{scores(record)[:, -1].mean():.2f}" for record in (*rare, *semi))
    note = (
        f"They end at {ends}. Few are the first {FEW} prompts of the language, each of which every update has once; "
        "many are all 597. "
        f"Scores are of other prompts. {ONE_RATE}"
    )
    return _row(UNSTABLE, mean_interval(interaction_of_falls(rare, semi)), [*rare, *semi], note, gates)


def _entropy(tested: Claim, dense: Record, binary: Record) -> Verdict:
    at, left = entropy_with_room(dense, binary, tested.margin, "token_entropy")
    effect = mean_interval(measured(dense, "token_entropy", at) - measured(binary, "token_entropy", at))
    why = "none takes the effect away: a reward without information leaves both at the reference"
    gates = [left, placebo(None, tested.margin, why)]
    note = (
        f"Tested after {int(dense.arrays['updates'][at])} updates, the last evaluation at which the entropies leave "
        f"room; over the tokens of the policy's own samples. {ONE_RATE} Both rewards have the same best responses, and "
        "the dense one says how far the others are from them, so that more prompts have a pair."
    )
    return _row(tested, effect, [dense, binary], note, gates)


def _added(added: Record, plain: Record, offline: Record) -> Verdict:
    gates = [_room(added, plain, ADDED.margin), _control(_over(added, offline), ADDED.margin)]
    return _row(ADDED, _over(added, plain), [added, plain], ONE_RATE, gates)


def _row(tested: Claim, effect: Interval, used: list[Record], note: str, gates: list[Gate]) -> Verdict:
    return row_of(tested, "lm", effect, FIGURE.name, [record.hash for record in used], note, gates)


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    record, more = records["online"], len(records["more/semi"].arrays["length"])
    means = ", ".join(f"{name} {mean_scores(records[name]).mean():.2f}" for name in ("online", "semi", "offline"))
    return (
        f"{lm.model_of(record)}, {len(record.arrays['gold'])} runs per arm, {more} of the lengths; {UPDATES} updates "
        f"of {PROMPTS} prompts × {GENERATIONS} responses; mean and 95 % band or interval. C33 has other runs of "
        f"s = {SEMI:g} and of no sync, {more} each, which are not drawn. Reward 1 for a response "
        "without a verb, else 0, or −(number of verbs). Score: (reward − reference's) / (largest − reference's), on "
        f"prompts that are not trained on; over the run: {means}. DPO with β = {PLAIN.beta:g}, and of lengths with "
        f"{BETAS['strong/']:g} too, on other seeds, of the best of {GENERATIONS} against the worst. Every arm has the "
        f"learning rate {RATE:g}, at which none ends the task "
        "before the run does; none is tuned."
    )


FIGURE = Figure(
    name="lm_sync_period",
    title="Between online and offline on a language model: words to avoid",
    tags=("sweep", "online-offline"),
    claims=("C32", "C33", "C35", "C36", "C37", "C39"),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
)
