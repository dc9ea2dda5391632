"""Labels where the policy is least certain, and gates of the policy that users get."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sims
from sims.core.loop.deployment import Deployment, least_certain, passes, set_back, take
from sims.core.loop.learner import Learner
from sims.core.loop.optimise import Optimiser
from sims.core.loop.protocols import Prompts, Samples
from sims.core.loop.train import Training
from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import Batch
from sims.core.schedule import Schedule
from sims.core.spec import SpecError

NOISE = Noise.of(2, 4)
SPEC = sims.Drifting(num_prompts=5, num_responses=6, gold_prompts=1, preference_drift=0.0, reference_noise=0.0)


def greedy(sign: float, of: sims.Drifting = SPEC) -> torch.Tensor:
    """Logits (R, X, 1, N) that put all probability on the best response, or with sign = −1 on the worst."""
    return torch.from_numpy(sign * 1e4 * of.gold_rewards(NOISE)[:, 0]).unsqueeze(2)


def policy(logits: torch.Tensor) -> sims.policies.table.TablePolicy:
    from sims.policies.table import TablePolicy

    return TablePolicy(SPEC.space, logits.clone())


def test_a_gate_lets_better_policies_through_and_sets_the_others_back() -> None:
    """Runs 0 and 1 were trained to the best responses, the others to the worst: with noiseless labels all comparisons
    are won, or none."""
    environment = SPEC.build(torch.float64, NOISE)
    improved = torch.tensor([True, True, False, False])
    trained = policy(torch.where(improved.view(4, 1, 1, 1), greedy(1.0), greedy(-1.0)))
    in_use = policy(torch.zeros_like(greedy(1.0)))
    for rule in (Deployment(gate_comparisons=20), Deployment(gate_gold_loss=0.05)):
        assert passes(rule, trained, in_use, environment, NOISE).tolist() == improved.tolist()
    both = Deployment(gate_comparisons=20, gate_win_rate=0.95, gate_gold_loss=0.05)
    again = policy(trained.parameters()[0])
    assert not passes(both, trained, again, environment, NOISE).any()  # equal policies: half of the comparisons
    assert passes(Deployment(gate_gold_loss=0.0), trained, again, environment, NOISE).all()
    set_back(trained, in_use, ~improved)
    found = trained.parameters()[0]
    assert torch.equal(found[:2], greedy(1.0)[:2]) and torch.equal(found[2:], in_use.parameters()[0][2:])


def test_a_biased_labeller_lets_a_worse_policy_through() -> None:
    """All reward that the labeller sees is length: the longest response wins, whatever it is worth."""
    biased = SPEC.replace(bias=100.0)
    environment = biased.build(torch.float64, NOISE)
    longest = policy(1e4 * torch.from_numpy(biased.attributes(NOISE)[:, 0]).unsqueeze(2))
    rule = Deployment(gate_comparisons=50)
    assert passes(rule, longest, policy(greedy(1.0)), environment, NOISE).all()
    assert not passes(rule, policy(greedy(1.0)), longest, environment, NOISE).any()


def test_least_certain_are_the_smallest_margins_and_no_two_of_the_same() -> None:
    tokens, responses = torch.tensor([[0, 1, 2, 3]]), torch.tensor([[[1, 2], [3, 3], [0, 5], [2, 4]]])
    logits = torch.zeros(1, 5, 1, 6, dtype=torch.float64)
    logits[0, 0, 0, 1], logits[0, 2, 0, 5], logits[0, 3, 0, 2] = 3.0, -1.0, 2.0  # margins 3, (same), 1, 2
    samples = Samples(responses.unsqueeze(-1), torch.ones(1, 4, 2, 1, dtype=torch.bool), torch.zeros(1, 4, 2, 1))
    index = least_certain(Prompts(tokens), samples, 3, policy(logits), policy(torch.zeros_like(logits)))
    assert index.tolist() == [[2, 3, 0]]
    assert take(tokens, index).tolist() == [[2, 3, 0]]
    assert take(samples.responses, index)[..., 0].tolist() == [[[0, 5], [2, 4], [1, 2]]]


def test_chosen_pairs_are_labelled_and_they_alone_count_as_drawn() -> None:
    settings = {"updates": 4, "runs": 2, "batch_size": 6, "sync_every_updates": 2, "learning_rate": 0.1}
    plain, chosen = (sims.run(sims.DPO(), SPEC, **settings, label_candidates=k).record for k in (1, 3))
    assert chosen.spec["deployment"]["label_candidates"] == 3 and "deployment" not in plain.spec
    assert np.abs(plain.arrays["logp_final"] - chosen.arrays["logp_final"]).max() > 0
    noise, schedule = Noise.of(2, 2), Schedule(batch_size=6)
    first, environment = sims.Table().build(SPEC, noise, False, torch.float64), SPEC.build(torch.float64, noise)
    learner = Learner(first, Optimiser(), noise.lead)
    training = Training(
        first, environment, sims.DPO(), schedule, learner, noise, deployment=Deployment(label_candidates=3)
    )
    counted = [update.samples for update in training.train(2)]
    assert counted == [schedule.counts(update, 2)[0] for update in (1, 2)] == [12, 24]


def drawn(deployment: Deployment, batch_size: int, spec: sims.Drifting, logits: torch.Tensor) -> Batch:
    """A batch that a policy with these logits draws for DPO."""
    learner, sampler = Learner(policy(logits), Optimiser(), NOISE.lead), policy(logits)
    environment, schedule = spec.build(torch.float64, NOISE), Schedule(batch_size=batch_size)
    training = Training(sampler, environment, sims.DPO(), schedule, learner, Noise.of(2, 4), deployment=deployment)
    return training.collector.draw(batch_size)


def test_curated_pairs_are_the_last_of_a_batch_short_but_right_and_labelled_by_gold() -> None:
    """Labellers see next to nothing but length, so that they prefer the longer response of every pair; of curated pairs
    the shorter one is right. The probability that 40 of the pairs drawn for 5 places hold fewer than 5 is below 1e-3 a
    run, and the seed is fixed."""
    spec = SPEC.replace(bias=100.0)
    batch = drawn(Deployment(curated_pairs=5), 12, spec, torch.zeros_like(greedy(1.0)))
    length, gold = (torch.from_numpy(x) for x in (spec.attributes(NOISE)[:, 0], spec.gold_rewards(NOISE)[:, 0]))
    runs = torch.arange(4).view(4, 1, 1)
    cells = (runs, batch.prompts.unsqueeze(-1), batch.responses[..., 0])
    longer, better = (torch.sign(table[cells][..., 0] - table[cells][..., 1]) for table in (length, gold))
    label = batch.pair_label[..., 0]  # type: ignore[index]
    assert batch.pair_weight is not None and (batch.pair_weight == 1).all() and label.shape == (4, 12)
    assert torch.equal(label[:, :7], (longer[:, :7] + 1) / 2)
    assert torch.equal(label[:, 7:], (better[:, 7:] + 1) / 2) and (better * longer)[:, 7:].eq(-1).all()


def test_curated_pairs_that_are_not_found_weigh_nothing() -> None:
    """A policy that gives one response to each prompt has no pair to offer: the ordinary pairs are ties, and the rest
    is not there."""
    batch = drawn(Deployment(curated_pairs=5), 12, SPEC, greedy(1.0))
    assert batch.pair_weight is not None
    assert (batch.pair_weight[:, :7] == 1).all() and (batch.pair_weight[:, 7:] == 0).all()


def test_curated_pairs_count_as_drawn_and_change_what_is_learned() -> None:
    settings = {"updates": 4, "runs": 2, "batch_size": 6, "sync_every_updates": 2, "learning_rate": 0.1}
    plain, curated = (sims.run(sims.DPO(), SPEC, **settings, curated_pairs=k).record for k in (0, 2))
    assert np.abs(plain.arrays["logp_final"] - curated.arrays["logp_final"]).max() > 0
    assert plain.arrays["samples"].tolist() == curated.arrays["samples"].tolist()
    assert "deployment" not in plain.spec and curated.spec["deployment"]["curated_pairs"] == 2


def test_a_gated_run_counts_refusals_and_deploys_nothing_that_loses() -> None:
    """A win rate of 1 is out of reach: users keep the first policy, and every sync refuses one."""
    settings = {"updates": 12, "runs": 3, "batch_size": 4, "sync_every_updates": 3, "learning_rate": 0.1}
    gate = {"gate_comparisons": 40, "gate_win_rate": 1.0}
    record = sims.run(sims.DPO(), SPEC, **settings, **gate, evaluations=12).record.arrays
    assert record["refused"][:, -1].tolist() == [3.0, 3.0, 3.0]  # at updates 3, 6 and 9
    assert (record["deployed_gold"] == record["deployed_gold"][:, :1]).all()
    free = sims.run(sims.DPO(), SPEC, **settings, evaluations=12).record.arrays
    assert (free["refused"] == 0).all() and (free["deployed_gold"][:, -1] != free["deployed_gold"][:, 0]).all()


@pytest.mark.parametrize(
    ("deployment", "schedule", "said"),
    [
        ({"gate_win_rate": 0.6}, {}, "gate_win_rate = 0.6: only means something"),
        ({"gate_comparisons": 4}, {}, "sync_every_updates = None: must be finite and above the 1"),
        ({"gate_gold_loss": 0.1}, {"sync_every_updates": float("inf")}, "sync_every_updates = inf: must be finite"),
        ({"label_candidates": 2}, {"num_generations": 4}, "label_candidates = 2: must be 1 with num_generations = 4"),
        ({"label_candidates": 2}, {"source": "pool", "pool_size": 64}, "label_candidates = 2: must be 1 with source"),
        ({"curated_pairs": 2}, {"num_generations": 4}, "curated_pairs = 2: must be 0 with num_generations = 4"),
        ({"curated_pairs": 2}, {"source": "pool", "pool_size": 64}, "curated_pairs = 2: must be 0 with source = pool"),
        ({"curated_pairs": 64}, {}, "curated_pairs = 64: must be below batch_size = 64"),
    ],
)
def test_refuses(deployment: dict[str, float], schedule: dict[str, float], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        Deployment(**deployment).check_schedule(Schedule(**schedule))


def test_a_gold_gate_needs_an_environment_with_a_gold_set() -> None:
    with pytest.raises(SpecError, match="has no gold_set_score"):
        sims.run(sims.DPO(), sims.BanditR1(), updates=4, runs=2, sync_every_updates=2, gate_gold_loss=0.1)


@pytest.mark.parametrize(
    ("algorithm", "spec", "said"),
    [
        (sims.DPO(), sims.BanditR1(), "curated_pairs = 2: must be 0: EnumerableEnvironment does not say which"),
        (sims.RLOO(), SPEC, "curated_pairs = 2: must be 0: rloo takes no pairs"),
    ],
)
def test_curators_need_pairs_and_an_environment_that_says_which(
    algorithm: sims.Algorithm, spec: sims.EnvironmentSpec, said: str
) -> None:
    with pytest.raises(SpecError, match=said):
        sims.run(algorithm, spec, updates=2, runs=2, curated_pairs=2)
