"""Generator and device: nothing on the way from draw to update is on the CPU, or waits for a device, but what must.

Without a GPU, the device is `meta`, whose tensors have shapes and no numbers: reading one, or mixing one with a tensor
of the CPU, is an error, as the one would wait for a GPU and the other is refused by it.
"""

from typing import Any

import numpy as np
import pytest
import torch

import llm
import sims
from sims.core.algorithms import Algorithm
from sims.core.loop.collect import Collector
from sims.core.loop.learner import Learner
from sims.core.loop.optimise import Optimiser
from sims.core.loop.train import Training, Update
from sims.core.numerics import philox
from sims.core.numerics.noise import Noise
from sims.core.numerics.sampling import _search, _search_anywhere
from sims.core.schedule import Schedule
from sims.core.spec import SpecError, from_json, kinds_of
from sims.experiments.computation import move
from sims.experiments.evaluation import PairEvaluation
from sims.experiments.executor import evaluation_of
from sims.experiments.experiment import stack_key, stack_specs
from sims.experiments.record_loop import Recorder
from sims.experiments.runner import stacks

TABLE, TREE = (sims.BanditR1(num_prompts=3), sims.Table()), (sims.TokenTree(num_prompts=2), sims.Table())
NETWORK = (sims.BanditR1(num_prompts=3), sims.MLP(hidden=(4,), fit_steps=1))
FRESH = Schedule(batch_size=8, num_generations=4)
PASSES = Schedule(batch_size=8, minibatch_size=4, epochs=2, reference="ema", reference_rate=0.1)
OTHERS = [
    (*TABLE, sims.DPO(), FRESH),
    (*NETWORK, sims.PPO(), FRESH),
    (*TABLE, sims.DPO(), Schedule(batch_size=8, source="pool", pool_size=16)),
    (*TABLE, sims.DPO(), Schedule(batch_size=8, source="replay", replay_window=2.0)),
    (*TREE, sims.DPO(), PASSES),
    (sims.Contextual(), sims.Table(), sims.DPO(), Schedule(batch_size=8, source="dataset")),
    (sims.Contextual(reward_model="table"), sims.Table(), sims.RLOO(), FRESH),
]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that trains on meta; the checks of the first batch, which read it, are left out. Philox's rounds are
    left to a test of their own: torch takes half a millisecond for each of their operations there."""

    def blank(key: torch.Tensor, run: torch.Tensor, start: int, counters: int) -> torch.Tensor:
        return torch.empty((len(run), philox.WORDS * counters), dtype=torch.float64, device=key.device)

    monkeypatch.setattr(philox, "uniforms", blank)
    monkeypatch.setattr(Collector, "_check", lambda self, *arguments, **options: setattr(self, "checked", True))
    monkeypatch.setattr(Collector, "read_rewards", lambda self: None)

    def train(environment: Any, policy: Any, algorithm: Algorithm, schedule: Schedule, updates: int) -> None:
        noise, dtype = Noise.of(0, 2, "philox"), torch.float32
        built, made = (
            policy.build(environment, noise, algorithm.needs_critic, dtype),
            environment.build(dtype, noise),
        )
        algorithm, optimiser = (stack_specs([x], [2], dtype, "meta") for x in (algorithm, Optimiser()))
        built, made, noise = move(built, "meta"), move(made, "meta"), noise.to("meta")
        learner = Learner(built, optimiser, noise.lead)
        training = Training(built, made, algorithm, schedule, learner, noise)
        training.collector.checked = True
        experiment = sims.Experiment("x", environment, policy, sims.RLOO(), evaluations=1, updates=updates)
        evaluations = [evaluation_of(training, made, environment), PairEvaluation(training)]
        recorder = Recorder(training, experiment, evaluations)
        recorder.run(training.train(updates))

    return train


@pytest.mark.parametrize("kind", kinds_of(Algorithm))
def test_no_update_of_an_algorithm_reads_a_number_or_uses_the_cpu(kind: str, trained: Any) -> None:
    trained(*TREE, kinds_of(Algorithm)[kind](), FRESH, updates=2)


@pytest.mark.parametrize(("environment", "policy", "algorithm", "schedule"), OTHERS)
def test_no_update_of_a_schedule_reads_a_number_or_uses_the_cpu(
    environment: Any, policy: Any, algorithm: Algorithm, schedule: Schedule, trained: Any
) -> None:
    trained(environment, policy, algorithm, schedule, updates=4)


def test_philox_reads_no_number_and_uses_no_cpu() -> None:
    noise = Noise.of(0, 2, "philox").to("meta")
    assert [noise.uniforms("x", 3).device.type for _ in range(2)] == ["meta"] * 2


def test_rewards_that_are_read_later_are_refused_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    noise, spec = Noise.of(0, 2), sims.BanditR1()
    policy, environment = sims.Table().build(spec, noise, False, torch.float32), spec.build(torch.float32, noise)
    learner = Learner(policy, Optimiser(), noise.lead)
    training = Training(policy, environment, sims.DPO(), Schedule(), learner, noise)
    training.collector.read_later = True

    def spoil(update: Update) -> None:
        environment._table.fill_(torch.nan)

    with pytest.raises(SpecError, match=r"EnumerableEnvironment\.label: rewards = nan: must be finite"):
        for update in training.train(3):
            spoil(update)


def test_the_search_of_other_devices_finds_the_same_tokens() -> None:
    random = np.random.default_rng(0)
    for width in (1, 2, 5, 64, 100):
        cdf = random.uniform(size=(2, 3, width)).cumsum(-1)
        rows = random.integers(3, size=(2, 40))
        draws = random.uniform(size=(2, 40)) * np.take_along_axis(cdf[..., -1], rows, 1) * (1 - 2**-52)
        expected = _search(cdf.reshape(6, width), draws, rows + np.array([[0], [3]]))
        found = _search_anywhere(*(torch.from_numpy(x) for x in (cdf, draws, rows)))
        assert np.array_equal(found.numpy(), expected)


def test_a_run_of_philox_is_the_same_among_few_and_many() -> None:
    few, many = (
        sims.run(sims.DPO(), sims.BanditR1(), updates=10, runs=runs, generator="philox").reward for runs in (2, 5)
    )
    assert np.array_equal(few, many[:2])
    assert not np.array_equal(few, sims.run(sims.DPO(), sims.BanditR1(), updates=10, runs=2).reward)


def test_defaults_are_in_no_record_and_choices_are() -> None:
    experiment = sims.Experiment("x", *TABLE, sims.DPO())
    chosen = experiment.replace(computation=sims.Computation(generator="philox", device="cuda"))
    assert "computation" not in experiment.to_json()
    assert from_json(chosen.to_json()) == chosen
    assert stack_key(chosen) != stack_key(experiment)


@pytest.mark.parametrize(("device", "expected"), [("cpu", 4), ("cuda", 1)])
def test_stacks_are_larger_on_a_gpu(device: str, expected: int) -> None:
    rates = (Optimiser(learning_rate=rate) for rate in (0.1, 0.2, 0.3, 0.4))
    computation = sims.Computation(device=device)
    sweep = [sims.Experiment("x", *TABLE, sims.DPO(), optimiser=x, computation=computation, runs=1000) for x in rates]
    assert len(stacks(sweep)) == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(SpecError, match="device = 'cuda': there is no GPU here: must be cpu"):
        sims.run(sims.DPO(), sims.BanditR1(), device="cuda")


def test_language_models_refuse_a_generator_of_simulations() -> None:
    preset = llm.find_preset("tiny-min-length")
    with pytest.raises(SpecError, match="generator = 'philox': must be pcg64 for language models"):
        preset.replace(computation=sims.Computation(generator="philox"))
