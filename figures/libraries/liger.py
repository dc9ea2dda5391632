"""Liger Kernel: its fused linear losses in chunks, which are plain PyTorch. Its Triton kernels run on a GPU alone.

They take hidden states and the weights of the head: each response is one token of two, whose log-prob is looked up.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from .look_up import hidden_states
from .paths import Library, LossPath

FLOAT32 = 1e-5  # the log-softmax is computed in float32, whatever is given


def library() -> Library:
    """liger_kernel.chunked_loss, not compiled: DPO with two kinds, robust DPO, ORPO, CPO, SimPO, KTO and GRPO."""
    from liger_kernel import chunked_loss as liger

    head = torch.eye(2, dtype=torch.float64)

    def pairs(loss: Any, chosen: Tensor, rejected: Tensor, *reference: Tensor) -> Tensor:
        """Responses of one token each, chosen ones first."""
        states = hidden_states(torch.cat([chosen, rejected]))[:, None]
        target = torch.zeros(len(states), 1, dtype=torch.int64)
        weights = head.to(states.dtype)
        if not reference:
            return loss(weights, states, target)[0]  # type: ignore[no-any-return]
        fixed = hidden_states(torch.cat(reference)).detach()[:, None]
        return loss(weights, states, target, ref_input=fixed, ref_weight=weights)[0]  # type: ignore[no-any-return]

    def dpo(
        a: Tensor, b: Tensor, c: Tensor, d: Tensor,
        beta: float = 0.1, loss_type: str = "sigmoid", label_smoothing: float = 0.0,
    ) -> Tensor:  # fmt: skip
        settings = {"beta": beta, "loss_type": loss_type, "label_smoothing": label_smoothing}
        return pairs(liger.LigerFusedLinearDPOLoss(compiled=False, **settings), a, b, c, d)

    def orpo(a: Tensor, b: Tensor, c: Tensor, d: Tensor, beta: float = 0.1) -> Tensor:
        return pairs(liger.LigerFusedLinearORPOLoss(compiled=False, beta=beta), a, b)

    def cpo(
        a: Tensor, b: Tensor, c: Tensor, d: Tensor, beta: float = 0.1, alpha: float = 1.0, label_smoothing: float = 0.0
    ) -> Tensor:
        settings = {"beta": beta, "alpha": alpha, "label_smoothing": label_smoothing}
        return pairs(liger.LigerFusedLinearCPOLoss(compiled=False, **settings), a, b)

    def simpo(a: Tensor, b: Tensor, c: Tensor, d: Tensor, beta: float = 2.0, gamma: float = 1.0) -> Tensor:
        loss = liger.LigerFusedLinearSimPOLoss(compiled=False, beta=beta, gamma=gamma, compute_nll_loss=False)
        return pairs(loss, a, b)

    def kto(logps: Tensor, reference: Tensor, desirable: Tensor, kl: Tensor, beta: float = 0.1) -> Tensor:
        states, fixed = hidden_states(logps)[:, None], hidden_states(reference)[:, None]
        loss = liger.LigerFusedLinearKTOLoss(compiled=False, use_ref_model=True, beta=beta)
        target = torch.zeros(len(states), 1, dtype=torch.int64)
        weights = head.to(states.dtype)
        given = {"ref_input": fixed.detach(), "ref_weight": weights, "kl": kl}
        return loss(states, weights, target, preference_labels=desirable, **given)[0]  # type: ignore[no-any-return]

    def group(
        logps: Tensor, old: Tensor, reference: Tensor, mask: Tensor, rewards: Tensor,
        epsilon: float = 0.2, beta: float = 0.04, loss_type: str = "grpo",
    ) -> Tensor:  # fmt: skip
        """Advantages are given to it: here as the paper has them, and as TRL computes them."""
        if rewards.shape[1] < 2:
            raise ValueError("a group needs two responses")
        deviation = rewards.std(1, keepdim=True)
        advantages = (rewards - rewards.mean(1, keepdim=True)) / (deviation + 1e-4)
        settings = {"epsilon_low": epsilon, "epsilon_high": epsilon, "loss_type": loss_type, "beta": beta}
        loss = liger.LigerFusedLinearGRPOLoss(compiled=False, use_ref_model=True, **settings)
        states = hidden_states(logps.flatten(0, 1))
        target = torch.zeros(states.shape[:-1], dtype=torch.int64)
        flat = {name: x.flatten(0, 1) for name, x in {"old": old, "ref": reference, "mask": mask}.items()}
        return loss(  # type: ignore[no-any-return]
            states, head.to(states.dtype), target, flat["mask"], advantages.flatten(),
            ref_per_token_logps=flat["ref"], old_per_token_logps=flat["old"],
        )[0]  # fmt: skip

    of = "liger_kernel.chunked_loss.LigerFusedLinear"
    given: dict[str, Any] = {"tolerance": FLOAT32}
    outside = {"equal_rewards": "advantages are computed outside of it", "one_response": "so are they"}
    paths = (
        LossPath("DPO", f"{of}DPOLoss", "pair", dpo, "dpo", **given),
        LossPath("SLiC", f"{of}DPOLoss('hinge')", "pair", dpo, "slic", options={"loss_type": "hinge"}, **given),
        LossPath("cDPO", f"{of}DPOLoss", "pair", dpo, "cdpo", options={"label_smoothing": 0.2}, **given),
        LossPath(
            "robust DPO", f"{of}DPOLoss('robust')", "pair", dpo, "robust_dpo",
            options={"loss_type": "robust", "label_smoothing": 0.2}, **given,
        ),
        LossPath("ORPO", f"{of}ORPOLoss", "pair", orpo, "orpo", **given),
        LossPath("CPO", f"{of}CPOLoss", "pair", cpo, "cpo", **given),
        LossPath("SimPO", f"{of}SimPOLoss", "pair", simpo, "simpo", **given),
        LossPath("KTO", f"{of}KTOLoss", "unpaired", kto, "kto", **given),
        LossPath("GRPO", f"{of}GRPOLoss('grpo')", "group", group, "grpo", "sequence_mean", left_out=outside, **given),
    )  # fmt: skip
    unable = {"Triton kernels": "run on a GPU alone"}
    url = "https://github.com/linkedin/Liger-Kernel"
    return Library("Liger Kernel", metadata.version("liger-kernel"), paths, url, unable=unable)
