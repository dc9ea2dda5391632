"""What figures tell the gates of their records, by hand."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from figures.arms.entropies import DRAWS, ENTROPY, PLACES, entropy_row, over_draws
from figures.arms.gating import (
    Part,
    Sides,
    above,
    at_the_end,
    edges,
    effect_of,
    larger_fall,
    last_with_room,
    lowest_score,
    luck,
    of_all,
    of_differences,
    own_settings,
    part,
    part_of_gold,
    separate,
    stopped_early,
    tuned_and_bounded,
    tuned_for,
    tuned_well,
    with_tuning_of,
)
from figures.catalogue import claim
from figures.claims import Verdict
from figures.lab import settings
from sims.experiments.store import Record
from sims.statistics.bounded import bounded_interval
from sims.statistics.gates import Gate
from sims.statistics.intervals import mean_interval


def spread(mean: float, runs: int = 40) -> np.ndarray:
    return mean + 0.02 * np.random.default_rng(round(1000 * mean)).normal(size=runs)


def test_away_from_the_bounds_an_effect_is_the_paired_one() -> None:
    a, b = spread(0.6), spread(0.5)
    found = effect_of([Part(1.0, a, 0.0), Part(-1.0, b, 0.0)])
    assert (found.low, found.high) == (mean_interval(a - b).low, mean_interval(a - b).high)


def test_runs_at_a_bound_widen_an_interval_by_what_was_not_seen() -> None:
    """40 of 40 runs at 1: at 95 % up to 1 − 0.025^(1/40) = 0.088 of runs may be at the other bound, 0."""
    ones = np.ones(40)
    found = effect_of([Part(1.0, ones, 0.0)])
    assert found.high == pytest.approx(1) and found.low == pytest.approx(0.025 ** (1 / 40), abs=0.01)
    b = spread(0.5)
    both = effect_of([Part(1.0, ones, 0.0), Part(-1.0, b, 0.0)])
    assert both.estimate == pytest.approx((ones - b).mean())
    missed = 1 - 0.0125 ** (1 / 40)  # half of the error is the other arm's
    assert both.low == pytest.approx(0.5 - missed, abs=0.03) and both.high < 0.53
    tied, free = bounded_interval(ones, 0.0, 1.0, 0.975), mean_interval(-b, 0.975)
    assert (both.low, both.high) == pytest.approx((tied.low + free.low, tied.high + free.high))


def test_both_sides_at_the_bound_support_no_difference_with_200_runs_and_not_with_50() -> None:
    high = {n: effect_of([Part(1.0, np.ones(n), -0.6), Part(-1.0, np.ones(n), -0.6)]).high for n in (50, 200)}
    assert high[200] < 0.05 < high[50]


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (-4.2, 0.7)])
def test_a_score_beyond_its_bounds_is_refused_and_not_cut_off(low: float, high: float) -> None:
    """One run of 40 at −4.2, where none is said to be below `low`: cut off at −1 the mean would be 0.08 larger."""
    scores = np.append(np.ones(39), -4.2)
    with pytest.raises(ValueError, match="bound the interval"):
        effect_of([Part(1.0, scores, low, high)])
    assert effect_of([Part(1.0, scores, -4.2)]).estimate == pytest.approx(scores.mean())


def tuned(chosen: int, scores: list[float], **points: list[float]) -> Record:
    grid = [dict(zip(points, values, strict=True)) for values in zip(*points.values(), strict=True)]
    return Record({}, {}, {"tuning": {"arm": "a", "points": grid, "scores": scores, "chosen": chosen}})


@pytest.mark.parametrize(
    ("chosen", "scores", "open_"),
    [
        (1, [0.1, 0.5, 0.2], True),
        (2, [0.1, 0.2, 0.5], False),
        (0, [0.5, 0.2, 0.1], False),
        (2, [0.1, 0.46, 0.5], False),  # within a margin of the one before, but not within half of one
        (2, [0.1, 0.49, 0.5], True),  # a plateau: no more than half a margin better than the one before
        (2, [0.1, 0.8, 0.97], True),  # less than a margin below the largest score: no more is to be had
    ],
)
def test_an_end_of_a_grid_counts_where_more_may_lie_beyond(chosen: int, scores: list[float], open_: bool) -> None:
    assert edges(0.05, tuned(chosen, scores, learning_rate=[0.1, 0.3, 1.0])).open == open_


def test_every_end_that_an_arm_stands_at_must_be_a_plateau() -> None:
    """The last rate is no better than the one before; the last β is, by 0.4."""
    rates, betas = [0.1, 0.3, 1.0] * 3, [0.1] * 3 + [0.3] * 3 + [1.0] * 3
    scores = [0.0, 0.0, 0.0, 0.1, 0.1, 0.1, 0.1, 0.5, 0.5]
    assert not edges(0.05, tuned(8, scores, learning_rate=rates, beta=betas)).open


def test_nothing_lies_below_a_weight_of_0() -> None:
    assert edges(0.05, tuned(0, [0.5, 0.2, 0.1], beta=[0.0, 0.1, 1.0])).open
    assert not edges(0.05, tuned(2, [0.1, 0.2, 0.5], beta=[0.0, 0.1, 1.0])).open


def test_a_choice_of_two_has_no_ends_and_an_arm_that_was_not_tuned_none() -> None:
    assert edges(0.05, tuned(1, [0.1, 0.5], beta=[0.1, 1.0]), Record({}, {}, {})).open


def ending(at: float) -> Record:
    """A tuned arm whose runs end about `at`, after they were at 0.5."""
    run = record([0.0, 0.5, at])
    return Record(run.spec, run.arrays, tuned(1, [0.1, 0.5], beta=[0.1, 1.0]).provenance)


@pytest.mark.parametrize(("at", "open_"), [(0.1, True), (-0.02, True), (-0.03, False), (-0.5, False)])
def test_a_tuned_arm_ends_at_most_half_a_margin_below_the_reference(at: float, open_: bool) -> None:
    """Less is as good as not to train."""
    run = ending(at)
    names, gates = ["grid edge", "above the reference", "luck of tuning"], tuned_well(0.05, ending(0.5), run)
    assert [gate.name for gate in gates] == names and [gate.open for gate in gates] == [True, open_, True]
    assert above(0.05, Record(run.spec, run.arrays, {})).open  # settings that no tuning chose
    by_another = tuned_well(0.05, run, by=lambda record: record.arrays["gold"][:, 1])
    assert all(gate.open for gate in by_another)  # tuned for what does not fall


def test_an_arm_that_was_tuned_over_the_run_is_above_the_reference_over_the_run() -> None:
    """0.5 and then −0.3: below the reference at the end, above it over the run; 0.5 and then −0.9 is below by both."""
    for at, over_the_run in ((-0.3, True), (-0.9, False)):
        run = ending(at)
        by_run = Record(run.spec, run.arrays, {"tuning": {**run.provenance["tuning"], "by": "run"}})
        assert not above(0.05, run).open and above(0.05, by_run).open is over_the_run
        (gate,) = (x for x in tuned_and_bounded(0.05, by_run, by_run) if x.name == "above the reference")
        assert gate.open is over_the_run
    assert above(0.05, run).why.startswith("a at the end scores -0.9")
    assert above(0.05, by_run).why.startswith("a over the run scores -0.2") and gate.why == above(0.05, by_run).why


@pytest.mark.parametrize("falls", ["", "the claim is about a fall"])
@pytest.mark.parametrize(("by", "mean", "open_"), [("end", 0.92, True), ("end", 1.2, False), ("run", 0.92, False)])
def test_an_arm_scores_what_its_settings_did_by_what_they_were_tuned_for(
    by: str, mean: float, open_: bool, falls: str
) -> None:
    """0.5 and then 0.9: 0.7 over the run."""
    run = replace(record([0.0, 0.5, 0.9]), spec={"beta": 1.0, "seed": 1, "runs": 20})
    how = {**tuned(0, [mean, 0.0], beta=[1.0, 0.1]).provenance["tuning"], "by": by, "mean": mean, "runs": 4, "among": 2}

    def gate(of: dict[str, float]) -> Gate:
        ours = Record(run.spec, run.arrays, {"tuning": {**how, "of": settings(of)}})
        return tuned_well(0.05, ours, falls=falls)[-1]

    assert gate({"beta": 1.0, "seed": 7, "runs": 4}).open is open_  # whatever was drawn, and how often
    assert gate({"beta": 0.1, "seed": 1, "runs": 20}).open  # changed after tuning: no number to compare with
    assert luck(0.05, Record(run.spec, run.arrays, {"tuning": how})).open  # tuned by shorter runs
    told = luck(0.05, Record(run.spec, {}, {"tuning": {**how, "of": settings(run.spec)}}))
    assert told.open and told.why == "not known of a, whose committed records keep no such score"


def test_a_row_about_a_fall_says_why_its_arms_may_end_below_the_reference() -> None:
    gate = above(0.05, ending(-0.5), falls="the claim is about a fall")
    assert gate.open and gate.why == "not asked: the claim is about a fall"


def test_runs_by_the_settings_of_another_arm_are_tuned_as_it_is() -> None:
    run, other = record([0.0, -0.5]), record([0.0, 0.5])
    found = with_tuning_of({"a": run, "b": other}, {"a": ending(0.5), "b": other})
    assert not above(0.05, found["a"]).open and found["a"].arrays is run.arrays
    assert found["b"] is other  # nothing was tuned


@pytest.mark.parametrize(("at", "open_"), [(-1, True), (2, True), (1, False), (None, False)])
def test_what_is_tuned_by_its_end_is_tested_there(at: int | None, open_: bool) -> None:
    run = record([0.0, 0.5, 0.9])
    tuned_run = Record(run.spec, run.arrays, tuned(1, [0.1, 0.5], beta=[0.1, 1.0]).provenance)
    assert tuned_for(at, run, tuned_run).open == open_
    assert tuned_for(at, run).open  # as it was set: no tuning chose among settings that end alike


@pytest.mark.parametrize(("at", "open_"), [(None, True), (-1, False), (1, False)])
def test_what_is_tuned_over_the_run_is_tested_over_it(at: int | None, open_: bool) -> None:
    run, how = record([0.0, 0.5, 0.9]), tuned(1, [0.1, 0.5], beta=[0.1, 1.0]).provenance["tuning"]
    by_run, by_end = (Record(run.spec, run.arrays, {"tuning": {**how, "by": by}}) for by in ("run", "end"))
    assert tuned_for(at, run, by_run).open == open_
    mixed = tuned_for(at, by_end, by_run)
    assert not mixed.open and "tuned by the score at the end or over the run" in mixed.why


@pytest.mark.parametrize("at", [-1, 2, 1, None])
def test_what_is_tuned_by_its_score_is_not_tested_by_another_quantity(at: int | None) -> None:
    """Settings of one score may differ in entropy as much as they like, at the end too."""
    run = record([0.0, 0.5, 0.9])
    tuned_run = Record(run.spec, run.arrays, tuned(1, [0.1, 0.5], beta=[0.1, 1.0]).provenance)
    gate = tuned_for(at, run, tuned_run, quantity="entropy")
    assert not gate.open and "by its entropy" in gate.why
    assert tuned_for(at, run, quantity="entropy").open


def record(score: list[float], runs: int = 20, decoding: int | None = None) -> Record:
    """References earn 0.2 of 1; of a language model −24 of 0."""
    low, high = (0.2, 1.0) if decoding is None else (-24.0, 0.0)
    arrays = {
        "gold": np.tile(low + (high - low) * np.array(score), (runs, 1)),
        "reference_reward": np.full(runs, low),
        "best_reward": np.full(runs, high),
        "diverged_at": np.full(runs, -1),
        "updates": np.arange(len(score)),
    }
    return Record({} if decoding is None else {"policy": {"decoding": {"max_new_tokens": decoding}}}, arrays, {})


def test_the_lowest_score_is_that_of_the_smallest_reward() -> None:
    assert lowest_score([record([0.0])]) == pytest.approx(-0.25)  # (0 − 0.2)/(1 − 0.2)
    assert lowest_score([record([0.0], decoding=48)]) == pytest.approx(-1.0)  # (−48 + 24)/(0 + 24)
    spec = {"policy": {"decoding": {"max_new_tokens": 48}}, "environment": {"kind": "forbidden_words", "dense": False}}
    assert lowest_score([replace(record([0.0]), spec=spec)]) == pytest.approx(-0.25)  # right or wrong: 0 again


def test_the_lowest_score_of_several_is_the_lowest_of_all() -> None:
    assert lowest_score([record([0.0]), record([0.0], decoding=48)]) == pytest.approx(-1.0)


def test_a_score_over_the_run_is_the_mean_without_the_start() -> None:
    run = record([0.0, 0.2, 0.6])
    assert part(-1.0, run, None).scores == pytest.approx(np.full(20, 0.4))
    assert part(-1.0, run).scores == pytest.approx(np.full(20, 0.6))
    assert part(-1.0, run, 1, runs=3).scores == pytest.approx(np.full(3, 0.2))


def test_each_part_of_gold_has_a_scale_of_its_own() -> None:
    """The first runs from 0 over the reference's 1 to 3, the second from −8 over 0 to 10: gold is their mean."""
    arrays = {
        "gold_first": np.array([[1.0, 2.0]]),
        "gold_second": np.array([[0.0, 5.0]]),
        "gold": np.array([[0.5, 3.5]]),
        "diverged_at": np.array([-1]),
        "updates": np.arange(2),
        **{"worst_first": np.array([0.0]), "best_first": np.array([3.0])},
        **{"worst_second": np.array([-8.0]), "best_second": np.array([10.0])},
    }
    run = Record({}, arrays, {})
    first, second = (part_of_gold(1.0, run, name) for name in ("first", "second"))
    assert (first.scores[0], first.low) == (0.5, -0.5)  # (2 − 1)/(3 − 1), (0 − 1)/(3 − 1)
    assert (second.scores[0], second.low) == (0.5, -0.8)


