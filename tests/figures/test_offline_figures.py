"""What the figures on recorded pairs compute, by hand."""

import numpy as np
import pytest

from figures.gallery import absent_behaviour, reachable_policies, reference_shift, unseen_responses
from sims.experiments.store import Record

P, BETA = np.array([0.8]), np.array([0.5])


def test_dpo_has_minima_of_any_mass_where_the_reference_has_none() -> None:
    """Xu et al.'s counter-example, with labels of probability p: π_ref = (½, ½, 0), and 0.9 on the third response."""
    logp_ref = reachable_policies.reference(np.array([0.5]), 0.0)
    minimum = reachable_policies.dpo_minimum(logp_ref, BETA, P, np.array([0.9]))
    assert np.exp(minimum).sum() == pytest.approx(1.0)
    assert np.exp(minimum[0, 2]) == pytest.approx(0.9)
    least = -0.8 * np.log(0.8) - 0.2 * np.log(0.2)  # the labels' own entropy
    assert reachable_policies.dpo_loss(minimum, logp_ref, BETA, P) == pytest.approx(least, abs=1e-12)
    assert reachable_policies.nearest_rl_optimum(minimum, logp_ref, BETA, P) == pytest.approx(0.9, abs=1e-12)


@pytest.mark.parametrize("mass", [1e-9, 1e-3, 0.3])
def test_every_dpo_minimum_inside_the_support_is_an_rl_optimum_and_the_reverse(mass: float) -> None:
    logp_ref = reachable_policies.reference(np.array([0.3]), mass)
    minimum = reachable_policies.dpo_minimum(logp_ref, BETA, P, np.array([0.6]))
    assert reachable_policies.nearest_rl_optimum(minimum, logp_ref, BETA, P)[0] < 1e-10
    reached = reachable_policies.rl_optimum(logp_ref, BETA, P, np.array([1.7]))
    least = -0.8 * np.log(0.8) - 0.2 * np.log(0.2)
    assert reachable_policies.dpo_loss(reached, logp_ref, BETA, P) == pytest.approx(least, abs=1e-12)


def test_the_rl_optimum_by_hand() -> None:
    """r = (log 4, 0, 0) at β = ½: e^{r/β} = (16, 1, 1)."""
    logp_ref = reachable_policies.reference(np.array([0.5]), 0.5)  # (¼, ¼, ½)
    found = np.exp(reachable_policies.rl_optimum(logp_ref, BETA, P, np.array([0.0])))
    assert found == pytest.approx(np.array([[4.0, 0.25, 0.5]]) / 4.75)


def test_the_change_is_read_at_the_stated_loss_between_two_points() -> None:
    """A point's loss is that before its update: the masses that belong to the losses are those of an update earlier."""
    arrays = {
        "updates": np.array([0, 10, 20, 30]),
        "unseen_mass": np.array([[0.5, 0.6, 0.4, 0.3], [0.5, 0.7, 0.7, 0.7], [0.5, 0.5, 0.5, 0.9]]),
        "loss": np.array([[np.nan, 0.3, 0.15, 0.2], [np.nan, 0.1, 0.1, 0.1], [np.nan, 0.5, 0.4, 0.3]]),
    }
    found = unseen_responses.change_at_loss(Record({}, arrays, {}), np.array([0.2, 0.25, 0.2]))
    # First run, two thirds of the way from 0.3 to 0.15: masses 0.59 (update 9) and 0.42 (19).
    first = 0.59 + (0.42 - 0.59) * 2 / 3 - 0.5
    second = 0.18 * (np.log(2) - 0.25) / (np.log(2) - 0.1)  # from the reference at log 2 to 0.68 (update 9)
    assert found == pytest.approx([first, second, 0.9 - 0.5])  # the third never gets there


