"""Rows of semi-online training, on toys and on the language model: what a stale sampler loses (C32, C33), whether DPO
falls short of GRPO (C34), and what a larger Adam ε (C38) or an addition to DPO (C39) brings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from figures.catalogue import Claim, Setting
from figures.claims import Verdict, row_of
from sims.experiments.measures import fall, final_scores, scores
from sims.experiments.store import Record
from sims.statistics.gates import Gate, placebo, positive_control, runs_at_a_bound
from sims.statistics.intervals import mean_interval

from .gating import (
    Part,
    above,
    effect_of,
    in_brief,
    last_with_room,
    lowest_score,
    part,
    sides,
    tuned_and_bounded,
    tuned_for,
)

EARLY = 50  # updates over which a row over the run says who is ahead first


def same_row(
    tested: Claim, setting: Setting, figure: str, online: Record, semi: Record, control: Gate, note: str
) -> Verdict:
    """C32: what one sync in s updates loses at the end."""
    effect = effect_of([part(1.0, online), part(-1.0, semi)])
    gates = [control, *tuned_and_bounded(tested.margin, online, semi)]
    if effect.high < -tested.margin:
        note = f"{note} Here it is the stale sampler that is ahead."
    return row_of(tested, setting, effect, figure, [online.hash, semi.hash], note, gates)


def behind_row(tested: Claim, setting: Setting, figure: str, semi: Record, offline: Record, also: str = "") -> Verdict:
    """C33: what one sync in s updates is ahead of none, at the last evaluation with room. also: ends the note."""
    at, room = last_with_room([sides([semi], [offline])], tested.margin)
    effect = effect_of([part(1.0, semi, at), part(-1.0, offline, at)])
    why = "offline is the placebo: it draws by the same rule as many samples, and its sampler is never synced"
    gates = [room, tuned_for(at, semi, offline), placebo(None, tested.margin, why)]
    gates += tuned_and_bounded(tested.margin, semi, offline)
    note = (
        f"Tested after {int(semi.arrays['updates'][at])} updates, the last evaluation at which the scores leave room. "
        f"Offline is fresh draws from the reference for ever, more than a fixed data set has.{also and f' {also}'}"
    )
    return row_of(tested, setting, effect, figure, [semi.hash, offline.hash], note, gates)


def not_behind_row(
    tested: Claim, setting: Setting, figure: str, dpo: Record, grpo: Record, offline: Record, at: int | None = -1
) -> Verdict:
    """C34: what DPO loses against GRPO, both online. offline: GRPO's, for the control; at: None for over the run."""
    lost = effect_of([part(1.0, grpo, at), part(-1.0, dpo, at)])
    gates = [control(grpo, offline, tested.margin, at), tuned_for(at, dpo, grpo)]
    gates += tuned_and_bounded(tested.margin, dpo, grpo)
    scored = [part(1.0, arm, at).scores.mean() for arm in (dpo, grpo)]
    tie = ", a tie near the largest reward" if min(scored) > 1 - tested.margin else ""
    when = "over the run" if at is None else "at the end"
    note = f"Both are tuned for their score {when}. DPO scores {scored[0]:.2f}, GRPO {scored[1]:.2f}{tie}."
    if at is None:
        note = f"{note} {on_the_way(dpo, grpo, tested.margin)}"
    return row_of(tested, setting, lost, figure, [dpo.hash, grpo.hash], note, gates)


def on_the_way(dpo: Record, grpo: Record, margin: float) -> str:
    """Where DPO is behind GRPO on the way, in sentences: a score over a run hangs on the length of the run where one of
    the arms is ahead first, or most evaluations are a tie near the largest reward."""
    updates, one, other = dpo.arrays["updates"], scores(dpo), scores(grpo)
    lost, early = other - one, max(1, int(np.searchsorted(updates, EARLY, side="right")) - 1)
    first, soon = (in_brief(mean_interval(x)) for x in (lost[:, 1], lost[:, 1 : early + 1].mean(1)))
    said = (
        f"DPO is behind by {first} at update {updates[1]}, the first evaluation after the start, and by {soon} over "
        f"the first {updates[early]}"
    )
    mean = lost.mean(0)[1:]
    lower = np.minimum(one.mean(0), other.mean(0))[1:]
    ties = int(((lower > 1 - margin) & (np.abs(mean) <= margin)).sum())
    if 2 * ties > len(mean):
        hangs = f"{ties} of {len(mean)} evaluations are a tie near the largest reward: the row hangs on its length"
        return f"{said}; {hangs}."
    since = 1 + int(np.flatnonzero(lost.mean(0) >= 0).max())  # at the start neither is ahead
    if since == len(updates):
        return f"{said}."
    ahead = in_brief(mean_interval(-lost[:, -1]))
    return f"{said}; from update {updates[since]} on it is ahead, at the end by {ahead}."


