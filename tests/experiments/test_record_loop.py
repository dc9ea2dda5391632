"""The loop that makes records: when it evaluates and calls its hooks, what it does when training cannot go on, and that
the counts of a schedule are those of a run."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from sims.core.algorithms import find_algorithm
from sims.core.loop.learner import Learner
from sims.core.loop.train import Training, Update
from sims.core.numerics.noise import Noise
from sims.core.schedule import Schedule
from sims.environments import BanditR1, Contextual
from sims.experiments.evaluation import Evaluation, Row
from sims.experiments.experiment import Experiment
from sims.experiments.record_loop import Diverged, Hooks, Recorder
from sims.policies import Table

ARM = Experiment("x", BanditR1(), Table(), find_algorithm("dpo")(), Schedule(batch_size=4), updates=6, evaluations=3)


def training(arm: Experiment = ARM, runs: int = 2) -> Training:
    noise = Noise.of(0, runs)
    policy = arm.policy.build(arm.environment, noise, False, torch.float64)
    environment = arm.environment.build(torch.float64, noise)  # type: ignore[attr-defined]
    learner = Learner(policy, arm.optimiser, noise.lead)
    return Training(policy, environment, arm.algorithm, arm.schedule, learner, noise)


class Told(Evaluation):
    """Notes what it is asked, and measures how many updates are done."""

    def __init__(self, trained: Training) -> None:
        self.trained, self.told = trained, list[str]()

    def row(self, update: Update | None = None) -> Row:
        self.told.append(f"row {None if update is None else update.number}")
        return {"reward": torch.full((2,), float(self.trained.updates))}

    def start(self, update: Update) -> Row:
        self.told.append(f"start {update.number}")
        return {"gold": torch.full((2,), -1.0)}

    def closing(self) -> Row:
        return {"best_reward": torch.ones(2)}

    def hooks(self, diverged: bool = False) -> Hooks:
        def stop(error: Diverged) -> None:
            raise error

        return Hooks(
            updated=lambda update: self.told.append(f"updated {update.number}"),
            evaluated=lambda updates: self.told.append(f"evaluated {updates}"),
            completed=lambda update: self.told.append(f"completed {update.number}"),
            **({"diverged": stop} if diverged else {}),
        )


def until(updates: Iterator[Update], last: int) -> Iterator[Update]:
    """The updates up to one, after which logits are not finite."""
    for update in updates:
        yield update
        if update.number == last:
            raise Diverged(f"update {last + 1}: logits are not finite")


def test_every_update_is_told_then_evaluated_if_one_is_due_and_then_completed() -> None:
    trained = training()
    evaluation = Told(trained)
    Recorder(trained, ARM, [evaluation], evaluation.hooks()).run(trained.train(4))
    assert evaluation.told == [
        *("row None", "evaluated 0", "start 1", "updated 1", "completed 1"),
        *("updated 2", "row 2", "evaluated 2", "completed 2", "updated 3", "completed 3"),
        *("updated 4", "row 4", "evaluated 4", "completed 4"),
    ]


def test_what_is_resumed_is_evaluated_at_the_points_that_are_left() -> None:
    trained = training()
    for _ in trained.train(3):
        pass
    evaluation = Told(trained)
    recorder = Recorder(trained, ARM, [evaluation])
    recorder.run(trained.train(6))
    assert evaluation.told == ["row 4", "row 6"]
    assert recorder.arrays()["updates"].tolist() == [4, 6]


def test_rows_of_all_evaluations_are_joined_with_the_numbers_of_the_update() -> None:
    trained = training()
    recorder = Recorder(trained, ARM, [Told(trained)])
    recorder.run(trained.train(6))
    arrays = recorder.arrays()
    assert arrays["reward"].tolist() == [[0, 2, 4, 6]] * 2 and arrays["best_reward"].tolist() == [1, 1]
    assert arrays["loss"].shape == arrays["grad_norm"].shape == (2, 4)
    assert np.isnan(arrays["loss"][:, 0]).all() and np.isfinite(arrays["loss"][:, 1:]).all()
    assert arrays["diverged_at"].tolist() == [-1, -1]


def test_where_training_cannot_go_on_the_record_is_nan_with_the_counts_of_its_schedule() -> None:
    arm = ARM.replace(schedule=Schedule(batch_size=4, minibatch_size=2, sync_every_updates=4))
    whole, stopped = training(arm), training(arm)
    recorders = [Recorder(trained, arm, [Told(trained)]) for trained in (whole, stopped)]
    recorders[0].run(whole.train(6))
    recorders[1].run(until(stopped.train(6), 3))
    goes_on, ends = (recorder.arrays() for recorder in recorders)
    assert np.isnan(ends["reward"][:, 2:]).all() and (ends["reward"][:, :2] == goes_on["reward"][:, :2]).all()
    assert ends["diverged_at"].tolist() == [3, 3]
    for name in ("updates", "samples", "staleness"):
        assert ends[name].tolist() == goes_on[name].tolist(), name


def test_a_caller_may_end_there() -> None:
    trained = training()
    evaluation = Told(trained)
    with pytest.raises(Diverged, match="update 3: logits"):
        Recorder(trained, ARM, [evaluation], evaluation.hooks(diverged=True)).run(until(trained.train(6), 2))
    assert evaluation.told[-1] == "completed 2"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"minibatch_size": 2, "epochs": 2},
        {"sync_every_updates": 3},
        {"minibatch_size": 2, "sync_every_updates": 4},
        {"sync_every_updates": math.inf},
        {"source": "pool", "pool_size": 8},
        {"source": "pool", "pool_size": 8, "pool_policy": "final", "minibatch_size": 2},
        {"source": "dataset"},
    ],
)
def test_the_counts_of_a_schedule_are_those_of_a_run(settings: dict[str, object]) -> None:
    schedule = Schedule(batch_size=4, **settings)
    chosen = Contextual(num_prompts=3) if schedule.source == "dataset" else BanditR1()
    trained = training(ARM.replace(schedule=schedule, environment=chosen, updates=12))
    assert schedule.counts(0, 12) == (0, 0)
    for update in trained.train(12):
        assert schedule.counts(update.number, 12) == (update.samples, update.staleness)
