"""Losses that push a chosen response up and a rejected one down.

`margin` is h = ρ_w − ρ_l, the log-ratio to the reference of the chosen response minus that of the rejected one.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def dpo_loss(margin: Tensor, beta: float | Tensor) -> Tensor:
    """−log σ(βh). margin: (..., Q), returns the same. Rafailov et al. 2023.

    Under Bradley–Terry labels of reward scale 1 its minimiser over all pairs is π_ref·e^{r/β}/Z. With deterministic
    labels the loss has no minimum: h grows without bound.
    """
    return -logsigmoid(beta * margin)


def ipo_loss(margin: Tensor, beta: float | Tensor) -> Tensor:
    """(h − 1/(2β))². margin: (..., Q), returns the same. Azar et al. 2024, whose τ is our β.

    The regression target bounds h even under deterministic labels. Whether log-ratios are summed over tokens (Azar,
    Tang et al., OpenRLHF) or averaged (TRL) is the caller's choice, and changes what β means.
    """
    return (margin - 1.0 / (2.0 * beta)).square()


def kto_loss(
    log_ratio: Tensor,
    anchor: Tensor,
    desirable: Tensor,
    beta: float | Tensor,
    weights: tuple[float | Tensor, float | Tensor],
) -> Tensor:
    """λ_D(1 − σ(β(ρ − z))) for a good response, λ_U(1 − σ(β(z − ρ))) for a bad one. Ethayarajh et al. 2024.

    log_ratio ρ, desirable (probability that the response is good): (..., B, K); anchor z >= 0, broadcastable, without
    gradient; weights: (λ_D, λ_U). Returns (..., B, K).
    """
    good, bad = weights
    distance = beta * (log_ratio - anchor)
    # 1 − σ(x) = σ(−x) = e^{log σ(−x)}
    loss_good = good * torch.exp(logsigmoid(-distance))
    loss_bad = bad * torch.exp(logsigmoid(distance))
    return desirable * loss_good + (1.0 - desirable) * loss_bad
