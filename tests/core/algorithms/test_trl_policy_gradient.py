"""GRPO, Dr. GRPO, DAPO, GSPO, CISPO and RLOO against TRL 1.16: from rewards and log-probs to the loss and its gradient.

TRL's trainers are made without their constructors, and what would sample, reward or run a model is replaced by numbers
looked up: its own code does the rest, advantages included. Both sides read the same float64 log-probs, so that losses
and gradients agree to 1e-6 relative. Where TRL differs, on purpose or by mistake, the test says so and pins it.
"""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_trainer import RLOOTrainer

from sims.core.algorithms import Algorithm
from sims.core.algorithms.clipped import CISPO, DAPO, GRPO, GSPO, DrGRPO
from sims.core.algorithms.policy_gradient import RLOO
from sims.core.objectives.advantages import standardised
from sims.core.objectives.batch import Batch, Outputs

PROMPTS, WIDTH = 4, 6
SEEDS = [0, 1, 2]


class Rollouts:
    """Random responses of 1 to WIDTH tokens, padded on the right. logp is a leaf; all float64.

    mask: (B, K, L); rewards: (B, K), the last prompt's all equal; logp, old, reference: (B, K, L), far enough apart
    that ratios leave every clip range on both sides.
    """

    def __init__(self, seed: int, generations: int = 3) -> None:
        generator = torch.Generator().manual_seed(seed)
        shape = (PROMPTS, generations, WIDTH)
        lengths = torch.randint(1, WIDTH + 1, (*shape[:2], 1), generator=generator)
        self.mask = torch.arange(WIDTH) < lengths
        self.mask[0, 0] = True  # padding is to the longest response
        self.rewards = torch.randn(shape[:2], generator=generator, dtype=torch.float64)
        self.rewards[-1] = 0.5
        noise = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
        self.old = noise[0] - 2.0
        self.reference = self.old + 0.5 * noise[1]
        self.logp = (self.old + 0.4 * noise[2]).requires_grad_()


def our_loss(algorithm: Algorithm, rollouts: Rollouts) -> Tensor:
    """The loss of one minibatch; NaN stands in every masked slot."""
    mask = rollouts.mask
    batch = Batch(
        prompts=torch.zeros(PROMPTS, dtype=torch.int64),
        responses=torch.zeros(mask.shape, dtype=torch.int64),
        mask=mask,
        rewards=rollouts.rewards,
        logp_sampler=rollouts.old.masked_fill(~mask, torch.nan),
        logp_ref=rollouts.reference.masked_fill(~mask, torch.nan) if algorithm.needs_reference else None,
    )
    targets, _ = algorithm.targets(batch, {})
    targets = algorithm.at_update(batch, targets, None)
    outputs = Outputs(logp=torch.where(mask, rollouts.logp, torch.nan))
    return algorithm.loss(outputs, batch, targets).sum()


def score(trainer_class: type, rollouts: Rollouts, beta: float, **settings: Any) -> tuple[Any, dict[str, Tensor]]:
    """A trainer of TRL's, and what its `_generate_and_score_completions` makes of the same rollouts."""
    generations = rollouts.rewards.shape[1]
    rows = PROMPTS * generations
    ids = [[1] * int(length) for length in rollouts.mask.sum(-1).flatten()]
    generated: tuple[Any, ...] = ([[1]] * rows, ids, None, [""] * rows, None, {}, None, None)
    if trainer_class is RLOOTrainer:
        generated = ([[1]] * rows, ids, [""] * rows)
    arguments = SimpleNamespace(
        report_to=[],
        gradient_accumulation_steps=1,
        steps_per_generation=1,
        per_device_train_batch_size=rows,
        gradient_checkpointing_kwargs=None,
        use_bias_correction_kl=False,
        delta=None,
    )
    accelerator = SimpleNamespace(
        device=torch.device("cpu"),
        num_processes=1,
        process_index=0,
        is_main_process=True,
        gather=lambda x: x,
        reduce=lambda x, reduction: x,
    )
    trainer = object.__new__(trainer_class)
    trainer.__dict__.update(
        args=arguments,
        accelerator=accelerator,
        model=model(rollouts.old),
        ref_model=model(rollouts.reference),
        beta=beta,
        num_generations=generations,
        num_iterations=2,  # a batch is used twice: the sampling policy's log-probs are kept
        current_gradient_accumulation_steps=1,
        environment_factories=None,
        environments=None,
        tools=None,
        pad_to_multiple_of=None,
        mask_truncated_completions=False,
        use_vllm=False,
        reward_weights=torch.ones(1, dtype=rollouts.rewards.dtype),
        reward_func_names=["judge"],
        reward_clip_range=None,
        normalize_advantages=False,
        multi_objective_aggregation="sum_then_normalize",
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
        _tokenizer=SimpleNamespace(pad_token_id=0),
        _generate=lambda prompts: generated,
        _calculate_rewards=lambda *a: rollouts.rewards.reshape(rows, 1),
        _get_per_token_logps_and_entropies=lambda model, *a, **k: (model.logp, torch.zeros_like(model.logp), None),
        _metrics={"train": defaultdict(list)},
        _logs=defaultdict(list) | {"rewards": defaultdict(list)},
        _pending_extra_logs={},
        _pending_metrics={},
        **settings,
    )
    return trainer, trainer._generate_and_score_completions([{"prompt": ""}] * rows)


