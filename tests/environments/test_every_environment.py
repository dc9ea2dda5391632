"""What every environment must do, found by its kind: a new one is tested here without being told.

The recipe is in `sims/environments/toy.py`. Stochastic checks bound means by Hoeffding's inequality, each with a false
alarm in 10⁹ (`tests.newcomers.within`).
"""

from __future__ import annotations

import dataclasses
import inspect
import random
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

import sims.policies  # noqa: F401  (importing registers them)
from sims.core.algorithms import find_algorithm
from sims.core.loop.checks import check_labels
from sims.core.loop.protocols import Labels, Prompts, SampleRequest
from sims.core.numerics.noise import Noise
from sims.core.objectives.preferences import Pairing, count_pairs, desirable_from_pairs, preference_probability
from sims.core.schedule import Schedule
from sims.core.spec import SpecError, from_json, kinds_of, to_json
from sims.environments import ToyEnvironment
from sims.environments.enumerable import EnumerableEnvironment, EnumerableSpec
from sims.experiments.executor import SHARED, execute
from sims.experiments.experiment import Experiment, stack_key
from tests.core.drawn_batches import float64_by_default
from tests.newcomers import other_values, small_policy, within

ENVIRONMENTS = kinds_of(ToyEnvironment)
ENUMERABLE = [kind for kind, cls in ENVIRONMENTS.items() if issubclass(cls, EnumerableSpec)]
WITH_DATA = [kind for kind, cls in ENVIRONMENTS.items() if cls.has_data]
PAIRINGS: tuple[Pairing, ...] = get_args(Pairing)


def random_responses(spec: ToyEnvironment, noise: Noise, prompts: int, generations: int) -> tuple[Tensor, Tensor]:
    """Responses of tokens drawn uniformly, EOS behind an EOS, and their mask: (R, B, K, L) both."""
    space = spec.space
    tokens = (noise.uniforms("test", prompts, generations, space.length) * space.vocabulary).long()
    mask = space.mask(tokens)
    return torch.where(mask, tokens, 0) if space.eos else tokens, mask


def labelled(
    spec: ToyEnvironment,
    noise: Noise,
    prompts: int = 6,
    generations: int = 4,
    pairing: Pairing | None = None,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor, Labels]:
    """Prompts, random responses, and what the environment says of them."""
    environment = spec.build(dtype, noise)
    asked = environment.prompts(prompts, noise)
    responses, mask = random_responses(spec, noise, prompts, generations)
    return asked.tokens, responses, environment.label(asked, responses, mask, pairing, noise)


def parts(said: Labels) -> dict[str, Tensor]:
    return {f.name: x for f in dataclasses.fields(said) if isinstance(x := getattr(said, f.name), Tensor)}


@pytest.mark.parametrize("kind", ENVIRONMENTS)
def test_says_what_it_is(kind: str) -> None:
    """A docstring for the table, a help text for each option, and JSON that gives the spec back."""
    cls, spec = ENVIRONMENTS[kind], ENVIRONMENTS[kind]()
    assert inspect.getdoc(cls) and cls.__doc__ != ToyEnvironment.__doc__, f"{kind} has no docstring of its own"
    for field in dataclasses.fields(cls):
        assert field.metadata.get("help", "") != "", f"{kind}.{field.name} has no help: setting(default, help, limits)"
    assert from_json(to_json(spec)) == spec
    assert from_json(to_json(spec.replace(label_temperature=0.3))).label_temperature == 0.3


@pytest.mark.parametrize("kind", ENVIRONMENTS)
def test_prompts_are_numbers_each_as_likely_as_the_others(kind: str) -> None:
    spec, noise = ENVIRONMENTS[kind](), Noise.of(1, 3)
    found = spec.build(torch.float64, noise).prompts(4000, noise).tokens
    assert found.shape == (3, 4000) and found.dtype == torch.int64
    assert found.min() >= 0 and found.max() < spec.num_prompts
    shares = torch.bincount(found.flatten(), minlength=spec.num_prompts) / found.numel()
    assert (shares - 1.0 / spec.num_prompts).abs().max() <= within(found.numel(), spec.num_prompts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ENVIRONMENTS)
