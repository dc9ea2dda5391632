"""Algorithms that learn from which of two responses was preferred. Online forms come from the schedule, not from
here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..batch import Batch, Outputs, lengths, over, sequence_sum
from ..losses.contrastive import dpo_loss, ipo_loss, kto_loss
from ..preferences import Pairing
from ..reductions import shares
from ..spec import setting
from .base import Algorithm, PairAlgorithm, Targets, response_shares


@dataclass(frozen=True)
class DPO(PairAlgorithm, kind="dpo"):
    """Direct preference optimisation: L = −log σ(β(ρ_w − ρ_l))."""

    source: ClassVar[str] = "Rafailov et al. 2023"

    beta: float = setting(0.1, "strength of the pull to the reference", above=0, per_run=True)

    def pair_loss(self, margin: Tensor) -> Tensor:
        return dpo_loss(margin, over(self.beta, 2))


@dataclass(frozen=True)
class IPO(PairAlgorithm, kind="ipo"):
    """Identity preference optimisation: L = (ρ_w − ρ_l − 1/(2β))².

    `length_normalised` averages ρ over the tokens of a response, as TRL does; Azar et al., Tang et al. and OpenRLHF
    sum.
    """

    source: ClassVar[str] = "Azar et al. 2024"

    beta: float = setting(0.1, "the paper's tau: the margin aimed at is 1/(2 beta)", above=0, per_run=True)
    length_normalised: bool = setting(False, "average log-ratios over tokens (TRL) instead of summing (the paper)")

    def score(self, outputs: Outputs, batch: Batch) -> Tensor:
        ratio = super().score(outputs, batch)
        return ratio / lengths(batch.mask).clamp(min=1) if self.length_normalised else ratio

    def pair_loss(self, margin: Tensor) -> Tensor:
        return ipo_loss(margin, over(self.beta, 2))


@dataclass(frozen=True)
class KTO(Algorithm, kind="kto"):
    """Kahneman–Tversky optimisation, on single responses labelled good or bad.

        L = λ_D(1 − σ(β(ρ − z))) or λ_U(1 − σ(β(z − ρ))),    z = max(0, mean ρ of mismatched (x, y′))

    z is one number a minibatch, without gradient, from the batch's probes: each prompt with the next prompt's
    responses.
    """

    needs_probes: ClassVar[bool] = True
    negative_gradient: ClassVar[bool] = True
    min_generations: ClassVar[int] = 2  # a response is good or bad by comparison with its group
    source: ClassVar[str] = "Ethayarajh et al. 2024"

    beta: float = setting(0.1, "strength of the pull to the reference", above=0, per_run=True)
    desirable_weight: float = setting(1.0, "lambda_D, weight of good responses", at_least=0, per_run=True)
    undesirable_weight: float = setting(1.0, "lambda_U, weight of bad responses", at_least=0, per_run=True)

    @property
    def needs_reference(self) -> bool:
        return True

    @property
    def label_pairing(self) -> Pairing | None:
        return "drawn"

    def at_update(self, batch: Batch, targets: Targets, probe_logp: Tensor | None) -> Targets:
        if probe_logp is None or batch.probes is None:
            raise ValueError("kto needs probes: mismatched responses and their log-probs")
        ratio = sequence_sum(probe_logp - batch.probes.need("logp_ref"), batch.probes.mask)
        anchor = (shares(batch.probes.weight, ratio) * ratio).sum((-2, -1), keepdim=True).clamp(min=0.0)
        share = response_shares(batch, targets)
        return {**targets, "share": share, "anchor": anchor.expand_as(share)}

    def loss(self, outputs: Outputs, batch: Batch, targets: Targets) -> Tensor:
        ratio = sequence_sum(outputs.logp - batch.need("logp_ref"), batch.mask)
        weights = (over(self.desirable_weight, 2), over(self.undesirable_weight, 2))
        loss = kto_loss(ratio, targets["anchor"], batch.need("desirable"), over(self.beta, 2), weights)
        return (targets["share"] * loss).sum(-1)
