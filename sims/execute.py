"""Run toy experiments: arms that differ in numbers alone are stacked into one tensor, and evaluated exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from .core.batch import pick, sequence_sum
from .core.divergences import entropy, kl_policy_ref
from .core.experiment import Experiment, stack_specs
from .core.learner import Learner
from .core.noise import Noise
from .core.reductions import shares
from .core.train import Tick, Training
from .environments.enumerable import EnumerableEnvironment
from .policies.categorical import CategoricalPolicy

Progress = Callable[[int], None]
Arrays = dict[str, np.ndarray]


def execute(experiments: Sequence[Experiment], progress: Progress = lambda updates: None) -> list[Arrays]:
    """Run experiments of one stack (`stack_key`) together, and return the arrays of each one's record.

    Over (runs, points): reward, gold, kl_policy_ref, entropy, all exact expectations under the policy; loss,
    grad_norm of the update before the point (NaN at the start); for algorithms on pairs logp_chosen, logp_rejected,
    mean over the batch. Over points: updates, samples, staleness. Over runs: diverged_at (−1: never), reference_reward,
    and logp_ref and logp_final (runs, X, N). rewards: (X, N). progress is told how many updates are done.
    """
    first, runs = experiments[0], [e.runs for e in experiments]
    noise = Noise([(e.seed, run) for e in experiments for run in range(e.runs)])
    with one_thread():
        algorithm = stack_specs([e.algorithm for e in experiments], runs, first.dtype)
        optimiser = stack_specs([e.optimiser for e in experiments], runs, first.dtype)
        policy = first.policy.build(first.environment, noise, algorithm.needs_critic, first.dtype)
        environment: EnumerableEnvironment = first.environment.build(first.dtype)  # type: ignore[attr-defined]
        learner = Learner(policy, optimiser, noise.lead)
        training = Training(policy, environment, algorithm, first.schedule, learner, noise)
        arrays = _run(training, environment, first, progress)
    splits = np.cumsum(runs)[:-1]
    shared = {"updates", "samples", "staleness", "rewards"}
    parts = {name: [x] * len(runs) if name in shared else np.split(x, splits) for name, x in arrays.items()}
    return [{name: part[i] for name, part in parts.items()} for i in range(len(runs))]


@contextmanager
def one_thread() -> Iterator[None]:
    """Results keep their bits at one thread, and two processes on two cores are faster than one with two threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _run(training: Training, environment: EnumerableEnvironment, experiment: Experiment, progress: Progress) -> Arrays:
    policy: CategoricalPolicy = training.policy  # type: ignore[assignment]
    logp_ref = policy.all_log_probs().detach()
    points = experiment.evaluated_at
    rows = [_evaluate(policy, logp_ref, environment, None, training)]
    counts = [(0, 0, 0)]
    died = torch.full(training.noise.lead, -1, dtype=torch.int64)
    for tick in training.ticks(experiment.updates):
        if not bool(tick.step.alive.all()):
            died = torch.where(~tick.step.alive & (died < 0), tick.update, died)
        if tick.update == points[len(rows)]:
            rows.append(_evaluate(policy, logp_ref, environment, tick, training))
            counts.append((tick.update, tick.samples, tick.staleness))
            progress(tick.update)
    arrays = {name: torch.stack([row[name] for row in rows], dim=-1) for name in rows[-1]}
    arrays |= {
        "diverged_at": died,
        "reference_reward": _mean(logp_ref, environment.all_rewards()),
        "rewards": environment.all_rewards(),
        "logp_ref": logp_ref,
        "logp_final": policy.all_log_probs().detach(),
    }
    updates, samples, staleness = np.array(counts).T
    numbers = {name: x.numpy() for name, x in arrays.items()}
    return numbers | {"updates": updates, "samples": samples, "staleness": staleness}


def _mean(logp: Tensor, rewards: Tensor) -> Tensor:
    """Expected reward, mean over prompts: (R,). logp: (R, X, N); rewards: (X, N)."""
    return (logp.exp() * rewards).sum(-1).mean(-1)


@torch.no_grad()
def _evaluate(
    policy: CategoricalPolicy,
    logp_ref: Tensor,
    environment: EnumerableEnvironment,
    tick: Tick | None,
    training: Training,
) -> dict[str, Tensor]:
    logp = policy.all_log_probs()
    reward = _mean(logp, environment.all_rewards())
    unknown = torch.full_like(reward, torch.nan)
    row = {
        "reward": reward,
        "gold": reward,
        "kl_policy_ref": kl_policy_ref(logp, logp_ref).mean(-1),
        "entropy": entropy(logp).mean(-1),
        "loss": unknown if tick is None else tick.step.loss,
        "grad_norm": unknown if tick is None else tick.step.grad_norm,
    }
    if training.algorithm.label_pairing is not None:
        chosen, rejected = (unknown, unknown) if tick is None else _pair_log_probs(policy, tick)
        row |= {"logp_chosen": chosen, "logp_rejected": rejected}
    return row


def _pair_log_probs(policy: CategoricalPolicy, tick: Tick) -> tuple[Tensor, Tensor]:
    """Mean log-prob of the chosen and of the rejected responses of a batch, after its update: (R,) each."""
    batch = tick.batch
    logp = sequence_sum(policy.forward(batch.prompts, batch.responses, batch.mask).logp, batch.mask)
    first, second = pick(logp, batch.need("pairs"))
    label = batch.need("pair_label")
    chosen = label * first + (1.0 - label) * second
    share = shares(batch.pair_weight, label)  # pairs that do not count have no say; 0/0 is NaN where none does
    share = share / share.sum((-2, -1), keepdim=True)
    return (share * chosen).sum((-2, -1)), (share * (first + second - chosen)).sum((-2, -1))
