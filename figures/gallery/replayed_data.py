"""Is it the data that make online training better, or their order? (C15–C19, C23, C69) The batches of an online run are
replayed to the initial policy in order or shuffled; or its last policy draws the data, or one response of each pair."""

from __future__ import annotations

import math
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.lines import Line2D

from figures.arms.gating import (
    IN_SCORES,
    at_the_end,
    effect_of,
    in_brief,
    last_with_room,
    own_settings,
    part,
    sides,
    stopped_early,
    tuned_and_bounded,
    tuned_for,
)
from figures.arms.sweeps import ROUNDS, TUNING, spread_grid
from figures.catalogue import Claim, Setting, claim
from figures.claims import Verdict, row_of, theorem_of
from figures.figure import Figure, Records
from figures.lab import Lab
from figures.report.style import OFFLINE, ONLINE, RC, bound, colour, key, points
from sims.core.algorithms import find_algorithm
from sims.core.algorithms.contrastive import DPO
from sims.core.algorithms.online_contrastive import XPO
from sims.core.loop.protocols import EnvironmentSpec, PolicySpec
from sims.core.schedule import Schedule
from sims.core.spec import from_json
from sims.environments import BanditR1, Contextual
from sims.experiments.experiment import Experiment
from sims.experiments.measures import final_scores
from sims.experiments.store import Record
from sims.policies import MLP, Table
from sims.statistics.gates import Gate, placebo, positive_control
from sims.statistics.intervals import Interval

ALGORITHMS = {"ipo": "IPO", "best_of_n": "Best-of-2"}
PROMPTS, UPDATES, EVALUATIONS = 16, 200, 8
MILD, WIDE = 4.0, 50.0  # batches that are shuffled among themselves
WINDOWS = {"ordered": 1.0, "window_4": MILD, "window_50": WIDE, "shuffled": math.inf}
RUNS = {"bandit": 200, "network": 100}  # many are at the largest reward, on the bandit nearly all
ENVIRONMENTS: dict[str, tuple[Setting, EnvironmentSpec, PolicySpec]] = {
    "bandit": ("bandit", BanditR1(), Table()),
    "network": ("mlp", Contextual(coverage=0.5, best_mass=0.02), MLP(hidden=(32,), fit_steps=200)),
}
TITLES = {"bandit": "bandit, a table · 100 actions", "network": "network · 8 prompts × 8 responses"}
RATES = {"bandit": (0.01, 100.0), "network": (0.003, 3.0)}
BETAS = (1e-4, 1e-3, 0.01, 0.1, 1.0)
DPO_BETAS = (1e-3, 0.01, 0.1, 1.0, 10.0)
POINTS = 7 * len(BETAS)
# Of IPO on the bandit, whose offline arm stood at two ends of the grid: rates from 0.01 to 10,000, in half-decades too.
WIDE_RATES, WIDE_BETAS = (0.01, 1e4), tuple(float(f"{x:.2g}") for x in np.geomspace(1e-6, 1.0, 13))
WIDE_POINTS = 13 * len(WIDE_BETAS)
# And of DPO there, whose offline arm stood at the largest β.
WIDE_DPO_BETAS: tuple[float, ...] = tuple(float(f"{x:.2g}") for x in np.geomspace(1e-3, 1e3, 13))
SEED, SAME_SEED, WIDE_SEED, OWN_SEED, MANY_SEED = 3, 23, 33, 43, 53
# Of C18 on the network, where offline IPO is ahead of online: among eight responses the reference shows the best one
# often enough; not so among as many as these.
MANY_RESPONSES = 64
SHOWN = {
    "online": "online",
    "held/ordered": "replay,\nin order",
    "held/window_4": "shuffled\nwithin 4",
    "held/window_50": "shuffled\nwithin 50",
    "held/shuffled": "shuffled",
    "shuffled": "shuffled,\ntuned",
    "final": "last\npolicy's",
    "offline": "reference's",
}

