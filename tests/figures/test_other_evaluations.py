"""Rows of records whose effect is not the same at every evaluation, or not there in every run, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from figures.arms.collapsing import first_copy
from figures.arms.copied_references import LENGTH
from figures.arms.credit import explained
from figures.arms.effect_row import effect_row
from figures.arms.orders import at_equal_settings
from figures.arms.syncing import on_the_way
from figures.catalogue import claim
from figures.claims import Verdict
from figures.figure import all_figures
from figures.gallery import lm_preferences, lm_two_tasks, replayed_data, unseen_responses
from sims.experiments.measures import deployed_scores
from sims.experiments.store import Record
from tests.figures.synthetic import balanced, filled, skeleton


def path(*score: float) -> Record:
    """Twenty runs with little noise, of a reward from 0 to 1 that the reference gets a half of."""
    gold = 0.5 + 0.5 * np.array(score) + 1e-3 * balanced(repr(score), 20)[:, None] * (np.array(score) != 1.0)
    arrays = {
        "gold": gold,
        "deployed_gold": gold[:, [0, 0, 1]],
        "reference_reward": np.full(20, 0.5),
        "best_reward": np.ones(20),
        "diverged_at": np.full(20, -1),
        "updates": np.arange(3),
    }
    return Record({"key": repr(score)}, arrays, {})


def rows(figure: str, records: dict[str, Record]) -> dict[tuple[str, str], Verdict]:
    return {(row.id, row.part): row for row in all_figures()[figure].verdicts(records)}


def test_an_effect_is_that_of_the_last_evaluation_that_leaves_room() -> None:
    records = {"a": path(0.0, 0.6, 1.0), "b": path(0.0, 0.2, 1.0)}
    row = effect_row(
        claim("C65", "horizon 6 against 1"), "token", "x", ((1.0, "a"), (-1.0, "b")), records, "", "no reason"
    )
    assert row.effect == pytest.approx(0.4, abs=1e-9) and row.note.startswith("Tested at evaluation 1 of 2")


def test_so_is_that_of_skew_against_min_length() -> None:
    records = {key: filled(record, {}, 0.001) for key, record in skeleton(all_figures()["lm_lengths"]).items()}
    for key, record in records.items():
        gold, best = record.arrays["gold"].copy(), record.arrays["best_reward"][:, None]
        gold[:, -2] += 0.2 * (best[:, 0] - record.arrays["reference_reward"]) * key.startswith("min/dpo/off")
        gold[:, -1:] = best
        record.arrays["gold"] = gold
    # On min length, offline is ahead by 0.2 at the evaluation before the last: where all are at the bound there is 0.
    assert rows("lm_lengths", records)["C25", "skew against min length"].effect == pytest.approx(0.2, abs=1e-9)


def test_a_row_about_longer_responses_is_of_the_last_evaluation_at_which_its_placebo_is_silent() -> None:
    records = {key: filled(record, {}, 0.001) for key, record in skeleton(all_figures()["lm_sync_period"]).items()}
    for key, end in (("more/semi", 0.0), ("more/copied", 9.0), ("coin/semi", 2.0), ("coin/copied", 2.0)):
        record = records[key] = filled(records[key], {"length": end}, 0.001)
        record.arrays["length"][:, :2] = 9.0  # tokens until the first copy, of which a fixed reference then loses all
    address = ("C36", LENGTH[0.1].part)
    records["strong/semi"] = filled(records["strong/semi"], {"length": 3.0}, 0.001)
    records["more/copied"].arrays["length"][:, 3] = 7.0  # after 15 of 20 updates
    found = rows("lm_sync_period", records)[address]
    assert found.verdict == "supported" and found.effect == pytest.approx(9.0, abs=0.01)
    records["coin/copied"].arrays["length"][:, 4] = 9.0
    earlier = rows("lm_sync_period", records)[address]
    assert earlier.verdict == "supported" and earlier.effect == pytest.approx(7.0, abs=0.01)
    assert earlier.note.startswith("Tested after 15 updates")
    records["coin/copied"].arrays["length"][:, 2:] = 9.0  # before, both arms are one
    loud = rows("lm_sync_period", records)[address]
    assert loud.verdict == "no test" and "placebo" in loud.why and loud.effect == pytest.approx(9.0, abs=0.01)


def test_a_reference_that_moves_no_length_at_ten_times_its_weight_closes_both_rows_of_copies_of_it() -> None:
    records = {key: filled(record, {}, 0.001) for key, record in skeleton(all_figures()["lm_sync_period"]).items()}
    for key in ("more/semi", "strong/semi"):
        records[key].arrays["length"][:, :2] = 9.0
    found = rows("lm_sync_period", records)
    for tested in LENGTH.values():
        assert found["C36", tested.part].why.startswith("sensitivity: tokens more with β = 1 than 0.1")


@pytest.mark.parametrize(
    ("figure", "fixed", "part"),
    [
        ("lm_sync_period", "more/semi", LENGTH[0.1].part),
        ("lm_sync_period", "strong/semi", LENGTH[1.0].part),
        ("collapse", "length/short/fixed", "DPO, s = 10"),
    ],
)
def test_what_a_fixed_reference_loses_before_the_first_copy_no_copy_can_prevent(
    figure: str, fixed: str, part: str
) -> None:
    records = alike(figure)
    lengths = records[fixed].arrays["length"]
    lengths[:, :2] = 12.0
    assert "positive control" not in rows(figure, records)["C36", part].why
    lengths[:, 1] = lengths[:, 2]  # as much is lost, and all of it at the first copy
    found = rows(figure, records)["C36", part]
    assert found.verdict == "no test" and found.why.startswith("positive control: tokens that are lost with a fixed")


def test_arms_part_at_the_first_copy() -> None:
    """At 5 updates they are still one, at 6 no more; where none is made, they are one to the end."""
    assert [first_copy(np.array(updates), 5.0) for updates in ([0, 5, 10], [0, 4, 6, 8], [0, 6])] == [1, 1, 0]
    assert first_copy(np.array([0, 1, 2]), 5.0) == 2


@pytest.mark.parametrize("figure", ["lm_sync_period", "collapse"])
def test_a_run_that_ends_before_the_first_copy_is_no_test_of_copies(figure: str) -> None:
    records = alike(figure)
    for record in records.values():
        record.arrays["updates"] = np.arange(len(record.arrays["updates"])) // 5  # none comes to five updates
    found = [row for row in all_figures()[figure].verdicts(records) if row.id == "C36"]
    assert found and all(row.verdict == "no test" for row in found)


@pytest.mark.parametrize(("short", "closed"), [(1, False), (6, True)])
def test_reward_models_without_runs_at_every_level_are_left_out_and_many_close_the_row(
    short: int, closed: bool
) -> None:
    records = {key: filled(record, {}, 0.001) for key, record in skeleton(all_figures()["lm_preferences"]).items()}
    whole = rows("lm_preferences", records)["C13", lm_preferences.EQUAL_KL.part]
    for key, record in records.items():
        if key.startswith("dpo/on/"):
            kl = record.arrays["kl_policy_ref"].copy()
            kl[:short] = np.minimum(kl[:short], 0.5)
            record.arrays["kl_policy_ref"] = kl
    found = rows("lm_preferences", records)["C13", lm_preferences.EQUAL_KL.part]
    assert found.runs == whole.runs - short
    assert ("matched KL" in found.why, found.verdict == "no test") == (closed, closed)


def test_what_users_get_is_scored_by_its_own_rewards() -> None:
    found = path(0.0, 0.2, 0.6)
    assert deployed_scores(found)[:, 2] == pytest.approx(2 * found.arrays["deployed_gold"][:, 2] - 1)
    assert deployed_scores(found)[:, 2].mean() == pytest.approx(0.2, abs=1e-9)


def test_an_arm_that_scored_otherwise_in_tuning_is_told() -> None:
    """By more than 0.05; where nothing was tuned, or the two agree, nothing is."""
    run = path(0.0, 0.5, 0.6)
    assert replayed_data._in_tuning(run) == ""
    for mean, said in ((0.77, "scored 0.77 in tuning and 0.60 here."), (0.64, "")):
        assert replayed_data._in_tuning(Record({}, run.arrays, {"tuning": {"mean": mean}})).endswith(said)
    assert replayed_data._in_tuning(Record({}, run.arrays, {"tuning": {"mean": 0.64}})) == ""


def alike(figure: str) -> dict[str, Record]:
    """Records of a figure in which all arms are alike but for their noise."""
    return {key: filled(record, {}, 0.001) for key, record in skeleton(all_figures()[figure]).items()}


def test_mass_that_is_hardly_there_cannot_fall_by_a_margin() -> None:
    records = alike("unseen_responses")
    few = records["losers-0.875/table/dpo"]
    few.arrays["unseen_mass"] = 0.03 * few.arrays["unseen_mass"]  # 0.015, where the margin is 0.02
    found = {row.part: row for row in unseen_responses.verdicts(records) if (row.id, row.setting) == ("C03", "bandit")}
    for when in ("at one loss", "at the end"):
        closed = found[f"{when}, reference: losers, coverage 0.875"]
        assert closed.verdict == "no test" and closed.why.startswith("room")
        assert found[f"{when}, reference: losers, coverage 0.5"].verdict == "too small"


def test_a_gap_that_never_was_does_not_stay_open() -> None:
    found = rows("rounds_and_horizon", alike("rounds_and_horizon"))["C09", "two objectives"]
    assert found.verdict == "no test" and found.why.startswith("positive control")


def test_rounds_that_see_both_objectives_are_to_close_the_gap_on_the_second() -> None:
    records = alike("rounds_and_horizon")
    for name in ("first/offline", "first/iterated"):
        records[f"labels/{name}"] = filled(records[f"labels/{name}"], {"second": 0.2}, 0.001)
    address = ("C09", "labels of the first alone")
    assert rows("rounds_and_horizon", records)[address].verdict == "supported"
    records["labels/both/iterated"] = filled(records["labels/both/iterated"], {"second": 0.2}, 0.001)
    found = rows("rounds_and_horizon", records)[address]
    assert found.verdict == "no test" and found.why.startswith("placebo: against iterated DPO on labels of both")


def test_at_equal_labels_there_is_a_gap_on_the_second_objective_only_if_ppo_is_ahead_of_offline_dpo_there() -> None:
    records, address = alike("rounds_and_horizon"), ("C09", "PPO, too, on labels of the first alone")
    assert rows("rounds_and_horizon", records)[address].why.startswith("positive control: PPO against offline DPO")
    for name in ("offline", "iterated"):
        records[f"alike/first/{name}"] = filled(records[f"alike/first/{name}"], {"second": 0.2}, 0.001)
    assert rows("rounds_and_horizon", records)[address].verdict == "supported"
    records["alike/both/iterated"] = filled(records["alike/both/iterated"], {"second": 0.2}, 0.001)
    assert rows("rounds_and_horizon", records)[address].why.startswith("placebo: PPO against iterated DPO, both")


def test_a_critic_that_explains_little_closes_rows_of_its_credit() -> None:
    """0.4 of the variance counts as learned, 0.1 does not, nor what was not measured."""
    addresses = [
        ("rounds_and_horizon", "tokens/16/ppo", "horizon 16 against 1, token bandit"),
        ("learned_critic", "0.002/16/ppo", "horizon 16 against 1, a critic that has learned"),
        ("learned_critic", "0.003/16/ppo", "horizon 16 against 1, what a critic that has learned adds"),
    ]
    for figure, key, part in addresses:
        records = alike(figure)
        assert rows(figure, records)["C65", part].verdict == "too small"
        whole = dict(records[key].arrays)
        records[key].arrays["values_explained"] = 0.25 * whole["values_explained"]
        assert rows(figure, records)["C65", part].why.startswith("critic: explained variance")
        del records[key].arrays["values_explained"]
        assert "was not measured" in rows(figure, records)["C65", part].why


def test_a_critic_explains_minus_one_at_least_and_of_equal_rewards_nothing() -> None:
    record = Record({}, {"values_explained": np.array([[np.nan, -7.0], [0.25, -1.0]], np.float32)}, {})
    assert explained(record).tolist() == [[0.0, -1.0], [0.25, -1.0]]


def test_where_rloo_is_as_far_ahead_the_critic_is_not_why() -> None:
    records = alike("learned_critic")
    for key in [key for key in records if key.endswith("16/dpo")]:
        records[key] = filled(records[key], {"score": 0.3}, 0.001)
    found = rows("learned_critic", records)
    assert found["C65", "horizon 16 against 1, a critic that has learned"].why.startswith("placebo")
    assert found["C65", "horizon 16 against 1, what a critic that has learned adds"].verdict == "too small"


def test_what_mixed_training_of_two_tasks_loses_at_every_rate_is_half_of_what_its_best_sum_is_short_of() -> None:
    """A mean of both tasks of 0.39 is a sum of 0.78, each alone has 0.7 + 0.5: 0.42 are missing, of each 0.21."""
    records = alike("lm_two_tasks")
    for order, scores in {"verifiable": [0.7, 0.1], "rated": [0.2, 0.5], "mixed": [0.3, 0.3899]}.items():
        records[f"dpo/{order}"].provenance["tuning"] = {"scores": scores}
    said = lm_two_tasks.apart(records, "mixed")
    assert "0.78 mixed, against 0.70 + 0.50 = 1.20 alone, so that at every rate one task loses 0.21 or more" in said
    records["dpo/mixed"].provenance["tuning"] = {"scores": [0.3, 0.3901]}  # 0.2099 of each, and no more is said
    assert "loses 0.20 or more" in lm_two_tasks.apart(records, "mixed")
    records["dpo/mixed"].provenance["tuning"] = {"scores": [0.3, 0.61]}
    assert "1.22 mixed, against 0.70 + 0.50 = 1.20 alone. Across" in lm_two_tasks.apart(records, "mixed")


def test_what_one_task_alone_does_to_the_other_is_in_the_note_of_two_tasks() -> None:
    records = alike("lm_two_tasks")
    records["dpo/rated"] = filled(records["dpo/rated"], {"first": -0.3}, 0.001)
    records["dpo/mixed_twice"] = filled(records["dpo/mixed_twice"], {"first": 0.2, "second": 0.7}, 0.001)
    said = lm_two_tasks.apart(records, "mixed_twice")
    assert "verifiable alone pulls rated up to +0.50 [+0.50, +0.50]; rated alone pulls verifiable down to -0.30" in said
    assert "gains +0.20 [+0.20, +0.20] on verifiable and gains +0.70 [+0.70, +0.70] on rated." in said
    assert "tuning" not in said  # as no arm was tuned


def test_of_an_interval_with_0_in_it_nothing_is_said_to_be_pulled_or_gained() -> None:
    records = alike("lm_two_tasks")
    records["dpo/verifiable"] = filled(records["dpo/verifiable"], {"second": -0.05}, 0.25)
    records["dpo/mixed"] = filled(records["dpo/mixed"], {"first": -0.3, "second": 0.05}, 0.25)
    said = lm_two_tasks.apart(records, "mixed")
    assert "what verifiable alone does to rated is not known, -0.05 [-0." in said
    assert "loses -0.30 [-0." in said and "has not been seen to gain on rated, +0.05 [-0." in said


def test_fresh_arms_that_are_the_same_runs_close_a_row_of_what_was_recorded() -> None:
    records = alike("peaks_and_data")
    records["unlikely/without/ipo/fresh"].arrays["gold"] = records["unlikely/with/ipo/fresh"].arrays["gold"]
    found = rows("peaks_and_data", records)
    part = "data without the peak against with it, peak unlikely"
    assert found["C25", f"ipo: {part}"].why.startswith("shared arms")
    assert found["C25", f"dpo: {part}"].verdict == "too small"


def test_an_arm_by_the_settings_of_another_must_do_as_well_as_by_its_own() -> None:
    """Offline IPO, tuned for itself, scores 0.3 more."""
    records = alike("replayed_data")
    for where in ("bandit", "network"):
        records[f"{where}/ipo/offline"] = filled(records[f"{where}/ipo/offline"], {"score": 0.8}, 0.001)
    found = rows("replayed_data", records)["C16", "IPO, every arm by the settings of online"]
    assert "own settings: " in found.why and "tuned arms would open it" in found.why


def test_orders_that_took_different_settings_say_what_the_order_gains_at_equal_ones() -> None:
    def order(scores: list[float], chosen: int) -> Record:
        points = [{"beta": 0.1}, {"beta": 1.0}]
        return Record({}, {}, {"tuning": {"points": points, "scores": scores, "chosen": chosen}})

    one, other = order([0.2, 0.7], 1), order([0.5, 0.4], 0)
    assert at_equal_settings(one, other).endswith(
        "on tuning runs it gains +0.30 by those of the first, -0.30 by others."
    )
    assert at_equal_settings(one, order([0.2, 0.7], 1)) == "" == at_equal_settings(one, Record({}, {}, {}))


def test_what_carries_over_to_another_task_is_seen_where_they_share_a_direction_or_the_row_is_no_test() -> None:
    """C48: of tasks at right angles nothing may be there to be carried over."""
    for moved, state in ((0.3, "supported"), (0.04, "no test")):
        records = alike("two_tasks")
        for key in [key for key in records if key.count("/") == 1 or "/shared/" in key]:
            level = moved if "/shared/" in key else 0.01
            other = {"verifiable": "second", "rated": "first"}.get(key.rpartition("/")[2])
            records[key] = filled(records[key], {other: level} if other else {}, 0.001)
        found = rows("two_tasks", records)["C48", "dpo: the other domain"]
        assert found.verdict == state and "positive control" in [gate.name for gate in found.gates]
        assert ("a cosine of 0.3" in found.why) is (state == "no test")


def test_a_score_over_a_run_says_who_is_ahead_first_and_whether_it_hangs_on_the_length() -> None:
    slow, quick = path(0.0, 0.2, 0.6), path(0.0, 0.5, 0.4)
    said = on_the_way(slow, quick, 0.05)
    assert said.startswith("DPO is behind by +0.30 [+0.30, +0.30] at update 1,") and "by +0.05 [" in said
    assert said.endswith("over the first 2; from update 2 on it is ahead, at the end by +0.20 [+0.20, +0.20].")
    assert on_the_way(quick, path(0.0, 0.6, 0.9), 0.05).endswith(" over the first 2.")  # never ahead
    said = on_the_way(path(0.0, 0.98, 0.97), path(0.0, 0.97, 0.99), 0.05)
    assert said.endswith("; 2 of 2 evaluations are a tie near the largest reward: the row hangs on its length.")