def model(logp: Tensor) -> SimpleNamespace:
    """A model that knows its log-probs, (B, K, L), and nothing else."""
    return SimpleNamespace(training=True, is_gradient_checkpointing=False, logp=logp.flatten(0, 1))


def trl_grpo(rollouts: Rollouts, loss_type: str = "grpo", beta: float = 0.0, **settings: Any) -> Tensor:
    """TRL's GRPOTrainer at its default settings, but for those given."""
    defaults: dict[str, Any] = {
        "epsilon_low": 0.2,
        "epsilon_high": 0.2,
        "importance_sampling_level": "token",
        "scale_rewards": "group",
        "max_completion_length": 256,
    }
    trainer, inputs = score(GRPOTrainer, rollouts, beta, loss_type=loss_type, **defaults | settings)
    return trainer._compute_loss(model(rollouts.logp), inputs)


def trl_rloo(rollouts: Rollouts, beta: float = 0.0, epsilon: float = 0.2) -> Tensor:
    """TRL's RLOOTrainer."""
    trainer, inputs = score(RLOOTrainer, rollouts, beta, epsilon_low=epsilon, epsilon_high=epsilon)
    return trainer._compute_loss(model(rollouts.logp), inputs)


def same(ours: Tensor, theirs: Tensor, leaf: Tensor) -> bool:
    """Whether losses and gradients are equal to 1e-6, relative to the largest entry."""
    (a,), (b,) = (torch.autograd.grad(loss, leaf, retain_graph=True) for loss in (ours, theirs))
    assert b.abs().max() > 0
    close = (a - b).abs().max() <= 1e-6 * b.abs().max()
    return bool(close) and ours.item() == pytest.approx(theirs.item(), rel=1e-6)


LEVELS = ["token", "sequence"]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_grpo(seed: int, level: Any, scale: Any, beta: float) -> None:
    rollouts = Rollouts(seed)
    ours = GRPO(beta=beta, scale_rewards=scale, importance_sampling_level=level)
    theirs = trl_grpo(rollouts, beta=beta, scale_rewards=scale, importance_sampling_level=level)
    assert same(our_loss(ours, rollouts), theirs, rollouts.logp)


def test_the_deviation_is_ddof_1_in_trl() -> None:
    rollouts = Rollouts(0)
    assert not same(our_loss(GRPO(beta=0.0, ddof=0), rollouts), trl_grpo(rollouts), rollouts.logp)


@pytest.mark.parametrize("seed", SEEDS)
def test_asymmetric_clip(seed: int) -> None:
    rollouts = Rollouts(seed)
    ours = GRPO(beta=0.0, epsilon=0.1, epsilon_high=0.5)
    assert same(our_loss(ours, rollouts), trl_grpo(rollouts, epsilon_low=0.1, epsilon_high=0.5), rollouts.logp)


@pytest.mark.parametrize("seed", SEEDS)
def test_gspo_is_grpo_at_the_level_of_sequences(seed: int) -> None:
    """TRL has no GSPO of its own: its page on papers sets importance_sampling_level and the two clip ranges."""
    rollouts = Rollouts(seed)
    theirs = trl_grpo(rollouts, importance_sampling_level="sequence", epsilon_low=3e-4, epsilon_high=4e-4)
    assert same(our_loss(GSPO(), rollouts), theirs, rollouts.logp)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("level", LEVELS)
