"""What does alignment cost skills that nobody asks for, and what are few clean pairs worth? (C59, C61) A network
whose prompts share parameters, a gold set that is never asked, and pools of pairs with flipped labels."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure

from figures.arms.gating import deployed_at_the_end, effect_of, last_with_room, part, sides, tuned_for, tuned_well
from figures.arms.sweeps import ROUNDS, TUNING, spread_grid
from figures.catalogue import Claim, Setting, claim
from figures.claims import Verdict, row_of
from figures.figure import Figure, Records
from figures.lab import Lab
from figures.report.style import BLACK, RC, bound, colour, curve, key, points
from sims.core.algorithms import find_algorithm
from sims.core.loop.deployment import Deployment
from sims.core.loop.protocols import PolicySpec
from sims.core.schedule import Schedule
from sims.core.spec import from_json
from sims.environments import Drifting
from sims.experiments.experiment import Experiment
from sims.experiments.measures import deployed_scores, final_scores
from sims.experiments.store import Record
from sims.policies import MLP, Table
from sims.statistics.gates import Gate, placebo, positive_control, room, trained
from sims.statistics.intervals import mean_interval

WEEKS, WEEK, PAIRS = 20, 10, 32
RUNS = 100
SKILLS, TOLERATED = 6, 0.01
POLICIES: dict[str, tuple[Setting, PolicySpec]] = {"table": ("bandit", Table()), "network": ("mlp", MLP(hidden=(32,)))}
TITLES = {"table": "a table: prompts share nothing", "network": "a network, shared by the prompts"}
RATES = {"table": (0.003, 3.0), "network": (0.0003, 0.3)}
BETAS = (0.001, 0.01, 0.1, 1.0, 10.0)
POINTS = 7 * len(BETAS)
ALGORITHMS = {"dpo": "DPO weekly", "best_of_n": "rejection sampling weekly", "rloo": "RLOO online"}
GATED = ("dpo", "best_of_n")  # RLOO is online: there is no week at whose end it could be refused
CLEAN, NOISY = 128, 6400
FLIPS = (0.1, 0.2, 0.3, 0.4)
TESTED = (0.2, 0.4)

SKILLED = Drifting(updates_per_cycle=WEEK, cycles=WEEKS, preference_drift=0.0, gold_prompts=SKILLS)
PLAIN = SKILLED.replace(gold_prompts=0)

FORGETS = {name: claim("C59", f"{name}: forgets") for name in ALGORITHMS}
CATCHES = {name: claim("C59", f"{name}: gate, gold set") for name in GATED}
COSTS = {name: claim("C59", f"{name}: gate, users") for name in GATED}
CLEANER = {flip: claim("C61", f"flips {flip:g}") for flip in TESTED}


def arms() -> dict[str, Experiment]:
    """policy/algorithm with a gold set that is never asked; and policy/pool/flip rate, of offline DPO."""
    found = {}
    for kind, (_, policy) in POLICIES.items():
        for name in ALGORITHMS:
            period = None if name == "rloo" else WEEK
            found[f"{kind}/{name}"] = Experiment(
                name=f"forgetting-{name}",
                environment=SKILLED,
                policy=policy,
                algorithm=find_algorithm(name)(),
                schedule=Schedule(batch_size=PAIRS, sync_every_updates=period),
                updates=WEEK * WEEKS,
                evaluations=WEEKS,
                runs=RUNS,
                seed=22,
            )
        for flip, size in ((0.0, CLEAN), *((flip, NOISY) for flip in FLIPS)):
            found[f"{kind}/pool/{flip:g}"] = found[f"{kind}/dpo"].replace(
                environment=PLAIN.replace(flip_rate=flip),
                schedule=Schedule(batch_size=PAIRS, source="pool", pool_size=size),
            )
    return found


def gated(tuned: Records) -> dict[str, Experiment]:
    """The same settings, but the gold set must not get worse by more than is tolerated, or the week is thrown away."""
    found = {}
    for name in GATED:
        spec = tuned[f"network/{name}"].spec
        arm = arms()[f"network/{name}"].replace(deployment=Deployment(gate_gold_loss=TOLERATED))
        found[f"network/gate/{name}"] = arm.replace(
            algorithm=from_json(spec["algorithm"]), optimiser=from_json(spec["optimiser"])
        )
    return found


def collect(lab: Lab) -> Records:
    """Every arm tuned for itself by its users' score; the gated ones have the settings of those without a gate."""
    chosen = arms()
    grids = {name: spread_grid(arm, *RATES[name.split("/")[0]], BETAS, POINTS) for name, arm in chosen.items()}
    tuned = lab.tuned_records(chosen, grids, **TUNING)
    return {**tuned, **lab.records(gated(tuned))}


