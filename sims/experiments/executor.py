"""Run toy experiments: those that differ only in numbers are stacked into one tensor, trained together and
evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from sims.core.loop.learner import Learner
from sims.core.loop.train import Training
from sims.core.numerics.noise import Noise
from sims.environments.enumerable import EnumerableEnvironment, SideBySide
from sims.environments.toy import ToyEnvironment

from .evaluation import Evaluation, ExactEvaluation, SampledEvaluation, update_row
from .experiment import Experiment, stack_specs

Progress = Callable[[int], None]
Arrays = dict[str, np.ndarray]
SHARED = {"updates", "samples", "staleness", "rewards"}  # arrays of a record without a runs axis


def execute(experiments: Sequence[Experiment], progress: Progress = lambda updates: None) -> list[Arrays]:
    """Run experiments of one stack (`stack_key`) together, and return the arrays of each one's record.

    Over (runs, points): the measurements of `sims.experiments.evaluation` of the policy (reward, gold, kl_policy_ref,
    entropy, ...) and of the last update (loss, grad_norm, ...). Over points: updates, samples, staleness. Over runs:
    diverged_at (−1: never), reference_reward, best_reward, and the evaluation's other closing arrays. progress is
    called with the number of updates done."""
    first, runs = experiments[0], [e.runs for e in experiments]
    noise = Noise([(e.seed, run) for e in experiments for run in range(e.runs)])
    with one_thread():
        algorithm = stack_specs([e.algorithm for e in experiments], runs, first.dtype)
        optimiser = stack_specs([e.optimiser for e in experiments], runs, first.dtype)
        combined: ToyEnvironment = SideBySide.of([e.environment for e in experiments], runs)  # type: ignore[misc]
        policy = first.policy.build(combined, noise, algorithm.needs_critic, first.dtype)
        environment = combined.build(first.dtype, noise)
        learner = Learner(policy, optimiser, noise.lead)
        training = Training(policy, environment, algorithm, first.schedule, learner, noise, first.labelling)
        arrays = _run(training, evaluation_of(training, environment, combined), first, progress)
    ends = np.cumsum(runs)
    slices = [slice(end - count, end) for end, count in zip(ends, runs, strict=True)]
    return [{name: _part(name, x, its_runs) for name, x in arrays.items()} for its_runs in slices]


def _part(name: str, x: np.ndarray, runs: slice) -> np.ndarray:
    """The part of a stack's array that belongs to one of its experiments."""
    if name not in SHARED:
        return x[runs]
    return x[runs.start] if name == "rewards" and x.ndim > 2 else x  # rewards: (R, X, N) where environments differ


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
    return SampledEvaluation(training, environment, spec.evaluation_samples)


def _run(training: Training, evaluation: Evaluation, experiment: Experiment, progress: Progress) -> Arrays:
    points = experiment.evaluated_at
    first = evaluation.row()
    rows = [first | update_row(training, None, first["reward"])]
    counts = [(0, 0, 0)]
    diverged = torch.full(training.noise.lead, -1, dtype=torch.int64)
    for update in training.train(experiment.updates):
        if not bool(update.stats.alive.all()):
            diverged = torch.where(~update.stats.alive & (diverged < 0), update.number, diverged)
        if update.number == points[len(rows)]:
            rows.append(evaluation.row() | update_row(training, update, first["reward"]))
            counts.append((update.number, update.samples, update.staleness))
            progress(update.number)
    arrays = {name: torch.stack([row[name] for row in rows], dim=-1) for name in rows[-1]}
    arrays |= evaluation.closing() | {"diverged_at": diverged}
    updates, samples, staleness = np.array(counts).T
    numbers = {name: x.numpy() for name, x in arrays.items()}
    return numbers | {"updates": updates, "samples": samples, "staleness": staleness}
