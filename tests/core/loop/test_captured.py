"""Updates that are captured as graphs give the numbers of the training loop.

Without a GPU, a graph is a list of the tensor operations that were called, called again on the same memory: what a
replay does with counts, random numbers, and tensors that an update replaces is the same. What CUDA allows in a graph,
and rounds, is tested where there is a GPU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import sims
from sims.core.algorithms import Algorithm
from sims.core.loop.captured import period, train_captured
from sims.core.loop.learner import Learner
from sims.core.loop.optimise import Optimiser
from sims.core.loop.train import Training, Update
from sims.core.numerics import sampling
from sims.core.numerics.noise import Noise
from sims.core.schedule import Schedule
from sims.core.spec import SpecError, kinds_of
from sims.policies import categorical

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


class Calls(TorchDispatchMode):
    """A graph of the CPU. Unlike CUDA's, its capture does what it records, so that the first replay does nothing."""

    def __init__(self, before: Calls | None) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, found))
        return found

    def capture(self, work: Callable[[], None]) -> None:
        with self:
            work()

    @torch.no_grad()
    def replay(self) -> None:
        self.replays += 1
        if self.replays == 1:
            return
        for function, args, kwargs, before in self.calls:
            for old, new in zip(tree_leaves(before), tree_leaves(function(*args, **kwargs)), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():  # not in place, and no view
                    old.copy_(new)


@pytest.fixture(autouse=True)
def no_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Responses are drawn as on a GPU, by operations of torch."""
    as_it_is = sampling.inverse_cdf

    def drawn(probabilities: torch.Tensor, uniforms: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        if not probabilities.is_cpu:
            return as_it_is(probabilities, uniforms, rows)
        cdf = probabilities.double().cumsum(-1)
        if rows is None:
            return torch.searchsorted(cdf, uniforms * cdf[..., -1:] * (1.0 - 2.0**-52), right=True)
        total = cdf[..., -1].gather(-1, rows)
        return sampling._search_anywhere(cdf, uniforms * total * (1.0 - 2.0**-52), rows)

    monkeypatch.setattr(categorical, "inverse_cdf", drawn)


def training_of(
    algorithm: Algorithm, environment: Any, policy: Any, schedule: Schedule, device: str = "cpu"
) -> Training:
    """In float32; on a GPU in float64, where rounding decides neither draws nor the signs of Adam's steps."""
    from sims.experiments.computation import move
    from sims.experiments.experiment import stack_specs

    noise, dtype = Noise.of(0, 3, "philox"), torch.float32 if device == "cpu" else torch.float64
    built = policy.build(environment, noise, algorithm.needs_critic, dtype)
    made = move(environment.build(dtype, noise), device)
    algorithm, optimiser = (stack_specs([x], [3], dtype, device) for x in (algorithm, Optimiser(learning_rate=0.1)))
    learner = Learner(move(built, device), optimiser, noise.lead)
    return Training(built, made, algorithm, schedule, learner, noise.to(device))


def same(
    algorithm: Algorithm, environment: Any, policy: Any, schedule: Schedule, device: str = "cpu", **graph: Any
) -> bool:
    """Whether both ways yield the same, and end in the same state: the same bits; on a GPU, to 1e-6: Adam
    makes 1e-9 of a gradient that is 0 but for rounding, and 0.1 of one that is wrong."""
    equal = torch.equal if device == "cpu" else functools.partial(torch.allclose, rtol=0, atol=1e-6, equal_nan=True)
    kinds = [training_of(algorithm, environment, policy, schedule, device) for _ in range(2)]
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
    assert same(kinds_of(Algorithm)[kind](), TREE, sims.Table(), FRESH, graph=Calls)


@pytest.mark.long
@pytest.mark.parametrize("kind", [kind for kind in kinds_of(Algorithm) if kind not in OF_EACH_KIND])
def test_captured_updates_of_every_other_algorithm_are_the_same(kind: str) -> None:
    assert same(kinds_of(Algorithm)[kind](), TREE, sims.Table(), FRESH, graph=Calls)


@pytest.mark.parametrize("name", SCHEDULES)
def test_captured_updates_of_a_schedule_are_the_same(name: str) -> None:
    assert same(sims.DPO(), BANDIT, NETWORK, SCHEDULES[name], graph=Calls)


def test_what_is_no_sequence_of_like_updates_is_refused() -> None:
    def refused(schedule: Schedule, message: str, environment: Any = BANDIT, policy: Any = NETWORK) -> None:
        training = training_of(sims.DPO(), environment, policy, schedule)
        with pytest.raises(SpecError, match=message):
            next(train_captured(training, 200, Calls))

    refused(Schedule(source="replay", replay_window=2.0), "source = 'replay': must be policy or pool where updates are")
    refused(FRESH, "environment = 'DriftingEnvironment': must not change with time", sims.Drifting())
    refused(Schedule(sync_every_updates=65), "updates until the schedule repeats itself = 65: must be at most 64")


def test_a_reward_that_is_not_finite_is_refused_all_the_same() -> None:
    training = training_of(sims.DPO(), BANDIT, NETWORK, FRESH)
    training.collector._read_later = True
    with pytest.raises(SpecError, match=r"EnumerableEnvironment\.label: rewards = nan: must be finite"):
        for update in train_captured(training, 20, Calls):
            if update.number == 10:
                training.collector.environment._table.fill_(torch.nan)


def test_a_cpu_has_no_graphs() -> None:
    with pytest.raises(SpecError, match="capture = True: needs device = cuda"):
        sims.run(sims.DPO(), sims.BanditR1(), capture=True)


ON_A_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and make test-gpu")


@ON_A_GPU
@pytest.mark.parametrize("name", SCHEDULES)
def test_on_a_gpu_schedules_keep_their_numbers(name: str) -> None:
    for algorithm in (sims.DPO(), sims.RLOO(beta=0.1)):
        assert same(algorithm, TREE, sims.Table(), SCHEDULES[name], device="cuda")


@ON_A_GPU
@pytest.mark.parametrize("kind", kinds_of(Algorithm))
def test_on_a_gpu_algorithms_keep_their_numbers_or_are_refused_by_name(kind: str) -> None:
    algorithm = kinds_of(Algorithm)[kind]()
    try:
        assert same(algorithm, TREE, sims.Table(), FRESH, device="cuda")
    except SpecError as refusal:
        assert f"an update of {type(algorithm).__name__} cannot be captured" in str(refusal)
