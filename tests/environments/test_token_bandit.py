"""The token bandit: its rewards by hand, what its records close with, and evaluation along samples against sums."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sims.__main__ import main
from sims.core.algorithms import all_algorithms, find_algorithm
from sims.core.loop.optimise import Optimiser
from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import Batch
from sims.core.objectives.divergences import entropy, kl_policy_ref
from sims.core.schedule import Schedule
from sims.core.spec import SpecError
from sims.environments import TokenBanditR1, TokenBanditR2, TokenBanditSmall
from sims.experiments.evaluation import (
    EvaluationNoise,
    SampledEvaluation,
    entropy_after_prefixes,
    explained,
    kl_after_prefixes,
    kl_of_responses,
)
from sims.experiments.executor import SHARED, execute
from sims.experiments.experiment import Experiment
from sims.experiments.measures import final_scores, kl_of_best_response, optima, scores
from sims.experiments.runner import stacks
from sims.experiments.store import Record
from sims.policies import Transformer
from sims.policies.transformer import fitted

TINY = Transformer(num_layers=2, num_heads=2, hidden_size=8, fit_steps=3)
ENVIRONMENTS = {
    "sampled": (TokenBanditR2(vocabulary=12, length=3, num_prompts=4, peak=4, width=2, evaluation_samples=8), TINY),
    "small": (TokenBanditSmall(num_prompts=3), TINY),
    "paper": (TokenBanditR1(evaluation_samples=8), Transformer(fit_steps=2)),
}
# What differs between algorithms is proven on tables and networks (tests/experiments/test_runs.py): here those that
# ask the transformer for something else. Values; probes; a mixture with the reference; pairs; winners; a sum of tokens.
OF_EACH_KIND = ("ppo", "kto", "nash_md", "dpo", "best_of_n", "rloo")


def experiment(kind: str = "rloo", where: str = "sampled", **changes: object) -> Experiment:
    environment, policy = ENVIRONMENTS[where]
    cls = find_algorithm(kind)
    schedule = Schedule(batch_size=4, num_generations=max(2, cls.min_generations))
    arm = Experiment(kind, environment, policy, cls(), schedule, Optimiser(learning_rate=0.01))
    return arm.replace(**({"updates": 4, "evaluations": 2, "runs": 2} | changes))


def test_rewards_by_hand() -> None:
    spec = TokenBanditR1(num_prompts=4, length=2)
    assert spec.prompt_tokens().tolist() == [12, 37, 62, 87]
    assert TokenBanditR1().prompt_tokens().tolist() == list(range(100))
    responses = torch.tensor([[[[70, 80], [60, 70]], [[70, 70], [20, 70]]]])
    prompts = torch.tensor([[2, 0]])
    bare, counted = (s.build(torch.float64, Noise.of(0, 1)) for s in (spec, spec.replace(reward_prompt=True)))
    near, far = np.exp(-1.0), np.exp(-25.0)  # 10 and 50 tokens from the peak, at width 10
    tokens = np.array([[1 + near, near + 1], [2, far + 1]])
    assert bare.reward(prompts, responses)[0].numpy() == pytest.approx(tokens / 2)
    prompt = np.exp(-np.array([[0.8**2], [5.8**2]]))  # tokens 62 and 12
    assert counted.reward(prompts, responses)[0].numpy() == pytest.approx((tokens + prompt) / 3)


def test_the_papers_ceiling_and_overlaps() -> None:
    """0.918 with the prompt in the mean; 0.046 and 0.45 of a token's mass lie within ±10 of the peaks."""
    for spec, mass in ((TokenBanditR1(), 0.046), (TokenBanditR2(), 0.45)):
        inside = np.abs(np.arange(100) - spec.peak) <= spec.width
        assert spec.data_policy()[inside].sum() == pytest.approx(mass, abs=0.005)
    for reward_prompt, ceiling in ((False, 1.0), (True, 0.918)):
        arm = experiment(where="paper", updates=1, evaluations=1)
        found = execute([arm.replace(environment=arm.environment.replace(reward_prompt=reward_prompt))])[0]
        assert found["best_reward"] == pytest.approx(np.full(2, ceiling), abs=5e-4)


