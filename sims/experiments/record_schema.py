"""What each array of a record is: its axes, its unit and its definition, the same in simulations and language models.

Axes: run (independent runs), evaluation (the start included), prompt, response. `check` compares a record with the
table before it is used. One name has one meaning; where that is estimated, `ESTIMATORS` has the ways, and
`EnvironmentSpec.estimators` which of them the records of an environment use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sims.core.spec import SpecError

RUNS, EVALUATIONS, CURVE, TABLE = ("run",), ("evaluation",), ("run", "evaluation"), ("run", "prompt", "response")


@dataclass(frozen=True)
class Array:
    """One array of a record. axes: of which a leading "run" is left out where all runs share it, if `shared`. unit: ""
    for a number without one, and for rewards, whose unit is the environment's."""

    axes: tuple[str, ...]
    unit: str
    meaning: str
    shared: bool = False

    def named(self, ndim: int) -> tuple[str, ...]:
        """The names of the axes of such an array with so many dimensions."""
        return self.axes[1:] if self.shared and ndim == len(self.axes) - 1 else self.axes


ESTIMATORS = {
    "exact": "sum over all responses",
    "prefixes": "mean over sampled responses of the sum of what is exact after each prefix: unbiased, by the chain "
    "rule; a KL is never negative",
    "samples": "mean over sampled responses; a KL is the mean of log π − log π_ref (k1): unbiased, and signed",
}

SCHEMA: dict[str, Array] = {
    # Where the evaluations lie
    "updates": Array(EVALUATIONS, "updates", "updates done"),
    "samples": Array(
        EVALUATIONS,
        "responses",
        "responses drawn so far, per run; those of a pool or of a replayed run all at once. Those to prompts of which "
        "no pair was labelled (label_candidates) are left out",
    ),
    "staleness": Array(
        EVALUATIONS,
        "updates",
        "of the last update: the difference between the numbers of updates that the trained policy and the one that "
        "drew the batch had made; of a shuffled replay, the mean over orders; recorded data count as drawn at the "
        "start. 0 at the start",
    ),
    # The policy at an evaluation: means over prompts
    "reward": Array(CURVE, "", "expected reward as the learner sees it"),
    "gold": Array(CURVE, "", "expected reward that the policy is evaluated by; `reward` where there is no other"),
    "gold_first": Array(
        CURVE, "", "expected reward of the first of the parts that gold is the mean of: aspects, or tasks (rated)"
    ),
    "gold_second": Array(CURVE, "", "and of the second, or the mean of all others"),
    "kl_policy_ref": Array(
        CURVE, "nats", "KL(π‖π_ref) per prompt, over whole responses; π_ref is the policy before the first update"
    ),
    "entropy": Array(CURVE, "nats", "entropy of π per prompt, over whole responses"),
    "token_entropy": Array(
        CURVE, "nats", "entropy of the next token, mean over the tokens of sampled responses (language models)"
    ),
    "win_rate": Array(
        CURVE, "", "probability that a response of π has more gold reward than one of π_ref to the same prompt, ties ½"
    ),
    "policy_accuracy": Array(
        CURVE,
        "",
        "share of the pairs of two draws of π_ref, unequal by gold, that the policy's implicit reward orders as gold "
        "does; ties of it ½",
    ),
    "policy_accuracy_on_policy": Array(CURVE, "", "the same of two draws of π"),
    "proxy_accuracy": Array(CURVE, "", "the same of the learned reward, of two draws of π_ref"),
    "proxy_accuracy_on_policy": Array(CURVE, "", "and of two draws of π"),
    "values_explained": Array(
        CURVE,
        "",
        "share of the variance of sampled responses' rewards that the critic's values of their prefixes explain, over "
        "all prefixes (token bandit, algorithms with a critic)",
    ),
    "unseen_mass": Array(CURVE, "", "probability of the responses that the recorded data never show"),
    "deployed_gold": Array(
        CURVE, "", "as gold, of the policy that users get: the sampler's, of the last sync (drifting rewards)"
    ),
    "refused": Array(CURVE, "policies", "how often a gate has refused the trained policy so far (drifting rewards)"),
    "reference_now": Array(CURVE, "", "gold reward of the reference, as users ask at this evaluation (drifting)"),
    "best_now": Array(CURVE, "", "the largest gold reward that a policy can have at this evaluation"),
    "gold_set": Array(CURVE, "", "gold reward on the prompts of the gold set (drifting)"),
    "deployed_gold_set": Array(CURVE, "", "the same of the policy that users get"),
    "exploit": Array(
        CURVE, "standard deviations", "what the labellers' bias is about, expectation above the reference's (drifting)"
    ),
    "length": Array(
        CURVE, "tokens", "tokens of a response before EOS: its expectation; of a language model, the mean over samples"
    ),
    "finished": Array(CURVE, "", "share of sampled responses that ended by EOS (language models)"),
    "distance": Array(CURVE, "tokens", "between a response's length and the mode, mean (mode_length)"),
    # The update before an evaluation; NaN at the start
    "loss": Array(CURVE, "", "loss of the update before the evaluation"),
    "grad_norm": Array(CURVE, "", "norm of that update's gradient, before clipping"),
    "logp_chosen": Array(
        CURVE,
        "nats",
        "log π of the whole chosen response, after that update, mean over the pairs of its batch by their weight; both "
        "responses of a pair are chosen by the label's probability, which is ½ in a tie",
    ),
    "logp_rejected": Array(CURVE, "nats", "the same of the rejected response"),
    # All pairs of a fixed pool, at every evaluation, the start included
    "pool_logp_chosen": Array(CURVE, "nats", "as logp_chosen, over all pairs of the pool"),
    "pool_logp_rejected": Array(CURVE, "nats", "the same of the rejected response"),
    # The first batch's pairs, at every evaluation
    "first_logp_winner": Array(
        CURVE,
        "nats",
        "log π of the whole response of label ≥ ½, of a tie the first, mean over the pairs of the first batch by their "
        "weight; at the start log π_ref (language models)",
    ),
    "first_logp_loser": Array(CURVE, "nats", "the same of the other response (language models)"),
    # The run as a whole
    "diverged_at": Array(RUNS, "updates", "update at which a run was no longer finite; −1: never"),
    "reference_reward": Array(RUNS, "", "gold reward of the policy before the first update"),
    "best_reward": Array(RUNS, "", "the largest gold reward that a policy can have; NaN where unknown"),
    "worst_reward": Array(RUNS, "", "the smallest gold reward that a policy can have"),
    "best_first": Array(RUNS, "", "the largest gold_first that a policy can have"),
    "best_second": Array(RUNS, "", "the largest gold_second that a policy can have"),
    "worst_first": Array(RUNS, "", "the smallest gold_first that a policy can have"),
    "worst_second": Array(RUNS, "", "the smallest gold_second that a policy can have"),
    "kl_of_best": Array(RUNS, "nats", "KL to the reference of always giving the best response"),
    "reward_model_loss": Array(RUNS, "nats", "per pair, of the learned reward on the pairs that it was fitted to"),
    "reward_model_accuracy": Array(RUNS, "", "share of these pairs that the learned reward orders as labelled"),
    "unpaired_mass_ref": Array(
        RUNS,
        "",
        "probability of responses in no pair of the pool, mean over prompts that have pairs, before the first update",
    ),
    "unpaired_mass_final": Array(RUNS, "", "and after the last"),
    "best_mass_ref": Array(
        RUNS,
        "",
        "probability of the best response, of several the first, mean over prompts, before the first update (where "
        "responses can be listed)",
    ),
    "best_mass_final": Array(RUNS, "", "and after the last"),
    # Tables, where responses can be listed
    "rewards": Array(TABLE, "", "gold reward of every response", shared=True),
    "learned_rewards": Array(TABLE, "", "what a learned reward gives every response"),
    "covered": Array(TABLE, "", "whether the recorded data show a response"),
    "logp_ref": Array(TABLE, "nats", "log-probability of every response before the first update"),
    "logp_final": Array(TABLE, "nats", "and after the last"),
}


