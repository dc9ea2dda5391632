"""How on-policy a run is: when the sampler follows, what a pool gives, which reference is asked, what is refused."""

import itertools
import math

import pytest
import torch

from sims.core.algorithms import find_algorithm
from sims.core.loop.collect import mismatch
from sims.core.loop.learner import Learner
from sims.core.loop.optimise import Optimiser
from sims.core.loop.train import Training, check_run
from sims.core.numerics.noise import Noise
from sims.core.schedule import Schedule
from sims.core.spec import SpecError
from sims.environments import TokenTree
from sims.policies import Table, TablePolicy


def training(
    schedule: Schedule, algorithm: str = "dpo", micro_batch_size: int | None = None, **settings: object
) -> Training:
    """Three runs on the token tree in float64."""
    noise, chosen = Noise.of(0, 3), find_algorithm(algorithm)(**settings)
    environment = TokenTree(num_prompts=2)
    policy = environment_policy(environment, noise, chosen.needs_critic)
    learner = Learner(policy, Optimiser(learning_rate=0.1), noise.lead, micro_batch_size)
    return Training(policy, environment.build(torch.float64, noise), chosen, schedule, learner, noise)


def environment_policy(environment: TokenTree, noise: Noise, critic: bool) -> TablePolicy:
    return Table().build(environment, noise, critic, torch.float64)


