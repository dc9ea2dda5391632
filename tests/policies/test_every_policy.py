"""What every policy must do, found by its kind: a new one is tested here without being told.

The recipe is in `sims/policies/__init__.py`. Each policy is built on the first environments that it can answer, among
them one of several prompts, in float64; its parameters are then moved at random, so that nothing is tested at a start
that is special (a critic of zeros). The one stochastic check has a false alarm in 10⁹ (`tests.newcomers.within`).
"""

from __future__ import annotations

import inspect
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sims.core.algorithms import find_algorithm
from sims.core.loop.protocols import Prompts, SampleRequest
from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import Batch, OutputRequest
from sims.core.schedule import Schedule
from sims.core.spec import SpecError, from_json, to_json
from sims.environments import BanditR1, Contextual, RatedResponses, TokenBanditR1, TokenTree, ToyEnvironment
from sims.experiments.executor import execute
from sims.experiments.experiment import Experiment
from sims.listings import toy_policies
from tests.newcomers import accepts, small, within

POLICIES = toy_policies()
ENVIRONMENTS: dict[str, ToyEnvironment] = {
    "bandit": BanditR1(num_actions=12, peak=8.0, width=3.0),
    "bandit of 3 prompts": BanditR1(num_actions=5, peak=3.0, width=1.0, num_prompts=3),
    "tree of 15, 2 prompts": TokenTree(num_prompts=2),
    "recorded pairs": Contextual(num_prompts=4, num_responses=5, coverage=0.6),
    "responses with features": RatedResponses(num_prompts=3, num_responses=5, num_features=4, num_pairs=16),
    "tokens without EOS": TokenBanditR1(num_prompts=3, vocabulary=6, length=3, peak=4.0, width=2.0),
}
CASES = [
    pytest.param(kind, where, id=f"{kind} on {where}")
    for kind in POLICIES
    for where, environment in ENVIRONMENTS.items()
    if accepts(small(kind), environment)
]
ENUMERABLE = [case for case in CASES if case.values[1] != "tokens without EOS"]
RUNS, PROMPTS, GENERATIONS = 3, 6, 4


@dataclass(frozen=True, eq=False)
class Drawn:
    """A policy with parameters moved at random, and what it drew."""

    policy: Any
    prompts: Tensor
    responses: Tensor
    mask: Tensor
    logp: Tensor

    def forward(self, **asked: bool) -> Any:
        return self.policy.forward(Batch(self.prompts, self.responses, self.mask), OutputRequest(**asked))


def build(kind: str, where: str, noise: Noise, critic: bool = False, dtype: torch.dtype = torch.float64) -> Any:
    """The policy as it starts, but for parameters moved by a tenth, a run's own way."""
    policy = small(kind).build(ENVIRONMENTS[where], noise, critic, dtype)
    moves = Noise(noise.runs)
    with torch.no_grad():
        for i, parameter in enumerate(policy.parameters()):
            parameter += 0.2 * (moves.uniforms(f"move {i}", *parameter.shape[1:]).to(dtype) - 0.5)
    return policy


def draw(
    kind: str, where: str, noise: Noise | None = None, critic: bool = False, dtype: torch.dtype = torch.float64
) -> Drawn:
    noise = Noise.of(1, RUNS) if noise is None else noise
    policy = build(kind, where, noise, critic, dtype)
    count = ENVIRONMENTS[where].num_prompts
    prompts = (noise.uniforms("test prompts", PROMPTS) * count).long()
    return Drawn(policy, prompts, *policy.sample(SampleRequest(Prompts(prompts), GENERATIONS, noise)))


def trainable(policy: Any) -> list[Tensor]:
    for parameter in policy.parameters():
        parameter.requires_grad_(True)
    return list(policy.parameters())


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(found, expected, rtol=0.0, atol=tolerance)


@pytest.mark.parametrize("kind", POLICIES)
def test_some_environment_is_there_for_it(kind: str) -> None:
    """Else none of the tests below would have run; and its settings are JSON and have help."""
    spec = small(kind)
    assert any(accepts(spec, where) for where in ENVIRONMENTS.values()), (
        f"{kind} accepts none of ENVIRONMENTS: add one that it can"
    )
    assert inspect.getdoc(type(spec)), f"{kind} has no docstring"
    assert from_json(to_json(spec)) == spec