def added_row(
    tested: Claim, setting: Setting, figure: str, added: Record, plain: Record, offline: Record, note: str
) -> Verdict:
    """C39: what an addition gains, at the last evaluation with room. offline: GRPO's, for the control."""
    at, room = last_with_room([sides([added], [plain])], tested.margin)
    gained = effect_of([part(1.0, added, at), part(-1.0, plain, at)])
    gates = [room, tuned_for(at, added, plain), control(added, offline, tested.margin, at)]
    gates += tuned_and_bounded(tested.margin, added, plain)
    note += (
        f"Tested after {int(added.arrays['updates'][at])} updates, the last evaluation at which something could be "
        "gained."
    )
    return row_of(tested, setting, gained, figure, [added.hash, plain.hash], note, gates)


def epsilon_row(tested: Claim, setting: Setting, figure: str, large: Record, small: Record, note: str) -> Verdict:
    """C38: what a larger Adam ε brings, at the last evaluation with room; a test only where the small ε is unstable."""
    at, room = last_with_room([sides([large], [small])], tested.margin)
    effect = effect_of([part(1.0, large, at), part(-1.0, small, at)])
    why = f"ε = {small.spec['optimiser']['adam_epsilon']:g} is the placebo: an ε that is too small to matter"
    gates = [unstable(small, tested.margin), room, tuned_for(at, large, small), placebo(None, tested.margin, why)]
    gates += tuned_and_bounded(tested.margin, large, small)
    return row_of(tested, setting, effect, figure, [large.hash, small.hash], note, gates)


def steadier_row(tested: Claim, setting: Setting, figure: str, large: Record, small: Record) -> Verdict:
    """C38: by how much less runs fall from their best evaluation with a larger Adam ε, by the settings under which they
    fall the most with a small one."""
    low = lowest_score([large, small])
    falls = [Part(times, fall(record), 0.0, 1.0 - low) for times, record in ((1.0, small), (-1.0, large))]
    settings = small.spec["optimiser"]["learning_rate"], small.spec["algorithm"]["beta"]
    tried = len(small.provenance["tuning"]["points"]) if "tuning" in small.provenance else 1
    note = (
        f"Of {tried} settings of learning rate and β the least stable on other seeds ({settings[0]:g} and "
        f"{settings[1]:g}); the large ε has the same. A small fall is all that this network shows: loss spikes of a "
        "large model, which the paper saw, it does not have, and what a larger ε does to them is not tested."
    )
    why = f"ε = {small.spec['optimiser']['adam_epsilon']:g} is the placebo: an ε that is too small to matter"
    gates = [
        unstable(small, tested.margin),
        runs_at_a_bound({"the first arm": final_scores(large), "the second arm": final_scores(small)}, low, 1.0),
        placebo(None, tested.margin, why),
        above(tested.margin, large, small, falls="the settings are those by which the score falls the most"),
    ]
    return row_of(tested, setting, effect_of(falls), figure, [large.hash, small.hash], note, gates)


def unstable(small: Record, margin: float) -> Gate:
    """Whether there is something to stabilise: with the small ε, runs end below their best evaluation by more than a
    margin."""
    there = Part(1.0, fall(small), 0.0, 1.0 - lowest_score([small]))
    found = positive_control(effect_of([there]), margin, only_above=True)
    return replace(found, name="unstable", why=f"with the small ε runs fall below their best: {found.why}")


def control(best: Record, offline: Record, margin: float, at: int | None = -1) -> Gate:
    """An arm in the same setting that does lose: GRPO, never synced."""
    found = positive_control(effect_of([part(1.0, best, at), part(-1.0, offline, at)]), margin, only_above=True)
    return replace(found, why=f"against GRPO offline: {found.why}")
