"""Whole runs: the same bits alone or among many, stacked or not, today or tomorrow; and no run disturbs another."""

import math

import numpy as np
import pytest
import torch

from sims.core.algorithms import all_algorithms, find_algorithm
from sims.core.loop.optimise import Optimiser
from sims.core.loop.protocols import PolicySpec
from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import Batch, OutputRequest
from sims.core.schedule import Schedule
from sims.environments import BanditOverlap, BanditR1, BanditR2, Contextual, TokenTree, ToyEnvironment
from sims.experiments.executor import SHARED, execute
from sims.experiments.experiment import Experiment
from sims.experiments.runner import stacks
from sims.policies import MLP, FineTuned, Table

PAPER_MLP = MLP(hidden=(50, 256, 256), features="uniform", normalise_first=True, fit_steps=5)
ENVIRONMENTS: dict[str, tuple[ToyEnvironment, PolicySpec]] = {
    "table": (BanditR2(), Table()),
    "prompts": (BanditR1(num_prompts=4, label_temperature=0.3, flip_rate=0.1), Table()),
    "tree": (TokenTree(num_prompts=3), Table()),
    "learned": (Contextual(num_prompts=3, reward_model="mlp", reward_model_steps=20), Table()),
    "mlp": (BanditR1(num_prompts=4), MLP(hidden=(16, 16), fit_steps=5)),
    "paper_mlp": (BanditR1(num_prompts=2), PAPER_MLP),
}


def experiment(kind: str, where: str = "table", **changes: object) -> Experiment:
    environment, policy = ENVIRONMENTS[where]
    cls = find_algorithm(kind)
    return Experiment(
        name=kind,
        environment=environment,
        policy=policy,
        algorithm=cls(),
        schedule=Schedule(batch_size=8, num_generations=max(2, cls.min_generations)),
        optimiser=Optimiser(learning_rate=0.05),
        updates=6,
        evaluations=3,
        runs=2,
    ).replace(**changes)


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray], runs: slice = slice(None)) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        other = b[name] if name in SHARED else b[name][runs]
        assert np.array_equal(value, other, equal_nan=True), name


# Every algorithm on one environment, and every environment with one algorithm of each kind; the others are long.
OF_EACH_KIND = ("ppo", "dpo", "kto", "awr")
CASES = [
    pytest.param(a, p, marks=[] if p == "tree" or a in OF_EACH_KIND else pytest.mark.long)
    for a in all_algorithms()
    for p in ENVIRONMENTS
    if p != "paper_mlp" or a in ("ppo", "dpo")
]


@pytest.mark.parametrize(("algorithm", "where"), CASES)
def test_two_runs_among_64_are_two_runs(algorithm: str, where: str) -> None:
    few = experiment(algorithm, where, updates=3)
    assert_same(execute([few])[0], execute([few.replace(runs=64)])[0], slice(0, 2))


@pytest.mark.parametrize("algorithm", ["ppo", "dpo", "rwr"])
def test_two_runs_in_the_largest_stack_of_tables_are_two_runs(algorithm: str) -> None:
    few = experiment(algorithm, "prompts", updates=3)
    assert_same(execute([few])[0], execute([few.replace(runs=Table.largest_stack)])[0], slice(0, 2))


@pytest.mark.parametrize("algorithm", all_algorithms())
def test_one_seed_gives_one_record_and_touches_no_global_generator(algorithm: str) -> None:
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 (the global generator is what this test watches)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = (execute([experiment(algorithm, "tree", updates=3)])[0] for _ in range(2))
    assert_same(first, second)
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])  # noqa: NPY002
    other = execute([experiment(algorithm, "tree", updates=3, seed=1)])[0]
    assert not np.array_equal(first["reward"], other["reward"])


@pytest.mark.parametrize("algorithm", all_algorithms())
def test_stacking_arms_changes_no_bit(algorithm: str) -> None:
    arms = [
        experiment(algorithm, "tree", updates=3, optimiser=Optimiser(learning_rate=0.02)),
        experiment(algorithm, "tree", updates=3, optimiser=Optimiser(learning_rate=0.3), seed=4, runs=3),
    ]
    if "beta" in arms[0].algorithm.per_run_fields() and arms[0].algorithm.beta > 0:
        arms.append(arms[0].replace(algorithm=arms[0].algorithm.replace(beta=0.7)))
    assert len(stacks(arms)) == 1
    for arm, together in zip(arms, execute(arms), strict=True):
        assert_same(execute([arm])[0], together)


SIDE_BY_SIDE: dict[str, list[ToyEnvironment]] = {
    "bandits": [BanditR1(), BanditOverlap(overlap=1e-3), BanditR2(width=20.0), BanditR1()],
    "trees": [TokenTree(num_prompts=3, table_seed=seed) for seed in (0, 1)],
    "contextual": [
        Contextual(num_prompts=3, best_in_data=False, best_mass=1e-3),
        Contextual(num_prompts=3, tilt="losers", off_diagonal=0.2, table_seed=5),
    ],
}


