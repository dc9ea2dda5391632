"""OpenRLHF: its loss modules and estimators of a divergence. Its models need kernels that are built for a GPU alone."""

from __future__ import annotations

from importlib import metadata

from torch import Tensor

from .paths import Library, LossPath
from .stand_ins import stand_in

PER_TOKEN = "an estimator per token: no gradient of a divergence of whole responses is claimed"


def library() -> Library:
    """openrlhf.models.loss and compute_approx_kl."""
    stand_in("flash_attn.bert_padding", "flash_attn.utils.distributed", "deepspeed", "ring_flash_attn")
    stand_in("openrlhf.models.actor", "openrlhf.models.model")
    from openrlhf.models.loss import DPOLoss, PolicyLoss, SFTLoss
    from openrlhf.models.utils import compute_approx_kl, masked_mean

    def dpo(
        a: Tensor, b: Tensor, c: Tensor, d: Tensor, beta: float = 0.1, label_smoothing: float = 0.0, ipo: bool = False
    ) -> Tensor:
        return DPOLoss(beta, label_smoothing, ipo)(a, b, c, d)[0]  # type: ignore[no-any-return]

    def policy(
        logps: Tensor,
        old: Tensor,
        reference: Tensor,
        advantages: Tensor,
        mask: Tensor,
        epsilon: float = 0.2,
        token_level_loss: bool = True,
    ) -> Tensor:
        return PolicyLoss(epsilon, epsilon, token_level_loss=token_level_loss)(  # type: ignore[no-any-return]
            logps, old, advantages, mask
        )[0]

    def sft(logps: Tensor, mask: Tensor, token_level_loss: bool = True) -> Tensor:
        return SFTLoss(token_level_loss)(logps, mask)  # type: ignore[no-any-return]

    def divergence(
        logps: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, mask: Tensor, kind: str
    ) -> Tensor:
        """As its trainer puts it into the loss."""
        return masked_mean(compute_approx_kl(logps, reference, kl_estimator=kind), mask)  # type: ignore[no-any-return]

    loss, left = "openrlhf.models.loss", {"population_gradient": PER_TOKEN}
    paths = (
        LossPath("DPO", f"{loss}.DPOLoss", "pair", dpo, "dpo"),
        LossPath("cDPO", f"{loss}.DPOLoss", "pair", dpo, "cdpo", options={"label_smoothing": 0.2}),
        LossPath("IPO", f"{loss}.DPOLoss(ipo=True)", "pair", dpo, "ipo(beta=0.1)", options={"ipo": True}),
        LossPath("clipped surrogate", f"{loss}.PolicyLoss", "token", policy, "clipped", "token_mean"),
        LossPath(
            "clipped surrogate per response",
            f"{loss}.PolicyLoss(token_level_loss=False)",
            "token",
            policy,
            "clipped",
            "sequence_mean",
            {"token_level_loss": False},
        ),
        LossPath("SFT", f"{loss}.SFTLoss", "likelihood", sft, "sft(reduction='token_mean')", "token_mean"),
        *(
            LossPath(
                f"KL estimator {kind}",
                f"openrlhf.models.utils.compute_approx_kl(kl_estimator={kind!r})",
                "token",
                divergence,
                claim,
                None,
                {"kind": kind},
                1e-5,
                left,
            )
            for kind, claim in (("k2", "kl_policy_ref"), ("k3", "kl_ref_policy"))
        ),
    )
    unable = {
        "advantages of groups": "stand in the method that collects experience, which needs Ray, vLLM and DeepSpeed",
    }
    return Library(
        "OpenRLHF", metadata.version("openrlhf"), paths, "https://github.com/OpenRLHF/OpenRLHF", unable=unable
    )