ORDER = claim("C15", "in order")
SAME, WIDER = claim("C16", "IPO, every arm by the settings of online"), claim("C16", "IPO, each tuned on a wider grid")
SHUFFLED = {"held/shuffled": claim("C16", "IPO, settings of online"), "shuffled": claim("C16", "IPO, tuned")}
HARMLESS, SHARP = claim("C17", "IPO: within 4 batches"), claim("C17", "IPO: then a drop")
OWN_HARMLESS, OWN_SHARP = (claim("C17", f"IPO, each tuned: {part}") for part in ("within 4 batches", "then a drop"))
LAST = claim("C18", "IPO: the last policy's data")
CLOSES = {"held/shuffled": claim("C23", "settings of online"), "shuffled": claim("C23", "tuned")}
NO_BETTER = claim("C69", "offline")
NEAR = {"mixed": claim("C19", "DPO: one of the two"), "offline": claim("C19", "DPO: both")}


def arms() -> dict[str, Experiment]:
    """environment/algorithm/source of the data, each to be tuned for itself."""
    schedules = {
        "online": Schedule(batch_size=PROMPTS),
        "offline": Schedule(batch_size=PROMPTS, sync_every_updates=math.inf),
        "shuffled": Schedule(batch_size=PROMPTS, source="replay", replay_window=math.inf),
        "final": Schedule(batch_size=PROMPTS, source="pool", pool_policy="final", pool_size=PROMPTS * UPDATES),
    }
    return {
        f"{environment}/{name}/{source}": Experiment(
            name=f"replayed_data-{name}",
            environment=spec,
            policy=policy,
            algorithm=find_algorithm(name)(),
            schedule=schedule,
            updates=UPDATES,
            evaluations=EVALUATIONS,
            runs=RUNS[environment],
            seed=SEED,
        )
        for environment, (_, spec, policy) in ENVIRONMENTS.items()
        for name in ALGORITHMS
        for source, schedule in schedules.items()
    }


def near() -> dict[str, Experiment]:
    """environment/dpo/who draws a pair: the reference both, the last policy of an online run both, or each one.

    XPO without its bonus is DPO on pairs of the policy and the reference; the online run before it has such pairs, too.
    """
    like, xpo = arms(), XPO(alpha=0.0)
    sources = {"offline": ("offline", DPO()), "final": ("final", DPO()), "mixed": ("final", xpo)}
    return {
        f"{environment}/dpo/{source}": like[f"{environment}/ipo/{schedule}"].replace(
            name=f"replayed_data-{algorithm.kind}", algorithm=algorithm
        )
        for environment in ENVIRONMENTS
        for source, (schedule, algorithm) in sources.items()
    }


def wide() -> dict[str, Experiment]:
    """bandit/algorithm/wide/source: what is to be tuned on a wider grid, on other seeds."""
    like = {**arms(), **near()}
    sources = {"ipo": ("online", "shuffled", "offline"), "best_of_n": ("offline",), "dpo": ("offline", "final")}
    return {
        f"bandit/{name}/wide/{source}": like[f"bandit/{name}/{source}"].replace(seed=WIDE_SEED)
        for name in sources
        for source in sources[name]
    }


def many() -> dict[str, Experiment]:
    """network/ipo/many/source: online, offline and the last policy's, of many responses."""
    like = arms()
    place = Contextual(num_responses=MANY_RESPONSES, coverage=0.5, best_mass=0.02)
    return {
        f"network/ipo/many/{source}": like[f"network/ipo/{source}"].replace(environment=place, seed=MANY_SEED)
        for source in ("online", "offline", "final")
    }


def own() -> dict[str, Experiment]:
    """environment/ipo/own/window: online, shuffled within windows and altogether, each to be tuned for itself."""
    found = {}
    for environment in ENVIRONMENTS:
        online, stream = (arms()[f"{environment}/ipo/{source}"] for source in ("online", "shuffled"))
        found[f"{environment}/ipo/own/online"] = online.replace(seed=OWN_SEED)
        for source in ("window_4", "window_50", "shuffled"):
            schedule = stream.schedule.replace(replay_window=WINDOWS[source])
            found[f"{environment}/ipo/own/{source}"] = stream.replace(schedule=schedule, seed=OWN_SEED)
    return found


def held(tuned: Records) -> dict[str, Experiment]:
    """Replays by the settings that were best online: the same data, and no other change than their order."""
    found = {}
    for name, arm in arms().items():
        if name.endswith("/shuffled"):
            spec = tuned[name.replace("shuffled", "online")].spec
            like = arm.replace(algorithm=from_json(spec["algorithm"]), optimiser=from_json(spec["optimiser"]))
            for source, window in WINDOWS.items():
                schedule = like.schedule.replace(replay_window=window)
                found[name.replace("shuffled", f"held/{source}")] = like.replace(schedule=schedule)
    return found


