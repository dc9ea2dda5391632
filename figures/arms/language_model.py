"""Arms on a language model at three scales: one function makes every experiment of every figure that has a scale.

tiny is the embedded model, where arms are tuned and tested. The large scales take model, data, task and optimiser from
`llm.training.presets`, and the learning rates that they name for each algorithm; nothing is tuned there. What the
presets leave open is chosen here: (1) mistral-7b has no preset with a length reward: the tasks' formulas on its data,
and its one learning rate for all; (2) on pythia-1.4b rloo takes the rate of REINFORCE, and pref_ft the second of the
five that its script tries; (3) three runs per arm, as in Tajwar et al. 2024."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np

from figures.entries import SCALES
from sims.core.algorithms import Algorithm
from sims.core.algorithms.best_of_n import BestOfN
from sims.core.algorithms.clipped import PPO
from sims.core.algorithms.contrastive import DPO
from sims.core.algorithms.likelihood import PrefFT
from sims.core.algorithms.policy_gradient import RLOO
from sims.core.algorithms.reward_weighted import RWR
from sims.core.schedule import Schedule
from sims.experiments.experiment import Experiment
from sims.experiments.store import Record

TaskName = Literal["min", "mode", "skew"]
Sampler = Literal["on", "off"]

TINY_UPDATES, TINY_EVALUATIONS, TINY_RUNS, TINY_SAMPLES = 16, 4, 20, 32
LARGE_RUNS = 3

# Rewards are in tokens, so RWR takes the larger of the papers' two temperatures. A PPO whose critic knows nothing yet
# needs whole returns: with lambda < 1 all blame for a long response falls on its last token, which is EOS.
ALGORITHMS: dict[str, Algorithm] = {
    "dpo": DPO(beta=0.1),
    "ppo": PPO(whiten_advantages=True, vf_coef=0.1, lam=1.0),
    "rloo": RLOO(),
    "rwr": RWR(beta=10.0),
    "best_of_n": BestOfN(),
    "pref_ft": PrefFT(),
}
# llm/training/presets.py, which quotes the released scripts of Tajwar et al. 2024.
PYTHIA_RATES = {
    "dpo/on": 1e-5,
    "dpo/off": 5e-7,
    "ppo/on": 1e-6,
    "rloo/on": 1e-5,
    "rwr/on": 1e-5,
    "best_of_n/on": 1e-6,
    "pref_ft/off": 1e-6,
}


@functools.cache  # an experiment is frozen; figures ask for the same ones again and again
def preset(scale: str, task: TaskName) -> Experiment:
    """The preset of a task at a scale. Raises KeyError for a scale that is none."""
    # Not at the top: transformers takes seconds to load, which figures of toys should not wait for.
    from llm.tasks import MinLength, ModeLength, SkewLength, Task
    from llm.training.presets import PRESETS

    found = {"tiny": f"tiny-{task}-length", "pythia-1.4b": f"pythia-1.4b-{task}-length"}
    if scale != "mistral-7b":
        return PRESETS[found[scale]]
    experiment = PRESETS["mistral-7b-ultrafeedback"]
    data = {name: getattr(experiment.environment, name) for name in Task.names()}
    if task == "skew":
        return experiment.replace(environment=SkewLength(**data | {"relabel": True, "cut_from": 10, "cut_to": 22}))
    return experiment.replace(environment=MinLength(**data) if task == "min" else ModeLength(**data, mode=200))


def arm(
    figure: str, scale: str, task: TaskName, algorithm: str, sampler: Sampler = "on", batches: int = 1, epochs: int = 1
) -> Experiment:
    """An arm of a figure: an algorithm on a task, drawn by the policy or by the reference.

    A batch has 32 samples (tiny), or as many as the preset's: in pairs for algorithms on pairs, else in fours. sampler
    "off": fresh draws from the reference for ever; of skew the recorded responses, which are cut short.
    batches: so many times as many samples are collected at once, in minibatches of the size that one has. epochs:
    updates on each.
    """
    base = preset(scale, task)
    tiny, method = scale == "tiny", ALGORITHMS[algorithm]
    generations = 2 if method.label_pairing is not None else 4
    prompts = (TINY_SAMPLES if tiny else base.schedule.samples_per_batch) // generations
    schedule = Schedule(
        batch_size=prompts * batches,
        num_generations=generations,
        minibatch_size=prompts if batches > 1 else None,
        epochs=epochs,
    )
    if sampler == "off":
        schedule = schedule.replace(**({"source": "dataset"} if task == "skew" else {"sync_every_updates": math.inf}))
    if tiny:
        task_spec = base.environment.replace(evaluation_prompts=64, recorded_prompts=1024)
        base = base.replace(updates=TINY_UPDATES, evaluations=TINY_EVALUATIONS, environment=task_spec)
    elif scale == "pythia-1.4b":
        rate = PYTHIA_RATES[f"{algorithm}/{sampler}"]
        base = base.replace(optimiser=base.optimiser.replace(learning_rate=rate))
    return base.replace(
        name=f"{figure}-{algorithm}", algorithm=method, schedule=schedule, runs=TINY_RUNS if tiny else LARGE_RUNS
    )


def scale_of(record: Record) -> str:
    """The scale that a record was run at, from its model."""
    model = record.spec["policy"]["model"]
    return next(scale for scale in SCALES if preset(scale, "min").policy.model == model)  # type: ignore[attr-defined]


def model_of(record: Record) -> str:
    """What a caption calls the model."""
    tiny = scale_of(record) == "tiny"
    return "The embedded Pythia (0.1 M parameters)" if tiny else str(record.spec["policy"]["model"])


def dry_run(arms: Mapping[str, Experiment]) -> Iterator[str]:
    """Lines about each arm: its spec, parameter count and memory, as `python -m llm train --dry-run` says them."""
    from llm.training.memory import estimate

    for name, experiment in arms.items():
        yield f"\n{name}: {experiment.runs} runs of"
        yield json.dumps(experiment.to_json(), indent=1)
        yield from estimate(experiment).lines()


def carried_on(runs: np.ndarray) -> np.ndarray:
    """(runs, points), where a run that diverged stays where it was last evaluated."""
    last = np.where(np.isfinite(runs), np.arange(runs.shape[1]), 0)
    return np.take_along_axis(runs, np.maximum.accumulate(last, axis=1), axis=1)
