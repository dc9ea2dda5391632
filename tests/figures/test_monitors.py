"""ROC curve, its area, and the area's interval, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from figures.arms.monitors import above_chance, roc


def test_the_area_is_the_share_of_pairs_in_the_right_order():
    """6 of 9 pairs and a tie: 6.5 / 9."""
    wrong, right = np.array([3.0, 2.0, 0.5]), np.array([1.0, 2.0, 0.0])
    rates, area = roc(wrong, right)
    assert area == pytest.approx(6.5 / 9)
    assert rates[0] == (0.0, 0.0) and rates[-1] == (1.0, 1.0)
    assert (1 / 3, 2 / 3) in rates  # of the threshold 2
    assert above_chance(wrong, right).estimate == pytest.approx(6.5 / 9 - 0.5)


def test_runs_in_another_order_have_another_interval_and_the_same_area():
    """Pairing counts: where a run that is high in one arm is high in the other, the area varies less."""
    noise = np.random.default_rng(0).standard_normal(40)
    wrong, right = noise + 0.5, noise
    paired, shuffled = above_chance(wrong, right), above_chance(wrong, right[::-1])
    assert paired.estimate == pytest.approx(shuffled.estimate)
    assert paired.high - paired.low < 0.7 * (shuffled.high - shuffled.low)


def test_its_interval_covers():
    """200 repetitions of 40 runs at a true area of Φ(0.5): fewer than 170 hold it with chance 1e-7 at 95 %."""
    rng, hits = np.random.default_rng(1), 0
    for _ in range(200):
        shared, own, other = rng.standard_normal((3, 40)) / np.sqrt([[2.0], [2.0], [2.0]])
        found = above_chance(shared + own + 0.5 * np.sqrt(2.0), shared + other)
        hits += found.low <= 0.19146 <= found.high
    assert hits >= 170
