"""torchtune: its loss modules, which take log-probs as the families do."""

from __future__ import annotations

from importlib import metadata

from torch import Tensor

from .paths import Library, LossPath


def library() -> Library:
    """DPOLoss, RSOLoss and PPOLoss of torchtune.rlhf.loss."""
    from torchtune.rlhf.loss import DPOLoss, PPOLoss, RSOLoss

    def dpo(a: Tensor, b: Tensor, c: Tensor, d: Tensor, beta: float = 0.1, label_smoothing: float = 0.0) -> Tensor:
        return DPOLoss(beta, label_smoothing)(a, b, c, d)[0]  # type: ignore[no-any-return]

    def rso(a: Tensor, b: Tensor, c: Tensor, d: Tensor, gamma: float = 0.1) -> Tensor:
        return RSOLoss(gamma)(a, b, c, d)[0]  # type: ignore[no-any-return]

    def clipped(
        logps: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, mask: Tensor, epsilon: float = 0.2
    ) -> Tensor:
        """The policy's part: the critic's is a constant."""
        nothing = logps.detach() * 0.0
        return PPOLoss(epsilon, value_coeff=0.0)(  # type: ignore[no-any-return]
            old, logps, advantages, nothing, nothing, nothing, mask, mask
        )[0]

    paths = (
        LossPath("DPO", "torchtune.rlhf.loss.DPOLoss", "pair", dpo, "dpo"),
        LossPath("cDPO", "torchtune.rlhf.loss.DPOLoss", "pair", dpo, "cdpo", options={"label_smoothing": 0.2}),
        LossPath("SLiC", "torchtune.rlhf.loss.RSOLoss", "pair", rso, "slic(beta=0.1)"),
        LossPath("clipped surrogate", "torchtune.rlhf.loss.PPOLoss", "token", clipped, "clipped", "token_mean"),
    )
    unable = {"PPO with its advantages": "its recipe whitens them over the batch, so that no row stands alone"}
    url = "https://github.com/pytorch/torchtune"
    return Library("torchtune", metadata.version("torchtune"), paths, url, unable=unable)
