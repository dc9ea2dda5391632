"""Single labels from pairs, by hand."""

from __future__ import annotations

import pytest
import torch

from sims.core.objectives.preferences import desirable_from_pairs


@pytest.mark.parametrize("weight", [None, [1.0, 1.0, 1.0, 0.0], [0.25, 3.0, 0.5, 0.0]])
def test_desirable_is_the_share_of_the_pairs_that_count(weight: list[float] | None) -> None:
    """0 over 1, 0 against 2 with probability ¼, 1 over 2; and 3 over 0, which counts only without weights. A pair of
    any weight but 0 counts as one: the weight is that of its part of the loss."""
    pairs, label = torch.tensor([[0, 1], [0, 2], [1, 2], [3, 0]]), torch.tensor([1.0, 0.25, 1.0, 1.0])
    found = desirable_from_pairs(pairs, label, 5, None if weight is None else torch.tensor(weight))
    won_0 = 1.25 / 3 if weight is None else 1.25 / 2
    assert found.tolist() == pytest.approx([won_0, 1 / 2, 0.75 / 2, 1.0 if weight is None else 0.5, 0.5])
