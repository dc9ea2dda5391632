"""Every array of a record is held against a value that was derived by hand, or by another way: `HELD` says where."""

from __future__ import annotations

from math import log
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import sims
from sims.core.objectives.preferences import Labeller
from sims.environments.drifting import DriftingEnvironment
from sims.environments.learned_reward import LearnedReward
from sims.environments.proxy import ProxyEnvironment
from sims.environments.space import TokenSpace
from sims.experiments.evaluation import DeployedEvaluation, ExactEvaluation
from sims.experiments.record_schema import SCHEMA

TESTS = Path(__file__).parents[1]
LOOP = "experiments/test_record_loop.py"
SAMPLES = "environments/test_token_bandit.py"
HELD = {
    **dict.fromkeys(("updates", "samples", "staleness"), f"{LOOP}::test_the_counts_of_a_schedule_are_those_of_a_run"),
    "diverged_at": f"{LOOP}::test_where_training_cannot_go_on_the_record_is_nan_with_the_counts_of_its_schedule",
    **dict.fromkeys(("logp_chosen", "logp_rejected"), "experiments/test_pair_log_probs.py::test_both_responses"),
    **dict.fromkeys(
        ("pool_logp_chosen", "pool_logp_rejected", "unpaired_mass_ref", "unpaired_mass_final"),
        "experiments/test_pool_evaluation.py::",
    ),
    **dict.fromkeys(("first_logp_winner", "first_logp_loser"), "llm/training/test_metrics_by_hand.py::test_first"),
    **dict.fromkeys(
        ("finished", "token_entropy"), "llm/training/test_same_record.py::test_what_a_language_model_measures_of_its"
    ),
    "distance": "llm/training/test_metrics_by_hand.py::test_distance",
    "values_explained": f"{SAMPLES}::test_what_a_critic_explains",
    "kl_of_best": f"{SAMPLES}::test_the_kl_of_the_best_response_is_minus_its_log_prob",
}
HALF, QUARTER = 0.5, 0.25
LOGP = torch.tensor([[[QUARTER, HALF, QUARTER], [0.2, 0.3, HALF]]], dtype=torch.float64).log()
LOGP_REF = torch.tensor([[[QUARTER, QUARTER, HALF], [HALF, QUARTER, QUARTER]]], dtype=torch.float64).log()


def tensor(*values: Any) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def proxy() -> ProxyEnvironment:
    """One run, two prompts, three responses; gold is not what the learner sees, and has two parts."""
    learned = LearnedReward(tensor([1.0, 0, 0], [0, 0, 2]), torch.tensor([0.3]), torch.tensor([0.75]))
    covered = torch.tensor([[[True, True, False], [True, False, False]]])
    parts = {"first": tensor([1.0, 0, 0], [0, 1, 0]), "second": tensor([-1.0, 2, 0], [0, 0, 4])}
    data: Any = SimpleNamespace(size=0)
    gold = tensor([-1.0, 1, 4], [2, 0, 0])
    return ProxyEnvironment(TokenSpace(3), gold, Labeller(), covered, data, learned, parts=parts)


BY_HAND = {  # the first prompt's terms, then the second's, of which the mean is recorded
    "gold": ((-0.25 + 0.5 + 1.0) + 0.2 * 2) / 2,
    "reward": (0.25 * 1 + 0.5 * 2) / 2,
    "gold_first": (0.25 + 0.3) / 2,
    "gold_second": ((-0.25 + 1.0) + 0.5 * 4) / 2,
    "kl_policy_ref": (0.25 * log(2) + 0.2 * log(0.4) + 0.3 * log(1.2) + 0.5 * log(2)) / 2,
    "entropy": (1.5 * log(2) - 0.2 * log(0.2) - 0.3 * log(0.3) - 0.5 * log(0.5)) / 2,
    "unseen_mass": (0.25 + 0.8) / 2,
    # A response wins against what is worse under π_ref, and half of what is as good
    "win_rate": ((0.25 * 0.125 + 0.5 * 0.375 + 0.25 * 0.75) + (0.2 * 0.75 + 0.3 * 0.25 + 0.5 * 0.25)) / 2,
    # Pairs that are unequal by gold; π/π_ref is (1, 2, ½) and (.4, 1.2, 2), so that 0-1 alone is ordered as gold
    "policy_accuracy": (0.0625 / 0.3125 + 0) / 2,
    "policy_accuracy_on_policy": (0.125 / 0.3125 + 0) / 2,
    # The proxy is right of none, and ties 1-2 of the first prompt and 0-1 of the second
    "proxy_accuracy": (0.5 * 0.125 / 0.3125 + 0.5 * 0.125 / 0.25) / 2,
    "proxy_accuracy_on_policy": (0.5 * 0.125 / 0.3125 + 0.5 * 0.06 / 0.16) / 2,
    "reference_reward": ((-0.25 + 0.25 + 2.0) + 1.0) / 2,
    "best_reward": (4 + 2) / 2,
    "worst_reward": (-1 + 0) / 2,
    "best_mass_ref": (0.5 + 0.5) / 2,  # of the third response to the first prompt, the first to the second
    "best_mass_final": (0.25 + 0.2) / 2,
    "best_first": 1.0,
    "best_second": (2 + 4) / 2,
    "worst_first": 0.0,
    "worst_second": (-1 + 0) / 2,
    "reward_model_loss": 0.3,
    "reward_model_accuracy": 0.75,
}


