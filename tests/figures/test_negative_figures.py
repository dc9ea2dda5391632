"""What the figures of the negative gradient read off records, by hand; and that arms see the same samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from figures.gallery.chosen_likelihood import Path, at_margin, over_pool, pool, unpaired_mass
from figures.gallery.chosen_likelihood import arms as pooled_arms
from figures.gallery.negative_gradient import PLACES, SHORT, SHORT_RATES, arms, best_of_n_score, grid
from sims.core.loop.learner import Learner
from sims.core.loop.train import Training
from sims.core.numerics.noise import Noise
from sims.experiments.executor import execute
from sims.experiments.store import Record


@pytest.mark.parametrize("place", PLACES)
def test_offline_arms_learn_from_the_same_samples(place: str) -> None:
    drawn = []
    for name in PLACES[place].arms:
        arm = arms()[f"{place}/{name}/off/{PLACES[place].budgets[0]}"]
        noise = Noise.of(arm.seed, 2)
        policy = arm.policy.build(arm.environment, noise, False, arm.dtype)
        environment = arm.environment.build(arm.dtype, noise)
        training = Training(
            policy, environment, arm.algorithm, arm.schedule, Learner(policy, arm.optimiser, (2,)), noise
        )
        drawn.append(torch.stack([update.batch.responses for update in training.train(5)]))
    assert all(torch.equal(x, drawn[0]) for x in drawn[1:])
    assert not torch.equal(drawn[0][0], drawn[0][1])


def test_budgets_of_tuning_are_equal_and_span_the_same_learning_rates() -> None:
    for place in PLACES.values():
        for updates in place.budgets:
            grids = [grid(place, name, updates) for name in place.arms]
            assert {len(points) for points in grids} == {35 if updates <= SHORT else 18}
            ends = SHORT_RATES if updates <= SHORT else place.rates
            for points in grids:
                rates = [point["learning_rate"] for point in points]
                assert (min(rates), max(rates)) == (ends[0], ends[-1])


def test_the_limit_of_best_of_4_by_hand() -> None:
    """Two responses, ½ each, rewards 0 and 1: the better one is missed with probability 1/16."""
    arrays = {"logp_ref": np.log(np.full((3, 1, 2), 0.5)), "rewards": np.array([[0.0, 1.0]]), "best_reward": np.ones(3)}
    assert best_of_n_score(Record({}, arrays, {})) == pytest.approx((15 / 16 - 0.5) / (1 - 0.5))


def test_the_pool_that_is_drawn_again_is_the_one_that_was_trained_on() -> None:
    """Counted from it, the last mean log-probs are those of the record; at the reference they are its own."""
    arm = pooled_arms()["wide/3/dpo"].replace(runs=3, updates=4, evaluations=2)
    found, record = pool(arm), execute([arm])[0]
    for side in ("chosen", "rejected"):
        assert found[side].sum() == 3 * 3 * 4  # runs × prompts × pairs a prompt
        expected = over_pool(found[side], record["logp_final"])
        np.testing.assert_allclose(record[f"logp_{side}"][:, -1], expected, rtol=1e-5)
    assert not np.array_equal(found["chosen"], found["rejected"])


def test_the_change_at_a_margin_by_hand() -> None:
    """Margins 0, 1, 3 and then back; a run that never gets there; one that is there at the first point."""
    chosen = np.array([[0.0, 0.5, -0.5, 9.0], [0.0, 0.1, 0.2, 0.3], [0.0, 2.0, 7.0, 8.0]])
    margin = np.array([[0.0, 1.0, 3.0, 2.0], [0.0, 0.5, 0.6, 0.7], [0.0, 4.0, 5.0, 6.0]])
    found = at_margin(Path(chosen, chosen - margin), 2.0)
    assert found == pytest.approx([0.5 + 0.5 * (-0.5 - 0.5), 0.3, 1.0])


def test_the_mass_outside_the_pairs_by_hand() -> None:
    """Of two prompts one has a pair, of the first two of three responses; the other has none, and does not count."""
    chosen, rejected = np.zeros((1, 2, 3)), np.zeros((1, 2, 3))
    chosen[0, 0, 0] = rejected[0, 0, 1] = 1.0
    distribution = np.log(np.array([[[0.2, 0.1, 0.7], [0.1, 0.1, 0.8]]]))
    drawn = Record({}, {"chosen": chosen, "rejected": rejected}, {})
    assert unpaired_mass(Record({}, {"logp_final": distribution}, {}), drawn, "logp_final") == pytest.approx([0.7])
