"""Does DPO favour responses that its data never show, and does PPO on a learned reward avoid it? (C03, C04, C05)

Xu et al.'s toy: 8 prompts × 8 responses, the best on the diagonal, recorded pairs that show some of them. DPO and the
reward model read the same pairs and are compared at the same Bradley–Terry loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.lines import Line2D

from figures.catalogue import claim
from figures.claims import Verdict, row_of, theorem_of
from figures.figure import Figure, Records
from figures.lab import Lab
from figures.report.style import BLACK, RC, LineStyle, colour, curve, key, marker
from sims import exact
from sims.core.algorithms import find_algorithm
from sims.core.loop.optimise import Optimiser
from sims.core.loop.protocols import PolicySpec
from sims.core.schedule import Schedule
from sims.environments import Contextual
from sims.experiments.experiment import Experiment
from sims.experiments.store import Record
from sims.policies import MLP, Table
from sims.statistics.gates import Gate, estimand, placebo, positive_control, room
from sims.statistics.intervals import Interval, mean_interval, paired_effect

COVERAGES = (0.25, 0.5, 0.875)
TILTS = {"none": "near-uniform reference", "losers": "reference skewed to losers", "winners": "skewed to winners"}
POLICIES: dict[str, tuple[PolicySpec, float]] = {
    "table": (Table(), 0.03),
    "mlp": (MLP(hidden=(32, 32), fit_steps=200), 0.003),
}
BETA, MATCHED_LOSS = 0.5, 0.2
UPDATES, RUNS = 600, 50
RISE = 0.02  # of probability: C03's margin
MECHANISM = "a claim about a mechanism: where the mass goes"


def arms() -> dict[str, Experiment]:
    """data/policy/algorithm → experiment; DPO and IPO on full batches of the recorded pairs, PPO on their model."""
    found = {}
    for name, (policy, rate) in POLICIES.items():
        for tilt in TILTS:
            for coverage in COVERAGES:
                cell = f"{tilt}-{coverage:g}"
                environment = Contextual(tilt=tilt, coverage=coverage)  # type: ignore[arg-type]
                learned = environment.replace(reward_model=name, reward_model_loss=MATCHED_LOSS)
                pairs = Schedule(batch_size=environment.recorded_pairs, source="dataset")
                draws = Schedule(batch_size=32, num_generations=4)
                settings = {
                    "dpo": (environment, find_algorithm("dpo")(beta=BETA), pairs),  # type: ignore[call-arg]
                    "ppo": (learned, find_algorithm("ppo")(beta=BETA), draws),  # type: ignore[call-arg]
                }
                if tilt == "none" and coverage == 0.5:  # shown as a heat map, not tested
                    settings["ipo"] = (environment, find_algorithm("ipo")(beta=BETA), pairs)  # type: ignore[call-arg]
                for algorithm, (where, chosen, schedule) in settings.items():
                    found[f"{cell}/{name}/{algorithm}"] = Experiment(
                        name=f"unseen_responses-{algorithm}",
                        environment=where,
                        policy=policy,
                        algorithm=chosen,
                        schedule=schedule,
                        optimiser=Optimiser(learning_rate=rate),
                        updates=UPDATES,
                        evaluations=60,
                        runs=RUNS,
                    )
    return found


def collect(lab: Lab) -> Records:
    """One setting for all: nothing is tuned, since what is compared is where the mass goes at one training loss."""
    return lab.records(arms())


def change(record: Record) -> np.ndarray:
    """(runs, points): unseen mass, minus the reference's."""
    unseen = record.arrays["unseen_mass"]
    return unseen - unseen[:, :1]


def change_at_loss(record: Record, loss: np.ndarray) -> np.ndarray:
    """(runs,): the change when each run's training loss first falls to its `loss` (runs,), linear in the loss between
    two points; at its end, if it never does.

    A point's loss is that of the policy before its update, and of DPO's first policy log 2: the mass is taken there.
    """
    rows, losses, moved = np.arange(len(loss)), record.arrays["loss"].copy(), change(record)
    losses[:, 0] = np.log(2)
    before = moved.copy()
    before[:, 1:] -= np.diff(moved) / np.diff(record.arrays["updates"])
    reached = losses <= loss[:, None]
    after = np.where(reached.any(-1), reached.argmax(-1), 1)
    high, low = losses[rows, after - 1], losses[rows, after]
    way = np.divide(high - loss, high - low, out=np.zeros_like(high), where=reached.any(-1))
    between = before[rows, after - 1] + way * (before[rows, after] - before[rows, after - 1])
    return np.where(reached.any(-1), between, moved[:, -1])