def test_rewards_of_the_small_one_by_hand() -> None:
    responses, _ = TokenBanditSmall().space.all_responses
    rewards = dict(zip(map(tuple, responses.tolist()), TokenBanditSmall().rewards()[0], strict=True))
    assert len(rewards) == 341  # 1 + 4 + 16 + 64·5
    bump = [np.exp(-float((token - 3) ** 2)) for token in range(5)]
    assert rewards[3, 3, 3, 3] == 1.0
    assert rewards[0, 0, 0, 0] == pytest.approx(bump[0])  # EOS at once: one token
    assert rewards[2, 0, 0, 0] == pytest.approx((bump[2] + bump[0]) / 2)
    assert rewards[2, 4, 3, 0] == pytest.approx((bump[2] + bump[4] + bump[3] + bump[0]) / 4)


@pytest.mark.parametrize(
    "changes", [{"num_prompts": 101}, {"peak": 100.0}, {"vocabulary": 50}, {"evaluation_samples": 1}]
)
def test_what_cannot_be(changes: dict[str, float]) -> None:
    with pytest.raises(SpecError):
        TokenBanditR1(**changes)


def test_evaluation_along_samples_agrees_with_the_sum_over_all_responses() -> None:
    """Of 20,000 responses; beyond 6 standard errors by chance with probability 2e-9 a number."""
    spec, samples = TokenBanditSmall(num_prompts=3), 20_000
    policy = TINY.build(spec, Noise.of(3, 2), False, torch.float64)
    evaluation = SampledEvaluation(
        SimpleNamespace(policy=policy, noise=Noise.of(3, 2)), spec.build(torch.float64, Noise.of(3, 2)), samples
    )
    for parameter in policy.parameters():  # a policy that is not its reference, nor like the data policy
        parameter.mul_(1.7)
    row = evaluation.row()
    logp, logp_ref = policy.all_log_probs(), evaluation.reference.all_log_probs()
    responses, mask = spec.space.all_responses
    every, prompts = responses.expand(2, 3, *responses.shape), torch.arange(3).expand(2, 3)
    token_logp, token_logp_ref = (p.token_log_probs(prompts, every) for p in (policy, evaluation.reference))
    exact = {
        "reward": ((logp.exp() * torch.from_numpy(spec.rewards())).sum(-1), torch.from_numpy(spec.rewards())),
        "kl_policy_ref": (
            kl_policy_ref(logp, logp_ref),
            (kl_policy_ref(token_logp, token_logp_ref) * mask).sum(-1),
        ),
        "entropy": (entropy(logp), (entropy(token_logp) * mask).sum(-1)),
    }
    for name, (of_prompt, of_response) in exact.items():
        mean = of_prompt.mean(-1)
        error = ((logp.exp() * (of_response - mean[:, None, None]).square()).sum(-1).mean(-1) / samples).sqrt()
        assert ((row[name] - mean).abs() < 6 * error).all(), name
    assert exact["kl_policy_ref"][0].min() > 0.05
    assert (entropy(logp) - entropy(logp_ref)).abs().min() > 0.05
    assert torch.equal(row["gold"], row["reward"])