def test_both_mean_losses_are_those_that_were_read() -> None:
    dpo = Record({}, {"loss": np.array([[np.nan, 0.3, 0.1], [np.nan, 0.5, 0.4]])}, {})
    model = Record({}, {"reward_model_loss": np.array([0.2, 0.16])}, {})
    cells = [f"{t}-{c:g}/mlp" for t in unseen_responses.TILTS for c in unseen_responses.COVERAGES]
    records = {f"{cell}/dpo": dpo for cell in cells} | {f"{cell}/ppo": model for cell in cells}
    assert unseen_responses.mean_losses(records, "mlp") == pytest.approx(((0.2 + 0.4) / 2, 0.18))


def test_the_references_probability_is_the_one_it_has_and_not_the_one_that_was_meant() -> None:
    records = {"mlp/1e-06/rloo": Record({}, {"best_mass_ref": np.array([3e-5, 1e-5])}, {})}
    assert absent_behaviour.reference_probability(records, "mlp", 1e-6) == pytest.approx(2e-5)


def at_shifts(gold: dict[str, float]) -> dict[str, Record]:
    """The same reward for an arm at every shift, but for a spread of 1e-4 over runs; references earn 0.2."""
    random = np.random.default_rng(0)

    def record(reward: float) -> Record:
        noise = 1e-4 * random.normal(size=(12, 3))
        return Record({}, {"gold": reward + noise, "reference_reward": np.full(12, 0.2)}, {})

    return {
        f"{policy}/{shift:g}/{arm}": record(gold[arm])
        for policy in reference_shift.POLICIES
        for shift in reference_shift.SHIFTS
        for arm in reference_shift.ARMS
    }


@pytest.mark.parametrize(("reached", "state"), [(0.999, "no test"), (0.9, "too small")])
def test_a_shift_that_hurts_nobody_is_a_ceiling_and_no_test(reached: float, state: str) -> None:
    """The effect is 0 in both; only below the largest reward could it have been another. C07 is of what helps where the
    shift hurts."""
    rows = reference_shift.verdicts(at_shifts(dict.fromkeys(reference_shift.ARMS, reached)))
    assert {row.verdict for row in rows if row.id == "C06"} == {state}
    assert {row.verdict for row in rows if row.id == "C07"} == {"no test"}


def test_a_ceiling_is_of_the_arms_that_a_claim_compares() -> None:
    rows = reference_shift.verdicts(at_shifts({"dpo": 0.999, "dpo_after_sft": 0.999, "ppo": 0.7}))
    assert {(row.id, row.verdict == "no test") for row in rows} == {("C06", False), ("C07", True)}


def test_learning_rates_under_shift_are_tried_alike_by_all() -> None:
    assert reference_shift.RATES["mlp"] == (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    assert len({len(rates) for rates in reference_shift.RATES.values()}) == 1


@pytest.mark.parametrize("policy", absent_behaviour.POLICIES)
def test_what_finds_absent_behaviour_was_tuned_alike_and_dpo_over_its_beta_too(policy: str) -> None:
    """At β = 0.1 alone a network's online DPO looks worse than RL, which at β = 2 it beats."""
    tried = {arm: absent_behaviour.grid(policy, algorithm) for arm, (algorithm, *_) in absent_behaviour.ARMS.items()}
    assert {len(points) for points in tried.values()} == {10}
    assert {point["beta"] for point in tried["dpo"]} == {0.1, 2.0}
    ends = {tuple(f(point["learning_rate"] for point in points) for f in (min, max)) for points in tried.values()}
    assert len(ends) == 1


def test_who_has_nothing_to_find_takes_the_settings_of_the_smallest_mass() -> None:
    tuned = absent_behaviour.arms()
    slow = {"learning_rate": 0.07}
    records = {
        name: Record(arm.replace(optimiser=arm.optimiser.replace(**slow)).to_json(), {}, {})
        for name, arm in tuned.items()
        if name.startswith("table/1e-06/")
    }
    found = absent_behaviour.at_zero(records)
    assert set(found) == {f"table/0/{arm}" for arm in absent_behaviour.ARMS}
    assert {arm.optimiser.learning_rate for arm in found.values()} == {0.07}
    assert {arm.environment.best_mass for arm in found.values()} == {0.0}
