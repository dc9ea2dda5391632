"""The same algorithms on toys and on the embedded language model, task by task, where both references are as far from
what the reward asks for.

A task is a length, and its overlap the reference's probability of lengths within five tokens of it, which the embedded
language knows exactly (`llm.tasks.length`). Its toy is a bandit whose data policy has the same mass within the width of
the reward's peak, and the same spread in units of that width. On skew the recorded responses lie off reference and
optimum alike, and the toy is a contextual bandit with the same two masses. No two tasks share an arm: each has a seed
of its own, online and offline.

Every arm is tuned on its task by runs as long as those that are tested, over five learning rates and ten runs on toys,
three and one on the model; on toys three times, on three seeds, on the model once. Three were planned there too; the
other two were begun and are not complete. The score over the run decides, and an arm whose best
rate is at an end tries the next one beyond, three times at most.

Before, the model was tuned once, by runs of half the length and one rate beyond an end: of 108 arms 29 did worse when
tested than another rate had done in tuning, 7 stood at the end of their grid, and rankings did not repeat themselves
from odd to even runs (τ .31 on-policy). Lengths 26, 3 and 23 were not computed.

Five runs rank the model's arms no better than by chance where arms differ little, so its offline arms have `more_runs`:
twenty, on seeds of their own. Its on-policy arms have not: resampled from the spread of their five, the ranks of ten
runs agree with those of ten others by τ .32, and of fifteen by .42, with intervals that reach below 0, so that twenty
or thirty runs would be spent on ranks that do not repeat either.

By one run a rate DPO and KTO took rates on skew, offline, by which they end below the reference, and so did arms of
min length in `figures.gallery.lm_algorithms`. Such arms are tuned by ten runs a rate, and tested on fresh seeds.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from functools import cache
from typing import Literal

from figures.arms import language_model as lm
from figures.arms.gating import with_tuning_of
from figures.lab import TUNING_SEED, Lab, apply, product
from figures.short_tuning import Short
from sims.core.algorithms import Algorithm, find_algorithm
from sims.core.loop.protocols import EnvironmentSpec
from sims.core.schedule import Schedule
from sims.environments import BanditOverlap, Contextual
from sims.experiments.experiment import Experiment
from sims.experiments.record_file import Record
from sims.policies import Table

Scale = Literal["toy", "lm"]

# What a task asks for, in tokens. In this order they are computed.
LENGTHS = {"min": 0, "mode": 16, "skew": 0, "6": 6, "26": 26, "9": 9, "3": 3, "23": 23}
TITLES = {"min": "min length", "mode": "mode length, 16", "skew": "skew length"}
ONLINE = (
    *("reinforce", "rloo", "ppo", "grpo", "dpo", "ipo", "slic", "kto", "simpo", "orpo"),
    *("best_of_n", "best_of_n_negative", "pref_ft", "rwr", "awr"),
)
OFFLINE = ("dpo", "ipo", "kto", "simpo", "best_of_n", "pref_ft", "rwr")
METHODS = (*(f"{name}/on" for name in ONLINE), *(f"{name}/off" for name in OFFLINE))
SAMPLES = 32  # an update, on toys and on the model
# Of a weight e^(r/β): the same share of the distance from the reference to a length of 0 as of the bandit's range.
TEMPERATURES: dict[Scale, float] = {"toy": 0.2, "lm": 3.0}

UPDATES, RUNS = {"toy": 100, "lm": 8}, {"toy": 50, "lm": 5}
EVALUATIONS = {"toy": 10, "lm": 4}
GRIDS = {"toy": product(learning_rate=(0.03, 0.1, 0.3, 1.0, 3.0)), "lm": product(learning_rate=(1e-3, 3e-3, 1e-2))}
TUNING_RUNS = {"toy": 10, "lm": 1}
TUNING_SEEDS = (TUNING_SEED, TUNING_SEED + 100, TUNING_SEED + 200)
TUNINGS: dict[Scale, int] = {"toy": 3, "lm": 1}  # how many of the seeds rankings take
SHORT = {scale: Short(UPDATES[scale], EVALUATIONS[scale], widen=3) for scale in UPDATES}
SEEDS = 100  # the first of the block of tests; an earlier protocol had the one from 0
MORE_RUNS, MORE_SEEDS = 20, 200  # of the model's offline arms
TUNED_AGAIN, AGAIN_RUNS, AGAIN_SEEDS = {"skew/off"}, 10, 300  # task/sampler of the model: its tuning runs, and seeds
BANDIT_SPREAD = 4.7  # of a data policy, in actions, where the peak's width is 10: as 2.5 tokens to 5


@cache
def toy_of(task: str) -> EnvironmentSpec:
    """The toy of a task."""
    from llm.embedded.language import length_mass
    from llm.tasks import SkewLength

    if task != "skew":
        return BanditOverlap(overlap=round(length_mass(LENGTHS[task]), 7), spread=BANDIT_SPREAD)
    found = SkewLength().overlap()
    return Contextual(
        coverage=0.5,
        best_in_data=False,
        best_mass=round(found["reference near optimum"], 7),
        uncovered_mass=round(1 - found["reference like recorded"], 7),
    )


def overlap_of(task: str) -> float:
    """The reference's probability of lengths near what a task asks for, on the language and on the toy."""
    from llm.embedded.language import length_mass

    return length_mass(LENGTHS[task])