@pytest.mark.parametrize(
    ("settings", "staleness"),
    [
        ({}, [0, 0, 0, 0, 0, 0, 0, 0]),
        ({"sync_every_updates": 4}, [0, 1, 2, 3, 0, 1, 2, 3]),
        ({"sync_every_updates": math.inf}, [0, 1, 2, 3, 4, 5, 6, 7]),
        ({"minibatch_size": 2}, [0, 1, 0, 1, 0, 1, 0, 1]),
        ({"epochs": 2, "minibatch_size": 2}, [0, 1, 2, 3, 0, 1, 2, 3]),
        ({"epochs": 2, "sync_every_updates": 4}, [0, 1, 2, 3, 0, 1, 2, 3]),
        ({"source": "pool", "pool_size": 8}, [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_staleness_of_each_update(settings: dict[str, object], staleness: list[int]) -> None:
    assert [t.staleness for t in training(Schedule(batch_size=4, **settings)).train(8)] == staleness


def test_the_sampler_is_the_policy_of_the_last_sync() -> None:
    """logp_sampler is the log-prob under the policy as it was `staleness` updates ago."""
    run = training(Schedule(batch_size=4, sync_every_updates=3))
    past = [run.policy.clone()]
    for update in run.train(9):
        drew = past[update.number - 1 - update.staleness]
        logp = drew.forward(update.batch).logp
        torch.testing.assert_close(update.batch.logp_sampler, logp, rtol=0, atol=1e-14)
        past.append(run.policy.clone())


def test_samples_are_counted_when_drawn() -> None:
    drawn = [t.samples for t in training(Schedule(batch_size=4, num_generations=2, epochs=2)).train(4)]
    pooled = [t.samples for t in training(Schedule(batch_size=4, source="pool", pool_size=8)).train(4)]
    assert drawn == [8, 8, 16, 16]
    assert pooled == [16, 16, 16, 16]


def test_a_pool_is_drawn_once_and_gone_through_whole_in_a_new_order_each_time() -> None:
    run = training(Schedule(batch_size=4, num_generations=2, source="pool", pool_size=12))
    batches = [update.batch for update in run.train(6)]
    assert run.collector.pool is not None

    def rows(parts: list[torch.Tensor], r: int) -> list[tuple[int, ...]]:
        return [tuple(row.flatten().tolist()) for part in parts for row in part[r]]

    for r in range(3):
        whole = sorted(rows([run.collector.pool.responses], r))
        first, second = (rows([b.responses for b in batches[i : i + 3]], r) for i in (0, 3))
        assert sorted(first) == whole and sorted(second) == whole
        assert first != second
        pool_pairs = set(
            zip(rows([run.collector.pool.responses], r), rows([run.collector.pool.rewards], r), strict=True)
        )
        assert all(
            pair in pool_pairs
            for b in batches
            for pair in zip(rows([b.responses], r), rows([b.rewards], r), strict=True)
        )


def test_the_fixed_reference_never_moves_and_is_never_trained() -> None:
    run = training(Schedule(batch_size=4))
    first = run.policy.clone()
    for update in run.train(5):
        assert torch.equal(run.reference.policy.logits(), first.logits())
        logp = first.forward(update.batch).logp
        assert torch.equal(update.batch.logp_ref, logp)
    assert not run.reference.policy.logits().requires_grad
    assert not torch.equal(run.policy.logits(), first.logits())


def test_reference_rules() -> None:
    copied = training(Schedule(batch_size=4, reference="copy", reference_every_updates=2))
    at = {t.number: (copied.policy.clone().logits(), copied.reference.policy.logits().clone()) for t in copied.train(4)}
    assert torch.equal(at[2][0], at[2][1]) and torch.equal(at[3][1], at[2][0]) and torch.equal(at[4][0], at[4][1])
    assert copied.reference.version == 2

    averaged = training(Schedule(batch_size=4, reference="ema", reference_rate=0.25))
    expected = averaged.policy.logits().detach().clone()
    for _ in averaged.train(3):
        expected = 0.75 * expected + 0.25 * averaged.policy.logits().detach()
        torch.testing.assert_close(averaged.reference.policy.logits(), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("algorithm", ["dpo", "kto", "ppo", "rloo", "best_of_n"])
@pytest.mark.parametrize("minibatch_size", [None, 4])
def test_micro_batches_change_nothing(algorithm: str, minibatch_size: int | None) -> None:
    """Rows 10, 13, 14, 53: the policy after some updates is the same however a minibatch is cut."""
    schedule = Schedule(batch_size=8, num_generations=2, minibatch_size=minibatch_size)
    whole, cut = (training(schedule, algorithm, micro) for micro in (None, 3))
    for a, b in zip(whole.train(4), cut.train(4), strict=True):
        torch.testing.assert_close(a.stats.loss, b.stats.loss, rtol=0, atol=1e-13)
    for p, q in zip(whole.policy.parameters(), cut.policy.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-10)


def test_probes_are_mismatched_for_every_batch() -> None:
    """Row 26: prompt i never meets its own responses, from two prompts on."""
    for size in range(2, 6):
        batch = next(iter(training(Schedule(batch_size=size), "kto").train(1))).batch
        named = batch.replace(responses=torch.arange(size).reshape(1, size, 1, 1).expand(batch.responses.shape))
        probes = mismatch(named)
        assert (probes.responses != named.responses).all()
        assert sorted(probes.responses[0, :, 0, 0].tolist()) == list(range(size))


def test_at_step_0_ratio_is_1_kl_0_and_dpo_log_2() -> None:
    """Row 49."""
    dpo = next(iter(training(Schedule(batch_size=4)).train(1)))
    torch.testing.assert_close(dpo.stats.loss, torch.full((3,), math.log(2), dtype=torch.float64))
    assert torch.equal(dpo.batch.logp_ref, dpo.batch.logp_sampler)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"batch_size": 6, "minibatch_size": 4}, "minibatch_size"),
        ({"epochs": 4, "sync_every_updates": 3}, "sync_every_updates"),
        ({"batch_size": 8, "minibatch_size": 2, "sync_every_updates": 1}, "sync_every_updates"),
        ({"source": "pool"}, "pool_size"),
        ({"pool_size": 64}, "pool_size"),
        ({"source": "pool", "pool_size": 65}, "pool_size"),
        ({"source": "pool", "pool_size": 64, "sync_every_updates": 1}, "sync_every_updates"),
        ({"reference": "copy"}, "reference_every_updates"),
        ({"reference": "ema"}, "reference_rate"),
        ({"reference_rate": 0.5}, "reference_rate"),
    ],
)
def test_schedules_that_cannot_be(settings: dict[str, object], field: str) -> None:
    with pytest.raises(SpecError) as caught:
        Schedule(**settings)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("algorithm", "settings", "field"),
    [
        ("rloo", {"num_generations": 1}, "num_generations"),
        ("dpo", {"num_generations": 1}, "num_generations"),
        ("dpo", {"num_generations": 3}, "num_generations"),
        ("kto", {"batch_size": 1}, "batch_size"),
        ("kto", {"batch_size": 1, "source": "dataset"}, "batch_size"),
        ("rloo", {"reference": "copy", "reference_every_updates": 2}, "reference"),
    ],
)
def test_runs_that_cannot_be(algorithm: str, settings: dict[str, object], field: str) -> None:
    """Row 42 among them: one response a prompt would give all-zero advantages."""
    with pytest.raises(SpecError) as caught:
        check_run(find_algorithm(algorithm)(), Schedule(**settings))
    assert caught.value.field == field


