"""What rated responses are drawn of."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

import sims
from sims.core.numerics.noise import Noise
from sims.environments import rated


def test_what_is_drawn_per_run_is_drawn_once_for_environment_and_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: Counter[str] = Counter()
    normals = rated.normals

    def counted(noise: Noise, stream: str, *shape: int) -> np.ndarray:
        drawn[stream] += 1
        return normals(noise, stream, *shape)

    monkeypatch.setattr(rated, "normals", counted)
    spec, noise = sims.TwoTasks(num_prompts=2, num_pairs=4), Noise.of(417, 2)
    spec.build(torch.float64, noise)
    sims.ResponseMLP().build(spec, noise, False, torch.float64)
    assert drawn == {"features": 1, "directions": 1, "weights": 1, "unexplained": 1}