def test_an_effect_is_tested_at_the_last_evaluation_with_room() -> None:
    one, other = np.tile([0.0, 0.5, 0.9, 1.0], (20, 1)), np.tile([0.0, 0.4, 0.95, 1.0], (20, 1))
    assert last_with_room([Sides(one, other, 0.0)], 0.05)[0] == 2
    at, gate = last_with_room([Sides(one, other, 0.0), Sides(one[:, [0, 1, 3, 3]], other, 0.0)], 0.05)
    assert at == 1 and gate.open and gate.why.endswith("at evaluation 1 of 3")
    full = np.ones((20, 4))
    at, gate = last_with_room([Sides(full, full, 0.0)], 0.05)
    assert at == 3 and not gate.open


WHERE = pytest.mark.parametrize("place", ["tree", "network"])


@WHERE
@pytest.mark.parametrize("name", ["dpo", "grpo"])
def test_entropies_of_arms_that_were_tuned_by_their_score_are_no_test(place: str, name: str) -> None:
    """C37: right or wrong, most learning rates end at the same score and at any entropy."""
    by_score = entropies(place, [0.5], name, tuned(1, [0.1, 0.9], beta=[0.1, 1.0]))
    assert by_score.verdict == "no test" and by_score.why.startswith("tuned for")
    held = entropies(place, [0.5], name, Record({}, {}, {}))
    assert held.verdict == "supported" and held.effect == pytest.approx(0.5)