def same(tuned: Records) -> dict[str, Experiment]:
    """environment/ipo/same/source: online, shuffled and offline by the settings that are best online, on other seeds:
    nothing but their data differs."""
    found = {}
    for environment in ENVIRONMENTS:
        spec = tuned[f"{environment}/ipo/online"].spec
        settings = {"algorithm": from_json(spec["algorithm"]), "optimiser": from_json(spec["optimiser"])}
        for source in ("online", "shuffled", "offline"):
            arm = arms()[f"{environment}/ipo/{source}"]
            found[f"{environment}/ipo/same/{source}"] = arm.replace(**settings, seed=SAME_SEED)
    return found


def collect(lab: Lab) -> Records:
    """Online, offline, shuffled and final are tuned; replays are also run as online was tuned, that in order where the
    online run was."""
    tuned: Records = {}
    for chosen, betas in ((arms(), BETAS), (near(), DPO_BETAS)):
        grids = {name: spread_grid(arm, *RATES[name.split("/")[0]], betas, POINTS) for name, arm in chosen.items()}
        tuned = {**tuned, **lab.tuned_records(chosen, grids, **TUNING)}
    on_the_bandit = {name: arm for name, arm in own().items() if name.startswith("bandit")}
    for widely in (wide(), on_the_bandit):
        own_betas = {name: WIDE_DPO_BETAS if "/dpo/" in name else WIDE_BETAS for name in widely}
        widest = {name: spread_grid(arm, *WIDE_RATES, own_betas[name], WIDE_POINTS) for name, arm in widely.items()}
        tuned = {**tuned, **lab.tuned_records(widely, widest, **TUNING)}
    others = {name: arm for name, arm in own().items() if name not in on_the_bandit} | many()
    grids = {name: spread_grid(arm, *RATES["network"], BETAS, POINTS) for name, arm in others.items()}
    tuned = {**tuned, **lab.tuned_records(others, grids, **TUNING)}
    replays = held(tuned)
    in_order = {n: tuned[n.replace("held/ordered", "online")] for n in replays if n.endswith("held/ordered")}
    return {**tuned, **lab.records(replays | same(tuned), in_order)}


def draw(records: Records) -> MatplotlibFigure:
    """Final score by the source of the data."""
    with plt.rc_context(RC):
        fig, axes = plt.subplots(2, 1, figsize=(9.5, 8.4), layout="constrained", sharex=True)
        for axis, environment in zip(axes, ENVIRONMENTS, strict=True):
            _scores(axis, records, environment)
            axis.set_title(TITLES[environment])
        lines: list[Line2D] = [key(name, label, linestyle="") for name, label in {**ALGORITHMS, "dpo": "DPO"}.items()]
        styles = ((ONLINE, "as online"), (OFFLINE, "as offline"))
        lines += [Line2D([], [], color="0.3", linewidth=0.9, linestyle=style, label=label) for style, label in styles]
        lines.append(key("ipo", "IPO, each window tuned", linestyle="", markerfacecolor="white"))
        fig.legend(handles=lines, loc="outside lower center", ncols=6, fontsize=9.5)
    return fig


def _scores(axes: Axes, records: Records, environment: str) -> None:
    x = np.arange(len(SHOWN), dtype=float)
    for i, name in enumerate(ALGORITHMS):
        at = x + 0.16 * (i - 0.5)
        final = [final_scores(records[f"{environment}/{name}/{source}"]) for source in SHOWN]
        points(axes, at, final, name)
        for y, where in ((final[0].mean(), "online"), (final[-1].mean(), "offline")):
            axes.axhline(float(y), color=colour(name), linewidth=0.9, linestyle="-" if where == "online" else "--")
    each = {"online": 0, "window_4": 2, "window_50": 3, "shuffled": 4}
    own = [final_scores(records[f"{environment}/ipo/own/{source}"]) for source in each]
    points(axes, np.array(list(each.values()), dtype=float) - 0.24, own, "ipo", filled=False)
    beside = {"offline": len(SHOWN) - 1, "final": len(SHOWN) - 2, "mixed": len(SHOWN)}
    at = np.array(list(beside.values()), dtype=float)
    points(axes, at, [final_scores(records[f"{environment}/dpo/{source}"]) for source in beside], "dpo")
    bound(axes, 1.0, "largest reward")
    axes.set_xticks(range(len(SHOWN) + 1), [*SHOWN.values(), "one of\neach"])
    axes.set(ylabel="score at the end", ylim=(-0.05, 1.12))


