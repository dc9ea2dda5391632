"""Does a reference far from the data hurt DPO more than PPO, and does fine-tuning on the data first repair it?
(C06, C07)"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.lines import Line2D

from figures.arms.gating import (
    NOTHING_TO_LEARN,
    Part,
    Sides,
    effect_of,
    larger,
    last_with_room,
    separate,
    tuned_for,
    tuned_well,
)
from figures.arms.sweeps import ROUNDS, TUNING
from figures.catalogue import claim
from figures.claims import Verdict, row_of
from figures.figure import Figure, Records
from figures.lab import Lab, product
from figures.report.style import RC, LineStyle, bound, colour, curve, key
from sims.core.algorithms import Algorithm, find_algorithm
from sims.core.loop.protocols import PolicySpec
from sims.core.schedule import Schedule
from sims.environments import Contextual
from sims.experiments.experiment import Experiment
from sims.experiments.store import Record
from sims.policies import MLP, FineTuned, Table
from sims.statistics.gates import placebo, positive_control
from sims.statistics.intervals import Interval

SHIFTS = (0.05, 0.35, 0.65, 0.95)
NO_REWARD = -1.0  # a score no smaller than that of no reward at all: references earn .25 to .41 of 1
NEAR, FAR = SHIFTS[0], SHIFTS[2]  # tested; at the largest shift arms took the ends of their grids
POLICIES: dict[str, PolicySpec] = {"table": Table(), "mlp": MLP(hidden=(32, 32), fit_steps=200)}
RATES = {"table": (0.03, 0.1, 0.3, 1.0, 3.0, 10.0), "mlp": (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)}
BETAS = (0.1, 0.5, 2.0)
SFT_UPDATES, RUNS, SEED = 100, 100, 41  # runs: as many as are asked for where some are at a bound
UPDATES = {"table": 40, "mlp": 300}  # in 300 every arm of the table gets to the largest reward
ARMS = {"dpo": "DPO", "dpo_after_sft": "DPO, after SFT on the chosen", "ppo": "PPO on the learned reward"}
LINES: dict[str, LineStyle] = {"dpo": "-", "dpo_after_sft": "--", "ppo": "-"}


def arms() -> dict[str, Experiment]:
    """policy/shift/arm → experiment."""
    found = {}
    for name, policy in POLICIES.items():
        for shift in SHIFTS:
            environment = Contextual(coverage=0.5, uncovered_mass=shift)
            learned = environment.replace(reward_model=name)
            pairs = Schedule(batch_size=environment.recorded_pairs, source="dataset")
            draws = Schedule(batch_size=32, num_generations=4)
            after = FineTuned(base=policy, sft_updates=SFT_UPDATES, sft_batch_size=environment.recorded_pairs)
            dpo: Algorithm = find_algorithm("dpo")()
            for arm, parts in {
                "dpo": (environment, policy, dpo, pairs),
                "dpo_after_sft": (environment, after, dpo, pairs),
                "ppo": (learned, policy, find_algorithm("ppo")(), draws),
            }.items():
                found[f"{name}/{shift:g}/{arm}"] = Experiment(
                    f"reference_shift-{arm}", *parts, updates=UPDATES[name], evaluations=10, runs=RUNS, seed=SEED
                )
    return found


def collect(lab: Lab) -> Records:
    """Every arm tuned over as many points, at each shift anew; a table takes larger steps than a network."""
    chosen = arms()
    grids = {name: product(learning_rate=rates, beta=BETAS) for name, rates in RATES.items()}
    return lab.tuned_records(chosen, {name: grids[name.split("/")[0]] for name in chosen}, **TUNING)


def gold(records: Records, policy: str, arm: str) -> np.ndarray:
    """(runs, shifts): expected gold reward at the end."""
    return np.stack([records[f"{policy}/{shift:g}/{arm}"].arrays["gold"][:, -1] for shift in SHIFTS], axis=-1)


def draw(records: Records) -> MatplotlibFigure:
    """Gold reward at the end, and mass off the data, against the shift."""
    with plt.rc_context(RC):
        fig, axes = plt.subplots(2, 2, figsize=(10.5, 7.6), layout="constrained", sharex=True, sharey="row")
        for column, policy in enumerate(POLICIES):
            _gold(axes[0, column], records, policy)
            _unseen(axes[1, column], records, policy)
            axes[0, column].set_title("a table" if policy == "table" else "a network (MLP, 32 × 32)")
        axes[0, 0].set_ylabel("gold reward at the end")
        axes[1, 0].set_ylabel("policy's mass on responses not in the data")
        fig.legend(handles=_handles(), loc="outside lower center", ncols=4, fontsize=9.5)
    return fig


def _gold(axis: Axes, records: Records, policy: str) -> None:
    for arm in ARMS:
        curve(axis, np.array(SHIFTS), gold(records, policy, arm), arm.partition("_")[0], LINES[arm])
    reference = [records[f"{policy}/{shift:g}/dpo"].arrays["reference_reward"].mean() for shift in SHIFTS]
    axis.plot(SHIFTS, reference, ":", color="0.4")
    bound(axis, 1.0, "largest reward")
    axis.set_ylim(0, 1.08)


def _unseen(axis: Axes, records: Records, policy: str) -> None:
    for arm in ARMS:
        runs = [records[f"{policy}/{shift:g}/{arm}"].arrays["unseen_mass"][:, -1] for shift in SHIFTS]
        curve(axis, np.array(SHIFTS), np.stack(runs, axis=-1), arm.partition("_")[0], LINES[arm])
    axis.plot(SHIFTS, SHIFTS, ":", color="0.4")
    axis.set(xlabel="shift: reference's mass on responses not in the data", ylim=(-0.02, 1.02))


def _handles() -> list[Line2D]:
    lines = [
        key(
            arm.partition("_")[0],
            label,
            linestyle=LINES[arm],
            markerfacecolor="white" if LINES[arm] != "-" else colour(arm.partition("_")[0]),
        )
        for arm, label in ARMS.items()
    ]
    return [*lines, Line2D([], [], color="0.4", linestyle=":", label="reference")]


def verdicts(records: Records) -> list[Verdict]:
    """PPO against DPO far from the data and near it, and what fine-tuning first adds far from it."""
    rows = []
    for policy in POLICIES:
        setting: Literal["bandit", "mlp"] = "bandit" if policy == "table" else "mlp"
        near, far = ({arm: shifted(records, policy, shift, arm) for arm in ARMS} for shift in (NEAR, FAR))
        tested = claim("C06", "near and far")
        pairs = [Sides(x["ppo"], x["dpo"], NO_REWARD) for x in (near, far)]
        at, room = last_with_room(pairs, tested.margin)
        values = [far["ppo"], far["dpo"], near["ppo"], near["dpo"]]
        effect = _effect(values, at)
        used = [records[f"{policy}/{shift:g}/{arm}"] for shift in (FAR, NEAR) for arm in ("ppo", "dpo")]
        note = (
            "PPO draws from the policy and asks a reward model of the policy's own kind; a reward model that knows "
            f"more of unseen responses would change it. {_when(used[0], at)}"
        )
        gates = [
            room,
            tuned_for(at, *used),
            separate(*used),
            larger(tested, [x[:, at] for x in values]),
            placebo(None, tested.margin, NOTHING_TO_LEARN),
        ]
        gates += tuned_well(tested.margin, *used, by=_ends(used, values))
        rows.append(row_of(tested, setting, effect, FIGURE.name, [record.hash for record in used], note, gates))
        tested = claim("C07", "under shift")
        values = [far["dpo_after_sft"], far["dpo"]]
        at, room = last_with_room([Sides(values[0], values[1], NO_REWARD)], tested.margin)
        used = [records[f"{policy}/{FAR:g}/{arm}"] for arm in ("dpo_after_sft", "dpo")]
        note = (
            f"The fine-tuned arm takes {SFT_UPDATES} updates more, on the same pairs, and before any DPO scores "
            f"{values[0][:, 0].mean():+.2f}, where DPO alone comes to {values[1][:, at].mean():+.2f}; that for as many "
            "more updates might close part of the gap. Fine-tuning on both responses, as by permuted labels, "
            "was not run: it moves mass into the data as well, so that it need not be the choice that repairs. "
            f"{_when(used[0], at)}"
        )
        hurt = positive_control(_effect([near["dpo"], far["dpo"]], at), tested.margin, only_above=True)
        gates = [
            room,
            tuned_for(at, *used),
            *tuned_well(tested.margin, *used, by=_ends(used, values)),
            replace(hurt, why=f"what the shift costs DPO, from {NEAR:g} to {FAR:g}: {hurt.why}"),
            placebo(None, tested.margin, "the claim is that a first phase helps, and DPO without one is the placebo"),
        ]
        effect = _effect(values, at)
        rows.append(row_of(tested, setting, effect, FIGURE.name, [record.hash for record in used], note, gates))
    return rows


def shifted(records: Records, policy: str, shift: float, arm: str) -> np.ndarray:
    """(runs, evaluations): scores, counted from the reference before any fine-tuning."""
    reference = records[f"{policy}/{shift:g}/dpo"].arrays["reference_reward"][:, None]
    gold = records[f"{policy}/{shift:g}/{arm}"].arrays["gold"]
    return np.asarray((gold - reference) / (1.0 - reference), float)


def _ends(used: list[Record], values: list[np.ndarray]) -> Callable[[Record], np.ndarray]:
    """The score at the end of each record. values: (runs, evaluations) of each."""
    found = {record.hash: x[:, -1] for record, x in zip(used, values, strict=True)}
    return lambda record: found[record.hash]


def _effect(values: list[np.ndarray], at: int) -> Interval:
    """first − second − (third − fourth), as many as there are."""
    signs = (1.0, -1.0, -1.0, 1.0)
    return effect_of([Part(sign, x[:, at], NO_REWARD) for sign, x in zip(signs, values, strict=False)])


def _when(record: Record, at: int) -> str:
    last = record.arrays["gold"].shape[1] - 1
    return f"Tested at evaluation {at} of {last}, the last at which the scores leave room."


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    runs = len(records["table/0.05/dpo"].arrays["gold"])
    return (
        f"8 prompts × 8 responses, half of them in recorded pairs, the best among those; {runs} runs per arm. The "
        "reference's mass on the other half is the shift. Each arm's learning rate and β were chosen among "
        f"{len(RATES['table']) * len(BETAS)} points on other seeds ({ROUNDS}), at each shift. {UPDATES['table']} "
        f"updates of the table, {UPDATES['mlp']} of the network, after {SFT_UPDATES} of SFT where there is any: DPO on "
        "full batches, PPO on 32 × 4 fresh responses per update. The table's run is short, for later all its arms are "
        "at the largest reward. Mean and 95 % band over runs."
    )


FIGURE = Figure(
    name="reference_shift",
    title="Does a reference far from the data hurt DPO more than PPO?",
    tags=("contextual", "offline"),
    claims=("C06", "C07"),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
)
