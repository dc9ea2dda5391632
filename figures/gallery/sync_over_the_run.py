"""Semi-online training by its score over the run (C34, C38, C39): DPO against GRPO, a larger Adam ε, and what is added
to DPO, each tuned by what is tested. `sync_period` tunes by the end, where most arms of the bandit are at the largest
reward."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure as MatplotlibFigure

from figures.arms.gating import effect_of, over_the_run, part, sides, tuned_and_bounded, tuned_for
from figures.arms.sweeps import ROUNDS, TUNING, spread_grid
from figures.arms.syncing import control, not_behind_row, unstable
from figures.catalogue import Claim, Setting, claim
from figures.claims import Verdict, row_of
from figures.figure import Figure, Records
from figures.gallery import sync_period
from figures.lab import Lab
from figures.report.style import BLACK, BLUE, GREEN, RC, VERMILION, bound, colour
from sims.core.loop.optimise import Optimiser
from sims.experiments.experiment import Experiment
from sims.experiments.measures import fall, mean_scores, scores
from sims.experiments.store import Record
from sims.statistics.gates import placebo
from sims.statistics.intervals import band

SEED = 72
ONLINE, SEMI, OFFLINE = sync_period.ONLINE, sync_period.SEMI, sync_period.OFFLINE
# Compared, and what is drawn of each: colour, line, label.
LOOKS = {
    f"dpo/{ONLINE:g}": (BLACK, "-", "dpo, s = 1"),
    f"grpo/{ONLINE:g}": (colour("grpo"), "-", "grpo, s = 1"),
    f"grpo/{OFFLINE:g}": (colour("grpo"), ":", "grpo, never synced"),
    f"dpo/{SEMI:g}": (BLACK, "--", f"dpo, s = {SEMI:g}"),
    f"{sync_period.WITH_NLL}/{SEMI:g}": (GREEN, "--", f"dpo with NLL, s = {SEMI:g}"),
    f"dpo_grpo/{SEMI:g}": (VERMILION, "--", f"dpo + grpo, s = {SEMI:g}"),
    f"dpo_epsilon/{SEMI:g}": (BLUE, "-.", f"dpo, s = {SEMI:g}, Adam's ε = {sync_period.LARGE_EPSILON:g}"),
}
NOT_BEHIND, EPSILON = claim("C34", "over the run"), claim("C38", "s = 10, over the run")
ADDED = {
    sync_period.WITH_NLL: claim("C39", "NLL, s = 10, over the run"),
    "dpo_grpo": claim("C39", "DPO + GRPO, s = 10, over the run"),
}


def arms() -> dict[str, Experiment]:
    """environment/algorithm/s: of those of `sync_period`, on seeds of their own."""
    every = {**sync_period.arms((ONLINE, SEMI, OFFLINE)), **sync_period.others()}
    for environment in sync_period.ENVIRONMENTS:
        optimiser = Optimiser(adam_epsilon=sync_period.LARGE_EPSILON)
        every[f"{environment}/dpo_epsilon/{SEMI:g}"] = every[f"{environment}/dpo/{SEMI:g}"].replace(optimiser=optimiser)
    return {
        f"{environment}/{name}": every[f"{environment}/{name}"].replace(
            name=f"sync_over_the_run-{name.split('/')[0]}", seed=SEED
        )
        for environment in sync_period.ENVIRONMENTS
        for name in LOOKS
    }


def collect(lab: Lab) -> Records:
    """Each arm tuned for itself, by its score over the run."""
    chosen = arms()
    grids = {
        name: spread_grid(arm, *sync_period.RATES[name.split("/")[0]], sync_period.BETAS, sync_period.POINTS)
        for name, arm in chosen.items()
    }
    return lab.tuned_records(chosen, grids, **TUNING, by="run")


def draw(records: Records) -> MatplotlibFigure:
    """Scores by update."""
    with plt.rc_context(RC):
        fig, axes = plt.subplots(1, 2, figsize=(10.5, 4.4), layout="constrained")
        for axis, (environment, title) in zip(axes, sync_period.TITLES.items(), strict=True):
            for name, (shade, line, label) in LOOKS.items():
                record = records[f"{environment}/{name}"]
                updates, (mean, low, high) = record.arrays["updates"], band(scores(record), resamples=None)
                axis.plot(updates, mean, linestyle=line, color=shade, label=label)
                axis.fill_between(updates, low, high, color=shade, alpha=0.15, linewidth=0)
            bound(axis, 1.0, "largest reward", x=0.3)
            axis.set(title=title, xlabel="updates", ylabel="score", ylim=(-0.05, 1.12))
        fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9.5)
    return fig


def verdicts(records: Records) -> list[Verdict]:
    """C34, C38 and C39, on the bandit and on the network."""
    rows = []
    for environment, (setting, _, _) in sync_period.ENVIRONMENTS.items():
        arm = {name: records[f"{environment}/{name}"] for name in LOOKS}
        dpo, grpo, offline = arm[f"dpo/{ONLINE:g}"], arm[f"grpo/{ONLINE:g}"], arm[f"grpo/{OFFLINE:g}"]
        rows.append(not_behind_row(NOT_BEHIND, setting, FIGURE.name, dpo, grpo, offline, None))
        rows.append(_larger(setting, arm[f"dpo_epsilon/{SEMI:g}"], arm[f"dpo/{SEMI:g}"]))
        for name, tested in ADDED.items():
            rows.append(_added(tested, setting, arm[f"{name}/{SEMI:g}"], arm[f"dpo/{SEMI:g}"], offline, name))
    return rows


def _added(tested: Claim, setting: Setting, added: Record, plain: Record, offline: Record, name: str) -> Verdict:
    gained = effect_of([part(1.0, added, None), part(-1.0, plain, None)])
    gates = [
        over_the_run([sides([added], [plain])], tested.margin),
        tuned_for(None, added, plain),
        control(added, offline, tested.margin, None),
        *tuned_and_bounded(tested.margin, added, plain),
    ]
    scored = [mean_scores(record).mean() for record in (added, plain)]
    note = (
        f"{sync_period.weights(name, added)}Over the run it scores {scored[0]:.2f}, DPO alone {scored[1]:.2f}, each "
        "tuned by that."
    )
    return row_of(tested, setting, gained, FIGURE.name, [added.hash, plain.hash], note, gates)


def _larger(setting: Setting, large: Record, small: Record) -> Verdict:
    """C38: what a larger Adam ε gains, the learning rate tuned with it; a test only where the small ε is unstable."""
    gates = [
        unstable(small, EPSILON.margin),
        over_the_run([sides([large], [small])], EPSILON.margin),
        tuned_for(None, large, small),
        placebo(None, EPSILON.margin, f"ε = {small.spec['optimiser']['adam_epsilon']:g} is the placebo"),
        *tuned_and_bounded(EPSILON.margin, large, small),
    ]
    falls = [fall(record).mean() for record in (large, small)]
    note = (
        f"Runs end {falls[0]:.3f} below their best evaluation with the larger ε, {falls[1]:.3f} with the smaller. The "
        "effect says whether a larger ε gains; whether it stabilises is tested where the smaller one is unstable."
    )
    gained = effect_of([part(1.0, large, None), part(-1.0, small, None)])
    return row_of(EPSILON, setting, gained, FIGURE.name, [large.hash, small.hash], note, gates)


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    runs = " and ".join(str(len(records[f"{e}/dpo/{ONLINE:g}"].arrays["gold"])) for e in sync_period.ENVIRONMENTS)
    return (
        f"{runs} runs per arm, {sync_period.UPDATES} updates of {sync_period.PROMPTS} prompts × "
        f"{sync_period.GENERATIONS} responses, as in `sync_period`; mean and 95 % band. Every arm was tuned for its "
        f"mean score over the run, on other seeds, over {sync_period.POINTS} points ({ROUNDS}) of learning rate and, "
        "where there is one, β, listed below; it is tested by that score too."
    )


FIGURE = Figure(
    name="sync_over_the_run",
    title="Semi-online training, over the run",
    tags=("bandit", "contextual", "mlp", "sweep", "online-offline"),
    claims=("C34", "C38", "C39"),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
)