def test_rewards_are_one_finite_number_per_response(kind: str, dtype: torch.dtype) -> None:
    """Of the precision that was asked for: another would be carried into the losses."""
    spec, noise = ENVIRONMENTS[kind](), Noise.of(1, 3)
    _, responses, said = labelled(spec, noise, dtype=dtype)
    check_labels(kind, said, responses)
    assert said.rewards.dtype == dtype, f"{kind}: rewards are {said.rewards.dtype} in an experiment of {dtype}"
    assert said.gold is None or said.gold.dtype == dtype
    assert said.rewards.std() > 0, f"{kind}: random responses all earn the same: nothing can be learned"


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("kind", ENVIRONMENTS)
def test_noiseless_labels_follow_the_rewards(kind: str, pairing: Pairing) -> None:
    """Shapes and places of pairs; 1 where the first earns more, ½ for a tie; who won, for KTO."""
    spec, noise = ENVIRONMENTS[kind](), Noise.of(1, 3)
    _, responses, said = labelled(spec, noise, pairing=pairing)
    check_labels(kind, said, responses, pairing)
    assert said.pairs is not None and said.pair_label is not None
    assert said.pairs.shape == (3, 6, count_pairs(4, pairing), 2) and said.pairs.dtype == torch.int64
    assert said.pairs.min() >= 0 and said.pairs.max() < 4
    counted = torch.ones_like(said.pair_label) if said.pair_weight is None else said.pair_weight
    assert (said.pairs[..., 0] != said.pairs[..., 1])[counted > 0].all()
    first, second = (said.rewards.gather(-1, said.pairs[..., side]) for side in (0, 1))
    expected = (torch.sign(first - second) + 1.0) / 2.0
    assert torch.equal(said.pair_label, expected)
    desirable = desirable_from_pairs(said.pairs, said.pair_label, 4, said.pair_weight)
    assert ((desirable >= 0) & (desirable <= 1)).all()


@pytest.mark.parametrize("kind", ENVIRONMENTS)
def test_labels_are_bradley_terry_at_their_temperature(kind: str) -> None:
    """At a temperature of the rewards' own spread. Two means, of label − probability and of that towards the better
    response, which a wrong temperature moves."""
    spread = float(labelled(ENVIRONMENTS[kind](), Noise.of(2, 3), 200, 4)[2].rewards.std())
    spec, noise = ENVIRONMENTS[kind](label_temperature=spread), Noise.of(3, 5)
    _, _, said = labelled(spec, noise, 2000, 4, "drawn")
    assert said.pairs is not None and said.pair_label is not None
    first, second = (said.rewards.gather(-1, said.pairs[..., side]) for side in (0, 1))
    assert ((said.pair_label == 0) | (said.pair_label == 1)).all()
    error = said.pair_label - preference_probability(first, second, spread)
    for found in (error, error * torch.sign(first - second)):
        assert found.mean().abs() <= within(error.numel(), 2)


@pytest.mark.parametrize("kind", ENVIRONMENTS)
def test_so_many_labels_are_flipped(kind: str) -> None:
    noise = Noise.of(3, 5)
    _, _, said = labelled(ENVIRONMENTS[kind](flip_rate=0.2), noise, 2000, 4, "drawn")
    assert said.pairs is not None and said.pair_label is not None
    first, second = (said.rewards.gather(-1, said.pairs[..., side]) for side in (0, 1))
    flipped = (said.pair_label != (first > second))[first != second].double()
    assert (flipped.mean() - 0.2).abs() <= within(flipped.numel())


