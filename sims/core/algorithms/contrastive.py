"""The DPO family and KTO, losses of log-ratios to the reference, ρ = ℓ − ℓ_ref. Whether they are online or offline is a
matter of the schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sims.core.losses.contrastive import (
    conservative_dpo_loss,
    dpo_loss,
    hinge_loss,
    ipo_loss,
    kto_loss,
    robust_dpo_loss,
)
from sims.core.losses.likelihood import likelihood_loss
from sims.core.objectives.batch import Batch, Outputs, lengths, over, pick, sequence_sum
from sims.core.objectives.preferences import Pairing, desirable_from_pairs
from sims.core.objectives.reductions import shares
from sims.core.spec import setting, undefined

from .base import Algorithm, PairAlgorithm, Targets, response_shares

NLLReduction = Literal["sequence_mean", "token_mean", "sequence_sum"]


@dataclass(frozen=True)
class DPO(PairAlgorithm, kind="dpo"):
    """Direct preference optimisation: L = −log σ(β(ρ_w − ρ_l)).

    `length_normalised` averages ρ over the tokens of a response: TRL's `sigmoid_norm`, the DPO of Tülu 3.

    >>> sims.run(sims.DPO(beta=0.1), sims.BanditR1(), updates=20, runs=2)
    Result(dpo on bandit_r1: 2 runs of 20 updates, ...)
    """

    source: ClassVar[str] = "Rafailov et al. 2023"

    beta: float = setting(0.1, "strength of the KL penalty to the reference", above=0, per_run=True)
    length_normalised: bool = setting(False, "average log-ratios over tokens instead of summing them")

    def pair_loss(self, margin: Tensor) -> Tensor:
        return dpo_loss(margin, over(self.beta, margin))


@dataclass(frozen=True)
class ConservativeDPO(DPO, kind="cdpo"):
    """Conservative DPO: L = −(1 − ε) log σ(βh) − ε log σ(−βh).

    Differs from DPO: (1) a label is taken to be right with probability 1 − ε, so that (2) under deterministic labels
    the loss has its minimum at βh = log((1 − ε)/ε). DPO's original code and OpenRLHF call it `label_smoothing`; in TRL
    1.16 the option of that name no longer reaches the sigmoid loss.

    >>> sims.run(sims.ConservativeDPO(label_smoothing=0.1), sims.BanditR1(flip_rate=0.1), updates=20, runs=2)
    Result(cdpo on bandit_r1: 2 runs of 20 updates, ...)
    """

    source: ClassVar[str] = "Mitchell 2023"

    label_smoothing: float = setting(
        0.1, "assumed probability that a label is wrong", at_least=0, below=0.5, per_run=True
    )

    def pair_loss(self, margin: Tensor) -> Tensor:
        return conservative_dpo_loss(margin, over(self.beta, margin), over(self.label_smoothing, margin))


@dataclass(frozen=True)
class RobustDPO(DPO, kind="robust_dpo"):
    """Robust DPO: L = (−(1 − ε) log σ(βh) + ε log σ(−βh)) / (1 − 2ε).

    Differs from DPO: (1) the loss of the flipped label is subtracted, where cDPO adds it, and (2) the whole is divided
    by 1 − 2ε. If labels are flipped with probability ε, the mean over the flips is then the DPO loss of the true
    labels. (3) One pair's loss has no lower bound. TRL: `robust`.

    >>> sims.run(sims.RobustDPO(label_smoothing=0.1), sims.BanditR1(flip_rate=0.1), updates=20, runs=2)
    Result(robust_dpo on bandit_r1: 2 runs of 20 updates, ...)
    """

    source: ClassVar[str] = "Chowdhury et al. 2024"

    label_smoothing: float = setting(
        0.1, "assumed probability that a label is flipped", at_least=0, below=0.5, per_run=True
    )

    def pair_loss(self, margin: Tensor) -> Tensor:
        return robust_dpo_loss(margin, over(self.beta, margin), over(self.label_smoothing, margin))


@dataclass(frozen=True)
class SLiC(DPO, kind="slic"):
    """Sequence likelihood calibration (hinge): L = max(0, 1 − β(ρ_w − ρ_l)).

    Differs from DPO: (1) a hinge instead of the logistic loss, so that the gradient is 0 beyond a margin of 1/β.
    Differs from SLiC-HF as published: (2) log-ratios to the reference instead of log-probs, as RSO and TRL (`hinge`)
    do, and (3) no cross-entropy to the reference's best response.

    >>> sims.run(sims.SLiC(beta=1.0), sims.BanditR1(), updates=20, runs=2)
    Result(slic on bandit_r1: 2 runs of 20 updates, ...)
    """

    source: ClassVar[str] = "Zhao et al. 2023; Liu et al. 2024"

    def pair_loss(self, margin: Tensor) -> Tensor:
        return hinge_loss(margin, over(self.beta, margin))


@dataclass(frozen=True)
class GroupDPO(DPO, kind="group_dpo"):
    """Group DPO: the mean DPO loss over all pairs of a correct and an incorrect response of a prompt.

    Differs from DPO: (1) a prompt's pairs are correct × incorrect, all of them (rewards above the environment's
    `correct_above`), and (2) a prompt without both kinds has weight 0 and is ignored, in denominators too.

    >>> sims.run(sims.GroupDPO(beta=0.1), sims.BanditR1(), updates=20, runs=2, num_generations=8)
    Result(group_dpo on bandit_r1: 2 runs of 20 updates, ...)
    """

    source: ClassVar[str] = "Lanchantin et al. 2025"

    pairing: Literal["correct_incorrect"] = setting(
        "correct_incorrect", "pairs: every correct response against every incorrect one"
    )


@dataclass(frozen=True)
class IPO(PairAlgorithm, kind="ipo"):
    """Identity preference optimisation: L = (ρ_w − ρ_l − 1/(2β))².

    `length_normalised` averages ρ over the tokens of a response, as TRL does; Azar et al., Tang et al. and OpenRLHF
    sum.

    >>> sims.run(sims.IPO(beta=0.1), sims.BanditR1(), updates=20, runs=2)
    Result(ipo on bandit_r1: 2 runs of 20 updates, ...)
    """

    source: ClassVar[str] = "Azar et al. 2024"

    beta: float = setting(0.1, "the paper's tau: the target margin of log-ratios is 1/(2 beta)", above=0, per_run=True)
    length_normalised: bool = setting(False, "average log-ratios over tokens (TRL) instead of summing (the paper)")

    def pair_loss(self, margin: Tensor) -> Tensor:
        return ipo_loss(margin, over(self.beta, margin))


@dataclass(frozen=True)
class PairsWithLikelihood(PairAlgorithm):
    """A loss on pairs, plus the negative log-likelihood of the chosen response times `nll_weight`.

    nll_reduction: how the likelihood is averaged. sequence_mean: −ℓ_w/|y_w|, averaged as the pairs are (RPO's paper);
    token_mean: one mean over all chosen tokens of the minibatch, so that long responses weigh more (TRL); sequence_sum:
    −ℓ_w (CPO's paper). A soft label splits a pair between its two responses.
    """

    nll_reduction: NLLReduction = setting(
        "sequence_mean",
        "how the chosen response's negative log-likelihood is averaged: over the response's tokens, over all chosen "
        "tokens of the minibatch, or summed",
    )

    @property
    def nll_weight(self) -> float | Tensor:
        """Factor of the likelihood term."""
        raise undefined(self, "nll_weight", "the factor of the likelihood term")

    def at_update(self, batch: Batch, targets: Targets, probe_logp: Tensor | None) -> Targets:
        targets = super().at_update(batch, targets, probe_logp)
        return {**targets, "nll_share": self._nll_shares(batch, targets["share"])}

    def _nll_shares(self, batch: Batch, pair_share: Tensor) -> Tensor:
        """(..., B, Q, 2): weight of each response's ℓ."""
        pairs, label = batch.need("pairs"), batch.need("pair_label")
        chosen = torch.stack([label, 1.0 - label], dim=-1)
        tokens = torch.stack(pick(lengths(batch.mask), pairs), dim=-1)
        if self.nll_reduction == "token_mean":
            counted = chosen if batch.pair_weight is None else chosen * batch.pair_weight.unsqueeze(-1)
            total = (counted * tokens).sum((-3, -2, -1), keepdim=True)
            return counted / torch.where(total > 0, total, 1.0)
        share = pair_share.unsqueeze(-1) * chosen
        return share if self.nll_reduction == "sequence_sum" else share / tokens.clamp(min=1)

    def loss(self, outputs: Outputs, batch: Batch, targets: Targets) -> Tensor:
        nll = pick(likelihood_loss(sequence_sum(outputs.logp, batch.mask)), batch.need("pairs"))
        likelihood = (targets["nll_share"] * torch.stack(nll, dim=-1)).sum((-2, -1))
        return super().loss(outputs, batch, targets) + over(self.nll_weight, likelihood) * likelihood


@dataclass(frozen=True)
class DPOWithNLL(PairsWithLikelihood, kind="dpo_nll"):
    """DPO with a likelihood term: L = −log σ(β(ρ_w − ρ_l)) − α·ℓ_w/|y_w|.

    Differs from DPO: (1) the chosen response is imitated too, so that its likelihood does not fall with the rejected
    one's. RPO's paper divides ℓ_w by its length; TRL (`loss_type=["sigmoid", "sft"]`) averages over the tokens of a
    batch: `nll_reduction`.

    >>> sims.run(sims.DPOWithNLL(beta=0.1, alpha=1.0), sims.BanditR1(), updates=20, runs=2)
    Result(dpo_nll on bandit_r1: 2 runs of 20 updates, ...)
    """

    source: ClassVar[str] = "Pang et al. 2024 (RPO)"

    beta: float = setting(0.1, "strength of the KL penalty to the reference", above=0, per_run=True)
    alpha: float = setting(1.0, "weight of the chosen response's likelihood", above=0, per_run=True)

    @property
    def nll_weight(self) -> float | Tensor:
        return self.alpha

    def pair_loss(self, margin: Tensor) -> Tensor:
        return dpo_loss(margin, over(self.beta, margin))


@dataclass(frozen=True)
class KTO(Algorithm, kind="kto"):
    """Kahneman–Tversky optimisation, on single responses labelled desirable or undesirable.

        L = λ_D(1 − σ(β(ρ − z))) or λ_U(1 − σ(β(z − ρ))),    z = max(0, mean ρ of mismatched (x, y′))

    A response without a label of its own is desirable with the share of its pairs in which it was preferred. z is one
    number per minibatch, without gradient, estimated on probes: each prompt with the next prompt's responses. The paper
    and TRL do the same; TRL averages over a device's micro-batch, this over the minibatch.

    >>> sims.run(sims.KTO(beta=0.1), sims.BanditR1(), updates=20, runs=2)
    Result(kto on bandit_r1: 2 runs of 20 updates, ...)
    """

    needs_probes: ClassVar[bool] = True
    negative_gradient: ClassVar[bool] = True
    min_generations: ClassVar[int] = 2  # responses are labelled by comparison within their group
    single_labels: ClassVar[bool] = True
    source: ClassVar[str] = "Ethayarajh et al. 2024"

    beta: float = setting(0.1, "strength of the KL penalty to the reference", above=0, per_run=True)
    desirable_weight: float = setting(1.0, "lambda_D, weight of desirable responses", at_least=0, per_run=True)
    undesirable_weight: float = setting(1.0, "lambda_U, weight of undesirable responses", at_least=0, per_run=True)

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
        desirable = batch.desirable
        if desirable is None:
            pairs, label = batch.need("pairs"), batch.need("pair_label")
            desirable = desirable_from_pairs(pairs, label, share.shape[-1], batch.pair_weight)
        return {**targets, "share": share, "anchor": anchor.expand_as(share), "desirable": desirable}

    def loss(self, outputs: Outputs, batch: Batch, targets: Targets) -> Tensor:
        ratio = sequence_sum(outputs.logp - batch.need("logp_ref"), batch.mask)
        weights = (over(self.desirable_weight, ratio), over(self.undesirable_weight, ratio))
        loss = kto_loss(ratio, targets["anchor"], targets["desirable"], over(self.beta, ratio), weights)
        return (targets["share"] * loss).sum(-1)