def verdicts(records: Records) -> list[Verdict]:
    """C15 of both algorithms; C16, C17 and C18 of IPO, C23 of Best-of-2, and C69 of both."""
    rows = []
    for environment, (setting, _, _) in ENVIRONMENTS.items():
        ipo, best = (
            {source: records[f"{environment}/{name}/{source}"] for source in SHOWN} for name in ("ipo", "best_of_n")
        )
        gap, ipos = (effect_of([part(1.0, x["online"]), part(-1.0, x["offline"])]) for x in (best, ipo))
        between = f"IPO's gap, online − offline, is {ipos.estimate:+.2f} [{ipos.low:+.2f}, {ipos.high:+.2f}]."
        rows.append(_in_order(setting, [(x["online"], x["held/ordered"]) for x in (ipo, best)]))
        shuffled = {"the shuffled stream": (ipo["held/shuffled"], ipo["shuffled"])}
        for source, tested in SHUFFLED.items():
            note = f"A shuffled stream holds the late samples of a good policy. {between}"
            note += _repeated(ipo, source)
            more = [own_settings(tested.margin, shuffled)] if source != "shuffled" else []
            rows.append(_none(tested, setting, ipo[source], ipo["offline"], _to_close(ipos, tested), note, *more))
        alike = {source: records[f"{environment}/ipo/same/{source}"] for source in ("online", "shuffled", "offline")}
        note = "By settings that are best online, which need not be those that are best for data of the reference."
        control = _to_close(effect_of([part(1.0, alike["online"]), part(-1.0, alike["offline"])]), SAME)
        own = own_settings(SAME.margin, {source: (alike[source], ipo[source]) for source in ("shuffled", "offline")})
        rows.append(_none(SAME, setting, alike["shuffled"], alike["offline"], control, note, own))
        if environment == "bandit":
            rows.append(_wider(records))
        note = "One window; where the drop begins depends on how far the policy moves in so many updates."
        harm = _harm(ipo["online"], ipo["held/shuffled"])
        tuned = own_settings(HARMLESS.margin, shuffled)  # else the control is one of settings, and not of order
        rows.append(_none(HARMLESS, setting, ipo["online"], ipo["held/window_4"], harm, note, tuned))
        note = "Sharp or gradual: the window of 50 in the picture lies between."
        tuned = own_settings(SHARP.margin, shuffled)
        rows.append(_effect(SHARP, setting, ipo["held/window_4"], ipo["held/shuffled"], "order", note, tuned))
        rows += _own_windows(records, environment, setting)
        rows.append(_last(records, environment, setting))
        for source, tested in CLOSES.items():
            note = "Shuffled, imitating the winners of two is imitating what the online run drew on its whole way."
            note += _repeated(best, source)
            winners = {"the shuffled stream": (best[source], best["shuffled"])}
            more = [own_settings(tested.margin, winners)] if source != "shuffled" else []
            rows.append(_none(tested, setting, best["online"], best[source], _seen(gap, tested), note, *more))
        widely = environment == "bandit"
        for source, tested in NEAR.items():
            wider = "wide/" if widely and source == "offline" else ""
            one, other = (records[f"{environment}/dpo/{wider}{which}"] for which in (source, "final"))
            note = "Each is tuned, and with it the online run whose last policy draws its pairs."
            rows.append(_effect(tested, setting, one, other, "source", note + _in_tuning(one)))
        note = "Imitating the better of two draws of the reference is bounded, however long it trains."
        wider = "wide/" if widely else ""
        imitated, contrasted = (records[f"{environment}/{name}/{wider}offline"] for name in ("best_of_n", "ipo"))
        if widely:
            note += " IPO's score was known: its runs are those of C16 on the wider grid, whose seeds Best-of-2 has."
        control = stopped_early([contrasted], [contrasted], NO_BETTER.margin)
        rows.append(_none(NO_BETTER, setting, imitated, contrasted, control, note))
    return rows


