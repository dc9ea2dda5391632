"""Settings of a reward model's loss, used for tables, networks and transformers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sims.core.losses.reward_model import centring_loss, labelled_bradley_terry_loss, smoothed
from sims.core.objectives.batch import over
from sims.core.spec import Spec, setting


@dataclass(frozen=True)
class RewardModelLoss(Spec, kind="reward_model"):
    """L = −log σ(r_w − r_l − m) + c·(r_w + r_l)², with labels smoothed by ε.

    Margins are data, one per pair; per-aspect labels are first combined by `losses.reward_model.aggregate_aspects`. TRL
    has the margin and the centring, but no label smoothing in its reward trainer.
    """

    label_smoothing: float = setting(
        0.0, "assumed probability that a label is wrong", at_least=0, below=0.5, per_run=True
    )
    center_rewards_coefficient: float = setting(
        0.0, "weight of (r_w + r_l) squared; TRL's docs suggest 0.01", at_least=0, per_run=True
    )

    def pair_losses(self, first: Tensor, second: Tensor, label: Tensor, margin: float | Tensor = 0.0) -> Tensor:
        """One loss per pair. first, second: scores (..., B, Q), or (Q,) without runs; label: probability that the first
        is preferred; margin: broadcastable. Returns their shape, reduced by the caller (`reductions.shares`)."""
        target = smoothed(label, over(self.label_smoothing, label))
        loss = labelled_bradley_terry_loss(first - second, target, margin)
        return loss + over(self.center_rewards_coefficient, first) * centring_loss(first, second)