@pytest.mark.parametrize("kind", POLICIES)
def test_refuses_in_one_line_what_it_cannot_answer(kind: str) -> None:
    for where in ENVIRONMENTS.values():
        try:
            small(kind).check_environment(where)
        except SpecError as error:
            assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize(("kind", "where"), CASES)
def test_samples_are_tokens_of_the_space_and_a_mask(kind: str, where: str) -> None:
    drawn, space = draw(kind, where), ENVIRONMENTS[where].space
    shape = (RUNS, PROMPTS, GENERATIONS, space.length)
    for name in ("responses", "mask", "logp"):
        found = tuple(getattr(drawn, name).shape)
        assert found == shape, f"{kind}.sample: {name} has shape {found}, must be {shape}: (R, B, K, L)"
    assert drawn.responses.dtype == torch.int64 and drawn.mask.dtype == torch.bool
    assert drawn.logp.dtype == torch.float64 and not drawn.logp.requires_grad
    assert drawn.responses.min() >= 0 and drawn.responses.max() < space.vocabulary
    assert torch.equal(drawn.mask, space.mask(drawn.responses)), f"{kind}: mask is True up to the first EOS, itself too"
    if space.eos:
        assert (drawn.responses[~drawn.mask] == 0).all(), f"{kind}: behind an EOS stands EOS"


@pytest.mark.parametrize(("kind", "where"), CASES)
def test_forward_says_what_sample_said(kind: str, where: str) -> None:
    drawn = draw(kind, where)
    found = drawn.forward().logp
    assert found.shape == drawn.logp.shape
    close(found.detach()[drawn.mask], drawn.logp[drawn.mask])


@pytest.mark.parametrize(("kind", "where"), ENUMERABLE)
def test_probabilities_sum_to_1(kind: str, where: str) -> None:
    """Over all responses, whose log-probs are those of `forward`, summed over the tokens that were chosen."""
    policy, environment = build(kind, where, Noise.of(1, RUNS)), ENVIRONMENTS[where]
    logp = policy.all_log_probs().detach()
    responses, mask = environment.space.all_responses
    assert logp.shape == (RUNS, environment.num_prompts, len(responses))
    close(logp.exp().sum(-1), torch.ones(RUNS, environment.num_prompts, dtype=torch.float64))
    shape = (RUNS, environment.num_prompts, *responses.shape)
    prompts = torch.arange(environment.num_prompts).expand(RUNS, -1)
    tokens = policy.forward(Batch(prompts, responses.expand(shape), mask.expand(shape))).logp.detach()
    close(torch.where(mask, tokens, 0.0).sum(-1), logp)


@pytest.mark.parametrize(("kind", "where"), ENUMERABLE)
def test_samples_are_as_frequent_as_they_are_likely(kind: str, where: str) -> None:
    """6,000 responses to the first prompt, each run's share of every response against its probability."""
    environment, noise = ENVIRONMENTS[where], Noise.of(2, RUNS)
    policy = build(kind, where, noise)
    prompts = torch.zeros((RUNS, 1500), dtype=torch.int64)
    drawn = policy.sample(SampleRequest(Prompts(prompts), 4, noise)).responses.flatten(1, 2)
    logp, responses = policy.all_log_probs().detach()[:, 0], environment.space.all_responses[0]
    shares = (drawn.unsqueeze(2) == responses).all(-1).double().mean(1)
    assert (shares - logp.exp()).abs().max() <= within(6000, RUNS * len(responses))


