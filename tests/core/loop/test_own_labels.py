"""A policy that labels its own samples: exactly which labels those are, and what DPO can and cannot learn from them."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
import torch

from sims.core.algorithms import find_algorithm
from sims.core.algorithms.contrastive import DPO
from sims.core.loop.collect import Collector
from sims.core.loop.labelling import Labelling, implicit_reward
from sims.core.loop.learner import Learner
from sims.core.loop.optimise import Optimiser
from sims.core.loop.protocols import Prompts, SampleRequest, Samples
from sims.core.loop.reference import Reference
from sims.core.loop.train import Training, check_run
from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import Batch
from sims.core.objectives.preferences import Labeller
from sims.core.schedule import Schedule
from sims.core.spec import SpecError, from_json
from sims.environments import BanditR1, EnumerableEnvironment, TokenTree
from sims.environments.space import TokenSpace
from sims.experiments.experiment import Experiment
from sims.policies import Table, TablePolicy
from tests.core.enumeration import Problem, enumerate_batches, make_problem

EXACT = {"rtol": 0.0, "atol": 1e-10}
PROBLEMS = [
    pytest.param(make_problem(TokenSpace(4), prompts=2, seed=10), id="table"),
    pytest.param(make_problem(TokenSpace(3, 3, eos=True), prompts=1, seed=49), id="tree"),
]
both = pytest.mark.parametrize("problem", PROBLEMS)
OWN = Labelling(labels="implicit", implicit_beta=0.3)


def log_ratio(problem: Problem) -> np.ndarray:
    """log π − log π_ref of every response: (X, N)."""
    return problem.logp(problem.policy) - problem.logp(problem.reference)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


class EveryPair(TablePolicy):
    """A table that draws each of the N² pairs of responses once, one per run, the same for all prompts."""

    def sample(self, request: SampleRequest) -> Samples:
        prompts, num_generations = request.prompts.tokens, request.num_generations
        responses, mask = self.space.all_responses
        drawn = torch.cartesian_prod(*[torch.arange(len(responses))] * num_generations)  # (R, K)
        shape = (len(drawn), prompts.shape[-1], num_generations, responses.shape[-1])
        tokens, chosen = (x[drawn].unsqueeze(1).expand(shape) for x in (responses, mask))
        return Samples(tokens, chosen, self.forward(Batch(prompts, tokens, chosen)).logp)


def every_pair(problem: Problem, temperature: float, labelling: Labelling = OWN, updates: int = 0):
    """What the core's collector says of every pair of every prompt: a batch of N² runs, B = X and K = 2."""
    count = len(problem.responses) ** 2

    def tables(logits: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.tile(logits, (count, 1, 1, 1)))

    policy, reference = EveryPair(problem.space, tables(problem.policy)), tables(problem.reference)
    schedule = Schedule(batch_size=problem.prompts)
    environment = EnumerableEnvironment(
        problem.space, torch.from_numpy(problem.rewards), Labeller(label_temperature=temperature)
    )
    environment.prompts = lambda b, noise: Prompts(torch.arange(b).expand(*noise.lead, -1))  # each prompt once
    frozen = Reference(TablePolicy(problem.space, reference), schedule)
    noise = Noise.of(0, count)
    return Collector(policy, frozen, environment, DPO(), schedule, noise, labelling).next_batch(updates)


@both
def test_rewards_are_the_policys_own_and_gold_is_the_true_one(problem: Problem) -> None:
    batch = every_pair(problem, temperature=0.0)
    drawn = np.array(list(itertools.product(range(len(problem.responses)), repeat=2)))
    rows = np.arange(problem.prompts)[None, :, None]
    np.testing.assert_allclose(batch.rewards, 0.3 * log_ratio(problem)[rows, drawn[:, None]], **EXACT)
    np.testing.assert_array_equal(batch.gold, problem.rewards[rows, drawn[:, None]])
    theirs = every_pair(problem, 0.0, Labelling(labels="implicit", implicit_after_updates=1))
    assert torch.equal(theirs.rewards, theirs.gold)  # not yet
    assert torch.equal(
        every_pair(problem, 0.0, OWN.replace(implicit_after_updates=1), updates=1).rewards, batch.rewards
    )


@both
def test_a_label_is_drawn_with_probability_sigma_of_the_difference(problem: Problem) -> None:
    """A label is 1 for uniforms below its probability: seen on both sides of it, 1e-10 away."""
    temperature = 0.7
    batch = every_pair(problem, temperature)
    drawn = np.array(list(itertools.product(range(len(problem.responses)), repeat=2)))
    reward = 0.3 * log_ratio(problem)
    expected = sigmoid((reward[:, drawn[:, 0]] - reward[:, drawn[:, 1]]).T / temperature)[..., None]  # (N², X, 1)
    labeller, (first, second) = Labeller(label_temperature=temperature), batch.rewards.split(1, -1)
    for side, label in ((-1e-10, 1.0), (1e-10, 0.0)):
        uniforms = torch.from_numpy(expected + side).unsqueeze(-1).expand(*expected.shape, 2)
        assert bool((labeller.label(first, second, uniforms) == label).all())
    uniforms = Noise.of(0, len(drawn)).uniforms("labels", problem.prompts, 1, 2)[..., 0].numpy()
    np.testing.assert_array_equal(batch.pair_label, (uniforms < expected).astype(float))