def optimum(record: Record) -> np.ndarray:
    """(runs, X, N): log-probs of π_ref·e^{r/β}/Z for the learned reward of a PPO record."""
    return exact.optimum(record.arrays["logp_ref"].astype(float), record.arrays["learned_rewards"].astype(float), BETA)


def change_of_optimum(record: Record) -> np.ndarray:
    """(runs,): the change that the exact KL-regularised optimum of the learned reward makes."""
    unseen = (np.exp(optimum(record)) * ~record.arrays["covered"]).sum(-1).mean(-1)
    return unseen - record.arrays["unseen_mass"][:, 0]


def stopped_at(records: Records, cell: str) -> np.ndarray:
    """(runs,): the loss at which each run's reward model stopped, MATCHED_LOSS or what its last step made of it."""
    return records[f"{cell}/ppo"].arrays["reward_model_loss"]


def mean_losses(records: Records, policy: str) -> tuple[float, float]:
    """Loss at which DPO is read, and at which the reward model stopped: means over the grid and runs."""
    cells = [f"{tilt}-{coverage:g}/{policy}" for tilt in TILTS for coverage in COVERAGES]
    stopped = np.array([stopped_at(records, cell) for cell in cells])
    losses = np.array([records[f"{cell}/dpo"].arrays["loss"] for cell in cells])
    reached = (losses <= stopped[..., None]).any(-1)
    return float(np.where(reached, stopped, losses[..., -1]).mean()), float(stopped.mean())


MEASURES: dict[str, Callable[[Records, str], np.ndarray]] = {
    "dpo": lambda records, cell: change_at_loss(records[f"{cell}/dpo"], stopped_at(records, cell)),
    "ppo": lambda records, cell: change(records[f"{cell}/ppo"])[:, -1],
    "optimum": lambda records, cell: change_of_optimum(records[f"{cell}/ppo"]),
}


def over_grid(records: Records, policy: str, measure: str) -> np.ndarray:
    """(tilts, coverages, runs): one of MEASURES in every cell."""
    compute = MEASURES[measure]
    return np.array([[compute(records, f"{tilt}-{c:g}/{policy}") for c in COVERAGES] for tilt in TILTS])


def draw(records: Records) -> MatplotlibFigure:
    """Xu's panels for one run; unseen mass against updates; its change against coverage."""
    with plt.rc_context(RC):
        fig = plt.figure(figsize=(14.5, 10.4), layout="constrained")
        top, middle, bottom = fig.subfigures(3, 1, squeeze=False, height_ratios=(1.0, 1.25, 1.25))[:, 0]
        _heat_maps(top, records)
        for panels, policy in ((middle, "table"), (bottom, "mlp")):
            axes = panels.subplots(1, 4)
            axes[0].set_ylabel("change of unseen mass")
            for axis, tilt in zip(axes[:3], TILTS, strict=True):
                _against_updates(axis, records, tilt, policy)
            _against_coverage(axes[3], records, policy)
            named = "A table, which generalises to nothing" if policy == "table" else "A network (MLP, 32 × 32)"
            panels.suptitle(named, fontsize=12, fontweight="bold")
        fig.legend(handles=_handles(), loc="outside lower center", ncols=5, fontsize=9.5)
    return fig


