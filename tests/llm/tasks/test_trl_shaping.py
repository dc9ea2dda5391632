"""The reward of an overlong response, against TRL's function on every length."""

from __future__ import annotations

import pytest
import torch
from trl.rewards import get_soft_overlong_punishment

from llm.tasks.shaping import soft_overlong


@pytest.mark.parametrize(("longest", "over"), [(20, 4), (20, 1), (20, 20), (7, 3)])
def test_it_is_trls_soft_overlong_punishment(longest, over):
    lengths = range(longest + 3)
    theirs = get_soft_overlong_punishment(longest, over)(completion_ids=[[0] * length for length in lengths])
    found = soft_overlong(torch.tensor(lengths), longest, over)
    torch.testing.assert_close(found, torch.tensor(theirs, dtype=torch.float64), rtol=0, atol=1e-12)
    assert found[longest - over] == 0 and found[longest] == -1
