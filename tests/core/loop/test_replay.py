"""Training on the data of an on-policy run: its batches in order repeat it, shuffled they do not; or its last policy
draws a pool."""

import itertools
import math

import pytest
import torch

from sims.core.algorithms import all_algorithms, find_algorithm
from sims.core.loop.learner import Learner
from sims.core.loop.optimise import Optimiser
from sims.core.loop.protocols import PolicySpec
from sims.core.loop.train import Training
from sims.core.numerics.noise import Noise
from sims.core.schedule import Schedule
from sims.core.spec import SpecError
from sims.environments import BanditR1, TokenTree
from sims.policies import MLP, Table

TABLE, NETWORK = Table(), MLP(hidden=(8,), fit_steps=5)


def training(algorithm: str, policy: PolicySpec = TABLE, runs: int = 2, **changes: object) -> Training:
    """Runs with Adam, four prompts per batch: a table on the token tree, or a network on a bandit."""
    noise, chosen = Noise.of(5, runs), find_algorithm(algorithm)()
    spec = BanditR1(num_prompts=2) if policy is NETWORK else TokenTree(num_prompts=2)
    policies = policy.build(spec, noise, chosen.needs_critic, torch.float64)
    schedule = Schedule(batch_size=4, num_generations=max(2, chosen.min_generations)).replace(**changes)
    learner = Learner(policies, Optimiser(learning_rate=0.1), noise.lead)
    return Training(policies, spec.build(torch.float64, noise), chosen, schedule, learner, noise)


def replaying(algorithm: str, window: float = 1.0, **changes: object) -> Training:
    return training(algorithm, source="replay", replay_window=window, **changes)


def same_end(one: Training, other: Training, updates: int = 12) -> bool:
    """Whether parameters and the optimiser's moments are equal bit for bit after some updates."""
    for run in (one, other):
        for _ in run.train(updates):
            pass
    ends = ([*run.policy.parameters(), *run.learner.tensors().values()] for run in (one, other))
    return all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


@pytest.mark.parametrize(
    ("algorithm", "policy"),
    [(name, TABLE) for name in all_algorithms()] + [(name, NETWORK) for name in ("reinforce", "ppo", "dpo", "sft")],
)
def test_in_order_it_is_the_online_run_bit_for_bit(algorithm: str, policy: PolicySpec) -> None:
    """Same start, batches and optimiser state: Tang et al.'s control (C15)."""
    online = training(algorithm, policy)
    assert same_end(online, replaying(algorithm, policy=policy))
    assert not same_end(online, replaying(algorithm, math.inf, policy=policy))


def test_a_replay_ends_where_the_run_that_it_replays_ended() -> None:
    run = replaying("dpo")
    assert len(list(run.train(4))) == 4
    with pytest.raises(SpecError, match="updates = 5: must be at most 4"):
        next(run.train(5))


def test_one_batch_late_is_another_run() -> None:
    late = replaying("dpo")
    late.collector.order = torch.arange(12).roll(1).expand(2, 12)
    assert not same_end(training("dpo"), late)


def test_reused_batches_and_a_moving_reference_are_replayed_too() -> None:
    changes = {"epochs": 2, "minibatch_size": 2, "reference": "ema", "reference_rate": 0.1}
    assert same_end(training("dpo", **changes), replaying("dpo", **changes))


