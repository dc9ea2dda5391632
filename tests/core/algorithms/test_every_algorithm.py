"""Every algorithm's sampled gradient, averaged over all batches, is the population gradient of `sims.exact`.

Runs on a new algorithm without being told: each field of its dataclass is varied once by its type and limits, and on
every problem on which the algorithm can run. Settings that matter only together are in `TOGETHER`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from sims.core.algorithms import Algorithm, all_algorithms
from sims.core.algorithms.clipped import GRPO, PPO
from sims.core.algorithms.contrastive import DPO, KTO
from sims.core.algorithms.filtering import ReST
from sims.core.algorithms.policy_gradient import Reinforce
from sims.core.objectives.preferences import count_pairs
from sims.core.spec import SpecError
from sims.environments.space import TokenSpace
from sims.exact import has_population_weights
from tests.core.enumeration import Problem, enumerate_batches, make_problem
from tests.newcomers import other_values

EXACT = {"rtol": 0.0, "atol": 1e-10}

# (problem, K): small enough to list all N^(XK) batches, large enough for several prompts, lengths and pairs per prompt.
PROBLEMS = {
    "table of 3, 2 prompts": (make_problem(TokenSpace(3), prompts=2, seed=1), 2),
    "table of 4, 4 responses": (make_problem(TokenSpace(4), prompts=1, seed=2), 4),
    "tree of 15": (make_problem(TokenSpace(3, 3, eos=True), prompts=1, seed=3), 2),
    "tree of 4, 2 prompts": (make_problem(TokenSpace(2, 3, eos=True), prompts=2, seed=4), 2),
}

TOGETHER: dict[str, list[dict[str, Any]]] = {
    "rwr": [{"beta": 0.5, "weight_clip": 1.5}],
    "rloo": [{"beta": 0.4, "epsilon": 0.2}],
    "reinforce": [{"beta": 0.4, "baseline": "none"}],
    "ppo": [
        {"beta": 0.3, "gamma": 0.9, "lam": 0.7, "reduction": "token_mean", "whiten_advantages": True},
        {"epsilon": 2.0, "gamma": 0.9, "lam": 0.0},
        {"beta": 0.3, "kl_estimator": "k3", "target_kl": 0.4},
        {"beta": 0.3, "kl_estimator": "k2", "kl_in": "loss", "target_kl": 2.0, "reduction": "token_mean"},
        {"beta": 0.3, "kl_estimator": "k3", "kl_in": "loss"},
        {"beta": 0.3, "kl_in": "loss", "reduction": "sequence_mean"},
    ],
    "grpo": [
        {"ddof": 0, "std_epsilon": 0.0},
        {"ddof": 0, "scale_rewards": "batch", "importance_sampling_level": "sequence"},
    ],
    "dr_grpo": [{"scale_rewards": "group", "ddof": 0}, {"beta": 0.3, "importance_sampling_level": "sequence"}],
    "dapo": [{"beta": 0.3, "ddof": 0}, {"drop_equal_groups": False, "importance_sampling_level": "sequence"}],
    "gspo": [{"beta": 0.3, "epsilon": 0.2, "epsilon_high": 0.3, "ddof": 0}],
    "cispo": [{"beta": 0.3, "epsilon": 0.3, "epsilon_high": 0.4, "ddof": 0}],
    "best_of_n_negative": [
        {"negatives": "mean_of_rest", "form": "log_ratio"},
        {"negatives": "sum_of_rest", "form": "log_ratio", "beta": 0.7},
        {"negatives": "sum_of_rest", "form": "log_complement", "beta": 0.7},
        {"negatives": "mean_of_rest", "gate": 0.5, "beta": 0.7},
    ],
    "rejection_sampling": [{"keep": 0.5}, {"keep": 0.5, "top": "over_all_prompts"}],
    "raft": [{"keep": 0.5, "beta": 0.7}],
    "rest": [{"quantiles": (0.25, 0.5)}],
    "awr": [{"beta": 0.5, "weight_clip": 1.5}, {"beta": 0.5, "weight_clip": 1.5, "baseline": "group_mean"}],
    "ipo": [{"length_normalised": True, "pairing": "all"}],
    "mixture": [
        {"losses": (PPO(beta=0.3, target_kl=0.4), DPO(), ReST()), "loss_weights": (0.7, 2.0, 0.3)},
        {"losses": (KTO(), Reinforce(), GRPO()), "loss_weights": (0.7, 2.0, 1.0)},
    ],
    "kto": [{"beta": 1.5, "desirable_weight": 1.3, "undesirable_weight": 0.6}],
}

# Fields that ask for what a table policy cannot give: their own family's tests have them.
UNSERVED = {"sft": {"include_prompt"}}


def variants(cls: type[Algorithm]) -> dict[str, Algorithm]:
    """The defaults, each field varied by itself, and what `TOGETHER` adds; what is refused is left out."""
    found = {"defaults": cls()}
    hints = cls.hints()
    for field in dataclasses.fields(cls):
        if field.name in UNSERVED.get(cls.kind, ()):
            continue
        for value in other_values(field, hints[field.name], getattr(cls(), field.name)):
            try:
                found[f"{field.name}={value:.3g}" if isinstance(value, float) else f"{field.name}={value}"] = cls(
                    **{field.name: value}
                )
            except SpecError:
                continue
    for changes in TOGETHER.get(cls.kind, []):
        found[" ".join(f"{name}={value}" for name, value in changes.items())] = cls(**changes)
    return found


def generations_for(algorithm: Algorithm, problem: Problem, generations: int) -> int | None:
    """K responses per prompt, or None where the algorithm cannot run on the problem with so many."""
    if generations < algorithm.min_generations or (algorithm.needs_probes and problem.prompts < 2):
        return None
    if algorithm.label_pairing is not None:
        count_pairs(generations, algorithm.label_pairing)
    return generations


ALGORITHMS = all_algorithms()
CASES = [pytest.param(a, id=f"{kind}: {name}") for kind, cls in ALGORITHMS.items() for name, a in variants(cls).items()]


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_has_population_weights(kind: str) -> None:
    assert has_population_weights(kind), f"{kind} has no population weights: register them in sims/exact"


@pytest.mark.parametrize("algorithm", CASES)
def test_expected_gradient_is_the_population_gradient(algorithm: Algorithm) -> None:
    if not has_population_weights(algorithm.kind):
        pytest.skip("test_has_population_weights names it")
    epochs = (0,) if type(algorithm).at_epoch is Algorithm.at_epoch else (0, 1, 2)
    ran = 0
    for name, (problem, wanted) in PROBLEMS.items():
        generations = generations_for(algorithm, problem, wanted)
        if generations is None:
            continue
        for where, drawn_from in (("another policy's samples", problem), ("its own samples", problem.on_policy())):
            every = enumerate_batches(drawn_from, algorithm, generations)
            assert math.isclose(every.probability.sum(), 1.0, abs_tol=1e-12)
            for epoch in epochs:
                found, expected = every.expected_gradient(epoch), every.population_gradient(epoch)
                message = f"{algorithm} on {name}, on {where}, pass {epoch}"
                np.testing.assert_allclose(found, expected, **EXACT, err_msg=message)
                ran += 1
    assert ran, f"{algorithm} runs on none of the problems"


@pytest.mark.parametrize("kind", [kind for kind, cls in ALGORITHMS.items() if cls().label_pairing is not None])
def test_drawn_labels_average_to_their_probability(kind: str) -> None:
    """A labeller answers yes or no: summing over its answers too gives the gradient of the soft labels."""
    problem, generations = PROBLEMS["table of 3, 2 prompts"]
    soft, hard = (enumerate_batches(problem, ALGORITHMS[kind](), generations, hard_labels=h) for h in (False, True))
    assert len(hard.probability) > len(soft.probability)
    np.testing.assert_allclose(hard.expected_gradient(), soft.expected_gradient(), **EXACT)


@pytest.mark.parametrize("kind", [kind for kind, cls in ALGORITHMS.items() if cls().needs_probes])
def test_probed_algorithms_on_the_tree_of_15(kind: str) -> None:
    """Probes need two prompts, which on the tree of 15 responses is 50,625 batches: once, with the defaults."""
    every = enumerate_batches(make_problem(TokenSpace(3, 3, eos=True), prompts=2, seed=5), ALGORITHMS[kind](), 2)
    np.testing.assert_allclose(every.expected_gradient(), every.population_gradient(), **EXACT)


@pytest.mark.parametrize("kind", [kind for kind, cls in ALGORITHMS.items() if cls().initial_state((), *[None] * 2)])
def test_first_batch_of_algorithms_with_a_state(kind: str) -> None:
    problem, generations = PROBLEMS["tree of 4, 2 prompts"]
    every = enumerate_batches(problem, ALGORITHMS[kind](), generations, later=False)
    np.testing.assert_allclose(every.expected_gradient(), every.population_gradient(), **EXACT)