@both
def test_what_equals_its_reference_has_no_opinion(problem: Problem) -> None:
    """Every pair is a tie: ½ without noise, a fair coin with it; and nothing is learned from ½."""
    problem = dataclasses.replace(problem, policy=problem.reference)
    batch = every_pair(problem, temperature=0.0)
    assert bool((batch.rewards == 0).all()) and bool((batch.pair_label == 0.5).all())
    coin = every_pair(problem, temperature=0.5)
    uniforms = Noise.of(0, coin.lead[0]).uniforms("labels", problem.prompts, 1, 2)[..., 0]
    assert torch.equal(coin.pair_label, (uniforms < 0.5).double())
    problem = dataclasses.replace(problem.on_policy(), label=np.full_like(problem.label, 0.5))
    np.testing.assert_allclose(enumerate_batches(problem, DPO(), 2).expected_gradient(), 0, **EXACT)


def labelled_by_itself(problem: Problem, beta: float, temperature: float) -> Problem:
    """The problem with the labels that the collector gives, as probabilities (X, N, N)."""
    batch, count = (
        every_pair(problem, temperature, Labelling(labels="implicit", implicit_beta=beta)),
        len(problem.responses),
    )
    first, second = batch.rewards.numpy().transpose(2, 1, 0).reshape(2, problem.prompts, count, count)
    difference = first - second
    label = (np.sign(difference) + 1) / 2 if temperature == 0 else sigmoid(difference / temperature)
    return dataclasses.replace(problem.on_policy(), label=label)


@both
@pytest.mark.parametrize(("implicit_beta", "temperature"), [(0.3, 0.7), (0.05, 2.0), (0.3, 0.0)])
def test_the_population_gradient_of_dpo_under_its_own_labels(
    problem: Problem, implicit_beta: float, temperature: float
) -> None:
    """Of −p·log σ(βh) − (1−p)·log σ(−βh) with p = σ(κβh): β(σ(βh) − p) by each h; through the algorithm, by the oracle,
    and written out."""
    beta, own = 0.1, labelled_by_itself(problem, implicit_beta, temperature)
    enumeration = enumerate_batches(own, DPO(beta=beta), 2)
    found = enumeration.expected_gradient()
    np.testing.assert_allclose(found, enumeration.population_gradient(), **EXACT)
    ratio, chance = log_ratio(problem), np.exp(problem.logp(problem.policy))
    h = ratio[:, :, None] - ratio[:, None, :]
    p = (np.sign(h) + 1) / 2 if temperature == 0 else sigmoid(implicit_beta * h / temperature)
    pairs = chance[:, :, None] * chance[:, None, :] / problem.prompts
    slope = pairs * beta * (sigmoid(beta * h) - p)  # of the first response's log-prob; the second's is its negative
    weights = slope.sum(2) - slope.sum(1)
    np.testing.assert_allclose(found, problem.gradient(weights), **EXACT)


@both
@pytest.mark.parametrize("kappa", [0.5, 1.0, 3.0])
def test_where_own_labels_lead(problem: Problem, kappa: float) -> None:
    """At κ = implicit_beta/(τβ): the loss under such labels is least at π_ref·(π_label/π_ref)^κ; so at κ = 1 a
    policy learns nothing from itself, below it goes back to its reference, and above it goes on."""
    beta, temperature = 0.1, 0.5
    own = labelled_by_itself(problem, kappa * temperature * beta, temperature)
    at_home = enumerate_batches(own, DPO(beta=beta), 2)
    still = np.abs(at_home.expected_gradient()).max() < 1e-10
    assert still == (kappa == 1.0)
    # What one small step does to the objective E|log π/π_ref|: −gradient · its own gradient.
    along = chain(problem, np.sign(log_ratio(problem)))
    assert np.sign(round(-(at_home.expected_gradient() * along).sum(), 12)) == np.sign(kappa - 1.0)
    if len(problem.responses) == 4:  # a table reaches every distribution of its responses
        goal = problem.reference + kappa * (problem.policy - problem.reference)
        there = enumerate_batches(dataclasses.replace(own, policy=goal, sampler=problem.policy), DPO(beta=beta), 2)
        np.testing.assert_allclose(there.expected_gradient(), 0, **EXACT)


def chain(problem: Problem, weights: np.ndarray) -> np.ndarray:
    return problem.gradient(np.exp(problem.logp(problem.policy)) * weights)


