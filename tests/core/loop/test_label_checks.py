"""What an environment returns for a batch is looked at before it is used, and each mistake is named."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from sims.core.loop.checks import check_labels
from sims.core.loop.protocols import Labels
from sims.core.spec import SpecError

RESPONSES = torch.zeros(3, 4, 2, 5, dtype=torch.long)  # 3 runs, 4 prompts, 2 responses of 5 tokens
EACH, PAIRS = torch.full((3, 4, 2), 0.5), torch.tensor([0, 1]).expand(3, 4, 1, 2)
LABEL = torch.full((3, 4, 1), 0.5)


def labels(**changes: Tensor | None) -> Labels:
    given = {"rewards": EACH, "gold": EACH + 1, "desirable": EACH, "pairs": PAIRS, "pair_label": LABEL}
    return Labels(**(given | {"pair_weight": LABEL} | changes))  # type: ignore[arg-type]


def spoilt(x: Tensor, value: float) -> Tensor:
    x = x.clone()
    x[1, 2] = value
    return x


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("rewards", None, "rewards = None: must be a tensor of shape (3, 4, 2)"),
        *((name, EACH[..., :1], f"{name}: shape = (3, 4, 1): must be (3, 4, 2)") for name in ("rewards", "gold")),
        ("desirable", EACH[0], "desirable: shape = (4, 2): must be (3, 4, 2)"),
        ("rewards", spoilt(EACH, torch.nan), "rewards"),
        ("rewards", spoilt(EACH, -torch.inf), "rewards"),
        ("gold", spoilt(EACH, torch.inf), "gold"),
        ("desirable", spoilt(EACH, 1.5), "desirable"),
        ("desirable", spoilt(EACH, torch.nan), "desirable"),
        ("pair_label", LABEL[..., 0], "pair_label: shape = (3, 4): must be (3, 4, 1)"),
        ("pair_label", spoilt(LABEL, -0.1), "pair_label"),
        ("pair_label", spoilt(LABEL, torch.nan), "pair_label"),
        ("pair_weight", EACH, "pair_weight: shape = (3, 4, 2): must be (3, 4, 1)"),
        ("pairs", PAIRS[..., :1], "pairs: shape = (3, 4, 1, 1): must be (3, 4, 1, 2)"),
    ],
)
def test_each_mistake_is_named(field: str, value: Tensor | None, said: str) -> None:
    check_labels("Mine.label", labels(), RESPONSES, "drawn")
    with pytest.raises(SpecError, match=f"^{re.escape(f'Mine.label: {said}')}"):
        check_labels("Mine.label", labels(**{field: value}), RESPONSES, "drawn")


@pytest.mark.parametrize("field", ["pairs", "pair_label"])
def test_pairs_must_be_there_where_they_are_asked_for(field: str) -> None:
    missing = labels(**{field: None, "desirable": None})
    check_labels("Mine.label", missing, RESPONSES)
    check_labels("Mine.label", labels(**{field: None}), RESPONSES, "drawn")  # enough for KTO
    with pytest.raises(SpecError, match=f"^Mine.label: {field} = None: must be given: .* needs pairing = drawn"):
        check_labels("Mine.label", missing, RESPONSES, "drawn")


def test_what_is_not_used_may_be_anything() -> None:
    """The label of a pair without weight, and rewards that are not the environment's own."""
    unused = labels(pair_label=spoilt(LABEL, torch.nan), pair_weight=spoilt(LABEL, 0.0))
    check_labels("Mine.label", unused, RESPONSES, "drawn")
    check_labels("Mine.label", labels(rewards=None), RESPONSES, "drawn", rewarded=False)
    check_labels("Mine.label", labels(rewards=spoilt(EACH, torch.nan)), RESPONSES, "drawn", rewarded=False)