def _wider(records: Records) -> Verdict:
    """C16, each arm by settings of its own, which lie within a grid or on a plateau of it."""
    online, shuffled, offline = (records[f"bandit/ipo/wide/{source}"] for source in ("online", "shuffled", "offline"))
    gap = effect_of([part(1.0, online), part(-1.0, offline)])
    note = (
        f"Online − offline is {gap.estimate:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}]. The bandit alone: on the network "
        "IPO offline, tuned, is ahead of online, and no gap is left to close. What offline takes is an erratic regime "
        f"of huge Adam steps, {_taken(offline)}, on a ridge where rate times β is about 0.01. The effect was known "
        "from the narrower grid, +0.388, before this design."
    )
    return _none(WIDER, "bandit", shuffled, offline, _to_close(gap, WIDER), note)


def _last(records: Records, environment: str, setting: Setting) -> Verdict:
    """C18, on the network of many responses: of eight, offline IPO is ahead of online, and no gap is left to close."""
    where = f"{environment}/ipo" if environment == "bandit" else f"{environment}/ipo/many"
    online, offline, final = (records[f"{where}/{source}"] for source in ("online", "offline", "final"))
    gap = effect_of([part(1.0, online), part(-1.0, offline)])
    many = f", and a prompt has {MANY_RESPONSES} responses" if environment == "network" else ""
    note = f"Both responses of a pair are the last policy's{many}. IPO's gap, online − offline, is {in_brief(gap)}."
    if gap.low > 0:
        closed = (final_scores(final).mean() - final_scores(offline).mean()) / gap.estimate
        note += f" The last policy's pairs close {closed:.0%} of it at the end."
    return _effect(LAST, setting, online, final, "source", note, _to_close(gap, LAST))


def _own_windows(records: Records, environment: str, setting: Setting) -> list[Verdict]:
    """C17, each window by settings of its own: what it loses to online, and what is lost beyond it, at the end."""
    arm = {source: records[f"{environment}/ipo/own/{source}"] for source in ("online", *WINDOWS) if source != "ordered"}
    wide = {source: final_scores(arm[source]).mean() for source in ("window_50", "shuffled")}
    note = (
        "A replay's settings are also those of the online run that draws its stream, so that windows have other data "
        f"too. Within 50 batches it scores {wide['window_50']:.2f}, shuffled altogether {wide['shuffled']:.2f}."
    )
    lost = _none(OWN_HARMLESS, setting, arm["online"], arm["window_4"], _harm(arm["online"], arm["shuffled"]), note)
    why = "the arms differ in the order of their data, and in settings; a replay in order gives 0 (C15)"
    gates = [at_the_end([sides([arm["window_4"]], [arm["shuffled"]])], OWN_SHARP.margin)]
    gates += [placebo(None, OWN_SHARP.margin, why)]
    gates += tuned_and_bounded(OWN_SHARP.margin, arm["window_4"], arm["shuffled"])
    effect = effect_of([part(1.0, arm["window_4"]), part(-1.0, arm["shuffled"])])
    hashes = [arm["window_4"].hash, arm["shuffled"].hash]
    return [lost, row_of(OWN_SHARP, setting, effect, FIGURE.name, hashes, note, gates)]


def _taken(record: Record) -> str:
    rate, beta = record.spec["optimiser"]["learning_rate"], record.spec["algorithm"]["beta"]
    return f"learning rate {rate:g} and β = {beta:g}"


def _in_tuning(record: Record) -> str:
    """What a row adds whose arm scores otherwise than it did when its settings were chosen, by more than a margin."""
    how = record.provenance.get("tuning", {})
    here = float(final_scores(record).mean())
    if abs(how.get("mean", here) - here) <= IN_SCORES:
        return ""
    return f" The arm with the reference's responses scored {how['mean']:.2f} in tuning and {here:.2f} here."


def _repeated(records: Records, source: str) -> str:
    """What a row adds that has another's runs, as tuning took the same settings."""
    same = source == "shuffled" and records[source].hash == records["held/shuffled"].hash
    return " Tuning took the settings of online: these are the runs of that row, and no second test." if same else ""


def _in_order(setting: Setting, pairs: list[tuple[Record, Record]]) -> Verdict:
    """The largest difference in gold reward of each run at any evaluation."""
    errors = [np.abs(one.arrays["gold"] - other.arrays["gold"]).max(-1) for one, other in pairs]
    note = "Parameters and Adam's moments are compared bit for bit in the tests of the training loop."
    hashes = [record.hash for pair in pairs for record in pair]
    return theorem_of(ORDER, setting, [float(x) for x in np.concatenate(errors)], FIGURE.name, hashes, note)


