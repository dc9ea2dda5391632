"""What the universal tests share: values that a field may take, small policies, and how far a mean may stray."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal, get_args, get_origin

from sims.core.loop.protocols import EnvironmentSpec, PolicySpec
from sims.core.spec import SpecError, kinds_of

ALARM = 1e-9  # probability of a false alarm of one stochastic check

# What makes a policy small enough to be built in a moment; one that is not named keeps its defaults.
SMALL: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": (8,), "fit_steps": 2},
    "transformer": {"num_layers": 1, "num_heads": 2, "hidden_size": 8, "fit_steps": 2},
    "fine_tuned": {"sft_updates": 2, "sft_batch_size": 4},
}


def other_values(field: dataclasses.Field[Any], hint: Any, value: Any) -> list[Any]:
    """Values of a field other than its default, by its type and limits."""
    options = get_args(hint) if get_origin(hint) is Literal else ()
    if options:
        return [option for option in options if option != value]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1]
    if value is None or isinstance(value, float):
        low = field.metadata.get("above", field.metadata.get("at_least", 0.0))
        high = field.metadata.get("below", field.metadata.get("at_most", math.inf))
        guess = 1.7 * value if value else low + 0.3
        return [guess if guess < high else 0.5 * ((value or low) + low)]
    return []


def within(n: int, checks: int = 1) -> float:
    """How far the mean of n independent numbers in an interval of length 1 is from its expectation, but with a
    probability of ALARM, over so many means together.

    Hoeffding's inequality: P(|mean − expectation| > t) ≤ 2·exp(−2nt²).
    """
    return math.sqrt(math.log(2.0 * checks / ALARM) / (2.0 * n))


def small(kind: str) -> PolicySpec:
    """A policy by its kind, small."""
    return kinds_of(PolicySpec)[kind](**SMALL.get(kind, {}))


def accepts(policy: PolicySpec, environment: EnvironmentSpec) -> bool:
    """Whether the policy can answer the environment."""
    try:
        policy.check_environment(environment)
    except SpecError:
        return False
    return True


def small_policy(environment: EnvironmentSpec) -> PolicySpec:
    """The first policy that can answer the environment."""
    for kind in kinds_of(PolicySpec):
        if accepts(small(kind), environment):
            return small(kind)
    raise AssertionError(f"{environment.kind}: no policy can answer it; see check_environment in sims/policies")
