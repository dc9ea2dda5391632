"""Updates that are captured as graphs give the numbers of the training loop.

On a CPU a graph is the operations that were called, as one function; before it is compiled it has the loop's bits, and
what a replay does with counts, random numbers, and tensors that an update replaces is the same as on a GPU. What CUDA
allows in a graph, and rounds, is tested where there is a GPU.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import sims
from sims.core.algorithms import Algorithm
from sims.core.loop.captured import period, train_captured
from sims.core.loop.compiled import CompiledGraph
from sims.core.loop.learner import Learner
from sims.core.loop.optimise import Optimiser
from sims.core.loop.train import Training, Update
from sims.core.numerics.noise import Noise
from sims.core.schedule import Schedule
from sims.core.spec import SpecError, kinds_of

BANDIT, TREE = sims.BanditR1(num_prompts=3), sims.TokenTree(num_prompts=2)
NETWORK = sims.MLP(hidden=(4,), fit_steps=1)
FRESH = Schedule(batch_size=4, num_generations=4)
# With a critic; with a state; with probes; of a mixture; on pairs.
OF_EACH_KIND = ("ppo", "reinforce", "awr", "kto", "nash_md", "dpo")
SCHEDULES = {
    "epochs": Schedule(batch_size=8, num_generations=4, minibatch_size=4, epochs=2),
    "semi-online": Schedule(batch_size=4, num_generations=4, sync_every_updates=3),
    "never synced": Schedule(batch_size=4, num_generations=4, sync_every_updates=float("inf")),
    "pool": Schedule(batch_size=4, num_generations=4, source="pool", pool_size=12),
    "pool of the last policy": Schedule(batch_size=4, source="pool", pool_size=8, pool_policy="final"),
    "copied reference": Schedule(batch_size=4, reference="copy", reference_every_updates=2),
    "averaged reference": Schedule(batch_size=4, reference="ema", reference_rate=0.1),
}


AS_RECORDED = functools.partial(CompiledGraph, compiled=lambda graph: graph)


def training_of(
    algorithm: Algorithm,
    environment: Any,
    policy: Any,
    schedule: Schedule,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Training:
    from sims.experiments.computation import move
    from sims.experiments.experiment import stack_specs

    noise = Noise.of(0, 3, "philox")
    built = policy.build(environment, noise, algorithm.needs_critic, dtype)
    made = move(environment.build(dtype, noise), device)
    algorithm, optimiser = (stack_specs([x], [3], dtype, device) for x in (algorithm, Optimiser(learning_rate=0.1)))
    learner = Learner(move(built, device), optimiser, noise.lead)
    return Training(built, made, algorithm, schedule, learner, noise.to(device))


def same(
    algorithm: Algorithm,
    environment: Any,
    policy: Any,
    schedule: Schedule,
    device: str = "cpu",
    bits: bool = True,
    **graph: Any,
) -> bool:
    """Whether both ways yield the same, and end in the same state: the same bits; without `bits` to 1e-6, in float64,
    where rounding decides neither draws nor the signs of Adam's steps: it makes 1e-9 of a gradient that is 0 but for
    rounding, and 0.1 of one that is wrong."""
    equal = torch.equal if bits else functools.partial(torch.allclose, rtol=0, atol=1e-6, equal_nan=True)
    dtype = torch.float32 if bits else torch.float64
    kinds = [training_of(algorithm, environment, policy, schedule, device, dtype) for _ in range(2)]
    updates = 4 * period(kinds[0]) + 4 * schedule.updates_per_batch
    updates -= updates % schedule.updates_per_batch
    ways: tuple[Iterator[Update], ...] = (kinds[0].train(updates), train_captured(kinds[1], updates, **graph))
    found: list[list[Any]] = [[], []]
    for seen, training, way in zip(found, kinds, ways, strict=True):
        for update in way:
            numbers = (update.number, update.samples, update.staleness)
            parameters = [p.detach().clone() for p in training.policy.parameters()]
            seen.append((numbers, [*vars(update.stats).values(), update.batch.responses.clone(), *parameters]))
    for (numbers, tensors), (again, others) in zip(*found, strict=True):
        if numbers != again or not all(map(equal, tensors, others)):
            return False
    (left, counts), (right, others) = (training.state_dict() for training in kinds)
    return counts == others and all(equal(left[name], right[name]) for name in left.keys() | right.keys())


@pytest.mark.parametrize("kind", OF_EACH_KIND)
def test_captured_updates_of_an_algorithm_are_the_same(kind: str) -> None:
    assert same(kinds_of(Algorithm)[kind](), TREE, sims.Table(), FRESH, graph=AS_RECORDED)


@pytest.mark.long
@pytest.mark.parametrize("kind", [kind for kind in kinds_of(Algorithm) if kind not in OF_EACH_KIND])
def test_captured_updates_of_every_other_algorithm_are_the_same(kind: str) -> None:
    assert same(kinds_of(Algorithm)[kind](), TREE, sims.Table(), FRESH, graph=AS_RECORDED)


@pytest.mark.parametrize("name", SCHEDULES)
def test_captured_updates_of_a_schedule_are_the_same(name: str) -> None:
    assert same(sims.DPO(), BANDIT, NETWORK, SCHEDULES[name], graph=AS_RECORDED)


def test_what_is_no_sequence_of_like_updates_is_refused() -> None:
    def refused(schedule: Schedule, message: str, environment: Any = BANDIT, policy: Any = NETWORK) -> None:
        training = training_of(sims.DPO(), environment, policy, schedule)
        with pytest.raises(SpecError, match=message):
            next(train_captured(training, 200, AS_RECORDED))

    refused(Schedule(source="replay", replay_window=2.0), "source = 'replay': must be policy or pool where updates are")
    refused(FRESH, "environment = 'DriftingEnvironment': must not change with time", sims.Drifting())
    refused(Schedule(sync_every_updates=65), "updates until the schedule repeats itself = 65: must be at most 64")


def test_a_reward_that_is_not_finite_is_refused_all_the_same() -> None:
    training = training_of(sims.DPO(), BANDIT, NETWORK, FRESH)
    with pytest.raises(SpecError, match=r"EnumerableEnvironment\.label: rewards = nan: must be finite"):
        for update in train_captured(training, 20, AS_RECORDED):
            if update.number == 10:
                training.collector.environment._table.fill_(torch.nan)


@pytest.mark.parametrize(
    ("factor", "why"),
    [
        (lambda loss: float(loss.sum() > -1), "it reads a number of a tensor"),
        (lambda loss: loss.detach().numpy().size / loss.numel(), "it reads a number of a tensor"),
        (lambda loss: len(loss.tolist()) / len(loss), "it reads a number of a tensor"),
        (lambda loss: len(loss[loss < 1e9]) / loss.numel(), r"index\.Tensor makes as many numbers as others say"),
        (lambda loss: len(loss.nonzero()) * 0 + 1, r"nonzero\.default makes as many numbers as others say"),
    ],
    ids=["float", "numpy", "tolist", "mask", "nonzero"],
)
def test_an_update_that_reads_a_number_is_refused_by_name(
    factor: Any, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = sims.DPO.loss
    monkeypatch.setattr(sims.DPO, "loss", lambda *given: plain(*given) * factor(plain(*given)))
    training = training_of(sims.DPO(), BANDIT, NETWORK, FRESH)
    rule = rf"capture = True: must be false: an update of DPO cannot be captured \({why}\)"
    with pytest.raises(SpecError, match=rule):
        list(train_captured(training, 20, AS_RECORDED))


def test_what_is_kept_of_parameters_is_not_kept_beyond_a_replay() -> None:
    """A policy keeps its table of log-probs until a parameter changes."""
    training = training_of(sims.RLOO(), TREE, sims.Table(), FRESH)
    policy: Any = training.policy
    for _ in train_captured(training, 12, AS_RECORDED):
        with torch.no_grad():
            assert torch.equal(policy._table(), policy.clone()._table())


def test_a_machine_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: Any) -> Any:
        raise RuntimeError("g++: not found\nand much more")

    monkeypatch.setattr(torch, "compile", missing)
    with pytest.raises(SpecError, match=r"^capture = True: needs a C\+\+ compiler .*: RuntimeError: g\+\+: not found$"):
        sims.run(sims.DPO(), sims.BanditR1(), capture=True)


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("kind", ["ppo", "dpo"])
def test_machine_code_gives_the_numbers_of_the_loop(kind: str) -> None:
    assert same(kinds_of(Algorithm)[kind](), TREE, sims.Table(), FRESH, bits=False)


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("name", ["semi-online", "pool"])
def test_machine_code_of_a_schedule_gives_the_numbers_of_the_loop(name: str) -> None:
    assert same(sims.DPO(), BANDIT, NETWORK, SCHEDULES[name], bits=False)


ON_A_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and make test-gpu")


@ON_A_GPU
@pytest.mark.parametrize("name", SCHEDULES)
def test_on_a_gpu_schedules_keep_their_numbers(name: str) -> None:
    for algorithm in (sims.DPO(), sims.RLOO(beta=0.1)):
        assert same(algorithm, TREE, sims.Table(), SCHEDULES[name], device="cuda", bits=False)


@ON_A_GPU
@pytest.mark.parametrize("kind", kinds_of(Algorithm))
def test_on_a_gpu_algorithms_keep_their_numbers_or_are_refused_by_name(kind: str) -> None:
    algorithm = kinds_of(Algorithm)[kind]()
    try:
        assert same(algorithm, TREE, sims.Table(), FRESH, device="cuda", bits=False)
    except SpecError as refusal:
        assert f"an update of {type(algorithm).__name__} cannot be captured" in str(refusal)
