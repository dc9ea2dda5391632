"""Gates that a hostile reader asked for, on records whose arms differ in just what each is about."""

from __future__ import annotations

import numpy as np
import pytest

from figures.catalogue import claim
from figures.claims import Verdict
from figures.figure import Figure, Records
from figures.gallery import data_quality, lm_semi_online, sync_over_the_run, sync_period, weeks_of_drift
from sims.experiments.record_file import Record
from tests.figures.synthetic import filled, skeleton


def row(figure: Figure, records: Records, id: str, part: str, setting: str) -> Verdict:
    (found,) = (r for r in figure.verdicts(records) if (r.id, r.part, r.setting) == (id, part, setting))
    return found


@pytest.mark.parametrize(("scale", "state"), [(1.0, "opposite"), (4.0, "no test")])
def test_an_interaction_whose_sign_is_that_of_the_unit_answers_nothing(scale: float, state: str) -> None:
    """A better reward model gains .1 where it is hard and .3 where it is easy, in scores; the hard task has four times
    the reward to be gained: .4 in rewards."""
    records = {key: filled(record, {}, 1e-3) for key, record in skeleton(data_quality.FIGURE).items()}
    for name, score in (("hard/good", 0.6), ("hard/poor", 0.5), ("easy/good", 0.8), ("easy/poor", 0.5)):
        made = filled(records[f"model/{name}"], {"score": score}, 1e-3)
        if name.startswith("hard"):
            names = ("gold", "reference_reward", "best_reward", "worst_reward")
            arrays = made.arrays | {array: scale * made.arrays[array] for array in names}
            made = type(made)(made.spec, arrays, {})
        records[f"model/{name}"] = made
    part = "PPO: pairs of the reward model × difficulty"
    assert row(data_quality.FIGURE, records, "C47", part, "mlp").verdict == state


@pytest.mark.parametrize(("ahead", "state"), [(0.0, "supported"), (0.2, "no test"), (-0.2, "no test")])
def test_gradients_are_compared_of_arms_that_are_at_one_score(ahead: float, state: str) -> None:
    records = {key: filled(record, {}, 1e-3) for key, record in skeleton(weeks_of_drift.FIGURE).items()}
    fresh = {"octaves": 3.0, "score": 0.5 + ahead}
    records |= {key: filled(r, fresh, 1e-3) for key, r in records.items() if key.endswith("/fixed")}
    records |= {key: filled(r, {"score": 0.5}, 1e-3) for key, r in records.items() if key.endswith("/held/first")}
    for setting in ("bandit", "mlp"):
        assert row(weeks_of_drift.FIGURE, records, "C53", "gradient norm", setting).verdict == state


@pytest.mark.parametrize(("falls", "state"), [(0.2, "supported"), (0.02, "no test")])
def test_what_does_not_fall_cannot_be_steadied(falls: float, state: str) -> None:
    records = {key: filled(record, {}, 1e-3) for key, record in skeleton(sync_period.FIGURE).items()}

    def falling(key: str, by: float) -> Record:
        made = records[key]
        gold = made.arrays["gold"].copy()
        gold[:, -1] = gold[:, 1:].max(1) - by - 0.01 * np.linspace(-1, 1, len(gold))
        return type(made)(made.spec, made.arrays | {"gold": gold}, {})

    records |= {
        "network/unstable": falling("network/unstable", falls),
        "network/steadied": falling("network/steadied", 0.01),
    }
    tested = claim("C38", "network, s = 10, where it is the least stable")
    assert row(sync_period.FIGURE, records, "C38", tested.part, "mlp").verdict == state


@pytest.mark.parametrize(("falls", "state"), [(0.2, "too small"), (0.02, "no test")])
def test_nor_is_it_a_test_of_that_what_a_larger_epsilon_gains_over_the_run(falls: float, state: str) -> None:
    records = {key: filled(record, {}, 1e-3) for key, record in skeleton(sync_over_the_run.FIGURE).items()}
    records |= {key: filled(x, {"late": -falls}, 1e-3) for key, x in records.items() if key.endswith("/dpo/10")}
    for setting in ("bandit", "mlp"):
        found = row(sync_over_the_run.FIGURE, records, "C38", "s = 10, over the run", setting)
        assert found.verdict == state and ("unstable" in found.why) == (state == "no test")


@pytest.mark.parametrize(("falls", "state"), [(0.4, "too small"), (0.02, "no test")])
@pytest.mark.parametrize(
    ("figure", "small", "part", "setting"),
    [
        (sync_period.FIGURE, "network/dpo/10", "network, s = 10", "mlp"),
        (lm_semi_online.FIGURE, "dpo/5", "lengths near 26, s = 5", "lm"),
    ],
)
def test_nor_of_what_it_gains_where_nothing_is_unstable(
    figure: Figure, small: str, part: str, setting: str, falls: float, state: str
) -> None:
    records = {key: filled(record, {}, 1e-3) for key, record in skeleton(figure).items()}
    for key in (small, small.replace("dpo", "dpo_epsilon")):
        records[key] = filled(records[key], {"late": -falls}, 1e-3)
    found = row(figure, records, "C38", part, setting)
    assert found.verdict == state and ("unstable" in found.why) == (state == "no test")


@pytest.mark.parametrize(("ahead", "said"), [(0.2, True), (-0.2, False)])
def test_a_row_of_no_effect_says_which_side_is_ahead(ahead: float, said: bool) -> None:
    records = {key: filled(record, {}, 1e-3) for key, record in skeleton(sync_period.FIGURE).items()}
    records["network/ipo/10"] = filled(records["network/ipo/10"], {"score": 0.5 + ahead}, 1e-3)
    records["network/ipo/1"] = filled(records["network/ipo/1"], {"score": 0.5}, 1e-3)
    found = row(sync_period.FIGURE, records, "C32", "ipo: s = 10", "mlp")
    assert ("it is the stale sampler that is ahead" in found.note) is said