@pytest.mark.parametrize("policy", ["table", "mlp"])
@pytest.mark.parametrize("environments", SIDE_BY_SIDE)
@pytest.mark.parametrize("algorithm", ["ppo", "dpo", "rwr", "nash_md"])
def test_problems_that_differ_in_numbers_run_side_by_side_and_change_no_bit(
    algorithm: str, environments: str, policy: str
) -> None:
    chosen = Table() if policy == "table" or environments == "trees" else MLP(hidden=(16, 16), fit_steps=5)
    arms = [
        experiment(algorithm, environment=spec, policy=chosen, runs=2 + i, seed=i % 2)
        for i, spec in enumerate(SIDE_BY_SIDE[environments])
    ]
    assert len(stacks(arms)) == 1
    for arm, together in zip(arms, execute(arms), strict=True):
        assert_same(execute([arm])[0], together)


@pytest.mark.parametrize(
    "changes",
    [{"reward_model": "mlp", "reward_model_steps": 20}, {"reward_model": "table"}, {"label_temperature": 0.5}],
)
def test_recorded_pairs_and_reward_models_stay_with_their_problem(changes: dict[str, object]) -> None:
    environments = [Contextual(num_prompts=3, table_seed=seed, **changes) for seed in (0, 1)]
    recorded = {"algorithm": find_algorithm("dpo")(), "schedule": Schedule(batch_size=18, source="dataset")}
    for learner in ({}, recorded, recorded | {"policy": FineTuned()}):
        arms = [experiment("rloo", environment=spec, **learner) for spec in environments]
        assert len(stacks(arms)) == 1
        for arm, together in zip(arms, execute(arms), strict=True):
            assert_same(execute([arm])[0], together)


def test_arms_that_differ_in_more_than_numbers_do_not_stack() -> None:
    arms = [experiment("dpo"), experiment("rloo"), experiment("dpo", "tree"), experiment("dpo", precision="float64")]
    penalty = [experiment("rloo", algorithm=find_algorithm("rloo")(beta=beta)) for beta in (0.0, 0.1, 0.2)]
    assert len(stacks(arms)) == 4
    assert sorted(len(stack) for stack in stacks(penalty)) == [1, 2]  # without a penalty no reference is scored


def test_a_diverged_run_is_frozen_and_marked_and_the_others_go_on() -> None:
    # Offline: a policy that has collapsed would draw equal responses, whose margin is 0 however wild it is.
    offline = experiment("ipo", schedule=Schedule(batch_size=8, sync_every_updates=math.inf))
    arms = [offline.replace(optimiser=Optimiser(method="sgd", learning_rate=rate)) for rate in (1e30, 0.01)]
    wild, calm = execute(arms)
    assert (wild["diverged_at"] > 0).all()
    assert (calm["diverged_at"] == -1).all()
    assert_same(execute([arms[1]])[0], calm)


def test_algorithms_that_share_noise_draw_the_same_first_responses() -> None:
    """Paired comparisons rest on it: the same seed asks the same prompts and uses the same uniforms."""
    records = [execute([experiment(name, "tree", updates=1, evaluations=1)])[0] for name in ("best_of_n", "rloo")]
    assert np.array_equal(records[0]["logp_ref"], records[1]["logp_ref"])


def test_offline_draws_never_follow_the_policy() -> None:
    """With s = inf the responses are those of the initial policy, whatever the learning rate."""
    never = Schedule(batch_size=8, sync_every_updates=math.inf)
    slow, fast = (
        execute([experiment("dpo", schedule=never, optimiser=Optimiser(learning_rate=rate))])[0] for rate in (1e-9, 1.0)
    )
    assert np.array_equal(slow["samples"], fast["samples"])
    assert slow["staleness"][-1] == 5
    assert not np.allclose(slow["reward"][:, -1], fast["reward"][:, -1])


@pytest.mark.parametrize("where", ENVIRONMENTS)
def test_values_frozen_at_collection_do_not_follow_the_critic(where: str) -> None:
    environment, spec = ENVIRONMENTS[where]
    noise = Noise.of(0, 2)
    policy = spec.build(environment, noise, True, torch.float64)
    prompts = torch.zeros((2, 3), dtype=torch.int64)
    responses = torch.zeros((2, 3, 1, environment.space.length), dtype=torch.int64)
    with torch.no_grad():
        frozen = policy.forward(Batch(prompts, responses, responses == 0), OutputRequest(values=True)).values
        before = frozen.clone()
        for parameter in policy.parameters():
            parameter.add_(1.0)
    assert torch.equal(frozen, before)