@WHERE
def test_entropies_at_several_learning_rates_have_the_interval_of_all(place: str) -> None:
    found = entropies(place, [0.3, 0.5], "dpo", Record({}, {}, {}))
    assert (found.low, found.high) == pytest.approx((0.3, 0.5))
    said = "+0.300 at 0.01 after 2 updates, 20 of 20 draws beyond the margin, with scores of 0.90 and 0.90; +0.500 at"
    assert said in found.note
    assert "Its size hangs on the rate" in found.note


@WHERE
def test_one_learning_rate_of_less_than_the_margin_takes_support_away(place: str) -> None:
    assert entropies(place, [0.05, 0.5], "grpo", Record({}, {}, {})).verdict == "inconclusive"


@WHERE
@pytest.mark.parametrize(("early", "state"), [(0.3, "supported"), (-0.3, "no test")])
def test_entropies_whose_difference_turns_on_the_way_are_no_test(place: str, early: float, state: str) -> None:
    """After as many updates a smaller learning rate is where a larger one was before."""
    found = entropies(place, [0.5], "dpo", Record({}, {}, {}), early)
    assert found.verdict == state and ("-0.30 at 0.1 after 1 updates" in found.why) == (state == "no test")
    assert "size hangs" not in found.note


@WHERE
@pytest.mark.parametrize(("early", "state"), [(-0.06, "no test"), (-0.04, "supported")])
def test_a_sign_of_less_than_half_the_margin_is_none_that_turns(place: str, early: float, state: str) -> None:
    """Of a margin of 0.1: two arms that are 0.04 nats apart are as good as one."""
    assert entropies(place, [0.5], "grpo", Record({}, {}, {}), early).verdict == state


