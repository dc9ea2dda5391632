"""Losses that raise the likelihood of a chosen response and lower that of a rejected one.

`margin` is h, the chosen response's score minus the rejected one's. For the DPO family a score is ρ = ℓ − ℓ_ref, the
log-ratio to the reference; reference-free methods take ℓ, or ℓ̄ = ℓ/|y|. Unless stated otherwise, margin and loss are
(..., B, Q), one per pair; β and the other numbers broadcast against it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from sims.core.objectives.divergences import k2

from .policy_gradient import reinforce_loss


def dpo_loss(margin: Tensor, beta: float | Tensor) -> Tensor:
    """−log σ(βh). Rafailov et al. 2023.

    Under Bradley–Terry labels of reward scale 1 its minimiser over all pairs is π_ref·e^{r/β}/Z. With deterministic
    labels the loss has no minimum: h grows without bound.

    >>> sims.losses.dpo_loss(torch.tensor([0.0, 10.0]), beta=0.1)  # log 2, log(1 + 1/e)
    tensor([0.6931, 0.3133])
    """
    return -logsigmoid(beta * margin)


def conservative_dpo_loss(margin: Tensor, beta: float | Tensor, label_smoothing: float | Tensor) -> Tensor:
    """−(1 − ε) log σ(βh) − ε log σ(−βh). Mitchell 2023 (cDPO).

    A label is taken to be right with probability 1 − ε. Under deterministic labels its minimum is at βh = log((1 −
    ε)/ε).

    >>> sims.losses.conservative_dpo_loss(torch.tensor(10.0), beta=0.1, label_smoothing=0.1)  # 0.9·0.3133 + 0.1·1.3133
    tensor(0.4133)
    """
    return (1.0 - label_smoothing) * dpo_loss(margin, beta) + label_smoothing * dpo_loss(-margin, beta)


def robust_dpo_loss(margin: Tensor, beta: float | Tensor, label_smoothing: float | Tensor) -> Tensor:
    """(−(1 − ε) log σ(βh) + ε log σ(−βh)) / (1 − 2ε). Chowdhury et al. 2024.

    If labels are flipped with probability ε, its mean over the flips is the DPO loss of the true labels: unbiased. One
    pair's loss has no lower bound: it falls like −εβh/(1 − 2ε) as h grows.

    >>> sims.losses.robust_dpo_loss(torch.tensor(10.0), beta=0.1, label_smoothing=0.1)  # (0.9·0.3133 − 0.1·1.3133)/0.8
    tensor(0.1883)
    """
    signed = (1.0 - label_smoothing) * dpo_loss(margin, beta) - label_smoothing * dpo_loss(-margin, beta)
    return signed / (1.0 - 2.0 * label_smoothing)


def ipo_loss(margin: Tensor, beta: float | Tensor) -> Tensor:
    """(h − 1/(2β))². Azar et al. 2024, whose τ is our β.

    The regression target bounds h even under deterministic labels. Whether log-ratios are summed over tokens (Azar,
    Tang et al., OpenRLHF) or averaged (TRL) is the caller's choice, and changes what β means.

    >>> sims.losses.ipo_loss(torch.tensor([0.0, 5.0]), beta=0.1)  # 5², and 0 at the target margin
    tensor([25.,  0.])
    """
    return (margin - 1.0 / (2.0 * beta)).square()


def hinge_loss(margin: Tensor, beta: float | Tensor) -> Tensor:
    """max(0, 1 − βh). Zhao et al. 2023 (SLiC-HF); Liu et al. 2024 (RSO) for the form with log-ratios.

    Beyond a margin of 1/β the gradient is exactly 0.

    >>> sims.losses.hinge_loss(torch.tensor([0.0, 5.0, 20.0]), beta=0.1)
    tensor([1.0000, 0.5000, 0.0000])
    """
    return torch.relu(1.0 - beta * margin)


def simpo_loss(margin: Tensor, beta: float | Tensor, gamma: float | Tensor) -> Tensor:
    """−log σ(βh − γ), where h is a difference of mean log-probs per token. Meng et al. 2024 (SimPO).

    >>> sims.losses.simpo_loss(torch.tensor(0.5), beta=2.0, gamma=1.0)  # βh = γ: log 2
    tensor(0.6931)
    """
    return -logsigmoid(beta * margin - gamma)


def log1mexp(x: Tensor) -> Tensor:
    """log(1 − e^x) for x < 0, to full precision at both ends. Any shape. Mächler 2012.

    log1p(−e^x) loses all its digits as x → 0, log(−expm1(x)) as x → −∞; so each is used on its side of e^x = ½. The
    former must not be evaluated near x = 0 even where it is not selected: its gradient there would be 0·∞.

    >>> sims.losses.log1mexp(torch.tensor([-2.0, -1.0]).exp().log())  # log(1 − 0.1353), log(1 − 0.3679)
    tensor([-0.1454, -0.4587])
    """
    near = x > -math.log(2.0)
    far_branch = torch.log1p(-torch.exp(torch.where(near, -1.0, x)))
    return torch.where(near, torch.log(-torch.expm1(x)), far_branch)


def log_odds(logp: Tensor) -> Tensor:
    """log(p/(1 − p)) of p = e^{logp}, logp <= 0. Any shape. Hong et al. 2024 (ORPO).

    A probability that rounds to 1 has infinite odds; it gets the largest odds of its precision, and no gradient.

    >>> sims.losses.log_odds(torch.tensor([0.5, 0.9]).log())  # log 1, log 9
    tensor([0.0000, 2.1972])
    """
    below_one = logp.clamp(max=-torch.finfo(logp.dtype).tiny)
    return below_one - log1mexp(below_one)


def kto_loss(
    log_ratio: Tensor,
    anchor: Tensor,
    desirable: Tensor,
    beta: float | Tensor,
    weights: tuple[float | Tensor, float | Tensor],
) -> Tensor:
    """λ_D(1 − σ(β(ρ − z))) for a good response, λ_U(1 − σ(β(z − ρ))) for a bad one. Ethayarajh et al. 2024.

    log_ratio ρ, desirable (probability that the response is good): (..., B, K); anchor z >= 0, broadcastable, without
    gradient; weights: (λ_D, λ_U). Returns (..., B, K). The loss saturates on both sides: a response far on the wrong
    side has almost no gradient, which limits the effect of wrong labels, and of right ones on hard examples.

    >>> ratio, good = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])
    >>> sims.losses.kto_loss(ratio, anchor=torch.tensor(0.0), desirable=good, beta=0.1, weights=(1.0, 1.0))  # 1 − σ(0)
    tensor([[0.5000, 0.5000]])
    """
    good, bad = weights
    distance = beta * (log_ratio - anchor)
    # 1 − σ(x) = σ(−x) = e^{log σ(−x)}
    loss_good = good * torch.exp(logsigmoid(-distance))
    loss_bad = bad * torch.exp(logsigmoid(distance))
    return desirable * loss_good + (1.0 - desirable) * loss_bad


def nash_md_loss(logp: Tensor, log_ratio: Tensor, preference: Tensor, beta: float | Tensor) -> Tensor:
    """−(P(y ≻ y′) − ½)·ℓ(y) + β·½ρ(y)², of whole responses y. Munos et al. 2024.

    logp ℓ, log_ratio ρ, preference P (or a label drawn with it): (..., B, Q), returns the same. On samples y of π the
    gradient is −(P − ½ − βρ)·∇ℓ, the paper's: the second term's mean is ∇KL(π‖π_ref). Summed over tokens instead, ½ρ_t²
    would drop the effect of a token on the KL of the tokens after it. On samples of another distribution the gradient
    is neither.

    >>> logp, ratio, won = torch.tensor(-1.0), torch.tensor(0.0), torch.tensor(1.0)
    >>> sims.losses.nash_md_loss(logp, ratio, won, beta=0.1)  # −(1 − ½)·(−1)
    tensor(0.5000)
    """
    return reinforce_loss(logp, preference - 0.5) + beta * k2(log_ratio)