def _heat_maps(panel: plt.Figure, records: Records) -> None:
    """Run 0 of the network at coverage 0.5 and the near-uniform reference."""
    cell, run = "none-0.5/mlp", 0
    dpo, ipo, ppo = (records[f"{cell}/{name}"].arrays for name in ("dpo", "ipo", "ppo"))
    scores = ppo["learned_rewards"][run]
    panels = {
        "shown in the data": dpo["covered"][run].astype(float),
        "reference": np.exp(dpo["logp_ref"][run]),
        "learned reward": scores,
        "DPO, at the end": np.exp(dpo["logp_final"][run]),
        "IPO, at the end": np.exp(ipo["logp_final"][run]),
        "PPO, at the end": np.exp(ppo["logp_final"][run]),
        "exact KL optimum": np.exp(optimum(records[f"{cell}/ppo"])[run]),
    }
    axes = panel.subplots(1, len(panels))
    for axis, (title, values) in zip(axes, panels.items(), strict=True):
        learned = title == "learned reward"
        limits = (-np.abs(scores).max(), np.abs(scores).max()) if learned else (0.0, 1.0)
        image = axis.imshow(values, cmap="RdBu_r" if learned else "viridis", vmin=limits[0], vmax=limits[1])
        axis.set_title(title, fontsize=10)
        axis.set(xticks=range(0, 8, 2), yticks=range(0, 8, 2), xlabel="response")
        axis.grid(False)
        if learned:
            panel.colorbar(image, ax=axis, shrink=0.75, label="score")
    axes[0].set_ylabel("prompt")
    panel.colorbar(image, ax=axes[-1], shrink=0.75, label="probability")
    panel.suptitle("One run of the network: the best response is on the diagonal", fontsize=12, fontweight="bold")


def _against_updates(axis: Axes, records: Records, tilt: str, policy: str) -> None:
    for coverage, line in ((0.25, ":"), (0.5, "-"), (0.875, "--")):
        for algorithm in ("dpo", "ppo"):
            record = records[f"{tilt}-{coverage:g}/{policy}/{algorithm}"]
            curve(axis, record.arrays["updates"], change(record), algorithm, line)
    _zero(axis)
    axis.set(title=TILTS[tilt], xlabel="updates", ylim=(-0.8, 0.65))


def _against_coverage(axis: Axes, records: Records, policy: str) -> None:
    x = np.array(COVERAGES)
    for measure in MEASURES:
        runs = over_grid(records, policy, measure).mean(0)  # over references
        intervals = [mean_interval(row) for row in runs]
        mean = np.array([i.estimate for i in intervals])
        spread = np.array([[i.estimate - i.low, i.high - i.estimate] for i in intervals]).T
        shift = {"dpo": -0.012, "ppo": 0.0, "optimum": 0.012}[measure]
        ink, mark = (BLACK, "x") if measure == "optimum" else (colour(measure), marker(measure))
        axis.errorbar(x + shift, mean, spread, fmt=f"{mark}-", ms=5, color=ink, linewidth=1.3, capsize=2)
    _zero(axis)
    axis.set(title="at one training loss, mean of the three", xlabel="coverage", ylabel="change of unseen mass")


def _zero(axis: Axes) -> None:
    """No change, and changes within the margin of a row."""
    axis.axhline(0, color="0.4", linewidth=0.8)
    axis.axhspan(-RISE, RISE, color="0.5", alpha=0.2, linewidth=0)


def _handles() -> list[Line2D]:
    lines = [key("dpo", "DPO (right: at the reward model's loss)"), key("ppo", "PPO on the learned reward")]
    lines.append(Line2D([], [], color=BLACK, marker="x", label="exact KL optimum of the learned reward"))
    styles: tuple[tuple[LineStyle, str], ...] = ((":", "coverage 0.25"), ("-", "0.5"), ("--", "0.875"))
    return lines + [Line2D([], [], color="0.3", linestyle=style, label=label) for style, label in styles]


