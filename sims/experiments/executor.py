"""Run toy experiments: those that differ only in numbers are stacked into one tensor and trained together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from sims.core.loop.captured import train_captured
from sims.core.loop.learner import Learner
from sims.core.loop.train import Training
from sims.core.numerics.noise import Noise
from sims.environments.drifting import DriftingEnvironment
from sims.environments.enumerable import EnumerableEnvironment, SideBySide
from sims.environments.toy import ToyEnvironment

from .computation import move
from .evaluation import DeployedEvaluation, Evaluation, ExactEvaluation, PairEvaluation, SampledEvaluation
from .experiment import Experiment, stack_specs
from .pool_evaluation import PoolEvaluation, has_pool_of_pairs
from .record_loop import Arrays, Hooks, Recorder
from .record_schema import SCHEMA

Progress = Callable[[int], None]
SHARED = {name for name, array in SCHEMA.items() if array.shared or array.axes[0] != "run"}  # without an axis of runs


def execute(experiments: Sequence[Experiment], progress: Progress = lambda updates: None) -> list[Arrays]:
    """Run experiments of one stack (`stack_key`) together, and return the arrays of each one's record: those of
    `Recorder.arrays`, with the measurements of `sims.experiments.evaluation`.

    progress is called with the number of updates done."""
    first, runs = experiments[0], [e.runs for e in experiments]
    generator, device = first.computation.generator, first.computation.device
    first.computation.check_here()
    noise = Noise([(e.seed, run) for e in experiments for run in range(e.runs)], generator)
    with one_thread():
        algorithm = stack_specs([e.algorithm for e in experiments], runs, first.dtype, device)
        optimiser = stack_specs([e.optimiser for e in experiments], runs, first.dtype, device)
        combined: ToyEnvironment = SideBySide.of([e.environment for e in experiments], runs)  # type: ignore[misc]
        policy = first.policy.build(combined, noise, algorithm.needs_critic, first.dtype)
        environment = combined.build(first.dtype, noise)
        if device != "cpu":  # what is drawn and fitted before training is the same on every device
            policy, environment, noise = move(policy, device), move(environment, device), noise.to(device)
        learner = Learner(policy, optimiser, noise.lead)
        training = Training(
            policy,
            environment,
            algorithm,
            first.schedule,
            learner,
            noise,
            first.labelling,
            deployment=first.deployment,
        )
        evaluations = [evaluation_of(training, environment, combined), PairEvaluation(training)]
        if isinstance(environment, DriftingEnvironment):
            evaluations.append(DeployedEvaluation(training, environment))
        if isinstance(environment, EnumerableEnvironment) and has_pool_of_pairs(training):
            evaluations.append(PoolEvaluation(training, environment))
        recorder = Recorder(training, first, evaluations, Hooks(evaluated=progress))
        train = train_captured if first.computation.capture else Training.train
        recorder.run(train(training, first.updates))
        arrays = recorder.arrays()
    ends = np.cumsum(runs)
    slices = [slice(end - count, end) for end, count in zip(ends, runs, strict=True)]
    shared = SHARED - ({"rewards"} if getattr(first.environment, "rewards_per_run", False) else set())
    return [{name: _part(name in shared, x, its_runs) for name, x in arrays.items()} for its_runs in slices]


def _part(shared: bool, x: np.ndarray, runs: slice) -> np.ndarray:
    """The part of a stack's array that belongs to one of its experiments."""
    if not shared:
        return x[runs]
    return x[runs.start] if x.ndim > 2 else x  # rewards: (R, X, N) where environments differ


@contextmanager
def one_thread() -> Iterator[None]:
    """With one thread results are reproducible bit for bit; two processes are faster than one with two threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def evaluation_of(training: Training, environment: Any, spec: Any) -> Evaluation:
    """Exact where the environment's responses can be listed, else along samples."""
    if isinstance(environment, EnumerableEnvironment):
        return ExactEvaluation(training, environment)
    return SampledEvaluation(training, environment, spec.evaluation_samples, training.algorithm.needs_critic)
