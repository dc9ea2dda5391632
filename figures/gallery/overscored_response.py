"""Does online training take what a reward model over-scores? (C11) The response of least gold to each prompt gets the
largest score of all, an error that is planted; the same reward model without it is beside it."""

from __future__ import annotations

import itertools

import matplotlib.pyplot as plt
from matplotlib.figure import Figure as MatplotlibFigure

from figures.arms.gating import at_the_end, lowest_score, sides
from figures.arms.over_kl import fall
from figures.arms.over_updates import mean_path
from figures.arms.proxies import ENVIRONMENT, POLICY, arm
from figures.catalogue import Claim, Setting, claim
from figures.claims import Verdict, row_of
from figures.figure import Figure, Records
from figures.lab import Lab
from figures.report.style import BLUE, RC, VERMILION, bound
from sims.core.loop.optimise import Optimiser
from sims.core.loop.protocols import PolicySpec
from sims.experiments.experiment import Experiment
from sims.experiments.measures import final_scores, scores
from sims.policies import Table
from sims.statistics.gates import placebo, rises, runs_at_a_bound
from sims.statistics.intervals import mean_interval

# Scores go down to −16, where the reference is nearly at the best: an interval that allows for runs at a bound is wide.
RUNS, SEED, EVALUATIONS = 1000, 76, 8
OVERSCORE = 0.5  # in standard deviations of gold
POLICIES: dict[str, tuple[Setting, PolicySpec, float]] = {  # with the learning rate
    "network": ("mlp", POLICY, 0.01),
    "table": ("bandit", Table(), 0.1),
}
BETAS = {"rloo": 0.03, "dpo": 0.1}
ERRORS = {"planted": OVERSCORE, "none": None}
NAMES, COLOURS = {"rloo": "RLOO", "dpo": "online DPO"}, {"rloo": BLUE, "dpo": VERMILION}
TAKES = {name: claim("C11", f"{NAMES[name]}, an over-scored response") for name in BETAS}


def arms() -> dict[str, Experiment]:
    """policy/algorithm/error."""
    return {
        f"{where}/{name}/{error}": arm(name, "pointwise", beta, RUNS).replace(
            name=f"overscored_response-{name}",
            environment=ENVIRONMENT.replace(overscore=above),
            policy=policy,
            optimiser=Optimiser(learning_rate=rate),
            evaluations=EVALUATIONS,
            seed=SEED,
        )
        for (where, (_, policy, rate)), (name, beta), (error, above) in itertools.product(
            POLICIES.items(), BETAS.items(), ERRORS.items()
        )
    }


def collect(lab: Lab) -> Records:
    """Every arm, by one setting of each algorithm and policy."""
    return lab.records(arms())


def verdicts(records: Records) -> list[Verdict]:
    """C11 of RLOO and online DPO, by a network and by a table."""
    return [
        _row(TAKES[name], setting, records, f"{where}/{name}")
        for where, (setting, _, _) in POLICIES.items()
        for name in BETAS
    ]


def _row(tested: Claim, setting: Setting, records: Records, name: str) -> Verdict:
    planted, none = (records[f"{name}/{error}"] for error in ERRORS)
    proxy = planted.arrays["reward"].astype(float)
    why = "the arms differ in the planted error alone; offline DPO never asks the reward model, and would not see it"
    ends = {error: final_scores(record) for error, record in zip(ERRORS, (planted, none), strict=True)}
    falls = [fall(scores(record)[:, 1:]) for record in (planted, none)]
    gates = [
        at_the_end([sides([none], [planted])], tested.margin),
        rises("the reward model's score in the second half", proxy[:, -1] - proxy[:, proxy.shape[1] // 2]),
        placebo(None, tested.margin, why),
        runs_at_a_bound(ends, lowest_score([planted, none]), 1.0),
    ]
    note = (
        "On the same problems, recorded pairs and noise. At the end gold is "
        f"{ends['planted'].mean():+.2f} with the error, after a fall of {falls[0].mean():+.2f} from its peak, and "
        f"{ends['none'].mean():+.2f} without, after one of {falls[1].mean():+.2f}; the peak is the evaluation before "
        "the last at which the mean over the other half of the runs is largest. What the end alone costs is arithmetic "
        "on what was planted, and not asked: where gold rises and stays, the claim is refuted, however much more it "
        "would be without. One setting, of learning rate and β, and one error, "
        f"{OVERSCORE:g} standard deviations of gold above all others, were run; none is tuned. The planted response is "
        "the one of least gold, the largest fall that one error can cause; the fall was known from earlier runs. RLOO "
        "and DPO share problems and are one finding."
    )
    effect = mean_interval(falls[0] - falls[1])
    return row_of(tested, setting, effect, FIGURE.name, [none.hash, planted.hash], note, gates)


def draw(records: Records) -> MatplotlibFigure:
    """Gold and the reward model's score by update, with the error and without."""
    with plt.rc_context(RC):
        fig, axes = plt.subplots(2, 2, figsize=(9.5, 7.4), layout="constrained", sharex=True)
        for column, where in zip(axes.T, POLICIES, strict=True):
            for (name, shade), (error, line) in itertools.product(COLOURS.items(), (("planted", "-"), ("none", "--"))):
                record = records[f"{where}/{name}/{error}"]
                label = f"{NAMES[name]}, {'an over-scored response' if error == 'planted' else 'as fitted'}"
                updates = record.arrays["updates"]
                mean_path(column[0], updates, scores(record), shade, line, label)
                mean_path(column[1], updates, record.arrays["reward"], shade, line)
            bound(column[0], 0.0, "the reference")
            column[0].set(title=where, ylabel="gold score")
            column[1].set(xlabel="updates", ylabel="the reward model's score")
        fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9.5)
    return fig


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    record = records["network/rloo/planted"]
    size = f"{ENVIRONMENT.num_prompts} prompts × {ENVIRONMENT.num_responses} responses"
    return (
        f"{len(record.arrays['gold'])} runs per arm, each a problem of its own of {size}; mean and 95 % band. The "
        f"reward model was fitted to {ENVIRONMENT.num_pairs} noisy pairs; over-scored: the response of least gold to "
        f"each prompt has a score {OVERSCORE:g} standard deviations of gold above all others. A network of one hidden "
        f"layer of 32 that sees the responses' features (learning rate {POLICIES['network'][2]:g}), and a table "
        f"({POLICIES['table'][2]:g}); β = {BETAS['rloo']:g} of RLOO and {BETAS['dpo']:g} of DPO, whose labels are the "
        "reward model's. None is tuned. Score: (gold − reference's) / (largest − reference's)."
    )


FIGURE = Figure(
    name="overscored_response",
    title="Does online training take what a reward model over-scores?",
    tags=("contextual", "mlp", "reward-model", "reward-hacking"),
    claims=("C11",),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
)
