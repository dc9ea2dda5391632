"""Does a critic that has learned assign credit over many tokens? (C65) The token bandit with 16 tokens and with
one, its reward at the last: PPO whose critic has samples enough, DPO, and RLOO, which is PPO without a critic."""

from __future__ import annotations

import itertools

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure

from figures.arms.credit import by_horizon, explained, learned
from figures.arms.effect_row import Terms
from figures.arms.gating import effect_of, last_with_room, lowest_score, of_all, part, sides
from figures.catalogue import Claim, claim
from figures.claims import Verdict, row_of
from figures.figure import Figure, Records
from figures.lab import Lab
from figures.report.style import RC, bound, colour, curve, key
from sims.core.algorithms import Algorithm
from sims.core.algorithms.clipped import PPO
from sims.core.algorithms.contrastive import DPO
from sims.core.algorithms.policy_gradient import RLOO
from sims.core.loop.optimise import Optimiser
from sims.core.schedule import Schedule
from sims.environments import TokenBanditR1
from sims.experiments.experiment import Experiment
from sims.experiments.measures import scores
from sims.policies import Transformer
from sims.statistics.gates import Gate, placebo, runs_at_a_bound
from sims.statistics.intervals import Interval, band
from sims.statistics.verdicts import over_tunings

RUNS, SEED, UPDATES, EVALUATIONS = 100, 61, 128, 8
BATCH = Schedule(batch_size=4, num_generations=4)
LONG, SHORT = 16, 1
SMALLEST = Transformer(num_layers=1, num_heads=1, hidden_size=16)
# Small enough that the critic learns before the policy is done; by development runs, from what the critic explains.
RATES = (0.002, 0.003)
# The critic shares the policy's body: with ten times the usual weight its loss is heard there.
ALGORITHMS: dict[str, Algorithm] = {"ppo": PPO(beta=3e-4, vf_coef=5.0), "dpo": DPO(), "rloo": RLOO(beta=3e-4)}

AGAINST_DPO = claim("C65", "horizon 16 against 1, a critic that has learned")
ADDED = claim("C65", "horizon 16 against 1, what a critic that has learned adds")


def arms() -> dict[str, Experiment]:
    """learning rate/tokens/algorithm."""
    return {
        f"{rate:g}/{length}/{name}": Experiment(
            name=f"learned_critic-{name}",
            environment=TokenBanditR1(num_prompts=1, length=length, evaluation_samples=64),
            policy=SMALLEST,
            algorithm=algorithm,
            schedule=BATCH,
            optimiser=Optimiser(learning_rate=rate),
            updates=UPDATES,
            evaluations=EVALUATIONS,
            runs=RUNS,
            seed=SEED,
        )
        for rate, length, (name, algorithm) in itertools.product(RATES, (LONG, SHORT), ALGORITHMS.items())
    }


def collect(lab: Lab) -> Records:
    """Every arm, by one learning rate for all."""
    return lab.records(arms())


def verdicts(records: Records) -> list[Verdict]:
    """C65: PPO against DPO, with RLOO as the placebo; and PPO against RLOO, which is what the critic adds."""
    without_critic = [_effect(records, _terms(rate, "rloo", "dpo"), _when(records, rate, "dpo")[0]) for rate in RATES]
    silent = over_tunings(without_critic)
    without = placebo(silent, AGAINST_DPO.margin)
    alone = placebo(
        None, ADDED.margin, "RLOO is it, PPO without its critic; and a horizon of 1 has no credit to assign"
    )
    said = f"RLOO, without a critic, against DPO by horizon: {silent}."
    return [_row(AGAINST_DPO, records, "dpo", without, said), _row(ADDED, records, "rloo", alone, said)]


def _terms(rate: float, one: str, other: str) -> Terms:
    return by_horizon(f"{rate:g}", LONG, SHORT, one, other)


def _when(records: Records, rate: float, other: str) -> tuple[int, Gate]:
    """The last evaluation at which PPO and another arm leave room at both horizons."""
    pairs = [[records[f"{rate:g}/{length}/{name}"] for name in ("ppo", other)] for length in (LONG, SHORT)]
    return last_with_room([sides([one], [two]) for one, two in pairs], AGAINST_DPO.margin)


def _effect(records: Records, terms: Terms, at: int) -> Interval:
    return effect_of([part(times, records[name], at) for times, name in terms])


