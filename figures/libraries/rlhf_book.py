"""The code of the RLHF Book: its loss modules and advantages. It is on no package index: a checkout."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from .paths import Library, LossPath
from .stand_ins import stand_in

PER_TOKEN = "an estimator per token: no gradient of a divergence of whole responses is claimed"


def library() -> Library:
    """direct_alignment.loss and policy_gradients.loss, with policy_gradients.utils.compute_advantages."""
    stand_in("wandb", "reasoning_gym.composite", "reasoning_gym.dataset", "reasoning_gym.utils")
    import direct_alignment.loss as pairwise
    import policy_gradients.loss as groups
    from policy_gradients.utils import compute_advantages

    def dpo(a: Tensor, b: Tensor, c: Tensor, d: Tensor, beta: float = 0.1, label_smoothing: float = 0.0) -> Tensor:
        return pairwise.DPOLoss(beta, label_smoothing)(a, b, c, d)[0]  # type: ignore[no-any-return]

    def ipo(a: Tensor, b: Tensor, c: Tensor, d: Tensor, beta: float = 0.1) -> Tensor:
        return pairwise.IPOLoss(beta)(a, b, c, d)[0]  # type: ignore[no-any-return]

    def simpo(a: Tensor, b: Tensor, c: Tensor, d: Tensor, beta: float = 2.0, gamma_beta_ratio: float = 0.5) -> Tensor:
        return pairwise.SimPOLoss(beta, gamma_beta_ratio)(a, b)[0]  # type: ignore[no-any-return]

    def orpo(a: Tensor, b: Tensor, c: Tensor, d: Tensor, beta: float = 0.1) -> Tensor:
        return pairwise.ORPOLoss(beta)(a, b, chosen_nll_loss=-a)[0]  # type: ignore[no-any-return]

    def group(
        kind: str, loss: Any, logps: Tensor, old: Tensor, reference: Tensor, mask: Tensor, rewards: Tensor
    ) -> Tensor:
        """A prompt's responses at a time, as its buffer holds them. kind: of advantages, as its settings name it."""
        settings = SimpleNamespace(loss=kind)
        rows = [compute_advantages({"total": row.unsqueeze(-1)}, mask[0], None, settings) for row in rewards]
        experience = SimpleNamespace(
            advantages=torch.cat(rows),
            log_probs_old=old.flatten(0, 1),
            log_probs_ref=reference.flatten(0, 1),
            action_mask=mask.flatten(0, 1),
        )
        return loss(logps.flatten(0, 1), experience)  # type: ignore[no-any-return]

    def clipped(
        logps: Tensor, old: Tensor, reference: Tensor, mask: Tensor, rewards: Tensor,
        loss: str = "GRPO", epsilon: float = 0.2, epsilon_high: float = 0.2, beta: float = 0.0,
        kl_estimator: str = "kl3",
    ) -> Tensor:  # fmt: skip
        made = getattr(groups, f"{loss}Loss")(epsilon, epsilon_high, beta, kl_estimator)
        return group(loss.lower(), made, logps, old, reference, mask, rewards)

    def dapo(
        logps: Tensor, old: Tensor, reference: Tensor, mask: Tensor, rewards: Tensor,
        epsilon: float = 0.2, epsilon_high: float = 0.28,
    ) -> Tensor:  # fmt: skip
        return group("dapo", groups.DAPOLoss(epsilon, epsilon_high), logps, old, reference, mask, rewards)

    def rloo(logps: Tensor, old: Tensor, reference: Tensor, mask: Tensor, rewards: Tensor) -> Tensor:
        return group("rloo", groups.ReinforceLoss(), logps, old, reference, mask, rewards)

    def divergence(
        logps: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, mask: Tensor, kind: str
    ) -> Tensor:
        """As GRPOLoss puts it into the loss."""
        return groups.masked_mean(  # type: ignore[no-any-return]
            groups.get_approx_kl(kind, logps, reference, mask), mask, dim=-1
        ).mean(0)

    pg, da = "policy_gradients.loss", "direct_alignment.loss"
    eps = "std_epsilon=1e-8"
    paths = (
        LossPath("DPO", f"{da}.DPOLoss", "pair", dpo, "dpo"),
        LossPath("cDPO", f"{da}.DPOLoss", "pair", dpo, "cdpo", options={"label_smoothing": 0.2}),
        LossPath("IPO", f"{da}.IPOLoss", "pair", ipo, "ipo"),
        LossPath("SimPO", f"{da}.SimPOLoss", "pair", simpo, "simpo(beta=2.0, gamma=1.0)"),
        LossPath("ORPO", f"{da}.ORPOLoss", "pair", orpo, "orpo", tolerance=1e-5),
        LossPath("GRPO", f"{pg}.GRPOLoss", "group", clipped, f"grpo({eps}, beta=0.0)", "sequence_mean"),
        LossPath(
            "GRPO with a KL penalty", f"{pg}.GRPOLoss", "group", clipped, f"grpo({eps}, beta=0.04)", "sequence_mean",
            {"beta": 0.04},
        ),
        LossPath(
            "GSPO", f"{pg}.GSPOLoss", "group", clipped, f"gspo({eps})", "sequence_mean",
            {"loss": "GSPO", "epsilon": 3e-4, "epsilon_high": 4e-4},
        ),
        LossPath("CISPO", f"{pg}.CISPOLoss", "group", clipped, None, "sequence_mean", {"loss": "CISPO"}),
        LossPath(
            "DAPO", f"{pg}.DAPOLoss", "group", dapo, f"dapo({eps}, drop_equal_groups=False)", "token_mean"
        ),
        LossPath("RLOO", f"{pg}.ReinforceLoss", "group", rloo, None, "sequence_mean"),
        *(
            LossPath(
                f"KL estimator {kind}", f"{pg}.approx_{kind}", "token", divergence, claim, None, {"kind": kind},
                left_out={"population_gradient": PER_TOKEN},
            )
            for kind, claim in (("kl2", "kl_policy_ref"), ("kl3", "kl_ref_policy"))
        ),
    )  # fmt: skip
    unable = {"KTO": "takes as many desirable responses as undesirable ones, in pairs"}
    return Library("RLHF Book code", "2026-08-21", paths, "https://github.com/natolambert/rlhf-book", unable=unable)
