"""verl: its estimators of advantages, policy losses and divergences, put together as its workers do."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .paths import Library, LossPath

NO_DUAL_CLIP = 1e9  # the ratio beyond which a negative advantage is cut off, 3 by default
PER_TOKEN = "an estimator per token: no gradient of a divergence of whole responses is claimed"


def library() -> Library:
    """verl.trainer.ppo.core_algos, with an ActorConfig that is made by its constructor."""
    from verl.trainer.ppo import core_algos
    from verl.workers.config import ActorConfig

    def actor(**settings: Any) -> Any:
        made = ActorConfig(strategy="fsdp", rollout_n=2, use_dynamic_bsz=True, **settings)
        return made

    def policy_loss(
        mode: str, config: Any, logps: Tensor, old: Tensor, reference: Tensor, mask: Tensor, advantages: Tensor
    ) -> Tensor:
        """As `verl.workers.utils.losses.ppo_loss`, which takes nested tensors."""
        loss, _ = core_algos.get_policy_loss_fn(mode)(
            old_log_prob=old,
            log_prob=logps,
            advantages=advantages,
            response_mask=mask,
            loss_agg_mode=config.loss_agg_mode,
            config=config,
        )
        if config.use_kl_loss:
            divergence = core_algos.kl_penalty(logps, reference, config.kl_loss_type)
            loss = loss + config.kl_loss_coef * core_algos.agg_loss(divergence, mask, config.loss_agg_mode)
        return loss  # type: ignore[no-any-return]

    def group(
        logps: Tensor, old: Tensor, reference: Tensor, mask: Tensor, rewards: Tensor,
        estimator: str = "grpo", mode: str = "vanilla", norm_adv_by_std_in_grpo: bool = True,
        loss_agg_mode: str = "seq-mean-token-mean", epsilon: float = 0.2, epsilon_high: float = 0.2,
        beta: float = 0.0, kl_loss_type: str = "low_var_kl",
    ) -> Tensor:  # fmt: skip
        """The reward of a response stands at its first token. mode "dual clip": vanilla, with its third bound."""
        prompts, generations, _ = mask.shape
        config = actor(
            clip_ratio_low=epsilon, clip_ratio_high=epsilon_high,
            clip_ratio_c=3.0 if mode == "dual clip" else NO_DUAL_CLIP,
            loss_agg_mode=loss_agg_mode, use_kl_loss=beta != 0.0, kl_loss_coef=beta, kl_loss_type=kl_loss_type,
        )  # fmt: skip
        logps, old, reference, mask = (x.flatten(0, 1) for x in (logps, old, reference, mask))
        given = torch.zeros_like(old)
        given[:, 0] = rewards.flatten()
        settings = {"norm_adv_by_std_in_grpo": norm_adv_by_std_in_grpo} if estimator == "grpo" else {}
        advantages, _ = core_algos.get_adv_estimator_fn(estimator)(
            token_level_rewards=given,
            response_mask=mask,
            index=np.repeat(np.arange(prompts), generations),
            **settings,
        )
        return policy_loss(mode.replace("dual clip", "vanilla"), config, logps, old, reference, mask, advantages)

    def clipped(
        logps: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, mask: Tensor,
        epsilon: float = 0.2, loss_agg_mode: str = "token-mean",
    ) -> Tensor:  # fmt: skip
        config = actor(
            clip_ratio_low=epsilon, clip_ratio_high=epsilon, clip_ratio_c=NO_DUAL_CLIP, loss_agg_mode=loss_agg_mode
        )
        return policy_loss("vanilla", config, logps, old, reference, mask, advantages)

    def divergence(
        logps: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, mask: Tensor, kind: str
    ) -> Tensor:
        return core_algos.agg_loss(  # type: ignore[no-any-return]
            core_algos.kl_penalty(logps, reference, kind), mask, "token-mean"
        )

    core = "verl.trainer.ppo.core_algos"
    grpo = f"{core}.compute_grpo_outcome_advantage, compute_policy_loss_vanilla"
    of_mean, of_sum = "seq-mean-token-mean", "seq-mean-token-sum"
    paths = (
        LossPath("GRPO", grpo, "group", group, "grpo(std_epsilon=1e-6, beta=0.0)", "sequence_mean"),
        LossPath(
            "GRPO with a KL penalty", f"{grpo}, kl_penalty('low_var_kl')", "group", group,
            "grpo(std_epsilon=1e-6)", "sequence_mean", {"beta": 0.04},
        ),
        LossPath(
            "GRPO, default dual clip", grpo, "group", group, "grpo(std_epsilon=1e-6, beta=0.0)", "sequence_mean",
            {"mode": "dual clip"},
        ),
        LossPath(
            "GRPO, default reduction", grpo, "group", group, "dapo(std_epsilon=1e-6, drop_equal_groups=False)",
            "token_mean", {"loss_agg_mode": "token-mean", "epsilon_high": 0.28},
        ),
        LossPath(
            "Dr. GRPO", f"{grpo}, without the deviation", "group", group, "dr_grpo", "sequence_sum",
            {"norm_adv_by_std_in_grpo": False, "loss_agg_mode": of_sum},
        ),
        LossPath(
            "Dr. GRPO, normed", f"{grpo}, loss_agg_mode='seq-mean-token-sum-norm'", "group", group,
            "dr_grpo(constant_length=2)", None,
            {"norm_adv_by_std_in_grpo": False, "loss_agg_mode": "seq-mean-token-sum-norm"},
        ),
        LossPath(
            "GSPO", f"{core}.compute_policy_loss_gspo", "group", group, "gspo(std_epsilon=1e-6)", "sequence_mean",
            {"mode": "gspo", "epsilon": 3e-4, "epsilon_high": 4e-4},
        ),
        LossPath(
            "CISPO", f"{core}.compute_policy_loss_cispo", "group", group,
            "cispo(std_epsilon=1e-6, epsilon=0.2, epsilon_high=0.2)", "token_mean",
            {"mode": "cispo", "loss_agg_mode": "token-mean"},
        ),
        LossPath(
            "clipped surrogate", f"{core}.compute_policy_loss_vanilla", "token", clipped, "clipped", "token_mean"
        ),
        LossPath(
            "clipped surrogate per response", f"{core}.compute_policy_loss_vanilla", "token", clipped, "clipped",
            "sequence_mean", {"loss_agg_mode": of_mean},
        ),
        *(
            LossPath(
                f"KL estimator {kind}", f"{core}.kl_penalty({kind!r})", "token", divergence, claim, None,
                {"kind": kind}, left_out={"population_gradient": PER_TOKEN},
            )
            for kind, claim in (("k2", "kl_policy_ref"), ("k3", "kl_ref_policy"), ("k3+", "kl_policy_ref"))
        ),
    )  # fmt: skip
    unable = {"DPO": "verl has none", "PPO with its critic": "takes nested tensors and a worker of its own"}
    return Library("verl", metadata.version("verl"), paths, "https://github.com/volcengine/verl", unable=unable)