def _none(
    tested: Claim, setting: Setting, more: Record, less: Record, control: Gate, note: str, *more_gates: Gate
) -> Verdict:
    """Nothing that matters is lost, or gained: how far `more` is ahead."""
    ahead = effect_of([part(1.0, more), part(-1.0, less)])
    gates = [control, *more_gates, *tuned_and_bounded(tested.margin, more, less)]
    return row_of(tested, setting, ahead, FIGURE.name, [more.hash, less.hash], note, gates)


def _effect(
    tested: Claim, setting: Setting, more: Record, less: Record, only: str, note: str, *more_gates: Gate
) -> Verdict:
    at, room = last_with_room([sides([more], [less])], tested.margin)
    effect = effect_of([part(1.0, more, at), part(-1.0, less, at)])
    why = (
        f"the arms differ in the {only} of their data, and in settings where each is tuned; a replay in order, which "
        "changes nothing, gives 0 (C15)"
    )
    gates = [room, tuned_for(at, more, less), *more_gates, placebo(None, tested.margin, why)]
    gates += tuned_and_bounded(tested.margin, more, less)
    when = (
        f"Tested after {int(more.arrays['updates'][at])} updates, the last evaluation at which the scores leave room."
    )
    return row_of(tested, setting, effect, FIGURE.name, [more.hash, less.hash], f"{when} {note}", gates)


def _seen(gap: Interval, tested: Claim) -> Gate:
    """Best-of-2 loses offline, in the same setting: the test could have seen a loss."""
    found = positive_control(gap, tested.margin, only_above=True)
    return replace(found, why=f"Best-of-2 online against offline: {found.why}")


def _harm(online: Record, shuffled: Record) -> Gate:
    """The same stream shuffled altogether loses: the test could have seen a shuffle do harm."""
    lost = effect_of([part(1.0, online), part(-1.0, shuffled)])
    found = positive_control(lost, HARMLESS.margin, only_above=True)
    return replace(found, why=f"online against the same stream, shuffled altogether: {found.why}")


def _to_close(gap: Interval, tested: Claim) -> Gate:
    """IPO online is ahead of IPO offline: else nothing is left that other data could close, or fail to."""
    found = positive_control(gap, tested.margin, only_above=True)
    return replace(found, why=f"IPO online against offline: {found.why}")


def caption(records: Records) -> str:
    """What is drawn, as it was run."""
    many, few = (len(records[f"{environment}/ipo/online"].arrays["gold"]) for environment in ENVIRONMENTS)
    return (
        f"{many} runs per arm of the bandit (R1), {few} of the network (one hidden layer of 32; the best response has "
        f"a reference probability of 0.02), {UPDATES} updates of {PROMPTS} pairs; mean and 95 % interval; lines: "
        "online, and dashed offline, fresh pairs of the reference. Replays have the batches of an online run with the "
        "same settings, in whole batches: as online was tuned, or tuned for themselves, the online run before them "
        "with them. Last policy's: "
        f"{PROMPTS * UPDATES:,} pairs drawn by the policy that an online run ends with; one of each: the second "
        "response of every pair is the reference's. Not drawn: IPO online, shuffled and offline, all by the settings "
        "that are best online, and on the bandit each tuned over "
        f"{WIDE_POINTS} points (rates to {WIDE_RATES[1]:,.0f}, β from {WIDE_BETAS[0]:g}), as every window of C17, both "
        f"arms of C69, and with β from {WIDE_DPO_BETAS[0]:g} to {WIDE_DPO_BETAS[-1]:,.0f} DPO on the reference's pairs "
        f"against the last policy's, and of C18 the network with {MANY_RESPONSES} responses a prompt in place of 8, "
        "each on seeds of their own. "
        f"Tuned on other seeds, over {POINTS} points ({ROUNDS}) of learning rate and β (IPO {BETAS[0]:g} … "
        f"{BETAS[-1]:g}, DPO {DPO_BETAS[0]:g} … {DPO_BETAS[-1]:g}), listed below. Labels are noiseless and by gold: "
        "here nobody can exploit a reward model."
    )


FIGURE = Figure(
    name="replayed_data",
    title="Is it the data, or their order?",
    tags=("bandit", "contextual", "mlp", "online-offline"),
    claims=("C15", "C16", "C17", "C18", "C19", "C23", "C69"),
    collect=collect,
    draw=draw,
    verdicts=verdicts,
    caption=caption,
)