def test_updates_must_end_on_a_batch_boundary() -> None:
    with pytest.raises(SpecError, match="multiple of the 2 updates per batch"):
        next(training(Schedule(batch_size=4, epochs=2)).train(3))


@pytest.mark.parametrize("algorithm", ["reinforce", "dpo", "ppo", "kto"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"epochs": 2, "sync_every_updates": 4},
        {"sync_every_updates": math.inf},
        {"source": "pool", "pool_size": 12},
        {"reference": "ema", "reference_rate": 0.3},
    ],
)
def test_a_restored_run_goes_on_bit_for_bit(algorithm: str, settings: dict[str, object]) -> None:
    if algorithm in ("reinforce", "ppo") and "reference" in settings:
        settings = {}
    schedule = Schedule(batch_size=4, **settings)
    whole, first, second = (training(schedule, algorithm) for _ in range(3))
    list(whole.train(8))
    list(first.train(4))
    tensors, numbers = first.state_dict()
    second.load_state_dict({name: x.clone() for name, x in tensors.items()}, dict(numbers))
    list(second.train(8))
    for a, b in zip(whole.policy.parameters(), second.policy.parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(whole.reference.policy.parameters(), second.reference.policy.parameters(), strict=True):
        assert torch.equal(a, b)
    assert whole.collector.samples == second.collector.samples


def test_a_run_is_not_saved_in_the_middle_of_a_batch() -> None:
    run = training(Schedule(batch_size=4, epochs=2))
    next(run.train(2))
    with pytest.raises(ValueError, match="update 1 is in the middle of a batch"):
        run.state_dict()


def test_toy_environments_have_no_recorded_data() -> None:
    with pytest.raises(SpecError, match="no recorded data"):
        next(training(Schedule(batch_size=4, source="dataset")).train(1))


def test_training_goes_on_where_it_stopped() -> None:
    whole, halves = (training(Schedule(batch_size=4, sync_every_updates=2)) for _ in range(2))
    list(whole.train(6))
    list(itertools.chain(halves.train(4), halves.train(6)))
    assert torch.equal(whole.policy.logits(), halves.policy.logits())


@pytest.mark.parametrize("algorithm", ["reinforce", "rloo", "ppo", "raft"])
def test_a_kl_in_the_reward_is_that_of_the_policy_and_not_of_a_stale_sampler(algorithm: str) -> None:
    """Offline the sampler is the reference for ever, and its own KL is 0 however far the policy has gone."""
    run = training(Schedule(batch_size=4, sync_every_updates=math.inf), algorithm, beta=0.5)
    for update in run.train(3):
        assert update.batch.logp_policy is not None
        if update.number == 1:
            assert torch.equal(update.batch.logp_policy, update.batch.logp_ref)
    assert update.batch.ratio_to_reference().abs().max() > 1e-3
    assert torch.equal(update.batch.logp_sampler, update.batch.logp_ref)
    fresh = next(training(Schedule(batch_size=4), algorithm, beta=0.5).train(1)).batch
    assert fresh.logp_policy is None