def test_the_runs_of_a_draw_are_one_observation() -> None:
    """Two draws, of each five runs that are alike but for noise: an interval over draws has two observations."""
    draws = [record([0.0, score], runs=5) for score in (0.2, 0.8)]
    for found, less in zip(draws, (1.0, 0.4), strict=True):
        found.arrays["entropy"] = np.array([[1.0, less + x] for x in (-0.2, -0.1, 0.0, 0.1, 0.2)])
    draws[1].arrays["diverged_at"][3] = 1
    both = over_draws(draws)
    assert both.arrays["entropy"] == pytest.approx(np.array([[1.0, 1.0], [1.0, 0.4]]))
    assert both.arrays["gold"].shape == (2, 2) and both.arrays["diverged_at"].tolist() == [-1, 1]


def entropies(place: str, lower: list[float], name: str, like: Record, early: float | None = None) -> Verdict:
    """C37 online, where right or wrong has so much less entropy at each learning rate, the last of `lower` at all that
    are larger. like: by whose tuning. early: how much less at the first evaluation, if not as much."""
    entropy = np.tile([2.0, 1.0, 0.8], (20, 1)) + 0.01 * np.random.default_rng(0).normal(size=(20, 3))
    score, where = record([0.0, 0.5, 0.9]).arrays, PLACES[place]
    arms = {
        f"{where.before}entropy/{rate:g}/{name}/{reward}/online/{draw}": Record(
            {}, {**score, "entropy": entropy + 0.01 * np.sin(draw) - x}, like.provenance
        )
        for rate, less in itertools.zip_longest(where.rates, lower, fillvalue=lower[-1])
        for reward, x in (("dense", np.zeros(3)), ("verifiable", np.array([less, early or less, less])))
        for draw in DRAWS
    }
    key = (place, name, "online")
    return entropy_row(ENTROPY[key], arms, *key, "collapse")