@pytest.mark.parametrize(("kind", "where"), CASES)
def test_a_run_alone_is_the_run_among_many(kind: str, where: str) -> None:
    """Bit for bit, in both precisions: parameters, samples, log-probs, values, entropies and gradients."""
    for dtype in (torch.float32, torch.float64):
        many, alone = (draw(kind, where, Noise(runs), True, dtype) for runs in ([(3, r) for r in range(5)], [(3, 2)]))
        for one, all_of_them in zip(alone.policy.parameters(), many.policy.parameters(), strict=True):
            assert len(all_of_them) == 5, f"{kind}: parameters have the runs axis first, not {tuple(all_of_them.shape)}"
            assert torch.equal(one, all_of_them[2:3])
        for name in ("responses", "mask", "logp"):
            assert torch.equal(getattr(alone, name), getattr(many, name)[2:3]), f"{kind}: {name} of a run"
        gradients = []
        for drawn in (many, alone):
            parameters, outputs = trainable(drawn.policy), drawn.forward(values=True, entropy=True)
            total = torch.where(drawn.mask, outputs.logp + outputs.values, 0.0).sum()
            gradients.append((outputs, torch.autograd.grad(total, parameters)))
        for name in ("logp", "values", "entropy"):
            assert torch.equal(getattr(gradients[1][0], name), getattr(gradients[0][0], name)[2:3]), f"{kind}: {name}"
        for one, all_of_them in zip(gradients[1][1], gradients[0][1], strict=True):
            assert torch.equal(one, all_of_them[2:3]), f"{kind}: the gradient of a run depends on other runs"


@pytest.mark.parametrize(("kind", "where"), CASES)
def test_the_gradient_reaches_every_parameter_of_its_own_run_alone(kind: str, where: str) -> None:
    """With a critic, whose parameters log-probs may leave alone and values may not."""
    drawn = draw(kind, where, critic=True)
    parameters, outputs = trainable(drawn.policy), drawn.forward(values=True)
    assert outputs.values is not None and outputs.values.shape == drawn.logp.shape
    weights = torch.linspace(-1.0, 1.0, drawn.logp[0].numel(), dtype=torch.float64).view(drawn.logp.shape[1:])
    of_run_0 = torch.where(drawn.mask, weights * outputs.logp + (1.3 + weights) * outputs.values, 0.0)[0].sum()
    gradients = torch.autograd.grad(of_run_0, parameters, allow_unused=True)
    for i, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
        what = f"{kind}: parameter {i} of shape {tuple(parameter.shape)}"
        assert gradient is not None and (gradient[0] != 0).any(), f"{what} gets no gradient"
        assert gradient.isfinite().all(), f"{what} gets a gradient that is not finite"
        assert (gradient[1:] == 0).all(), f"{what} of a run gets a gradient from another run"


@pytest.mark.parametrize(("kind", "where"), CASES)
def test_a_critic_is_there_when_asked_for(kind: str, where: str) -> None:
    """It changes neither the policy nor its samples."""
    with_critic, without = draw(kind, where, critic=True), draw(kind, where)
    assert len(list(with_critic.policy.parameters())) > len(list(without.policy.parameters()))
    assert torch.equal(with_critic.responses, without.responses)
    close(with_critic.logp, without.logp)
    plain = without.forward()
    assert plain.values is None and plain.entropy is None, f"{kind}: values and entropies are given when asked for"


@pytest.mark.parametrize(("kind", "where"), ENUMERABLE)
def test_entropies_of_tokens_make_that_of_responses(kind: str, where: str) -> None:
    """The chain rule: Σ_y π(y)·Σ_t H(π(·|y_<t)) = −Σ_y π(y)·log π(y)."""
    policy, environment = build(kind, where, Noise.of(1, RUNS)), ENVIRONMENTS[where]
    responses, mask = environment.space.all_responses
    shape = (RUNS, environment.num_prompts, *responses.shape)
    prompts = torch.arange(environment.num_prompts).expand(RUNS, -1)
    found = policy.forward(
        Batch(prompts, responses.expand(shape), mask.expand(shape)), OutputRequest(entropy=True)
    ).entropy
    logp = policy.all_log_probs()
    along = (logp.exp() * torch.where(mask, found, 0.0).sum(-1)).sum(-1)
    close(along, -(logp.exp() * logp).sum(-1), 1e-10)