@pytest.mark.parametrize("window", [1.0, 4.0, 10.0, 99.0, math.inf])
def test_each_batch_comes_once_whole_and_within_its_window(window: float) -> None:
    """False alarm, both runs keep the original order at window 4: (4!·4!·2!)⁻² = 8e-7; less at larger windows."""
    run = replaying("dpo", window)
    batches = [update.batch for update in run.train(10)]
    order, pool = run.collector.order, run.collector.pool
    assert order is not None and pool is not None
    home = torch.arange(10).expand(2, 10)
    assert torch.equal(order.sort().values, home)
    assert torch.equal(order // window, home // window)
    moved = not torch.equal(order, home)
    assert moved == (window > 1)
    for k, batch in enumerate(batches):
        for r in range(2):
            assert torch.equal(batch.responses[r], pool.narrow(4 * order[r, k], 4).responses[r])


def test_staleness_is_the_updates_between_the_policy_that_drew_and_the_one_that_is_trained() -> None:
    online, replay = (f("dpo", epochs=2) for f in (training, lambda *a, **k: replaying(*a, window=4.0, **k)))
    past = [online.policy.clone()] + [online.policy.clone() for _ in online.train(12)]
    for update in replay.train(12):
        drawn_at, batch = replay.collector.drawn_at, update.batch
        assert isinstance(drawn_at, torch.Tensor)
        assert torch.equal(torch.as_tensor(update.staleness), (update.number - 1 - drawn_at).abs())
        for r, k in enumerate(drawn_at.tolist()):
            assert torch.equal(batch.logp_sampler[r], past[k].forward(batch).logp[r])


def test_in_order_its_staleness_is_that_of_the_online_run() -> None:
    online, replay = (f("dpo", epochs=2).train(6) for f in (training, replaying))
    assert [x.staleness for x in online] == [0, 1] * 3
    assert [x.staleness.tolist() for x in replay] == [[0, 0], [1, 1]] * 3


@pytest.mark.parametrize("window", [3, math.inf])
def test_a_schedule_counts_the_mean_staleness_over_all_orders(window: float) -> None:
    """Every order of four batches that the window allows, one per run."""
    shuffled = min(4, window)
    orders = [[*order, *range(shuffled, 4)] for order in itertools.permutations(range(shuffled))]
    run = replaying("reinforce", window, runs=len(orders), epochs=2)
    run.collector.order = torch.tensor(orders)
    for update in run.train(8):
        mean = torch.as_tensor(update.staleness).double().mean().item()
        assert run.schedule.counts(update.number, 8) == (update.samples, pytest.approx(mean, abs=1e-12))


def test_a_final_pool_is_drawn_by_the_policy_that_the_online_run_ends_with() -> None:
    online, run = training("dpo"), training("dpo", source="pool", pool_size=8, pool_policy="final")
    first = run.policy.clone()
    for _ in online.train(12):
        pass
    for update in run.train(12):
        if update.number == 1:
            assert torch.equal(update.batch.logp_ref, first.forward(update.batch).logp)
        assert torch.equal(update.batch.logp_sampler, online.policy.forward(update.batch).logp)
        assert update.staleness == 12 - (update.number - 1)


@pytest.mark.parametrize(
    "changes",
    [{"source": "replay", "replay_window": 3.0}, {"source": "pool", "pool_size": 8, "pool_policy": "final"}],
)
def test_it_resumes_where_it_was_saved(changes: dict[str, object]) -> None:
    whole, killed, resumed = (training("dpo", **changes) for _ in range(3))
    for _ in itertools.islice(killed.train(12), 4):
        pass
    resumed.load_state_dict(*killed.state_dict())
    assert same_end(whole, resumed)
    assert torch.equal(*(torch.as_tensor(run.collector.drawn_at) for run in (whole, resumed)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "replay"}, "replay_window = None: must be given when source = replay"),
        ({"replay_window": 3.0}, "replay_window = 3.0: only means something when source = replay"),
        ({"source": "replay", "replay_window": 0.0}, "replay_window = 0.0: must be"),
        ({"source": "replay", "replay_window": 2.5}, "replay_window = 2.5: must be a whole number of batches, or inf"),
        ({"source": "replay", "replay_window": 1.0, "sync_every_updates": 2.0}, "has no effect with source = replay"),
        ({"pool_policy": "final"}, "pool_policy = 'final': only means something when source = pool"),
    ],
)
def test_schedules_that_cannot_be(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Schedule(**changes)