def test_means_over_prompts_of_sums_over_responses() -> None:
    policy = SimpleNamespace(all_log_probs=lambda: LOGP_REF)
    environment = proxy()
    evaluation = ExactEvaluation(SimpleNamespace(policy=policy), environment)  # type: ignore[arg-type]
    policy.all_log_probs = lambda: LOGP
    found = evaluation.row() | evaluation.closing()
    assert {name: float(found[name]) for name in BY_HAND} == pytest.approx(BY_HAND, rel=1e-6)
    tables = {"logp_ref": LOGP_REF, "logp_final": LOGP, "rewards": environment.rewards, "covered": environment.covered}
    assert all(found[name] is table or torch.equal(found[name], table) for name, table in tables.items())
    assert torch.equal(found["learned_rewards"], tensor([1.0, 0, 0], [0, 0, 2]))
    assert set(found) == set(BY_HAND) | set(tables) | {"learned_rewards"}


DRIFTING = {  # users ask the first prompt with probability ¾, the second, the gold set's, with ¼
    "reference_now": 0.75 * 0.25 + 0.25 * (0.5 * 4),
    "best_now": 0.75 * 1 + 0.25 * 4,
    "length": 0.75 * (0.5 * 100 + 0.5 * 200) + 0.25 * 100,  # 100·e^{z/2}
    "exploit": 0.75 * (0.25 + 0.25) + 0.25 * (-0.25 * 2),  # (π − π_ref)·what the bias is about
    "gold_set": 0.75 * 4,
    "deployed_gold": 0.75 * 0.25 + 0.25 * (0.5 * 4),  # of the sampler, which is the reference here
    "deployed_gold_set": 0.5 * 4,
    "refused": 2,
}


def test_what_drifts_is_weighed_as_users_ask() -> None:
    tables = {
        "rewards": tensor([1.0, 0], [0, 4]),
        "gold": tensor([1.0, 0], [0, 4]),
        "seen": tensor([9.0, 9], [9, 9]),
        "popularity": tensor([0.75, 0.25]),
        "lengths": tensor([0, 2 * log(2)], [0, 0]),
        "biased": tensor([1.0, -1], [2, 0]),
    }
    environment = DriftingEnvironment(TokenSpace(2), Labeller(), tables, 10, gold_prompts=1)
    logp, logp_ref = tensor([0.5, 0.5], [0.25, 0.75]).log(), tensor([0.25, 0.75], [0.5, 0.5]).log()
    found = environment.measures(logp, logp_ref)
    collector = SimpleNamespace(sampler=SimpleNamespace(all_log_probs=lambda: logp_ref), refused=torch.tensor([2]))
    deployed = DeployedEvaluation(SimpleNamespace(collector=collector), environment)  # type: ignore[arg-type]
    assert {name: float(x) for name, x in (found | deployed.row()).items()} == pytest.approx(DRIFTING, rel=1e-12)
    assert float(environment.mean(logp.exp() * environment.all_rewards())) == pytest.approx(0.75 * 0.5 + 0.25 * 3)


def test_loss_and_gradient_of_a_first_update() -> None:
    """At the reference h = 0, so that the loss is log 2 and the gradient −β/2·(e_w − e_l), or 0 for a tie, which not
    all of these six are."""
    record = sims.run(sims.DPO(beta=0.3), sims.BanditR1(), updates=1, runs=6, batch_size=1).record.arrays
    assert record["loss"][:, 1] == pytest.approx(log(2), rel=1e-6)
    norms = record["grad_norm"][:, 1]
    assert all(norm == pytest.approx(0.3 / 2 * 2**0.5, rel=1e-5) or norm == 0 for norm in norms) and norms.any()


def test_every_array_of_a_record_is_held_somewhere() -> None:
    here = {*BY_HAND, *DRIFTING, "loss", "grad_norm", "logp_ref", "logp_final", "rewards", "covered", "learned_rewards"}
    own = {name for name in SCHEMA if name not in here | set(HELD)}
    assert not own, f"derive it by hand here, or say in HELD where it is: {sorted(own)}"
    for name, where in HELD.items():
        file, _, test = where.partition("::")
        text = (TESTS / file).read_text(encoding="utf-8")
        assert f"def {test}" in text and (test or name in text), where