def _row(tested: Claim, records: Records, other: str, silent: Gate, said: str) -> Verdict:
    effects, bounds, used, critics = [], [], [], {}
    when = {rate: _when(records, rate, other) for rate in RATES}
    for rate, (at, _) in when.items():
        terms = _terms(rate, "ppo", other)
        effects.append(_effect(records, terms, at))
        arms = {name: records[name] for _, name in terms}
        used += list(arms.values())
        ends = {name: scores(record)[:, at] for name, record in arms.items()}
        bounds.append(runs_at_a_bound(ends, lowest_score(list(arms.values())), 1.0))
        critics[f"with learning rate {rate:g}"] = (records[f"{rate:g}/{LONG}/ppo"], at)
    places = ", ".join(f"{int(used[0].arrays['updates'][at])} at {rate:g}" for rate, (at, _) in when.items())
    each = ", ".join(f"{x.estimate:+.3f} at {rate:g}" for x, rate in zip(effects, RATES, strict=True))
    at = when[RATES[0]][0]
    ends = {name: scores(records[f"{RATES[0]:g}/{LONG}/{name}"])[:, at] for name in ALGORITHMS}
    longest = ", ".join(f"{name} {end.mean():.2f}" for name, end in ends.items())
    note = (
        f"By one learning rate for all, {each}: the interval is that of both rates. Tested after so many updates, the "
        f"last evaluation with room: {places}; scores there at {LONG} tokens and {RATES[0]:g}: {longest}. {said} Adam "
        "makes steps as long for all, small ones, by which the critic has samples before the policy is done; by the "
        "rates that are best for each, 96 samples are enough for RLOO and DPO, and too few for any critic here. It "
        "shares the policy's body; one with a body of its own was not run. It has learned at the tested update, and "
        "explains little for the first two thirds, which the score there rests on too. PPO has the loss of its values "
        "and another baseline as well, so that this is no measure of credit alone."
    )
    gates = [of_all([room for _, room in when.values()]), of_all(bounds), learned(critics), silent]
    return row_of(tested, "token", over_tunings(effects), FIGURE.name, [x.hash for x in used], note, gates)


def draw(records: Records) -> MatplotlibFigure:
    """Scores by update at each horizon, and what the critic explains, at both learning rates."""
    with plt.rc_context(RC):
        fig, axes = plt.subplots(2, 3, figsize=(13.0, 7.4), layout="constrained")
        for row, rate in zip(axes, RATES, strict=True):
            for axis, length in zip(row, (LONG, SHORT), strict=False):
                for name in ALGORITHMS:
                    record = records[f"{rate:g}/{length}/{name}"]
                    curve(axis, record.arrays["updates"], scores(record), name, "-", name.upper())
                bound(axis, 1.0, "largest reward")
                tokens = "token" if length == 1 else "tokens"
                axis.set(
                    title=f"{length} {tokens}, learning rate {rate:g}",
                    xlabel="updates",
                    ylabel="score",
                    ylim=(-0.05, 1.12),
                )
            _explained(row[2], records, rate)
        fig.legend(handles=[key(name) for name in ALGORITHMS], loc="outside lower center", ncols=3, fontsize=9.5)
    return fig


def _explained(axes: Axes, records: Records, rate: float) -> None:
    record = records[f"{rate:g}/{LONG}/ppo"]
    mean, low, high = band(explained(record), resamples=None)
    axes.plot(record.arrays["updates"], mean, color=colour("ppo"), marker="s", ms=4.5)
    axes.fill_between(record.arrays["updates"], low, high, color=colour("ppo"), alpha=0.18, linewidth=0)
    bound(axes, (LONG - 1) / (2 * LONG), "perfect, of tokens drawn alike")
    axes.axhline(0.0, color="0.6", linewidth=0.8)
    axes.set(
        title=f"PPO's critic, {LONG} tokens, {rate:g}",
        xlabel="updates",
        ylabel="explained variance",
        ylim=(-0.05, 0.52),
    )


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    runs, size = len(records[f"{RATES[0]:g}/{LONG}/ppo"].arrays["gold"]), BATCH.batch_size * BATCH.num_generations
    return (
        f"Token bandit R1, one prompt, a transformer of one layer, {runs} runs an arm; mean and 95 % band. {UPDATES} "
        f"updates of {size} responses, whose reward, the mean of the tokens' worths, is paid at the last token. One "
        f"learning rate for all arms, {RATES[0]:g} or {RATES[1]:g}, and none is tuned: they are small enough that the "
        "critic, which shares the policy's transformer, learns before the policy is done. Right: the share of the "
        "variance of fresh samples' rewards that the critic's values of their prefixes explain."
    )


FIGURE = Figure(
    name="learned_critic",
    title="Does a critic that has learned assign credit?",
    tags=("token", "credit"),
    claims=("C65",),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
)