def test_an_effect_at_the_end_needs_room_at_the_end() -> None:
    """Room before, and none at the end: only what is tested before it may call that room."""
    one, other = np.tile([0.0, 0.5, 1.0], (20, 1)), np.tile([0.0, 0.4, 1.0], (20, 1))
    assert last_with_room([Sides(one, other, 0.0)], 0.05)[1].open
    assert not at_the_end([Sides(one, other, 0.0)], 0.05).open
    assert at_the_end([Sides(one[:, :2], other[:, :2], 0.0)], 0.05).open


def test_a_control_is_seen_where_a_stopped_arm_is_behind() -> None:
    slow, quick = record([0.0, 0.2, 0.5, 0.7, 0.9]), record([0.0, 0.9, 0.9, 0.9, 0.9])
    assert stopped_early([quick], [slow], 0.05).open
    assert not stopped_early([quick], [quick], 0.05).open


def test_settings_of_another_are_an_arms_own_if_it_loses_less_than_a_margin_by_them() -> None:
    """Tuned for itself it scores 0.3 more, or 0.01."""
    as_run, tuned, alike = (record([0.0, x]) for x in (0.5, 0.8, 0.51))
    assert own_settings(0.05, {"a": (as_run, alike)}).open
    closed = own_settings(0.05, {"a": (as_run, alike), "b": (as_run, tuned)})
    assert not closed.open and closed.why.endswith("tuned arms would open it")
    assert own_settings(0.05, {"b": (tuned, as_run)}).open  # what is better than tuned has nothing to complain of


def test_gates_of_one_name_are_one_the_first_that_is_closed_else_an_open_one_with_the_reasons_of_all() -> None:
    one, other, closed = Gate("bound", True, "a"), Gate("bound", True, "b"), Gate("bound", False, "c")
    assert of_all([one, other, one]) == Gate("bound", True, "a; b")  # each reason once
    assert of_all([one, closed, Gate("bound", False, "d")]) == closed


def test_the_claimed_side_of_a_difference_of_differences_is_within_the_scale() -> None:
    """0.9 − 0.8 against 0.6 − 0.2: the first pair cannot be ahead by more than the second; by less it can, at 0.35."""
    first, second = (record([0.0, 0.9]), record([0.0, 0.8])), (record([0.0, 0.6]), record([0.0, 0.2]))
    tested = claim("C28", "dpo, min length, over the run")
    assert tested.sign == 1
    for sign, open_ in ((1, False), (-1, True)):
        gates = of_differences(replace(tested, sign=sign), (*first, *second), -1)
        assert [gate.name for gate in gates] == ["shared arms", "within the scale"] and gates[-1].open is open_
        swapped = of_differences(replace(tested, sign=-sign), (*second, *first), None)  # over the run, the other side
        assert swapped[-1].open is open_


def test_a_fall_that_a_claim_needs_is_no_longer_than_the_way_down() -> None:
    """From a best score of 0.5 to the lowest, −0.25: 0.75. Elsewhere the rare sync falls 0.6 further."""
    few, many, still = record([0.5, 0.4]), record([0.9, 0.3]), record([0.9, 0.9])
    tested = claim("C35", "each tuned")
    assert larger_fall(tested, (few, many), (still, still)).open
    assert not larger_fall(tested, (few, many), (record([0.5, 0.3]), still)).open


def test_arms_that_hold_the_same_runs_cancel_whatever_their_specs_say() -> None:
    """Fresh pairs of an environment whose recorded pairs differ: another hash, the same runs."""
    fresh, with_it, without = record([0.0, 0.5]), record([0.0, 0.3]), record([0.0, 0.2])
    again = replace(fresh, spec={"environment": {"best_in_data": False}})
    closed = separate(again, without, fresh, with_it)
    assert again.hash != fresh.hash and not closed.open and closed.why.startswith("the first arms are the same records")
    assert separate(record([0.0, 0.6]), without, fresh, with_it).open
