"""What a policy computes of all responses is computed once for as long as its parameters stay; a fit once per run."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import sims
from sims.core.loop.learner import Learner
from sims.core.loop.optimise import Optimiser
from sims.core.loop.protocols import Prompts, SampleRequest
from sims.core.loop.train import Training
from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import Batch, OutputRequest
from sims.core.schedule import Schedule
from sims.policies import categorical
from sims.policies.mlp import MLPPolicy

SPEC = sims.BanditR1(num_actions=5, peak=3.0, width=1.0, num_prompts=3)
NETWORK = sims.MLP(hidden=(4,), fit_steps=3)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[MLPPolicy]:
    """The policy of every pass through a network, from the logits on."""
    found: list[MLPPolicy] = []
    logits = MLPPolicy.logits

    def counted(policy: MLPPolicy) -> Tensor:
        found.append(policy)
        return logits(policy)

    monkeypatch.setattr(MLPPolicy, "logits", counted)
    return found


def training(algorithm: sims.core.algorithms.Algorithm, schedule: Schedule) -> Training:
    noise = Noise.of(0, 2)
    policy = NETWORK.build(SPEC, noise, algorithm.needs_critic, torch.float64)
    environment = SPEC.build(torch.float64, noise)
    return Training(policy, environment, algorithm, schedule, Learner(policy, Optimiser(), noise.lead), noise)


@pytest.mark.parametrize("algorithm", [sims.PPO(beta=0.1), sims.DPO()], ids=lambda x: x.kind)
def test_an_update_on_policy_is_one_pass_and_the_reference_one_in_all(
    passes: list[MLPPolicy], algorithm: sims.core.algorithms.Algorithm
) -> None:
    run = training(algorithm, Schedule(batch_size=4))
    passes.clear()
    assert len(list(run.train(5))) == 5
    assert passes.count(run.policy) == 5 and passes.count(run.reference.policy) == 1 and len(passes) == 6


def test_each_minibatch_is_a_pass_after_the_change_before_it(passes: list[MLPPolicy]) -> None:
    run = training(sims.PPO(), Schedule(batch_size=4, minibatch_size=2, epochs=3))
    passes.clear()
    assert len(list(run.train(6))) == 6
    assert passes.count(run.policy) == 6


def drawn(policy: MLPPolicy) -> Batch:
    prompts = torch.tensor([[0, 1, 2], [2, 1, 1]])
    samples = policy.sample(SampleRequest(Prompts(prompts), 4, Noise.of(1, 2), "responses"))
    return Batch(prompts, samples.responses, samples.mask)


@pytest.mark.parametrize("values", [False, True], ids=["log-probs", "values"])
def test_numbers_and_gradients_are_those_of_a_policy_that_remembers_nothing(values: bool) -> None:
    policy = NETWORK.build(SPEC, Noise.of(0, 2), True, torch.float64)
    for parameter in policy.parameters():
        parameter.requires_grad_(True)
    batch, request = drawn(policy), OutputRequest(values=values)
    for change in ("sgd", "copy", "blend"):
        other = policy.clone()
        forgetful = policy.clone()
        for parameter in forgetful.parameters():
            parameter.requires_grad_(True)
        with torch.no_grad():
            before = policy.forward(batch, request)  # remembered, with its graph
        for _ in range(2):  # the graph serves once
            found = [policy.forward(batch, request), forgetful.forward(batch, request)]
            tables = [x.values if values else x.logp for x in found]
            assert torch.equal(*tables) and torch.equal(tables[0], before.values if values else before.logp)
            gradients = [
                torch.autograd.grad(x.square().sum(), list(p.parameters()), materialize_grads=True, allow_unused=True)
                for x, p in zip(tables, (policy, forgetful), strict=True)
            ]
            assert all(torch.equal(mine, its) for mine, its in zip(*gradients, strict=True))
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(1.0)
            if change == "sgd":
                for parameter, gradient in zip(policy.parameters(), gradients[0], strict=True):
                    parameter.sub_(0.1 * (gradient + 1.0))
        policy.copy_from(other) if change == "copy" else policy.blend_from(other, 0.5) if change == "blend" else None
        with torch.no_grad():
            after = policy.forward(batch, request)
        assert not torch.equal(after.logp, before.logp)


def test_a_parameter_that_is_trained_later_gets_its_gradient() -> None:
    policy = NETWORK.build(SPEC, Noise.of(0, 2), False, torch.float64)
    batch = drawn(policy)  # nothing asks for a gradient yet
    for parameter in policy.parameters():
        parameter.requires_grad_(True)
    assert policy.forward(batch).logp.requires_grad


def test_a_clone_shares_nothing_that_is_remembered() -> None:
    policy = NETWORK.build(SPEC, Noise.of(0, 2), False, torch.float64)
    before = policy.all_log_probs()
    copy = policy.clone()
    with torch.no_grad():
        copy.parameters()[0].add_(1.0)
    assert not torch.equal(copy.all_log_probs(), before) and torch.equal(policy.all_log_probs(), before)


@pytest.mark.parametrize(
    ("network", "spec"),
    [
        (NETWORK, SPEC),
        (NETWORK.replace(features="uniform", feature_size=6, normalise_first=True), SPEC),
        (
            sims.ResponseMLP(hidden=(4,), fit_steps=3),
            sims.RatedResponses(num_prompts=3, num_responses=5, num_features=4, num_pairs=16),
        ),
    ],
    ids=["one-hot", "uniform", "responses"],
)
def test_a_run_is_fitted_once_and_to_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, network: sims.MLP | sims.ResponseMLP, spec: sims.BanditR1
) -> None:
    fitted: list[int] = []
    fit = categorical._fit

    def counted(logp_data: Tensor, policy: categorical.CategoricalPolicy, *rest: object) -> None:
        fitted.append(len(policy.parameters()[0]))
        fit(logp_data, policy, *rest)  # type: ignore[arg-type]

    def built(runs: list[tuple[int, int]], **settings: float) -> list[Tensor]:
        return list(network.replace(**settings).build(spec, Noise(runs), False, torch.float32).parameters())

    monkeypatch.setattr(categorical, "_fit", counted)
    monkeypatch.setattr(categorical, "_fitted", {})
    first = built([(0, 0), (0, 1), (0, 0), (0, 2)])
    again = built([(0, 2), (0, 3), (0, 0), (0, 4)])
    assert fitted[0] == 3 and sum(fitted) <= 3 + 4
    before = sum(fitted)
    assert all(map(torch.equal, built([(0, 0), (0, 1), (0, 0), (0, 2)]), first)) and sum(fitted) == before
    monkeypatch.setattr(categorical, "_fitted", {})
    for whole, runs in ((first, [(0, 0), (0, 1), (0, 0), (0, 2)]), (again, [(0, 2), (0, 3), (0, 0), (0, 4)])):
        for row, run in enumerate(runs):
            monkeypatch.setattr(categorical, "_fitted", {})
            alone = built([run, (7, 7)])  # beside another
            assert all(torch.equal(x[row], its[0]) for x, its in zip(whole, alone, strict=True))
    before = sum(fitted)
    assert not torch.equal(built([run, (7, 7)], fit_learning_rate=0.05)[0][0], alone[0][0])
    assert sum(fitted) == before + 2  # another fit is not taken for this one


def test_what_is_kept_of_fits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(categorical, "_fitted", {})
    monkeypatch.setattr(categorical, "_FITTED_BYTES", 3000)
    for seed in range(5):
        NETWORK.build(SPEC, Noise.of(seed, 8), False, torch.float32)
    assert 0 < sum(x.nbytes for each in categorical._fitted.values() for x in each) <= 3000