def test_responses_weighed_by_their_probability_give_the_exact_kl_and_entropy() -> None:
    """Every estimator of a record's KL and entropy has the exact value as its mean; without sampling."""
    spec = TokenBanditSmall(num_prompts=2)
    policy, reference = (TINY.build(spec, Noise.of(seed, 2), False, torch.float64) for seed in (0, 1))
    responses, mask = spec.space.all_responses
    shape = (2, 2, *responses.shape)
    prompts, every = torch.arange(2).expand(2, 2), responses.expand(shape)
    token_logp, token_logp_ref = (p.token_log_probs(prompts, every) for p in (policy, reference))
    logp, logp_ref = policy.all_log_probs(), reference.all_log_probs()
    chosen, chosen_ref = (p.forward(Batch(prompts, every, mask.expand(shape))).logp for p in (policy, reference))
    for of_response, exact in (
        (kl_after_prefixes(token_logp, token_logp_ref, mask), kl_policy_ref(logp, logp_ref)),
        (kl_of_responses(chosen, chosen_ref, mask), kl_policy_ref(logp, logp_ref)),
        (entropy_after_prefixes(entropy(token_logp), mask), entropy(logp)),
    ):
        torch.testing.assert_close((logp.exp() * of_response).sum(-1), exact, rtol=0, atol=1e-12)


def test_what_a_critic_explains() -> None:
    """Rewards 0 and 1 of two responses of two tokens: the mean explains nothing, the reward itself all, a value that
    knows it at the second token alone a half; a constant more changes nothing."""
    rewards, mask = torch.tensor([[[0.0], [1.0]]]).mT.reshape(1, 1, 2), torch.ones(1, 1, 2, 2, dtype=torch.bool)
    mean, late = torch.full((1, 1, 2, 2), 0.5), torch.tensor([[[[0.5, 0.0], [0.5, 1.0]]]])
    known = torch.tensor([[[[0.0, 0.0], [1.0, 1.0]]]])
    for values, share in ((mean, 0.0), (mean + 7.0, 0.0), (known, 1.0), (late, 0.5), (late - 3.0, 0.5), (-known, -3.0)):
        assert explained(values, rewards, mask).tolist() == pytest.approx([share], abs=1e-6)
    padded = torch.tensor([[[[0.0, 9.0], [1.0, 1.0]]]])  # a first response of one token
    assert explained(padded, rewards, mask & (padded < 9.0)).tolist() == pytest.approx([1.0], abs=1e-6)
    assert explained(known, torch.ones(1, 1, 2), mask).isnan().all()


def test_records_of_algorithms_with_a_critic_alone_have_what_it_explains() -> None:
    for name, has_critic in (("ppo", True), ("rloo", False)):
        assert ("values_explained" in execute([experiment(name, evaluations=2)])[0]) == has_critic


def test_looking_changes_no_run() -> None:
    """However often and with however many samples a policy is evaluated, its updates are the same, bit for bit."""
    once = execute([experiment("ppo", evaluations=1)])[0]
    often = execute([experiment("ppo", evaluations=4)])[0]
    arm = experiment("ppo", evaluations=1)
    wide = execute([arm.replace(environment=arm.environment.replace(evaluation_samples=32))])[0]
    for name in ("loss", "grad_norm"):
        assert np.array_equal(once[name][:, -1], often[name][:, -1])
        assert np.array_equal(once[name][:, -1], wide[name][:, -1])


def test_what_is_evaluated_was_not_trained_on() -> None:
    runs = [(0, 0), (0, 1)]
    training, looking = Noise(runs).uniforms("responses", 3), EvaluationNoise(runs).uniforms("responses", 3)
    assert not torch.isclose(training, looking).any()


def test_arms_of_one_seed_are_looked_at_with_the_same_uniforms() -> None:
    first, second = (execute([experiment(name)])[0] for name in ("rloo", "dpo"))
    for name in ("reference_reward", "kl_of_best"):
        assert np.array_equal(first[name], second[name])
    assert np.array_equal(first["gold"][:, 0], first["reference_reward"])


def test_scores_and_optima_of_what_cannot_be_listed() -> None:
    arm = experiment("best_of_n", updates=60, evaluations=3)
    record = Record(arm.to_json(), execute([arm])[0], {})
    assert (scores(record)[:, 0] == 0).all()
    assert (final_scores(record) > 0.1).all()
    (best,) = optima(record, arm)
    assert best.reward == pytest.approx(1.0) and best.score == 1.0
    assert best.kl_policy_ref == kl_of_best_response(record) > 3 * -np.log(0.9)
    assert max(array.size for array in record.arrays.values()) <= 2 * 4  # runs × points: no distribution is kept