def draw(records: Records) -> MatplotlibFigure:
    """What users get, what is left of the skills, and clean against noisy pairs."""
    with plt.rc_context(RC):
        fig, axes = plt.subplots(2, 3, figsize=(12.5, 7.6), layout="constrained")
        for row, kind in enumerate(POLICIES):
            _weeks(axes[row, 0], records, kind, "deployed")
            _weeks(axes[row, 1], records, kind, "skills")
            _pools(axes[row, 2], records, kind)
            axes[row, 0].set_title(TITLES[kind], loc="left")
        lines = [key(name, label) for name, label in ALGORITHMS.items()]
        lines += [key(name, f"{ALGORITHMS[name]}, gold gate", linestyle="--", mfc="white") for name in GATED]
        fig.legend(handles=lines, loc="outside lower center", ncols=5, fontsize=9)
    return fig


def _weeks(axes: Axes, records: Records, kind: str, what: str) -> None:
    for gate in ("", "gate/"):
        for name in ALGORITHMS if not gate else GATED:
            record = records.get(f"{kind}/{gate}{name}")
            if record is not None:
                found = deployed_scores(record) if what == "deployed" else record.arrays["deployed_gold_set"]
                curve(axes, np.linspace(0, WEEKS, found.shape[1]), found, name, "--" if gate else "-")
    if what == "deployed":
        bound(axes, 1.0, "best responses")
        axes.set(ylabel="score of what users get", ylim=(-0.05, 1.1))
    else:
        axes.set(ylabel="reward on the gold set, never asked", ylim=(0.6, 1.0))
    axes.set(xlabel="week", xticks=range(0, WEEKS + 1, 5))


def _pools(axes: Axes, records: Records, kind: str) -> None:
    noisy = [final_scores(records[f"{kind}/pool/{flip:g}"]) for flip in FLIPS]
    axes.plot(FLIPS, points(axes, np.array(FLIPS), noisy, "dpo"), color=colour("dpo"))
    clean = float(final_scores(records[f"{kind}/pool/0"]).mean())
    axes.axhline(clean, color=BLACK, linewidth=1.2, linestyle="--")
    axes.text(FLIPS[0], clean, f"{CLEAN} clean pairs", ha="left", va="bottom", fontsize=8.5)
    axes.text(FLIPS[0], noisy[0].mean(), f"{NOISY:,} pairs", ha="left", va="bottom", fontsize=8.5)
    axes.set(xlabel="share of flipped labels", ylabel="score of offline DPO", ylim=(-0.05, 1.1), xticks=FLIPS)


def verdicts(records: Records) -> list[Verdict]:
    """C59 on the network, and C61 on both."""
    rows = [_forgets(name, records[f"network/{name}"], records[f"table/{name}"]) for name in ALGORITHMS]
    for name in GATED:
        free, gate = records[f"network/{name}"], records[f"network/gate/{name}"]
        rows += [_catches(name, free, gate), _costs(name, free, gate)]
    for kind, (setting, _) in POLICIES.items():
        for flip, tested in CLEANER.items():
            rows.append(_cleaner(tested, setting, records[f"{kind}/pool/0"], records[f"{kind}/pool/{flip:g}"]))
    return rows


def _skills(record: Record) -> np.ndarray:
    """(runs, points): reward on the gold set, of what users get."""
    return np.asarray(record.arrays["deployed_gold_set"].astype(float))


def _trained(*records: Record) -> Gate:
    return trained({f"arm {i + 1}": r.arrays["kl_policy_ref"][:, -1].astype(float) for i, r in enumerate(records)})


