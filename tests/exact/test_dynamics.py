"""Training without sampling: against gradients written out by hand, a linear model, and exact fixed points."""

from __future__ import annotations

import numpy as np
import pytest

import sims
from sims import exact

REF, REWARDS = exact.log_softmax(np.array([0.5, -0.3, 0.2, 0.9])), np.array([0.0, 0.4, 1.0, 0.7])
HUNDREDTH = {"learning_rate": 0.01, "updates": 1}


def test_preferences_by_hand() -> None:
    matrix = exact.preference_matrix([0.0, 1.0, 1.0], temperature=2.0)
    odds = np.exp(0.5)  # e^{(1 − 0)/2}
    assert matrix[1, 0] == pytest.approx(odds / (1 + odds))
    np.testing.assert_allclose(matrix + matrix.T, 1.0, rtol=0, atol=1e-15)
    np.testing.assert_array_equal(exact.preference_matrix([0.0, 1.0, 1.0], 0.0)[1], [1.0, 0.5, 0.5])


def test_a_step_on_one_recorded_pair_by_hand() -> None:
    """At the reference DPO's slope is −β/2 for the chosen and +β/2 for the rejected; they sum to 0."""
    followed = exact.follow_gradient(
        sims.DPO(beta=0.6), REF, [0.0, 0.0, 1.0, 0.0], sampler=np.eye(4)[[2, 1]], **HUNDREDTH
    )
    expected = exact.log_softmax(REF + 0.01 * 0.3 * np.array([0.0, -1.0, 1.0, 0.0]))
    np.testing.assert_allclose(followed[1], expected, rtol=0, atol=1e-14)


def test_a_kernel_is_a_linear_model() -> None:
    """Logits Φθ: a step on θ moves them by Φ·Φᵀ·∂L/∂z."""
    features = np.random.default_rng(0).normal(size=(4, 3))
    push = np.array([0.3, -0.2, 0.5, 0.1])
    followed = exact.follow_gradient(lambda problem: push, REF, REWARDS, kernel=features @ features.T, **HUNDREDTH)
    by_logits = push - np.exp(REF) * push.sum()
    theta_step = -0.01 * features.T @ by_logits
    np.testing.assert_allclose(followed[1], exact.log_softmax(REF + features @ theta_step), rtol=0, atol=1e-14)


@pytest.mark.parametrize("sync", [1, np.inf])
def test_dpo_ends_at_the_optimum_whoever_draws(sync: float) -> None:
    followed = exact.follow_gradient(
        sims.DPO(beta=0.5), REF, REWARDS, learning_rate=10.0, updates=1500, label_temperature=1.0,
        sync_every_updates=sync,
    )  # fmt: skip
    np.testing.assert_allclose(followed[-1], exact.optimum(REF, REWARDS, 0.5), rtol=0, atol=1e-10)


def test_rloo_ends_at_the_optimum_of_its_beta() -> None:
    followed = exact.follow_gradient(sims.RLOO(beta=0.5), REF, REWARDS, learning_rate=2.0, updates=1500)
    np.testing.assert_allclose(followed[-1], exact.optimum(REF, REWARDS, 0.5), rtol=0, atol=1e-10)


def test_off_policy_imitation_ends_at_what_it_imitates_and_on_policy_at_the_best() -> None:
    settings = {"learning_rate": 1.0, "updates": 3000}
    offline = exact.follow_gradient(sims.BestOfN(), REF, REWARDS, sync_every_updates=np.inf, **settings)
    np.testing.assert_allclose(np.exp(offline[-1]), exact.best_of_n(REF, REWARDS, 2), rtol=0, atol=1e-10)
    online = exact.follow_gradient(sims.BestOfN(), REF, REWARDS, **settings)
    assert exact.expected_reward(online[-1], REWARDS) > 0.99


def test_the_sampler_is_the_policy_of_the_last_sync() -> None:
    seen: list[np.ndarray] = []

    def look(problem: exact.Population) -> np.ndarray:
        seen.append(problem.distribution[0, 0])
        return -problem.distribution[0] * problem.rewards

    followed = exact.follow_gradient(look, REF, REWARDS, learning_rate=0.5, updates=7, sync_every_updates=3)
    np.testing.assert_allclose(seen, np.exp(followed[[0, 0, 0, 3, 3, 3, 6]]), rtol=0, atol=1e-14)


def test_a_sampled_run_follows_the_average() -> None:
    """SGD on batches of 512 pairs: the mean of 16 runs is within five standard errors of the average path. Each of the
    4 responses leaves it by chance with 1.6e-4 (Student, 15 degrees of freedom): a false alarm in 6e-4 of all seeds."""
    environment = sims.BanditR1(num_actions=4, peak=2, width=1.5, label_temperature=0.5)
    logp_ref, rewards = environment.reference_logp()[0, 0], environment.rewards()[0]
    sampled = sims.run(
        sims.DPO(beta=0.5), environment, updates=20, runs=16, batch_size=512, method="sgd", learning_rate=1.0
    )
    average = exact.follow_gradient(
        sims.DPO(beta=0.5), logp_ref, rewards, learning_rate=1.0, updates=20, label_temperature=0.5
    )
    final = np.exp(sampled.logp_final[:, 0].astype(float))
    error = final.std(0, ddof=1) / np.sqrt(len(final))
    assert (np.abs(final.mean(0) - np.exp(average[-1])) < 5 * error).all()