@pytest.mark.parametrize("kind", ENVIRONMENTS)
def test_global_generators_are_untouched_and_one_seed_gives_one_result(kind: str) -> None:
    before = (torch.get_rng_state().clone(), str(np.random.get_state()), random.getstate())  # noqa: NPY002
    first, again = (labelled(ENVIRONMENTS[kind](flip_rate=0.1), Noise.of(4, 3), pairing="drawn") for _ in range(2))
    after = (torch.get_rng_state(), str(np.random.get_state()), random.getstate())  # noqa: NPY002
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:], f"{kind}: draws from a global generator"
    assert torch.equal(first[0], again[0])
    for name, value in parts(first[2]).items():
        assert torch.equal(value, parts(again[2])[name]), f"{kind}: {name} differs when drawn again: use `noise`"


@pytest.mark.parametrize("kind", ENVIRONMENTS)
def test_a_run_alone_is_the_run_among_many(kind: str) -> None:
    """Bit for bit: prompts, rewards, labels, and whatever else the environment says of its problem."""
    spec = ENVIRONMENTS[kind](label_temperature=0.3, flip_rate=0.1)
    many, alone = Noise.of(5, 4), Noise([(5, 2)])
    for dtype in (torch.float32, torch.float64):
        together = labelled(spec, many, pairing="all", dtype=dtype)
        single = labelled(spec, alone, pairing="all", dtype=dtype)
        assert torch.equal(together[0][2:3], single[0])
        for name, value in parts(single[2]).items():
            assert torch.equal(parts(together[2])[name][2:3], value), f"{kind}: {name} of a run depends on other runs"


@pytest.mark.parametrize("kind", ENUMERABLE)
def test_listed_rewards_are_those_it_gives(kind: str) -> None:
    """`all_rewards` is gold, `seen_rewards` what the learner sees, in the order of `all_responses`."""
    spec, noise = ENVIRONMENTS[kind](), Noise.of(1, 3)
    environment = spec.build(torch.float64, noise)
    assert isinstance(environment, EnumerableEnvironment)
    responses, mask = environment.all_responses()
    prompts = environment.all_prompts().expand(3, -1)
    shape = (3, spec.num_prompts, *responses.shape)
    said = environment.label(Prompts(prompts), responses.expand(shape), mask.expand(shape), None, noise)
    for found, listed in ((said.rewards, environment.seen_rewards()), (said.gold, environment.all_rewards())):
        assert torch.equal(said.rewards if found is None else found, listed.expand(shape[:-1]))


@pytest.mark.parametrize("kind", ENUMERABLE)
def test_exact_means_are_those_of_samples(kind: str) -> None:
    """Expected reward under the data policy, summed over all responses, and the mean of 12,000 that it drew."""
    spec, noise = ENVIRONMENTS[kind](), Noise.of(6, 3)
    policy = small_policy(spec).build(spec, noise, False, torch.float64)
    environment = spec.build(torch.float64, noise)
    prompts = environment.prompts(2000, noise)
    responses, mask, _ = policy.sample(SampleRequest(prompts, 2, noise))
    gold = environment.label(prompts, responses, mask, None, noise).gold
    listed = environment.all_rewards().expand(3, *environment.all_rewards().shape[-2:])
    exact = (policy.all_log_probs().detach().exp() * listed).sum(-1)
    span = float(listed.max() - listed.min())
    # Two responses to one prompt share it, so that prompts are what is independent: 2,000 per run.
    expected = exact.mean(-1)
    assert ((gold.mean((-2, -1)) - expected).abs() <= span * within(2000, 3)).all()


@pytest.mark.parametrize("kind", ENVIRONMENTS)
def test_no_response_exceeds_the_best(kind: str) -> None:
    """The score that a record is given is a share of the way to the largest reward."""
    spec, noise = ENVIRONMENTS[kind](), Noise.of(1, 3)
    environment = spec.build(torch.float64, noise)
    if isinstance(environment, EnumerableEnvironment):
        best = environment.all_rewards().amax(-1).expand(3, -1)
    else:
        answers = environment.best_responses().unsqueeze(1).expand(3, -1, -1, -1)
        prompts = torch.arange(spec.num_prompts).expand(3, -1)
        best = environment.label(Prompts(prompts), answers, spec.space.mask(answers), None, noise).rewards[..., 0]
    asked, _, said = labelled(spec, noise, 500, 4)
    gold = said.rewards if said.gold is None else said.gold
    assert (gold.amax(-1) <= best.gather(-1, asked) + 1e-12).all()


