"""Intervals of bounded scores: by hand, by symmetry, and their coverage by simulation."""

import numpy as np
import pytest
from scipy import stats

from sims.statistics.bounded import bounded_difference, bounded_interval, bounded_paired_effect
from tests.statistics.coverage import REST, RUNS, SHARES, coverage, supports_nothing


@pytest.mark.parametrize("runs", RUNS)
def test_equal_runs_at_the_bound_give_the_exact_binomial_end(runs: int) -> None:
    """P(no failure in n runs) = (1 − q)ⁿ = 0.025 at the largest share q of failures that was not excluded."""
    found = bounded_interval(np.ones(runs), 0.0, 1.0)
    assert (found.estimate, found.high) == (1, pytest.approx(1)) and found.low == pytest.approx(
        0.025 ** (1 / runs), abs=0.01
    )


@pytest.mark.parametrize("successes", [0, 1, 10, 19, 20])
def test_zeros_and_ones_give_clopper_and_pearsons_interval(successes: int) -> None:
    found = bounded_interval(np.repeat([1.0, 0.0], [successes, 20 - successes]), 0.0, 1.0)
    exact = stats.binomtest(successes, 20).proportion_ci(0.95, "exact")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=0.01)


def test_order_does_not_matter_and_the_mirror_image_turns_the_interval() -> None:
    x = np.random.default_rng(0).beta(5, 1, 30)
    found = bounded_interval(x, 0.0, 1.0)
    assert bounded_interval(x[::-1], 0.0, 1.0) == found
    turned = bounded_interval(-x, -1.0, 0.0)
    assert (-turned.high, -turned.low) == pytest.approx((found.low, found.high), abs=1e-12)
    wider = bounded_interval(x, -1.0, 2.0)  # bounds further away: what was not seen can be worse
    assert wider.low < found.low and wider.high > found.high


def test_effects_are_bounded_by_both_arms() -> None:
    one, zero = np.ones(20), np.zeros(20)
    paired = bounded_paired_effect(one, one, 0.0, 1.0)
    assert paired.low == pytest.approx(-paired.high) and paired.high == pytest.approx(1 - 0.025 ** (1 / 20), abs=0.01)
    apart = bounded_difference(one, zero, 0.0, 1.0)
    assert apart.estimate == 1 and apart.low == pytest.approx(1 - 2 * (1 - 0.0125 ** (1 / 20)), abs=0.02)


@pytest.mark.parametrize(
    ("x", "low", "high", "message"),
    [
        ([0.5, 1.5], 0.0, 1.0, r"x: run 1 is 1.5: must lie within \[0.0, 1.0\]"),
        ([0.5, np.nan], 0.0, 1.0, "x: run 1 is nan"),
        ([0.5], 0.0, 1.0, "must be .runs,., 2 or more"),
        ([0.5, 0.5], 1.0, 0.0, "must be low < high"),
    ],
)
def test_what_cannot_be_is_refused(x: list[float], low: float, high: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bounded_interval(x, low, high)


# Coverage. At a true coverage of .97, the least in these cells, the chance to see below .93 in 400 experiments is 1e-6
# for each; at .95, the least that there may be, it is 2e-5 in 2,000.


@pytest.mark.parametrize("runs", [10, 20])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.95, 1.0])
def test_it_covers_with_any_share_of_runs_at_a_bound(share: float, runs: int) -> None:
    assert coverage("Gaffke", share, "uniform", runs, experiments=400)[0] >= 0.93


def test_students_does_not_cover_where_a_rare_run_decides() -> None:
    """.57 with 95 % of 20 runs at 1; the standard error is .025."""
    assert coverage("Student and bootstrap-t", 0.95, "uniform", 20, experiments=400)[0] == pytest.approx(0.57, abs=0.1)


def test_no_effect_is_not_supported_of_one_beyond_the_margin() -> None:
    """Student's supports it whenever no run of n falls, (1 − 1.25 · .05)ⁿ: .52 of 10, .28 of 20."""
    for runs in (10, 20):
        found = supports_nothing("Student and bootstrap-t", runs, experiments=400)
        assert found == pytest.approx(0.9375**runs, abs=0.1) and 0.2 < found < 0.7
    assert all(supports_nothing("Gaffke", runs, experiments=400) <= 0.025 for runs in (10, 20, 50))


@pytest.mark.long
@pytest.mark.parametrize("runs", RUNS)
@pytest.mark.parametrize("rest", REST)
def test_it_covers_whatever_the_rest_is(rest: str, runs: int) -> None:
    """2,000 experiments per cell: a standard error of .0049 at .95."""
    for share in SHARES:
        assert coverage("Gaffke", share, rest, runs, experiments=2000)[0] >= 0.93, share
