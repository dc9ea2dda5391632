"""TRL 1.16 through `sims.checks`: what the tool finds by itself, of what our comparisons with TRL know.

The trainers are made as in `test_trl_contrastive.py` and `test_trl_policy_gradient.py`: without their constructors,
with models that look log-probs up. A response of the pair family becomes two tokens of half its log-prob each.
"""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from trl.trainer import dpo_trainer

from sims.checks import Report, check_loss
from tests.core.algorithms import test_trl_policy_gradient
from tests.core.algorithms.test_trl_contrastive import ORPOTrainer, bare


def trl_dpo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    loss_type: str = "sigmoid",
) -> Tensor:
    """DPOTrainer._compute_loss."""

    def model(logp: Tensor) -> Any:
        tokens = torch.stack([logp / 2, logp / 2], dim=-1)
        zeros = torch.zeros_like(tokens)
        outputs = SimpleNamespace(log_probs=tokens, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())
        return lambda **_: outputs

    trainer = bare(
        dpo_trainer.DPOTrainer,
        beta=beta,
        label_smoothing=label_smoothing,
        loss_types=[loss_type],
        loss_weights=[1.0],
        ld_alpha=None,
        f_divergence_type="reverse_kl",
        use_weighting=False,
        ref_model=model(torch.cat([ref_chosen, ref_rejected])),
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
    )
    ones = torch.ones(2 * len(chosen), 3, dtype=torch.int64)
    inputs = {"input_ids": ones, "attention_mask": ones, "completion_mask": torch.tensor([0, 1, 1]) * ones}
    with (
        patch.object(dpo_trainer, "disable_gradient_checkpointing", lambda *_: nullcontext()),
        # Whether peft is installed is read from its metadata at every call, which takes longer than the loss.
        patch.object(dpo_trainer, "is_peft_model", lambda _: False),
    ):
        return trainer._compute_loss(model(torch.cat([chosen, rejected])), inputs, return_outputs=False)


def trl_orpo(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float = 0.1) -> Tensor:
    """ORPOTrainer.odds_ratio_loss, with the likelihood of the chosen response."""
    return -chosen - bare(ORPOTrainer, beta=beta).odds_ratio_loss(chosen, rejected)[0]


def trl_grpo(
    logps: Tensor,
    old: Tensor,
    reference: Tensor,
    mask: Tensor,
    rewards: Tensor,
    beta: float = 0.0,
    loss_type: str = "grpo",
    scale_rewards: str = "group",
) -> Tensor:
    """GRPOTrainer, from rewards to the loss, of completions that are padded to the longest."""
    length = int(mask.sum(-1).max())
    cut = [x[..., :length] for x in (logps, old, reference, mask)]
    rollouts = SimpleNamespace(logp=cut[0], old=cut[1], reference=cut[2], mask=cut[3], rewards=rewards)
    with patch.object(test_trl_policy_gradient, "PROMPTS", len(rewards)):
        return test_trl_policy_gradient.trl_grpo(
            rollouts, loss_type, beta, scale_rewards=scale_rewards, max_completion_length=1
        )


def failed(report: Report) -> list[str]:
    return [outcome.tested.name for outcome in report.failures]


@pytest.mark.parametrize(("loss_type", "claim"), [("sigmoid", "dpo"), ("hinge", "slic")])
def test_what_is_right(loss_type: str, claim: str) -> None:
    """But for label smoothing: see below."""
    report = check_loss(trl_dpo, claim=claim, loss_type=loss_type, beta=0.3)
    assert failed(report) == ["options"], str(report)


def test_label_smoothing_does_nothing() -> None:
    report = check_loss(trl_dpo, claim="cdpo", beta=0.3, label_smoothing=0.2)
    assert failed(report) == ["options", "population_gradient"], str(report)
    violation = report["options"].violation
    assert violation is not None and "label_smoothing" in violation.trial.equation


def test_ipo_averages_over_tokens() -> None:
    report = check_loss(trl_dpo, claim="ipo", loss_type="ipo", beta=0.3)
    assert failed(report) == ["options", "population_gradient"], str(report)


def test_orpo_is_nan_where_a_probability_is_almost_1() -> None:
    """Whatever the width of the log-probs, TRL computes odds in float32, so that 1e-9 is too much to ask of it."""
    tried = ["shape", "direction", "float32", "probability_near_1", "extreme_log_probs", "options"]
    report = check_loss(trl_orpo, claim="orpo", only=tried)
    assert failed(report) == ["probability_near_1"], str(report)


TRIED = ["duplicated", "direction", "reward_shift", "equal_rewards", "other_prompts", "population_gradient"]


@pytest.mark.parametrize(
    ("loss_type", "scale_rewards", "found"),
    [
        ("grpo", "group", []),
        ("grpo", "none", ["population_gradient"]),
        ("dr_grpo", "group", ["population_gradient"]),  # the default: its name alone does not stop the division
        ("dr_grpo", "none", []),
    ],
)
def test_dr_grpo_still_divides_by_the_deviation(loss_type: str, scale_rewards: str, found: list[str]) -> None:
    report = check_loss(trl_grpo, "group", loss_type, loss_type=loss_type, scale_rewards=scale_rewards, only=TRIED)
    assert failed(report) == found, str(report)
