"""Replaying an on-policy run: in order it is that run, shuffled it is not, and nobody moves further than the window."""

import math

import pytest
import torch

from sims.core.algorithms import all_algorithms, find_algorithm
from sims.core.loop.learner import Learner
from sims.core.loop.optimise import Optimiser
from sims.core.loop.train import Training
from sims.core.numerics.noise import Noise
from sims.core.schedule import Schedule
from sims.core.spec import SpecError
from sims.environments import TokenTree
from sims.policies import Table


def training(algorithm: str, **changes: object) -> Training:
    """Two runs on the token tree, four prompts a batch."""
    noise, chosen = Noise.of(5, 2), find_algorithm(algorithm)()
    spec = TokenTree(num_prompts=2)
    policy = Table().build(spec, noise, chosen.needs_critic, torch.float64)
    schedule = Schedule(batch_size=4, num_generations=max(2, chosen.min_generations)).replace(**changes)
    learner = Learner(policy, Optimiser(learning_rate=0.1), noise.lead)
    return Training(policy, spec.build(torch.float64, noise), chosen, schedule, learner, noise)


def final(run: Training, updates: int = 12) -> list[torch.Tensor]:
    for _ in run.train(updates):
        pass
    return [p.detach() for p in run.policy.parameters()]


@pytest.mark.parametrize("algorithm", all_algorithms())
def test_in_order_it_is_the_online_run_bit_for_bit(algorithm: str) -> None:
    """Same start, batches and optimiser state: Tang et al.'s control (C15)."""
    online = final(training(algorithm))
    replayed = final(training(algorithm, source="replay", replay_window=0.0))
    shuffled = final(training(algorithm, source="replay", replay_window=math.inf))
    assert all(torch.equal(a, b) for a, b in zip(online, replayed, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(online, shuffled, strict=True))


def test_reused_batches_and_a_moving_reference_are_replayed_too() -> None:
    changes = {"epochs": 2, "minibatch_size": 2, "reference": "ema", "reference_rate": 0.1}
    online = final(training("dpo", **changes))
    replayed = final(training("dpo", **changes, source="replay", replay_window=0.0))
    assert all(torch.equal(a, b) for a, b in zip(online, replayed, strict=True))


@pytest.mark.parametrize("window", [0.0, 1.0, 6.0, math.inf])
def test_nobody_moves_further_than_the_window_and_everybody_comes_once(window: float) -> None:
    run = training("dpo", source="replay", replay_window=window)
    batches = [update.batch for update in run.train(10)]
    order, pool = run.collector.order, run.collector.pool
    assert order is not None and pool is not None
    for r in range(2):
        assert sorted(order[r].tolist()) == list(range(40))
        furthest = (order[r] - torch.arange(40)).abs().max().item()
        assert furthest <= window
        assert furthest > 2 or window <= 1  # all 40 within 2 of home: P < 1e-9 at window 6, where moves are uniform
    responses = torch.cat([batch.responses for batch in batches], dim=1)
    assert torch.equal(responses, pool.gather(order).responses)


def test_a_replay_resumes_where_it_was_saved() -> None:
    whole, killed, resumed = (training("dpo", source="replay", replay_window=3.0) for _ in range(3))
    updates = killed.train(12)
    for _ in range(4):
        next(updates)
    resumed.load_state_dict(*killed.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(final(whole), final(resumed), strict=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "replay"}, "replay_window = None: must be given when source = replay"),
        ({"replay_window": 3.0}, "replay_window = 3.0: only means something when source = replay"),
        ({"source": "replay", "replay_window": -1.0}, "replay_window = -1.0: must be"),
        ({"source": "replay", "replay_window": 0.0, "sync_every_updates": 2.0}, "has no effect with source = replay"),
    ],
)
def test_schedules_that_cannot_be(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Schedule(**changes)