def experiment(spec: ToyEnvironment, **changes: Any) -> Experiment:
    settings: dict[str, Any] = {"updates": 2, "evaluations": 2, "runs": 2, "seed": 7}
    schedule = Schedule(batch_size=4, num_generations=2)
    return Experiment("e", spec, small_policy(spec), find_algorithm("dpo")(), schedule, **settings | changes)


def alike(spec: ToyEnvironment) -> list[ToyEnvironment]:
    """The environment, and it with each setting changed that its stack may differ in."""
    found = [spec]
    for field in dataclasses.fields(spec):
        if field.name in getattr(spec, "only_numbers", ()):
            for value in other_values(field, spec.hints()[field.name], getattr(spec, field.name)):
                try:
                    found.append(spec.replace(**{field.name: value}))
                except SpecError:
                    continue
    return found


@pytest.mark.parametrize("kind", ENVIRONMENTS)
def test_a_stack_of_experiments_is_each_by_itself(kind: str) -> None:
    """Bit for bit, float32: whatever settings `only_numbers` names, and other seeds."""
    spec = ENVIRONMENTS[kind]()
    settings = {"kind"}.union(*(cls.names() for cls in ENVIRONMENTS.values()))  # relatives share their only_numbers
    unknown = set(getattr(spec, "only_numbers", ())) - settings
    assert not unknown, f"{kind}: only_numbers names {sorted(unknown)}, which are settings of no environment"
    arms = [experiment(s) for s in alike(spec)]
    arms = [arm for arm in arms if stack_key(arm) == stack_key(arms[0])] + [experiment(spec, seed=8)]
    together = execute(arms)
    for arm, stacked in zip(arms, together, strict=True):
        (alone,) = execute([arm])
        assert alone.keys() == stacked.keys()
        for name, value in alone.items():
            assert np.array_equal(value, stacked[name], equal_nan=True), f"{kind}: {name} of {arm.environment}"
        for name, value in alone.items():
            assert name in SHARED or len(value) == arm.runs, f"{kind}: {name} has no runs axis"


@pytest.mark.parametrize("algorithm", ["dpo", "ppo"])
@pytest.mark.parametrize("kind", ENVIRONMENTS)
def test_no_float32_creeps_into_what_is_recorded(kind: str, algorithm: str) -> None:
    """Of a run in float64, evaluations too: bit for bit as if float64 were PyTorch's default."""
    arm = experiment(ENVIRONMENTS[kind](label_temperature=0.7), precision="float64")
    arm = arm.replace(algorithm=find_algorithm(algorithm)())
    (found,) = execute([arm])
    with float64_by_default():
        (expected,) = execute([arm])
    assert [name for name, value in expected.items() if not np.array_equal(value, found[name], equal_nan=True)] == []


@pytest.mark.parametrize("kind", WITH_DATA)
def test_recorded_pairs(kind: str) -> None:
    """Labelled, of the size asked for, and a run's own, whatever other runs there are."""
    spec, many, alone = ENVIRONMENTS[kind](), Noise.of(5, 4), Noise([(5, 2)])
    together, single = (spec.build(torch.float64, noise).recorded(5, noise) for noise in (many, alone))
    assert together.lead == (4,) and together.size == 5
    check_labels(kind, together, together.responses, "drawn")
    for name, value in single.tensors().items():
        assert torch.equal(together.tensors()[name][2:3], value), f"{kind}: {name} of a run depends on other runs"


@pytest.mark.parametrize("kind", [kind for kind in ENVIRONMENTS if kind not in WITH_DATA])
def test_without_recorded_pairs_the_schedule_is_refused(kind: str) -> None:
    with pytest.raises(SpecError, match="source = 'dataset': must be policy, pool or replay"):
        dataclasses.replace(experiment(ENVIRONMENTS[kind]()), schedule=Schedule(batch_size=4, source="dataset"))
