"""Does entropy collapse more under a reward that is right or wrong than under a dense one? (C37) Arms, rows and a
picture of `figures.gallery.collapse`: a table on a token tree and a network on single tokens, each by several learning
rates and draws of the rewards."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from figures.catalogue import Claim, Setting, claim
from figures.claims import Verdict, row_of
from figures.figure import Records
from figures.report.style import bound, points
from sims.core.algorithms.clipped import GRPO
from sims.core.algorithms.contrastive import DPO
from sims.core.loop.optimise import Optimiser
from sims.core.loop.protocols import PolicySpec
from sims.core.schedule import Schedule
from sims.environments import VerifiableTree
from sims.experiments.experiment import Experiment
from sims.experiments.measures import scores
from sims.experiments.store import Record
from sims.policies import MLP, Table
from sims.statistics.gates import placebo
from sims.statistics.intervals import mean_interval
from sims.statistics.verdicts import over_tunings

from .collapsing import entropy_with_room, measured, on_the_way
from .gating import of_all, tuned_for


class Place(NamedTuple):
    """Where entropies are compared. rates: of learning, each for both rewards. before: of the keys of its records."""

    setting: Setting
    environment: VerifiableTree
    policy: PolicySpec
    rates: tuple[float, ...]
    seed: int
    before: str
    title: str


TREE = VerifiableTree(num_prompts=8, vocabulary=3, max_length=4)
# By room alone, on ten development runs: of half-decades those by which the entropies of every pair of arms leave some.
# Which reward's is lower was not looked at. A verdict is to hold by all of them.
PLACES = {
    "tree": Place("token", TREE, Table(), (0.01, 0.03, 0.1, 0.3), 71, "", "a table, responses of up to 4 tokens"),
    "network": Place(
        "mlp",
        VerifiableTree(num_prompts=8, vocabulary=8, max_length=1, right_short=0.4),
        MLP(hidden=(32,), fit_steps=200),
        (0.01, 0.03, 0.1),
        72,
        "network/",
        "a network, 8 responses",
    ),
}
# The best of K against the worst, so that a prompt whose responses are all right or all wrong has no pair.
PAIRS = DPO(pairing="best_worst")
LEARNERS = {"dpo": PAIRS, "grpo": GRPO(beta=0.0)}
WHEN = {"online": None, "offline": math.inf}
REWARDS = ("verifiable", "dense")
UPDATES, EVALUATIONS = 200, 20
# An environment is one draw of the rewards and of the reference. None of these was looked at before it was judged.
DRAWS, RUNS = range(100, 120), 5  # by `table_seed`, and of each

ENTROPY = {
    (place, name, when): claim("C37", f"{name}, {when}{', network' * (place == 'network')}")
    for place in PLACES
    for name in LEARNERS
    for when in WHEN
}


def entropy_arms(drawn: Schedule) -> dict[str, Experiment]:
    """[network/]entropy/learning rate/algorithm/reward/when/draw. drawn: the schedule of those that are online."""
    found = {}
    for place in PLACES.values():
        for rate, (name, algorithm), reward, (when, s), draw in itertools.product(
            place.rates, LEARNERS.items(), REWARDS, WHEN.items(), DRAWS
        ):
            found[f"{place.before}entropy/{rate:g}/{name}/{reward}/{when}/{draw}"] = Experiment(
                f"entropy-{name}",
                place.environment.replace(reward=reward, table_seed=draw),
                place.policy,
                algorithm,
                drawn.replace(sync_every_updates=s),
                optimiser=Optimiser(learning_rate=rate),
                updates=UPDATES,
                evaluations=EVALUATIONS,
                runs=RUNS,
                seed=place.seed,
            )
    return found


def entropy_rows(records: Records, figure: str) -> list[Verdict]:
    """C37 of both algorithms, online and offline, in both places."""
    return [entropy_row(tested, records, *where, figure) for where, tested in ENTROPY.items()]


def over_draws(records: Sequence[Record]) -> Record:
    """A record whose runs are draws: each is the mean of a draw's runs, which share its rewards, so that an interval
    over them is one over draws. A draw of which a run diverged has diverged where the first of its runs did."""
    arrays = {
        name: np.stack([record.arrays[name].astype(float).mean(0) for record in records])
        for name in ("gold", "entropy", "reference_reward", "best_reward")
    }
    died = (record.arrays["diverged_at"] for record in records)
    arrays["diverged_at"] = np.array([min((x for x in runs if x >= 0), default=-1) for runs in died])
    arrays["updates"] = records[0].arrays["updates"]
    return Record(records[0].spec, arrays, records[0].provenance, records[0].source)


def _arms(records: Records, place: str, rate: float, name: str, reward: str, when: str) -> list[Record]:
    return [records[f"{PLACES[place].before}entropy/{rate:g}/{name}/{reward}/{when}/{draw}"] for draw in DRAWS]


def _both(records: Records, place: str, rate: float, name: str, when: str) -> tuple[Record, Record]:
    """Of the dense reward, and of the one that is right or wrong, over draws."""
    dense, binary = (over_draws(_arms(records, place, rate, name, reward, when)) for reward in ("dense", "verifiable"))
    return dense, binary


def entropy_row(tested: Claim, records: Records, place: str, name: str, when: str, figure: str) -> Verdict:
    """C37: by how much less the entropy falls under a dense reward, over draws of the rewards, and all learning
    rates."""
    effects, rooms, untuned, used, where = [], [], [], [], []
    both = {rate: _both(records, place, rate, name, when) for rate in PLACES[place].rates}
    for rate, (dense, binary) in both.items():
        at, left = entropy_with_room(dense, binary, tested.margin)
        less = measured(dense, "entropy", at) - measured(binary, "entropy", at)
        effects.append(mean_interval(less))
        rooms.append(left)
        untuned.append(tuned_for(at, dense, binary, quantity="entropy"))
        used += [arm for reward in REWARDS for arm in _arms(records, place, rate, name, reward, when)]
        ends = " and ".join(f"{scores(record)[:, at].mean():.2f}" for record in (dense, binary))
        after = int(dense.arrays["updates"][at])
        beyond = f"{(less > tested.margin).sum()} of {len(less)} draws beyond the margin"
        where.append(f"{effects[-1].estimate:+.3f} at {rate:g} after {after} updates, {beyond}, with scores of {ends}")
    why = (
        "none takes the effect away: a reward without information leaves both at the reference; the same responses "
        "are right by both rewards"
    )
    apart = max(effect.low for effect in effects) > min(effect.high for effect in effects)
    size = " Its size hangs on the rate: the intervals of some do not meet." if apart else ""
    note = (
        f"By one learning rate for both rewards, none is tuned, and the interval is that of all {len(both)} rates: "
        f"{'; '.join(where)} (dense and right or wrong): the last evaluations at which the entropies leave room. Of "
        "the policy itself, exact, which is the expectation over its own samples. Right or wrong leaves all right "
        "responses equal, a dense reward has one best response per prompt. How far either is learned by then, as the "
        f"scores say, is part of the difference.{size} The interval is over {len(DRAWS)} draws of the rewards "
        f"and of the reference; of each, the mean of {RUNS} runs is one observation."
    )
    gates = [of_all(rooms), of_all(untuned), on_the_way(both, tested.margin), placebo(None, tested.margin, why)]
    hashes = [record.hash for record in used]
    return row_of(tested, PLACES[place].setting, over_tunings(effects), figure, hashes, note, gates)


def draw_entropies(axes: Axes, records: Records, place: str) -> None:
    """Where they are tested; from the smallest learning rate on the left to the largest."""
    rates = PLACES[place].rates
    for x, (name, when) in enumerate(itertools.product(LEARNERS, WHEN)):
        for rate, aside in zip(rates, np.linspace(-0.3, 0.3, len(rates)), strict=True):
            both = _both(records, place, rate, name, when)
            at, _ = entropy_with_room(*both, ENTROPY[place, name, when].margin)
            for record, filled in zip(both, (False, True), strict=True):
                points(axes, np.array([x + aside]), [measured(record, "entropy", at)], name, filled)
    first, _ = _both(records, place, rates[0], "dpo", "online")
    bound(axes, float(first.arrays["entropy"][:, 0].mean()), "at the start")
    axes.set_xticks(range(4), [f"{name}\n{when}" for name, when in itertools.product(LEARNERS, WHEN)])
    axes.set(title=f"{PLACES[place].title}\nfilled: right or wrong; open: dense", ylabel="entropy where tested, nats")
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
