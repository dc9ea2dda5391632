"""Does a critic's credit assignment help where many tokens share one reward? (C65) The row of an effect by horizon, the
gate of a critic that has learned, and the picture; of `rounds_and_horizon` and `learned_critic`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from figures.catalogue import Claim
from figures.claims import Verdict
from figures.figure import Records
from figures.report.style import side_by_side
from sims.experiments.measures import final_scores
from sims.experiments.record_file import Record
from sims.statistics.gates import Gate
from sims.statistics.intervals import mean_interval

from .effect_row import Terms, effect_row
from .gating import last_with_room, sides

# Of the variance of the rewards of 16 tokens drawn alike, a perfect critic explains 15/32 before each, in the mean over
# prefixes: after t tokens it knows t/16 of it. A third of that counts as learned.
LEARNED = 0.15
NAMES = ("ppo", "dpo", "rloo")


def explained(record: Record) -> np.ndarray:
    """(runs, evaluations): the share of the variance of the rewards of fresh samples that a critic's values of their
    prefixes explain; less than −1 counts as −1, and where rewards are all equal, as 0."""
    return np.nan_to_num(record.arrays["values_explained"].astype(float), nan=0.0).clip(-1.0, 1.0)


def learned(named: Mapping[str, tuple[Record, int]]) -> Gate:
    """Whether critics explain more than LEARNED of the variance of the rewards of their own fresh samples, at an
    evaluation. named: record and evaluation."""
    said, fine = [], True
    for name, (record, at) in named.items():
        if "values_explained" not in record.arrays:
            return Gate(
                "critic", False, f"what the critic of {name} explains was not measured; to measure it would open it"
            )
        found = mean_interval(explained(record)[:, at])
        fine &= found.low > LEARNED
        said.append(f"{name} {found}")
    why = f"explained variance of the critic: {'; '.join(said)}"
    closed = (
        f", which is not above {LEARNED:g}; more samples before the policy is done, or a body of its own, would open it"
    )
    return Gate("critic", fine, why if fine else why + closed)


def by_horizon(group: str, longest: int, shortest: int, one: str, other: str) -> list[tuple[float, str]]:
    """(one − other) at the longest horizon less the same at the shortest, as terms of `effect_row`."""
    names = [f"{group}/{length}/{name}" for length in (longest, shortest) for name in (one, other)]
    return list(zip((1.0, -1.0, -1.0, 1.0), names, strict=True))


def credit_row(tested: Claim, figure: str, terms: Terms, records: Records, note: str, critic: str = "") -> Verdict:
    """C65: what PPO gains on DPO from the shortest horizon to the longest. critic: whose is to have learned."""
    more = []
    if critic:
        ups, downs = ([records[name] for times, name in terms if times * sign > 0] for sign in (1, -1))
        at, _ = last_with_room([sides(ups, downs)], tested.margin)
        more = [learned({critic: (records[critic], at)})]
    why = "a horizon of 1, where there is no credit to assign, is the placebo"
    return effect_row(tested, "token", figure, terms, records, note, why, more)


def without_critic(records: Records, responses: int) -> str:
    """What RLOO, which has no critic, comes to on 16 tokens of the token bandit, and by horizon. responses: so many."""
    ends = {name: [final_scores(records[f"tokens/{length}/{name}"]).mean() for length in (16, 1)] for name in NAMES}
    by = {name: float(longest - shortest) for name, (longest, shortest) in ends.items()}
    return (
        f"RLOO, without a critic, ends at {ends['rloo'][0]:.3f} there, after {responses} responses: by horizon RLOO − "
        f"DPO is {by['rloo'] - by['dpo']:+.3f} and PPO − RLOO {by['ppo'] - by['rloo']:+.3f}. What is lost is lost by "
        "an untrained critic, not by credit as such."
    )


def draw_horizons(axes: Axes, records: Records, group: str, lengths: Sequence[int], names: Sequence[str]) -> None:
    """Scores at the end by horizon."""
    side_by_side(
        axes, {name: [final_scores(records[f"{group}/{length}/{name}"]) for length in lengths] for name in names}
    )
    axes.set_xticks(range(len(lengths)), [str(length) for length in lengths])
    axes.set_ylabel("score at the end")
