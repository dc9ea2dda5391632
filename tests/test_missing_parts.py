"""A newcomer that lacks a part, or gives what is no number, is refused in a line that names its class and what it must
define. None here has a kind, so that the other tests do not find it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

import llm
import sims
from sims.core.algorithms import Algorithm
from sims.core.loop.protocols import PolicySpec
from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import Batch, Outputs
from sims.core.spec import SpecError
from sims.environments import EnumerableSpec, RewardLabeller, ToyEnvironment
from sims.environments.space import TokenSpace
from sims.policies import CategoricalPolicy

NOISE = Noise.of(0, 2)


@dataclass(frozen=True)
class Empty(EnumerableSpec):
    """An environment of two actions, without tables."""

    @property
    def space(self) -> TokenSpace:
        return TokenSpace(2)


@dataclass(frozen=True)
class Pairs(sims.PairAlgorithm):
    """An algorithm on pairs, without a loss."""


def paired(loss: Callable[[torch.Tensor], Any]) -> None:
    """The loss of an algorithm with this loss of a pair's margin, on two runs of three prompts with one pair."""
    logp = torch.zeros(2, 3, 2, 1)
    batch = Batch(
        prompts=torch.zeros(2, 3, dtype=torch.int64),
        responses=torch.zeros(2, 3, 2, 1, dtype=torch.int64),
        mask=torch.ones(2, 3, 2, 1, dtype=torch.bool),
        pairs=torch.tensor([0, 1]).expand(2, 3, 1, 2),
        pair_label=torch.ones(2, 3, 1),
        logp_ref=logp,
    )
    cls = type("Pairs", (Pairs,), {"pair_loss": lambda self, margin: loss(margin)})
    cls().loss(Outputs(logp), batch, {"share": torch.ones(2, 3, 1)})


def environment(**methods: Any) -> Any:
    """`Empty` with these tables."""
    return type("Empty", (Empty,), {name: lambda self, *_, x=x: x for name, x in methods.items()})()


UNDEFINED = {
    "Algorithm.loss": lambda: Algorithm().loss(None, None, {}),  # type: ignore[arg-type]
    "Algorithm.at_update": lambda: Algorithm().at_update(None, {}, None),  # type: ignore[arg-type]
    "Pairs.pair_loss": lambda: Pairs().pair_loss(torch.zeros(3)),
    "Empty.rewards": lambda: Empty().checked_tables(NOISE),
    "Empty.reference_logp": lambda: Empty().checked_reference_logp(NOISE),
    "EnumerableSpec.space": lambda: EnumerableSpec().space,
    "ToyEnvironment.build": lambda: ToyEnvironment().build(torch.float32, NOISE),
    "RewardLabeller.reward": lambda: RewardLabeller(None).reward(None, None),  # type: ignore[arg-type]
    "PolicySpec.build": lambda: PolicySpec().build(None, NOISE, False, torch.float32),
    "CategoricalPolicy.logits": lambda: CategoricalPolicy(TokenSpace(2), []).logits(),
    "CategoricalPolicy.value_table": lambda: CategoricalPolicy(TokenSpace(2), []).value_table(),
    "Task.reward": lambda: llm.Task().reward(),
}  # fmt: skip


@pytest.mark.parametrize("name", UNDEFINED)
def test_what_every_newcomer_must_define_is_named(name: str) -> None:
    with pytest.raises(SpecError) as error:
        UNDEFINED[name]()
    assert str(error.value).startswith(f"{name} = None: must be defined: ") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda margin: None, "Pairs.pair_loss: shape = None: must be (2, 3, 1), one number per pair"),
        (lambda margin: margin.mean(), "Pairs.pair_loss: shape = (): must be (2, 3, 1), one number per pair"),
        (lambda margin: margin.sum(-1), "Pairs.pair_loss: shape = (2, 3): must be (2, 3, 1), one number per pair"),
    ],
)
def test_a_loss_that_is_not_of_each_pair_is_refused(loss: Callable[[torch.Tensor], Any], message: str) -> None:
    """A mean would be spread over prompts and runs again, unnoticed."""
    paired(torch.square)
    with pytest.raises(SpecError) as error:
        paired(loss)
    assert str(error.value) == message


@pytest.mark.parametrize("table", [None, "text", [[1.0, 2.0], [3.0]]], ids=["none", "text", "ragged"])
def test_tables_that_are_no_numbers_are_refused(table: Any) -> None:
    for name, check in (("rewards", "checked_tables"), ("reference_logp", "checked_reference_logp")):
        with pytest.raises(SpecError, match=rf"^Empty.{name} = .*: must be an array of numbers$"):
            getattr(environment(**{name: table}), check)(NOISE)


def test_tables_may_be_lists_and_whole_numbers() -> None:
    rewards = environment(rewards=[[0, 1]]).checked_tables(NOISE)["rewards"]
    np.testing.assert_array_equal(rewards, [[0, 1]])


def test_a_newcomer_needs_a_kind_to_have_a_record() -> None:
    for field, part in (("algorithm", Pairs()), ("environment", Empty()), ("policy", PolicySpec())):
        given = {"algorithm": sims.DPO(), "environment": sims.BanditR1(), "policy": sims.Table()} | {field: part}
        with pytest.raises(SpecError, match=rf"^{field} = '{type(part).__name__}': must have a kind, .*kind=\"\.\.\."):
            sims.Experiment("x", **given)


def test_a_setting_of_a_class_that_is_no_dataclass_is_not_ignored() -> None:
    class Margin(Pairs):
        margin: float = sims.setting(1.0, "target margin")

    with pytest.raises(SpecError, match=r"Margin\.margin = 'setting': needs @dataclass\(frozen=True\) on its class"):
        Margin()