def verdicts(records: Records) -> list[Verdict]:
    """Rows for the table and the network apart, and for each reference: they disagree, and a mean would hide it."""
    rows = []
    for policy in POLICIES:
        setting: Literal["bandit", "mlp"] = "bandit" if policy == "table" else "mlp"
        dpo, ppo, best = (over_grid(records, policy, measure) for measure in MEASURES)
        for tilt, of_tilt, of_ppo, of_best in zip(TILTS, dpo, ppo, best, strict=True):
            cells = [f"{tilt}-{c:g}/{policy}" for c in COVERAGES]
            hashes = [records[f"{cell}/dpo"].hash for cell in cells]
            both = hashes + [records[f"{cell}/ppo"].hash for cell in cells]
            at_the_end = np.stack([change(records[f"{cell}/dpo"])[:, -1] for cell in cells])
            for i, coverage in enumerate(COVERAGES):
                at_one_loss = [hashes[i], records[f"{cells[i]}/ppo"].hash]  # with the loss at which DPO is read
                for part, values, of in (
                    ("at one loss", of_tilt[i], at_one_loss),
                    ("at the end", at_the_end[i], hashes[i : i + 1]),
                ):
                    tested = claim("C03", f"{part}, reference: {tilt}, coverage {coverage:g}")
                    at_first = records[f"{cells[i]}/dpo"].arrays["unseen_mass"][:, 0]
                    gates = [
                        room(at_first, at_first + values, 0.0, 1.0, tested.margin),
                        placebo(None, tested.margin, MECHANISM),
                    ]
                    note = "One β and one size of the problem; it rises at some coverages and falls at others."
                    rows.append(row_of(tested, setting, mean_interval(values), FIGURE.name, of, note, gates))
            slope = of_tilt[-1] - of_tilt[0]
            note = "Responses that no pair shows are fewer at high coverage, and their mass at first is smaller."
            tested = claim("C05", f"reference: {tilt}")
            gates = [
                _rises(mean_interval(of_tilt[0]), f"at coverage {COVERAGES[0]:g}"),
                placebo(None, tested.margin, MECHANISM),
            ]
            used = _ends(records, tilt, policy)
            rows.append(row_of(tested, setting, mean_interval(slope), FIGURE.name, used, note, gates))
            if policy == "table":
                continue  # there the two are one policy, which is a row of its own
            for part, other, note in (
                ("sampled PPO", of_ppo, f"PPO with β = {BETA:g} and one sampled run each; a reward model of another "
                 "architecture than the policy's may generalise otherwise."),
                ("exact KL optimum", of_best, "The optimum of the learned reward, which no optimiser's failing blurs."),
            ):  # fmt: skip
                effect = paired_effect(of_tilt.mean(0), other.mean(0))
                tested = claim("C04", f"{part}, reference: {tilt}")
                gates = [
                    _rises(mean_interval(of_tilt.mean(0)), "in the mean"),
                    _alike(of_tilt - other),
                    placebo(None, tested.margin, MECHANISM),
                ]
                rows.append(row_of(tested, setting, effect, FIGURE.name, both, note, gates))
        if policy == "table":
            errors = np.abs(dpo - best).max((0, 1))
            everywhere = [
                records[f"{t}-{c:g}/table/{n}"].hash for t in TILTS for c in COVERAGES for n in ("dpo", "ppo")
            ]
            note = (
                "A table shares nothing: DPO's implicit reward takes the reward model's very steps. Read between steps."
            )
            tested = claim("C04", "table")
            rows.append(theorem_of(tested, setting, errors.tolist(), FIGURE.name, everywhere, note))
    return rows


def _rises(of: Interval, where: str) -> Gate:
    """Whether DPO raises the mass at all: a claim that something shrinks the rise, or avoids it, needs one."""
    gate = positive_control(of, RISE, only_above=True)
    return replace(gate, why=f"DPO's change {where}: {gate.why}")


def _alike(each: np.ndarray) -> Gate:
    """Whether the effects that are averaged over coverages agree in sign. each: (coverages, runs)."""
    return estimand({f"coverage {c:g}": mean_interval(runs) for c, runs in zip(COVERAGES, each, strict=True)})


def _ends(records: Records, tilt: str, policy: str) -> list[str]:
    cells = [f"{tilt}-{c:g}/{policy}" for c in (COVERAGES[0], COVERAGES[-1])]
    return [records[f"{cell}/{name}"].hash for cell in cells for name in ("dpo", "ppo")]


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    runs = len(records["none-0.5/mlp/dpo"].arrays["gold"])
    losses = ", ".join(
        "{} {:.4f} and {:.4f}".format(name, *mean_losses(records, policy))
        for policy, name in (("table", "table"), ("mlp", "network"))
    )
    return (
        f"8 prompts × 8 responses, {runs} runs, each with its own covered responses and reference; all pairs of "
        f"covered responses recorded, labels noiseless. β = {BETA:g}. DPO takes full batches; the reward model (of the "
        f"policy's own kind) stops at the first step with a Bradley–Terry loss of {MATCHED_LOSS:g} or less, and "
        "DPO is read at the loss at which the same run's reward model stopped, linear between two points (mean losses "
        f"read, of DPO and of the reward model: {losses}). PPO draws 32 × 4 fresh responses per update. Mean and 95 % "
        f"band over runs; the grey band around 0 is ±{RISE:g}, the margin of C03's rows."
    )


FIGURE = Figure(
    name="unseen_responses",
    title="Where does the mass go that the data say nothing about?",
    tags=("contextual", "offline"),
    claims=("C03", "C04", "C05"),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
)
