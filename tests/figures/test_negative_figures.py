"""What the figures of the negative gradient read off records, by hand; and that arms see the same samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from figures.gallery.chosen_likelihood import Path, at_margin
from figures.gallery.negative_gradient import ENVIRONMENTS, SHORT, SHORT_RATES, arms, best_of_n_score, grid
from sims.core.loop.learner import Learner
from sims.core.loop.train import Training
from sims.core.numerics.noise import Noise
from sims.experiments.store import Record


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_offline_arms_learn_from_the_same_samples(environment: str) -> None:
    drawn = []
    for name in ENVIRONMENTS[environment].arms:
        arm = arms()[f"{environment}/{name}/off/{ENVIRONMENTS[environment].budgets[0]}"]
        noise = Noise.of(arm.seed, 2)
        policy = arm.policy.build(arm.environment, noise, False, arm.dtype)
        built = arm.environment.build(arm.dtype, noise)
        training = Training(policy, built, arm.algorithm, arm.schedule, Learner(policy, arm.optimiser, (2,)), noise)
        drawn.append(torch.stack([update.batch.responses for update in training.train(5)]))
    assert all(torch.equal(x, drawn[0]) for x in drawn[1:])
    assert not torch.equal(drawn[0][0], drawn[0][1])


def test_budgets_of_tuning_are_equal_and_span_the_same_learning_rates() -> None:
    for of in ENVIRONMENTS.values():
        for updates in of.budgets:
            grids = [grid(of, name, updates) for name in of.arms]
            assert {len(points) for points in grids} == {54 if updates <= SHORT else 18}
            ends = SHORT_RATES if updates <= SHORT else of.rates
            for points in grids:
                rates = [point["learning_rate"] for point in points]
                assert (min(rates), max(rates)) == (ends[0], ends[-1])


def test_the_limit_of_best_of_4_by_hand() -> None:
    """Two responses, ½ each, rewards 0 and 1: the better one is missed with probability 1/16."""
    arrays = {"logp_ref": np.log(np.full((3, 1, 2), 0.5)), "rewards": np.array([[0.0, 1.0]]), "best_reward": np.ones(3)}
    assert best_of_n_score(Record({}, arrays, {})) == pytest.approx((15 / 16 - 0.5) / (1 - 0.5))


def test_the_change_at_a_margin_by_hand() -> None:
    """Margins 0, 1, 3 and then back; a run that never gets there; one that is there at the first point."""
    chosen = np.array([[0.0, 0.5, -0.5, 9.0], [0.0, 0.1, 0.2, 0.3], [0.0, 2.0, 7.0, 8.0]])
    margin = np.array([[0.0, 1.0, 3.0, 2.0], [0.0, 0.5, 0.6, 0.7], [0.0, 4.0, 5.0, 6.0]])
    found = at_margin(Path(chosen, chosen - margin), 2.0)
    assert found == pytest.approx([0.5 + 0.5 * (-0.5 - 0.5), 0.3, 1.0])