def test_dr_grpo(seed: int, level: Any) -> None:
    rollouts = Rollouts(seed)
    ours = our_loss(DrGRPO(constant_length=256, importance_sampling_level=level, beta=0.1), rollouts)
    settings = {"loss_type": "dr_grpo", "importance_sampling_level": level, "beta": 0.1}
    assert same(ours, trl_grpo(rollouts, scale_rewards="none", **settings), rollouts.logp)
    # loss_type alone is half of Dr. GRPO in TRL: it still divides by the group's deviation.
    assert not same(ours, trl_grpo(rollouts, **settings), rollouts.logp)
    half = DrGRPO(constant_length=256, importance_sampling_level=level, beta=0.1, scale_rewards="group")
    assert same(our_loss(half, rollouts), trl_grpo(rollouts, **settings), rollouts.logp)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("level", LEVELS)
def test_dapo(seed: int, level: Any) -> None:
    """TRL does no dynamic sampling: the tokens of a group of equal rewards stay in its denominator."""
    rollouts = Rollouts(seed)
    theirs = trl_grpo(rollouts, "dapo", epsilon_high=0.28, importance_sampling_level=level)
    ours = DAPO(drop_equal_groups=False, importance_sampling_level=level)
    assert same(our_loss(ours, rollouts), theirs, rollouts.logp)
    dropped = our_loss(ours.replace(drop_equal_groups=True), rollouts)
    kept, every = rollouts.mask[:-1].sum(), rollouts.mask.sum()
    assert same(dropped, theirs * every / kept, rollouts.logp)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("level", LEVELS)
def test_cispo(seed: int, level: Any) -> None:
    """TRL's epsilon_high is the bound itself, ours and the paper's is how far above 1 the bound lies."""
    rollouts = Rollouts(seed)
    theirs = trl_grpo(rollouts, "cispo", epsilon_high=1.05, importance_sampling_level=level)
    ours = CISPO(epsilon_high=0.05, importance_sampling_level=level)
    assert same(our_loss(ours, rollouts), theirs, rollouts.logp)
    assert not same(our_loss(ours.replace(epsilon_high=1.05), rollouts), theirs, rollouts.logp)
    # TRL has no bound below; the paper's formula has one, and its experiments none.
    assert not same(our_loss(ours.replace(epsilon=0.05), rollouts), theirs, rollouts.logp)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_rloo_with_a_clipped_ratio(seed: int, beta: float) -> None:
    rollouts = Rollouts(seed)
    theirs = trl_rloo(rollouts, beta)
    assert same(our_loss(RLOO(beta=beta, epsilon=0.2), rollouts), theirs, rollouts.logp)
    # Without `epsilon` ours is Ahmadian et al.'s: no ratio. TRL's is another loss once the policy has moved ...
    assert not same(our_loss(RLOO(beta=beta), rollouts), theirs, rollouts.logp)


def test_rloo_without_a_ratio_on_fresh_samples() -> None:
    """... and has the same gradient on fresh samples, where its loss is −mean A and not −mean A·ℓ."""
    rollouts = Rollouts(0)
    rollouts.logp = rollouts.old.clone().requires_grad_()
    ours, theirs = our_loss(RLOO(beta=0.3), rollouts), trl_rloo(rollouts, 0.3)
    (a,), (b,) = (torch.autograd.grad(loss, rollouts.logp) for loss in (ours, theirs))
    assert b.abs().max() > 0
    assert (a - b).abs().max() <= 1e-6 * b.abs().max()
    assert ours.item() != pytest.approx(theirs.item(), rel=1e-6)


def test_rewards_that_do_not_equal_their_own_mean() -> None:
    """The float32 mean of seven rewards of 0.1 is not 0.1. TRL divides the residue by δ; ours is 0 by a branch."""
    rollouts = Rollouts(0, generations=7)
    rollouts.rewards = torch.full_like(rollouts.rewards, 0.1, dtype=torch.float32)
    _, inputs = score(GRPOTrainer, rollouts, beta=0.0, scale_rewards="group")
    assert 1e-5 < inputs["advantages"].abs().max() < 1e-3
    assert (standardised(rollouts.rewards) == 0.0).all()
