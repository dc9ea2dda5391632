"""What each array of a record is: its axes, its unit and its definition, in sims and in llm.

Axes: run (independent runs), point (evaluations, the start included), prompt, response. `check` holds a record against
the table before it is written. Where sims and llm do not measure the same, the definition says how they differ; the
numbers of either kind are comparable among themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sims.core.spec import SpecError

RUNS, POINTS, CURVE, TABLE = ("run",), ("point",), ("run", "point"), ("run", "prompt", "response")


@dataclass(frozen=True)
class Array:
    """One array of a record. axes: of which a leading "run" is left out where all runs share it, if `shared`."""

    axes: tuple[str, ...]
    unit: str
    meaning: str
    shared: bool = False


SCHEMA: dict[str, Array] = {
    # Where the points lie
    "updates": Array(POINTS, "updates", "updates done"),
    "samples": Array(POINTS, "responses", "responses drawn so far, per run; of a pool they are drawn once"),
    "staleness": Array(
        POINTS, "updates", "updates since the sampler was last synced, when the last batch's update was done"
    ),
    # The policy at a point
    "reward": Array(
        CURVE, "reward", "expected reward as the learner sees it; llm and long responses: mean over samples"
    ),
    "gold": Array(CURVE, "reward", "the same of the reward that it is evaluated by; `reward` where there is no other"),
    "kl_policy_ref": Array(
        CURVE,
        "nats per response",
        "KL(policy ‖ reference), mean over prompts. sims: to the policy before the first update; exact where responses "
        "can be listed, else exact after each prefix of samples. llm: to the reference as it is now, which a schedule "
        "may move; mean of log π − log π_ref over samples, which is signed",
    ),
    "entropy": Array(
        CURVE,
        "nats",
        "of the policy. sims: per response, summed over its tokens. llm: per token, mean over the tokens of samples",
    ),
    "unseen_mass": Array(CURVE, "probability", "of responses that the recorded data never show, mean over prompts"),
    "length": Array(CURVE, "tokens", "of sampled responses, before EOS, mean (llm)"),
    "finished": Array(CURVE, "share", "of sampled responses that ended by EOS (llm)"),
    "distance": Array(CURVE, "tokens", "between a response's length and the mode, mean (llm, mode_length)"),
    # The update before a point; NaN at the start
    "loss": Array(CURVE, "loss", "of the update before the point"),
    "grad_norm": Array(CURVE, "norm", "of that update's gradient, before clipping"),
    "logp_chosen": Array(
        CURVE,
        "nats per response",
        "log π of the preferred response of each pair of that update's batch, after the update. sims: weighted by "
        "pair, both responses counting by the label's probability. llm: the one of label ≥ ½, plain mean over pairs",
    ),
    "logp_rejected": Array(CURVE, "nats per response", "the same of the other response"),
    "first_logp_chosen": Array(
        CURVE,
        "nats per response",
        "logp_chosen of the first batch's pairs at every point; at the start, log π_ref (llm)",
    ),
    "first_logp_rejected": Array(CURVE, "nats per response", "the same of the other response (llm)"),
    # The run as a whole
    "diverged_at": Array(RUNS, "updates", "update at which a run was no longer finite; −1: never"),
    "reference_reward": Array(RUNS, "reward", "gold reward of the policy before the first update"),
    "best_reward": Array(RUNS, "reward", "the largest gold reward that a policy can have; NaN where unknown"),
    "kl_of_best": Array(RUNS, "nats per response", "KL to the reference of always giving the best response"),
    "reward_model_loss": Array(RUNS, "nats per pair", "of the learned reward on the pairs that it was fitted to"),
    "reward_model_accuracy": Array(RUNS, "share", "of these pairs that the learned reward orders as labelled"),
    # Tables, where responses can be listed
    "rewards": Array(TABLE, "reward", "gold reward of every response", shared=True),
    "learned_rewards": Array(TABLE, "reward", "what a learned reward gives every response"),
    "covered": Array(TABLE, "yes or no", "whether the recorded data show a response"),
    "logp_ref": Array(TABLE, "nats", "log-probability of every response before the first update"),
    "logp_final": Array(TABLE, "nats", "and after the last"),
}


def declare(name: str, axes: tuple[str, ...], unit: str, meaning: str) -> None:
    """An array of an environment's own, which its records may then have. ValueError for a name that is taken."""
    array = Array(axes, unit, meaning)
    if SCHEMA.setdefault(name, array) != array:
        raise ValueError(f"{name} is an array of records already: {SCHEMA[name].meaning}")


def check(arrays: Mapping[str, np.ndarray], runs: int, points: int) -> None:
    """Refuse, with SpecError, an array that is not in the table, or has not the shape that its axes say."""
    sizes = {"run": runs, "point": points}
    for name, array in arrays.items():
        if name not in SCHEMA:
            known = "sims.experiments.record_schema; an environment names its own with `declare`"
            raise SpecError(f"record.{name}", array.shape, f"must be an array of the table in {known}")
        axes = SCHEMA[name].axes
        if SCHEMA[name].shared and array.ndim == len(axes) - 1:
            axes = axes[1:]
        expected = tuple(sizes.get(axis) for axis in axes)
        if array.ndim != len(axes) or any(e not in (None, n) for e, n in zip(expected, array.shape, strict=True)):
            said = ", ".join(axis if sizes.get(axis) is None else f"{sizes[axis]} {axis}s" for axis in axes)
            raise SpecError(f"record.{name}", array.shape, f"must have the shape ({said})")
        sizes |= dict(zip(axes, array.shape, strict=True))


def markdown() -> str:
    """The table, for a document."""
    lines = ["| array | axes | unit | definition |", "| --- | --- | --- | --- |"]
    lines += [f"| {name} | {', '.join(a.axes)} | {a.unit} | {a.meaning} |" for name, a in SCHEMA.items()]
    return "\n".join(lines) + "\n"