@pytest.mark.parametrize(("kind", "where"), CASES)
def test_a_clone_is_its_own(kind: str, where: str) -> None:
    drawn = draw(kind, where, critic=True)
    trainable(drawn.policy)
    twin = drawn.policy.clone()
    before = [p.detach().clone() for p in drawn.policy.parameters()]
    assert not any(p.requires_grad for p in twin.parameters())
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter += 1.0 + torch.rand(parameter.shape, generator=torch.Generator().manual_seed(0))
    for parameter, old in zip(drawn.policy.parameters(), before, strict=True):
        assert torch.equal(parameter, old), f"{kind}: what is done to a clone is done to the policy"
    outputs, other = (
        p.forward(Batch(drawn.prompts, drawn.responses, drawn.mask), OutputRequest(values=True))
        for p in (drawn.policy, twin)
    )
    assert not torch.equal(outputs.logp, other.logp) and not torch.equal(outputs.values, other.values)
    twin.copy_from(drawn.policy)
    other = twin.forward(Batch(drawn.prompts, drawn.responses, drawn.mask), OutputRequest(values=True))
    assert torch.equal(outputs.logp, other.logp) and torch.equal(outputs.values, other.values)
    for mine, theirs in zip(twin.parameters(), drawn.policy.parameters(), strict=True):
        assert mine.data_ptr() != theirs.data_ptr(), f"{kind}: copy_from shares memory"
    assert all(p.requires_grad for p in drawn.policy.parameters())


@pytest.mark.parametrize(("kind", "where"), CASES)
def test_blend_from_moves_a_share_of_the_way(kind: str, where: str) -> None:
    mine, theirs = (build(kind, where, Noise.of(seed, RUNS)) for seed in (1, 2))
    expected = [a + 0.25 * (b - a) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True)]
    mine.blend_from(theirs, 0.25)
    for found, wanted in zip(mine.parameters(), expected, strict=True):
        close(found.detach(), wanted.detach())


@pytest.mark.parametrize(("kind", "where"), CASES)
def test_a_blend_of_two_distributions(kind: str, where: str) -> None:
    """∝ π^{1−a}·π_other^a at each token: either end is one of the two, and a may be a number per run."""
    mine, other = (build(kind, where, Noise.of(seed, RUNS)) for seed in (1, 2))
    prompts = torch.zeros((RUNS, PROMPTS), dtype=torch.int64)
    drawn = {}
    for name, share in (
        ("own", 0.0),
        ("other's", 1.0),
        ("per run", torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64)),
    ):
        drawn[name] = mine.sample(SampleRequest(Prompts(prompts), 2, Noise.of(4, RUNS), blend=(other, share)))
    for name, policy in (("own", mine), ("other's", other)):
        tokens, mask, logp = drawn[name]
        close(policy.forward(Batch(prompts, tokens, mask)).logp.detach()[mask], logp[mask])
    for run, name in ((0, "own"), (1, "other's")):
        assert torch.equal(drawn["per run"].responses[run], drawn[name].responses[run])


@pytest.mark.parametrize(("kind", "where"), CASES)
def test_global_generators_are_untouched_and_one_seed_gives_one_result(kind: str, where: str) -> None:
    before = (torch.get_rng_state().clone(), str(np.random.get_state()), random.getstate())  # noqa: NPY002
    first, again = draw(kind, where), draw(kind, where)
    after = (torch.get_rng_state(), str(np.random.get_state()), random.getstate())  # noqa: NPY002
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:], f"{kind}: draws from a global generator"
    assert torch.equal(first.responses, again.responses) and torch.equal(first.logp, again.logp)
    other = first.policy.sample(SampleRequest(Prompts(first.prompts), GENERATIONS, Noise.of(1, RUNS), "another stream"))
    assert not torch.equal(first.responses, other.responses), f"{kind}: sample draws from the stream that it is given"


@pytest.mark.parametrize("algorithm", ["ppo", "dpo"])
@pytest.mark.parametrize(("kind", "where"), CASES)
def test_an_experiment_trains_it(kind: str, where: str, algorithm: str) -> None:
    """Two updates, whose runs all live, and which move the policy."""
    schedule = Schedule(batch_size=8, num_generations=2)
    arm = Experiment("e", ENVIRONMENTS[where], small(kind), find_algorithm(algorithm)(), schedule,
                     updates=2, evaluations=1, runs=2)  # fmt: skip
    (arrays,) = execute([arm])
    assert (arrays["diverged_at"] == -1).all()
    assert (arrays["kl_policy_ref"][:, -1] > 0).all()