def unit_of(name: str) -> str:
    """The unit of an array; "" for one without, and for names that are not in the table."""
    return SCHEMA[name].unit if name in SCHEMA else ""


def declare(name: str, axes: tuple[str, ...], unit: str, meaning: str) -> None:
    """An array of an environment's own, which its records may then have. ValueError for a name that is taken."""
    array = Array(axes, unit, meaning)
    if SCHEMA.setdefault(name, array) != array:
        raise ValueError(f"{name} is an array of records already: {SCHEMA[name].meaning}")


def check(arrays: Mapping[str, np.ndarray], runs: int, evaluations: int) -> None:
    """Refuse, with SpecError, an array that is not in the table, or has not the shape that its axes say."""
    sizes = {"run": runs, "evaluation": evaluations}
    for name, array in arrays.items():
        if name not in SCHEMA:
            known = "sims.experiments.record_schema; an environment names its own with `declare`"
            raise SpecError(f"record.{name}", array.shape, f"must be an array of the table in {known}")
        axes = SCHEMA[name].named(array.ndim)
        expected = tuple(sizes.get(axis) for axis in axes)
        if array.ndim != len(axes) or any(e not in (None, n) for e, n in zip(expected, array.shape, strict=True)):
            said = ", ".join(axis if sizes.get(axis) is None else f"{sizes[axis]} {axis}s" for axis in axes)
            raise SpecError(f"record.{name}", array.shape, f"must have the shape ({said})")
        sizes |= dict(zip(axes, array.shape, strict=True))


def markdown() -> str:
    """The table, for a document."""
    lines = ["| array | axes | unit | definition |", "| --- | --- | --- | --- |"]
    lines += [f"| {name} | {', '.join(a.axes)} | {a.unit or '–'} | {a.meaning} |" for name, a in SCHEMA.items()]
    return "\n".join(lines) + "\n"