def _tuned_well(tested: Claim, record: Record) -> list[Gate]:
    return tuned_well(tested.margin, record, by=deployed_at_the_end)


def _forgets(name: str, shared: Record, apart: Record) -> Verdict:
    tested = FORGETS[name]
    effect, none = (mean_interval(_skills(r)[:, 0] - _skills(r)[:, -1]) for r in (shared, apart))
    gates = [placebo(none, tested.margin), *_tuned_well(tested, shared), _trained(shared)]
    note = "The placebo is a table, in which prompts share nothing. The gold set is never asked: no pair is of it."
    return row_of(tested, "mlp", effect, FIGURE.name, [shared.hash], note, gates)


def _catches(name: str, free: Record, gate: Record) -> Verdict:
    tested = CATCHES[name]
    effect = mean_interval(_skills(gate)[:, -1] - _skills(free)[:, -1])
    gates = [room(_skills(gate)[:, -1], _skills(free)[:, -1], 0.0, 1.0, tested.margin), _trained(free, gate)]
    gates += [placebo(None, tested.margin, "the arms differ in the gate alone"), *_tuned_well(tested, free)]
    note = (
        f"A week is thrown away if the gold set loses more than {TOLERATED:g}; the settings are those without a gate. "
        "The gate asks the set by which it is judged, without noise: what it saves of other skills is not asked."
    )
    return row_of(tested, "mlp", effect, FIGURE.name, [free.hash, gate.hash], note, gates)


def _costs(name: str, free: Record, gate: Record) -> Verdict:
    tested = COSTS[name]
    found = [deployed_scores(r)[:, 1:] for r in (free, gate)]
    effect = mean_interval(found[0].mean(1) - found[1].mean(1))
    control = positive_control(mean_interval(found[0].mean(1)), tested.margin)
    gates = [Gate(control.name, control.open, f"a gate that refuses every week: {control.why}"), _trained(free, gate)]
    note = "Over all weeks, of what users get."
    return row_of(
        tested, "mlp", effect, FIGURE.name, [free.hash, gate.hash], note, [*gates, *_tuned_well(tested, free)]
    )


def _cleaner(tested: Claim, setting: Setting, clean: Record, noisy: Record) -> Verdict:
    at, left = last_with_room([sides([clean], [noisy])], tested.margin)
    effect = effect_of([part(1.0, clean, at), part(-1.0, noisy, at)])
    why = "flips alone: none is the other end of the same line, and the picture shows every share"
    gates = [left, tuned_for(at, clean, noisy), placebo(None, tested.margin, why)]
    gates += [*tuned_well(tested.margin, clean, noisy), _trained(clean, noisy)]
    note = (
        f"{CLEAN} against {NOISY:,} pairs of the first model, {NOISY // CLEAN} times as many, as 1,000 against 50,000; "
        f"as many updates on both. Tested after {int(clean.arrays['updates'][at])} updates."
    )
    return row_of(tested, setting, effect, FIGURE.name, [clean.hash, noisy.hash], note, gates)


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    runs = len(records["table/dpo"].arrays["gold"])
    return (
        f"{runs} runs an arm, each with a problem of its own: 16 prompts × 16 responses, {WEEKS} weeks of {WEEK} "
        f"updates of {PAIRS} pairs, without drift and with noiseless labels; mean and 95 % band or interval. Left and "
        f"middle: {SKILLS} of the prompts are skills that the reference has, which users never ask for. Gold gate: a "
        f"week's policy is thrown away if their reward falls by more than {TOLERATED:g}. Right: offline DPO on pairs "
        "of the reference, as many updates on each. Tuned on other seeds by the users' score at the end, over "
        f"{POINTS} points ({ROUNDS}) of learning rate (table {RATES['table'][0]:g} … {RATES['table'][1]:g}, network "
        f"{RATES['network'][0]:g} … {RATES['network'][1]:g}) and, where there is one, β ({BETAS[0]:g} … {BETAS[-1]:g})."
    )


FIGURE = Figure(
    name="forgetting",
    title="Does alignment forget, and what are clean pairs worth?",
    tags=("contextual", "mlp", "drift"),
    claims=("C59", "C61"),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
)
