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


@pytest.mark.parametrize(("followed", "aspects"), [("overall", [0, 1]), ("aspects", [0, 1]), ("first", [0])])
def test_noiseless_labels_follow_the_aspects_that_are_rated(followed: str, aspects: list[int]) -> None:
    spec, noise = sims.RatedResponses(num_aspects=2, rated=followed, num_pairs=64), Noise.of(417, 2)
    tables, values = spec.tables(noise), spec.drawn(noise).aspects
    for run in range(2):
        rated_as = values[run, tables["pair_prompts"][run], tables["pair_responses"][run]][..., aspects].mean(-1)
        assert (tables["pair_labels"][run][:, 0] == (np.sign(rated_as[:, 0] - rated_as[:, 1]) + 1) / 2).all()


def test_one_aspect_has_one_rating() -> None:
    with pytest.raises(sims.SpecError, match=r"rated = .first.: must be overall where num_aspects = 1"):
        sims.RatedResponses(rated="first")
