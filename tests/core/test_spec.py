"""Settings that check themselves, and their way to JSON and back."""

import json
import math
import pickle
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest
import torch

from sims.core.algorithms import all_algorithms
from sims.core.schedule import Schedule
from sims.core.spec import Spec, SpecError, find_kind, from_json, setting, to_json
from sims.environments import BanditR1
from sims.experiments.experiment import Experiment
from sims.policies import MLP


@dataclass(frozen=True)
class Example(Spec, kind="test_example"):
    rate: float = setting(0.5, "a rate", above=0, at_most=1)
    count: int | None = setting(None, "a count", at_least=2)
    flavour: Literal["sweet", "sour"] = setting("sweet", "a flavour")
    widths: tuple[int, ...] = setting((1,), "some widths")
    drift: float = setting(0.0, "how far, either way")
    period: float = setting(1.0, "how long", above=0, infinite=True)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("rate", 0.0, "rate = 0.0: must be float > 0 and <= 1"),
        ("rate", 1.5, "rate = 1.5: must be float > 0 and <= 1"),
        ("rate", math.nan, "rate = nan: must be float > 0 and <= 1"),
        ("drift", math.inf, "drift = inf: must be finite: float"),
        ("drift", -math.inf, "drift = -inf: must be finite: float"),
        ("period", math.nan, "period = nan: must be float > 0"),
        ("rate", "0.5", "rate = '0.5': must be float > 0 and <= 1"),
        ("rate", True, "rate = True: must be float > 0 and <= 1"),
        ("count", 1, "count = 1: must be int or none >= 2"),
        ("count", 2.0, "count = 2.0: must be int or none >= 2"),
        ("flavour", "salty", "flavour = 'salty': must be one of sweet, sour"),
        ("widths", (1, 2.5), "widths = (1, 2.5): must be tuple of int"),
        ("widths", (1, 2**63), f"widths = (1, {2**63}): must be tuple of int, and at most {2**63 - 1} each"),
    ],
)
def test_a_value_that_cannot_be_is_named(field: str, value: object, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        Example(**{field: value})
    assert str(caught.value) == message
    assert (caught.value.field, caught.value.value) == (field, value) or value != value


@pytest.mark.parametrize("field", ["rate", "count", "flavour", "widths", "drift", "period"])
@pytest.mark.parametrize(
    "value",
    [np.array([0.1, 0.2]), np.array([]), torch.tensor([[0.1], [0.2]]), torch.tensor(math.nan), 1j, b"sweet", object()],
    ids=["array", "empty array", "tensor", "NaN in a tensor", "complex", "bytes", "object"],
)
def test_a_value_of_a_foreign_type_is_named_in_one_line(field: str, value: object) -> None:
    with pytest.raises(SpecError) as caught:
        Example(**{field: value})
    assert str(caught.value).startswith(f"{field} = ") and "\n" not in str(caught.value)
    assert ": must be " in str(caught.value)


def test_limits_include_what_they_say() -> None:
    assert Example(rate=1, count=2, flavour="sour", widths=(1, 2)).rate == 1
    assert Example(period=math.inf).period == math.inf


def test_unknown_fields_and_kinds_name_what_there_is() -> None:
    with pytest.raises(SpecError, match="no such field; it has rate, count, flavour, widths, drift, period"):
        Example().replace(rat=1)
    with pytest.raises(SpecError, match="did you mean test_example"):
        find_kind("test_exampel", Spec)
    with pytest.raises(SpecError, match="no such field"):
        from_json({"kind": "test_example", "speed": 1})


def test_an_error_survives_the_way_from_another_process() -> None:
    error = pickle.loads(pickle.dumps(SpecError("beta", -1, "must be > 0")))  # as worker processes send it
    assert str(error) == "beta = -1: must be > 0"


def test_json_and_back() -> None:
    for algorithm in all_algorithms().values():
        generations = max(2, algorithm.min_generations)
        schedule = Schedule(num_generations=generations, sync_every_updates=math.inf)
        experiment = Experiment("x", BanditR1(num_prompts=3), MLP(hidden=(4, 4)), algorithm(), schedule)
        text = json.dumps(experiment.to_json(), allow_nan=False)
        assert from_json(json.loads(text)) == experiment
        assert to_json(from_json(json.loads(text))) == experiment.to_json()


def test_equal_settings_have_one_identity() -> None:
    """1 and 1.0 are one experiment: one JSON, one hash, one record."""
    assert json.dumps(to_json(Example(rate=1))) == json.dumps(to_json(Example(rate=1.0)))
    assert to_json(Schedule(sync_every_updates=10)) == to_json(Schedule(sync_every_updates=10.0))
    assert to_json(Example(count=3))["count"] == 3 and isinstance(to_json(Example(count=3))["count"], int)


def test_a_kind_is_given_once() -> None:
    with pytest.raises(TypeError, match="kind 'dpo' is taken"):
        type("Other", (Spec,), {}, kind="dpo")