def algorithm_of(name: str, scale: Scale) -> Algorithm:
    """An algorithm as it is run at a scale."""
    if name in ("rwr", "awr"):
        return find_algorithm(name)(beta=TEMPERATURES[scale])  # type: ignore[call-arg]
    return lm.ALGORITHMS.get(name) or find_algorithm(name)()


def arm(scale: Scale, task: str, method: str) -> Experiment:
    """An arm: an algorithm on a task, its batches drawn by the policy ("on"), or by the reference or, on skew, recorded
    ("off"). method: algorithm/sampler."""
    name, _, sampler = method.partition("/")
    algorithm, offline = algorithm_of(name, scale), sampler == "off"
    recorded = offline and task == "skew"
    generations = 2 if algorithm.label_pairing is not None or recorded else 4
    schedule = Schedule(batch_size=SAMPLES // generations, num_generations=generations)
    if offline:
        schedule = schedule.replace(**({"source": "dataset"} if recorded else {"sync_every_updates": math.inf}))
    settings = {
        "algorithm": algorithm,
        "schedule": schedule,
        "updates": UPDATES[scale],
        "evaluations": EVALUATIONS[scale],
        "runs": RUNS[scale],
        "seed": SEEDS + 2 * list(LENGTHS).index(task) + offline,
    }
    if scale == "toy":
        return Experiment(f"matched-{name}", toy_of(task), Table(), **settings)  # type: ignore[arg-type]
    base = lm.preset("tiny", _preset(task))
    environment = base.environment.replace(evaluation_prompts=64, recorded_prompts=256)
    if _preset(task) == "mode":
        environment = environment.replace(mode=LENGTHS[task])
    return base.replace(name=f"matched-{name}", environment=environment, **settings)


def methods_of(task: str) -> tuple[str, ...]:
    """What is run on a task: on skew, offline, only what learns from recorded pairs."""
    if task != "skew":
        return METHODS
    return tuple(m for m in METHODS if m.endswith("/on") or algorithm_of(m[:-4], "toy").label_pairing is not None)


def _preset(task: str) -> lm.TaskName:
    return task if task in ("min", "skew") else "mode"  # type: ignore[return-value]


def records(lab: Lab, scale: Scale, task: str, methods: Collection[str] = METHODS) -> dict[str, Record]:
    """scale/task/method/k → record, each arm tuned on its own task and on the k-th of TUNING_SEEDS, TUNINGS in all; of
    two seeds that chose the same settings, the record is the same. methods: those that are wanted."""
    found: dict[str, Record] = {}
    for k, seed in enumerate(TUNING_SEEDS[: TUNINGS[scale]]):
        arms = {f"{scale}/{task}/{m}/{k}": arm(scale, task, m) for m in methods_of(task) if m in methods}
        again = {key for key in arms if scale == "lm" and _cell(key) in TUNED_AGAIN}
        found |= tuned_on(lab, scale, {key: arms[key] for key in arms if key not in again}, seed)
        found |= tuned_on(lab, scale, {key: arms[key] for key in arms if key in again}, seed, tuning_runs=AGAIN_RUNS)
    return found


def _cell(key: str) -> str:
    """task/sampler of scale/task/algorithm/sampler/k."""
    _, task, _, sampler, _ = key.split("/")
    return f"{task}/{sampler}"


def more_runs(lab: Lab, records: Mapping[str, Record]) -> dict[str, Record]:
    """The model's offline arms among records, as these were tuned, by MORE_RUNS runs on other seeds; under the same
    keys."""
    before = {key: record for key, record in records.items() if key.startswith("lm/") and "/off/" in key}
    arms = {}
    for key, record in before.items():
        _, task, name, _, _ = key.split("/")
        how = record.provenance.get("tuning")
        points = how["points"] if how else GRIDS["lm"]
        again = apply(arm("lm", task, f"{name}/off"), points[how["chosen"] if how else len(points) // 2])
        seeds = AGAIN_SEEDS if _cell(key) in TUNED_AGAIN else MORE_SEEDS
        arms[key] = on_seeds(seeds, again).replace(runs=MORE_RUNS)
    return with_tuning_of(lab.records(arms), before)


def on_seeds(first: int, arm: Experiment) -> Experiment:
    """An arm on seeds of another block."""
    return arm.replace(seed=arm.seed - SEEDS + first)


def tuned_on(
    lab: Lab,
    scale: Scale,
    arms: Mapping[str, Experiment],
    seed: int,
    runs: Mapping[str, int] | None = None,
    tuning_runs: int | None = None,
) -> dict[str, Record]:
    """Arms of a scale, tuned by runs of a seed. runs: of tested arms that take another number than RUNS; tuning_runs:
    at each point, if not TUNING_RUNS."""
    if not arms:
        return {}
    grids, tuned_by = dict.fromkeys(arms, GRIDS[scale]), tuning_runs or TUNING_RUNS[scale]
    return lab.tuned_records(arms, grids, tuned_by, runs=runs, short=SHORT[scale], tuning_seed=seed)
