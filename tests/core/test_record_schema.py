"""The table of record arrays: it names all that runs write, and what it does not know is refused in one line."""

import numpy as np
import pytest

from sims.core.algorithms import find_algorithm
from sims.core.schedule import Schedule
from sims.core.spec import SpecError
from sims.environments import BanditR1, Contextual, TokenBanditSmall
from sims.experiments.executor import execute
from sims.experiments.experiment import Experiment
from sims.experiments.record_schema import SCHEMA, check, declare, markdown
from sims.policies import Table, Transformer

WHOLE = {
    "updates": np.arange(3),
    "reward": np.zeros((2, 3)),
    "rewards": np.zeros((4, 5)),
    "logp_ref": np.zeros((2, 4, 5)),
}


def test_a_record_that_is_as_the_table_says_passes() -> None:
    check(WHOLE, runs=2, evaluations=3)
    check(WHOLE | {"rewards": np.zeros((2, 4, 5))}, runs=2, evaluations=3)  # problems that differ by run


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewerd": np.zeros((2, 3))}, r"record\.rewerd = \(2, 3\): must be an array of the table"),
        ({"reward": np.zeros((2, 4))}, r"record\.reward = \(2, 4\): must have the shape \(2 runs, 3 evaluations\)"),
        ({"reward": np.zeros(3)}, r"record\.reward"),
        ({"diverged_at": np.array(-1)}, r"record\.diverged_at = \(\): must have the shape \(2 runs\)"),
        ({"logp_ref": np.zeros((2, 4, 6))}, r"record\.logp_ref = \(2, 4, 6\): .*2 runs, 4 prompts, 5 responses"),
    ],
)
def test_what_is_not_is_refused_by_name_and_shape(change: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        check(WHOLE | change, runs=2, evaluations=3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "arm",
    [
        Experiment("x", BanditR1(), Table(), find_algorithm("dpo")()),
        Experiment("x", Contextual(num_prompts=3, reward_model="table"), Table(), find_algorithm("rloo")()),
        Experiment("x", TokenBanditSmall(), Transformer(), find_algorithm("rloo")()),
    ],
)
def test_what_runs_write_is_in_the_table(arm: Experiment) -> None:
    arm = arm.replace(schedule=Schedule(batch_size=4), updates=2, evaluations=2, runs=2)
    check(execute([arm])[0], arm.runs, arm.evaluations + 1)


def test_an_environment_may_declare_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sims.experiments.record_schema.SCHEMA", dict(SCHEMA))
    declare("temperature", ("run",), "°C", "of the room")
    declare("temperature", ("run",), "°C", "of the room")
    check(WHOLE | {"temperature": np.zeros(2)}, runs=2, evaluations=3)
    with pytest.raises(ValueError, match="reward is an array of records already"):
        declare("reward", ("run",), "°C", "of the room")
    assert "| temperature | run | °C | of the room |" in markdown()
