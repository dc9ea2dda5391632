"""What the sweeps compute beside their runs: bounds, costs, who leads."""

import math

import numpy as np
import pytest

import sims
from figures.gallery import batch_size, beta_sweep, online_contrastive_ppo, online_offline, phase_map, reward_width
from sims.core.algorithms import find_algorithm
from sims.core.spec import to_json
from sims.environments import BanditR2
from sims.experiments.store import Record


@pytest.fixture
def record() -> Record:
    """Two responses with rewards 0 and 1, reference (0.75, 0.25), one run."""
    arrays = {"rewards": np.array([[0.0, 1.0]]), "best_reward": np.ones(1)}
    return Record({}, arrays | {"logp_ref": np.log(np.array([[[0.75, 0.25]]]))}, {})


def test_the_best_of_n_of_the_reference_by_hand(record: Record) -> None:
    for n in (2, 4):
        at_least_one = 1 - 0.75**n  # of n draws is the good one; score (r − 0.25) / (1 − 0.25)
        assert batch_size.best_of_reference(record, n) == pytest.approx((at_least_one - 0.25) / 0.75)


def test_the_regularised_optimum_by_hand(record: Record) -> None:
    score, entropy = beta_sweep.optimum(record, 0.5)
    good = math.exp(2) / (math.exp(2) + 3)  # 0.25·e^{1/β} against 0.75
    assert score == pytest.approx((good - 0.25) / 0.75)
    assert entropy == pytest.approx(-good * math.log(good) - (1 - good) * math.log(1 - good))
    assert beta_sweep.optimum(record, 1e6) == pytest.approx((0, 0.5623351446), abs=1e-6)  # H(0.75, 0.25)


@pytest.mark.parametrize("algorithm", ["dpo", "ipo"])
def test_pairs_of_a_table_see_rate_times_beta_alone(algorithm: str) -> None:
    """Adam's steps are rate × U, and h = β·(Δ log π − Δ log π_ref) = β·rate·ΔU, as a prompt's partition function
    cancels in a pair: with rate × β held, U is the same, and the rate says only how sharp softmax(θ_0 + rate·U) is.
    Adam's ε is small beside gradients, and large beside their rounding errors."""

    def steps(rate: float, beta: float) -> np.ndarray:
        loss, bandit = find_algorithm(algorithm)().replace(beta=beta), sims.BanditR1(flip_rate=0.2)
        how = {"source": "pool", "pool_size": 8, "batch_size": 4, "learning_rate": rate, "adam_epsilon": 1e-10}
        result = sims.run(loss, bandit, updates=40, runs=3, precision="float64", **how)
        moved = result.logp_final - result.logp_ref
        return (moved - moved.mean(-1, keepdims=True)) / rate

    assert np.abs(steps(0.5, 0.1)).max() > 1
    assert steps(0.5, 0.1) == pytest.approx(steps(8.0, 0.1 / 16), rel=1e-5, abs=1e-5)
    assert steps(0.5, 0.1) != pytest.approx(steps(8.0, 0.1), rel=0.1, abs=0.1)


def test_what_offline_ipo_aims_at_by_hand(record: Record) -> None:
    # The good action beats a draw in 0.75 + 0.25/2 of all cases, the bad one in 0.75/2: half a unit apart.
    ipo = Record({"algorithm": {"beta": 0.25}}, record.arrays, {})
    good = math.exp(0.5 / 0.25) / (math.exp(0.5 / 0.25) + 3)
    assert phase_map.offline_optimum(ipo) == pytest.approx((good - 0.25) / 0.75)


def test_what_a_sample_costs() -> None:
    # Contrastive: draw 1, reference 1, update 3. PPO: draw 1, value 1, then policy 3 and critic 3 per pass.
    assert [online_contrastive_ppo.cost(name, 1).total for name in ("dpo", "ipo", "ppo")] == [5, 5, 8]
    assert [online_contrastive_ppo.cost(name, 4).total for name in ("dpo", "ppo")] == [14, 26]


