"""All pure losses: tensors of log-probs, margins or advantages in, one loss per token, response or pair out.

    >>> sims.losses.dpo_loss(torch.tensor([0.0, 10.0]), beta=0.1)  # log 2, and log(1 + 1/e)
    tensor([0.6931, 0.3133])

Hyper-parameters are plain numbers, or tensors that broadcast. `sims.core.losses` has them by family, with equations.
"""

from .core.losses.contrastive import (
    conservative_dpo_loss,
    dpo_loss,
    hinge_loss,
    ipo_loss,
    kto_loss,
    log1mexp,
    log_odds,
    nash_md_loss,
    robust_dpo_loss,
    simpo_loss,
)
from .core.losses.likelihood import exponential_weights, likelihood_loss, unlikelihood_loss
from .core.losses.policy_gradient import clipped_loss, reinforce_loss, value_loss, weighted_loss
from .core.losses.reward_model import (
    aggregate_aspects,
    bradley_terry_loss,
    centring_loss,
    labelled_bradley_terry_loss,
    smoothed,
)

__all__ = [
    "aggregate_aspects",
    "bradley_terry_loss",
    "centring_loss",
    "clipped_loss",
    "conservative_dpo_loss",
    "dpo_loss",
    "exponential_weights",
    "hinge_loss",
    "ipo_loss",
    "kto_loss",
    "labelled_bradley_terry_loss",
    "likelihood_loss",
    "log1mexp",
    "log_odds",
    "nash_md_loss",
    "reinforce_loss",
    "robust_dpo_loss",
    "simpo_loss",
    "smoothed",
    "unlikelihood_loss",
    "value_loss",
    "weighted_loss",
]