# In a run


def training(labelling: Labelling | None, schedule: Schedule | None = None, temperature: float = 0.0) -> Training:
    noise, spec = Noise.of(0, 3), TokenTree(num_prompts=2, label_temperature=temperature)
    policy = Table().build(spec, noise, False, torch.float64)
    learner = Learner(policy, Optimiser(learning_rate=0.1), noise.lead)
    schedule = schedule or Schedule(batch_size=8)
    return Training(policy, spec.build(torch.float64, noise), DPO(), schedule, learner, noise, labelling)


@pytest.mark.parametrize("policy", ["sampler", "frozen"])
def test_who_labels(policy: str) -> None:
    """The policy at the last sync; or the one at `implicit_after_updates`, with the reference that it was trained
    from."""
    labelling = OWN.replace(implicit_policy=policy, implicit_after_updates=4)
    run = training(labelling, Schedule(batch_size=8, sync_every_updates=2))
    past = [run.policy.clone()]
    for update in run.train(10):
        batch = update.batch
        if update.number <= 4:
            assert torch.equal(batch.rewards, batch.gold)
        else:
            at = 4 if policy == "frozen" else update.number - 1 - update.staleness
            expected = implicit_reward(past[at], run.reference.policy, batch, 0.3)
            torch.testing.assert_close(batch.rewards, expected, **EXACT)
            assert not torch.equal(batch.rewards, batch.gold)
        past.append(run.policy.clone())


def test_from_the_start_noiseless_labels_of_its_own_move_nothing() -> None:
    run = training(OWN)
    start = run.policy.logits().clone()
    steps = [float(update.stats.grad_norm.max()) for update in run.train(5)]
    assert max(steps) < 1e-12 and torch.equal(run.policy.logits().softmax(-1), start.softmax(-1))


@pytest.mark.parametrize("policy", ["sampler", "frozen"])
def test_a_restored_run_has_the_same_labeller(policy: str) -> None:
    labelling = OWN.replace(implicit_policy=policy, implicit_after_updates=2)
    whole, first, second = (training(labelling, temperature=0.1) for _ in range(3))
    list(whole.train(8))
    list(first.train(4))
    tensors, numbers = first.state_dict()
    second.load_state_dict({name: x.clone() for name, x in tensors.items()}, dict(numbers))
    list(second.train(8))
    assert torch.equal(whole.policy.logits(), second.policy.logits())


def test_somebody_else_than_the_environment_labels_only_where_it_is_wanted() -> None:
    """The default is the run that it was, bit for bit; and its JSON too."""
    runs = [
        training(labelling)
        for labelling in (None, Labelling(), Labelling(labels="implicit", implicit_after_updates=99))
    ]
    for run in runs:
        list(run.train(6))
    assert all(torch.equal(run.policy.logits(), runs[0].policy.logits()) for run in runs)
    plain = Experiment("x", BanditR1(), Table(), find_algorithm("dpo")())
    own = plain.replace(labelling=OWN)
    assert "labelling" not in plain.to_json() and from_json(plain.to_json()) == plain
    assert (
        own.to_json()["labelling"]["implicit_beta"] == 0.3 and from_json(json.loads(json.dumps(own.to_json()))) == own
    )


@pytest.mark.parametrize(
    ("settings", "schedule", "message"),
    [
        ({"implicit_beta": 0.2}, {}, "implicit_beta = 0.2: only means something when labels = implicit"),
        ({"labels": "implicit", "implicit_policy": "frozen"}, {}, "implicit_after_updates = 0: must be at least 1"),
        ({"labels": "implicit"}, {"source": "pool", "pool_size": 64}, "source = 'pool': must be policy"),
        ({"labels": "implicit"}, {"sync_every_updates": math.inf}, "sync_every_updates = inf: must be finite"),
        (
            {"labels": "implicit", "implicit_policy": "frozen", "implicit_after_updates": 1},
            {"reference": "ema", "reference_rate": 0.1},
            "reference = 'ema': must be fixed",
        ),
    ],
)
def test_labellings_that_cannot_be(settings: dict, schedule: dict, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        check_run(DPO(), Schedule(**schedule), Labelling(**settings))


def test_a_labelling_that_would_never_begin_is_refused() -> None:
    with pytest.raises(SpecError, match="implicit_after_updates = 5: must be below updates = 5"):
        Experiment(
            "x", BanditR1(), Table(), DPO(), updates=5, evaluations=1, labelling=OWN.replace(implicit_after_updates=5)
        )


def test_a_reference_that_only_the_labelling_uses_may_change() -> None:
    schedule = Schedule(reference="copy", reference_every_updates=3)
    with pytest.raises(SpecError, match="uses no reference"):
        check_run(find_algorithm("best_of_n")(), schedule)
    check_run(find_algorithm("best_of_n")(), schedule, OWN)