def test_the_kl_of_the_best_response_is_minus_its_log_prob() -> None:
    arm = experiment(updates=1, evaluations=1)
    noise = Noise([(0, 0), (0, 1)])
    reference = arm.policy.build(arm.environment, noise, False, torch.float32)
    prompts = torch.arange(4).expand(2, 4)
    best = torch.full((2, 4, 1, 3), 4)
    logp = reference.forward(Batch(prompts, best, torch.ones_like(best, dtype=torch.bool))).logp.sum(-1)
    found = execute([arm])[0]["kl_of_best"]
    assert found == pytest.approx(-logp.mean((-2, -1)).numpy(), rel=1e-6)


def assert_two_among_eight_are_two(algorithm: str, where: str) -> None:
    few = experiment(algorithm, where, updates=2)  # the second from weights that differ from run to run
    alone, among = execute([few])[0], execute([few.replace(runs=8)])[0]
    for name, value in alone.items():
        assert np.array_equal(value, among[name] if name in SHARED else among[name][:2], equal_nan=True), name


@pytest.mark.parametrize("where", ["sampled", "small"])
@pytest.mark.parametrize("algorithm", OF_EACH_KIND)
def test_two_runs_among_eight_are_two_runs(algorithm: str, where: str) -> None:
    assert_two_among_eight_are_two(algorithm, where)


@pytest.mark.long
@pytest.mark.parametrize("where", ["sampled", "small"])
@pytest.mark.parametrize("algorithm", [kind for kind in all_algorithms() if kind not in OF_EACH_KIND])
def test_two_runs_among_eight_are_two_runs_with_every_other_algorithm(algorithm: str, where: str) -> None:
    assert_two_among_eight_are_two(algorithm, where)


@pytest.mark.parametrize("algorithm", ["ppo", "ipo"])
def test_so_they_are_at_the_papers_size(algorithm: str) -> None:
    few = experiment(algorithm, "paper", updates=2)
    alone, among = execute([few])[0], execute([few.replace(runs=8)])[0]
    single = execute([few.replace(runs=1)])[0]
    for name, value in alone.items():
        if name not in SHARED:
            assert np.array_equal(value, among[name][:2], equal_nan=True), name
            assert np.array_equal(value[:1], single[name], equal_nan=True), name


def test_the_command_line_runs_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    line = "--environment token-bandit-r2 --policy transformer --fit-steps 2 --num-layers 1 --length 2 --updates 2"
    line += f" --evaluations 1 --runs 2 --batch-size 2 --results {tmp_path}"
    assert main([*line.split(), "--plot", str(tmp_path / "run.png")]) == 0
    printed = capsys.readouterr().out
    assert "largest reward" in printed and "2 runs, 2 updates" in printed
    assert main(["--environment", "token-bandit-r2", "--results", str(tmp_path)]) == 2
    assert "needs an environment whose responses can be listed" in capsys.readouterr().err


def test_arms_of_one_stack_start_alike_and_learn_apart() -> None:
    arms = [experiment("dpo"), experiment("dpo", optimiser=Optimiser(learning_rate=0.3), runs=3)]
    arms.append(experiment("dpo", seed=4))
    together = execute(arms)
    for arm, found in zip(arms, together, strict=True):
        fitted.cache_clear()  # so that nothing is alike for being the same tensor
        for name, value in execute([arm])[0].items():
            assert np.array_equal(value, found[name], equal_nan=True), name
    assert np.array_equal(together[0]["kl_of_best"], together[1]["kl_of_best"][:2])
    assert not np.array_equal(together[0]["kl_of_best"], together[2]["kl_of_best"])


def test_stacks_are_no_larger_than_their_policy_allows() -> None:
    found = stacks([experiment(runs=10, seed=seed) for seed in range(9)])
    assert [sum(arm.runs for arm in stack) for stack in found] == [30, 30, 30]  # of at most 40, equally many in each