def test_equal_compute_is_equal_to_a_batch() -> None:
    for name, arm in online_contrastive_ppo.arms().items():
        environment, equal, algorithm, passes = name.split("/")
        batches = arm.updates // arm.schedule.epochs
        spent = batches * arm.schedule.samples_per_batch * online_contrastive_ppo.cost(algorithm, int(passes)).total
        if equal == "compute":
            assert 0 <= online_contrastive_ppo.COMPUTE[environment] - spent < spent / batches
        else:
            assert batches * arm.schedule.samples_per_batch == online_contrastive_ppo.SAMPLES[environment]


def test_who_leads_and_whether_it_is_sure() -> None:
    noise = 0.05 * np.tile([1.0, -1.0], 10)
    arms = np.array([np.full(20, 0.2), 0.9 + noise, np.full(20, 0.8)])
    first, second, ahead, sure = phase_map.lead(arms)
    assert (first, second, sure) == (1, 2, True) and ahead == pytest.approx(0.1)
    assert not phase_map.lead(np.array([0.801 + noise, np.full(20, 0.8)]))[3]


@pytest.mark.parametrize(
    ("value", "text"), [(0.984, ".98"), (0.997, "1"), (0.004, ".00"), (-0.004, ".00"), (0.5, ".50")]
)
def test_scores_in_two_digits(value: float, text: str) -> None:
    assert phase_map._short(value) == text


def test_the_map_has_a_cell_for_everything() -> None:
    names = phase_map.arms()
    assert len(names) == 6 * 5 * 6
    periods = {arm.schedule.sync_period for arm in names.values()}
    assert periods == {1, 16, 64, 256, math.inf}


def test_offline_suffices_by_arms_that_were_chosen_where_they_are_not_scored() -> None:
    """Two noisy arms on each side, equal in truth: the larger mean of the same runs would flatter both."""
    noise = np.tile([0.1, -0.1], 10)
    score = {"rloo": 0.5 + noise, "ppo": 0.5 - noise} | dict.fromkeys(("best_of_n", "rwr", "dpo", "ipo"), np.zeros(20))

    def record(values: np.ndarray) -> Record:
        arrays = {"gold": values[:, None], "reference_reward": np.zeros(20), "best_reward": np.ones(20)}
        spec = {"environment": to_json(BanditR2())}
        return Record(spec, arrays | {"diverged_at": np.full(20, -1), "updates": np.array([1])}, {})

    records = {f"R2/short/{name}/16": record(values) for name, values in score.items()}
    records |= {f"R2/short/{name}/inf": record(np.full(20, 0.3)) for name in (*batch_size.ALGORITHMS, "pref_ft")}
    row = batch_size._suffices(records, batch_size.SUFFICES["short"], "R2/short", batch_size.ALGORITHMS, ("dpo",))
    assert row.effect == pytest.approx(0.1)  # each half is scored at the other's choice: 0.4, not 0.6


def test_the_published_width_is_the_arm_that_the_overlap_figure_tests() -> None:
    """But for how many runs it has, and their seeds."""
    wide = online_offline.arms(reward_width.environments(), 2, 0)
    published = online_offline.arms(online_offline.environments(), 2, 0)
    assert len(wide) == 2 * len(reward_width.WIDTHS) * len(online_offline.ALGORITHMS) * 2
    for name, arm in wide.items():
        environment, width, rest = name.split("/", 2)
        assert (arm == published[f"{environment}/{rest}"]) == (width == "10")
        assert arm.environment.width == float(width)


def test_a_gain_is_of_the_same_runs() -> None:
    def ended(*gold: float) -> Record:
        ends = {"reference_reward": np.zeros(2), "best_reward": np.ones(2), "diverged_at": np.full(2, -1)}
        return Record({}, ends | {"gold": np.array(gold)[:, None], "updates": np.array([5])}, {})

    records = {"R1/a/on": ended(0.5, 0.7), "R1/a/off": ended(0.1, 0.4)}
    np.testing.assert_allclose(online_offline.gain(records, "R1", "a"), [0.4, 0.3])
