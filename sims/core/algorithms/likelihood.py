"""Maximum likelihood: SFT, fine-tuning on preferred responses, and the base of weighted variants."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sims.core.losses.likelihood import likelihood_loss
from sims.core.objectives.batch import Batch, OutputRequest, Outputs, masked, pick, sequence_sum
from sims.core.objectives.reductions import token_shares
from sims.core.spec import setting

from .base import Algorithm, PairAlgorithm, Targets, present, response_shares


@dataclass(frozen=True)
class SFT(Algorithm, kind="sft"):
    """Supervised fine-tuning: maximum likelihood on every response, L = −ℓ, whatever its reward.

    Where libraries disagree:

    - `include_prompt`: the loss includes the prompt's tokens, once per response. TRL trains on completions alone where
      a data set separates them from prompts, and on all tokens of plain text. It needs a policy that scores prompts
      (`Outputs.prompt_logp`); a prompt's first token, which nothing predicts, is ignored.
    - `reduction`: the papers' −ℓ sums over a response's tokens; TRL and transformers take one mean over all tokens of
      the minibatch (token_mean), in which long responses weigh more.

    >>> sims.run(sims.SFT(), sims.BanditR1(), updates=20, runs=2)
    Result(sft on bandit_r1: 2 runs of 20 updates, ...)
    """

    source: ClassVar[str] = "Ouyang et al. 2022"

    include_prompt: bool = setting(False, "include the prompt's tokens in the loss; needs a policy that scores prompts")
    reduction: Literal["sequence_sum", "sequence_mean", "token_mean"] = setting(
        "sequence_sum", "reduction over tokens: sum per response, mean per response, or one mean over all tokens"
    )

    @cached_property
    def output_request(self) -> OutputRequest:
        return OutputRequest(prompt_logp=self.include_prompt)

    def tokens(self, batch: Batch) -> Tensor:
        """Tokens in the loss: (..., B, K, L) bool, or (..., B, K, P + L) with the prompt in front."""
        if not self.include_prompt:
            return batch.mask
        if batch.prompts.dim() != batch.mask.dim() - 1:
            raise ValueError("include_prompt = True: must be False here, where prompts are numbers and have no tokens")
        prompt = torch.ones_like(batch.prompts, dtype=torch.bool) if batch.prompt_mask is None else batch.prompt_mask
        predicted = prompt & (prompt.cumsum(-1) > 1)
        return torch.cat([_per_response(predicted, batch) & present(batch).unsqueeze(-1), batch.mask], dim=-1)

    def at_update(self, batch: Batch, targets: Targets, probe_logp: Tensor | None) -> Targets:
        tokens = self.tokens(batch)
        share = token_shares(batch.weight, tokens, _float_like(batch).expand(tokens.shape), self.reduction)
        return {**targets, "share": share}

    def loss(self, outputs: Outputs, batch: Batch, targets: Targets) -> Tensor:
        logp = outputs.logp
        if self.include_prompt:
            if outputs.prompt_logp is None:
                raise ValueError("include_prompt = True: must be False for a policy that gives no prompt_logp")
            logp = torch.cat([_per_response(outputs.prompt_logp, batch), logp], dim=-1)
        return (targets["share"] * likelihood_loss(masked(logp, self.tokens(batch)))).sum((-2, -1))


def _per_response(x: Tensor, batch: Batch) -> Tensor:
    """(..., B, P), repeated for each response: (..., B, K, P)."""
    return x.unsqueeze(-2).expand(*batch.mask.shape[:-1], x.shape[-1])


def _float_like(batch: Batch) -> Tensor:
    """A zero of the batch's floating-point type; torch's default where no field has one."""
    known = [x for x in (batch.rewards, batch.logp_sampler, batch.weight) if x is not None]
    return torch.zeros((), dtype=known[0].dtype if known else torch.get_default_dtype(), device=batch.mask.device)


@dataclass(frozen=True)
class PrefFT(PairAlgorithm, kind="pref_ft"):
    """Preferred fine-tuning, or Best-of-2: maximum likelihood on the preferred response of each pair, L = −ℓ_w.

    Differs from DPO, whose pairs it uses, in: (1) no negative gradient; (2) no reference. It differs from best_of_n
    with K = 2 in that responses are selected by noisy labels and not by rewards.

    >>> sims.run(sims.PrefFT(), sims.BanditR1(), updates=20, runs=2)
    Result(pref_ft on bandit_r1: 2 runs of 20 updates, ...)
    """

    negative_gradient: ClassVar[bool] = False
    source: ClassVar[str] = "Tajwar et al. 2024; Tang et al. 2024"

    @property
    def needs_reference(self) -> bool:
        return False

    def loss(self, outputs: Outputs, batch: Batch, targets: Targets) -> Tensor:
        first, second = pick(likelihood_loss(sequence_sum(outputs.logp, batch.mask)), batch.need("pairs"))
        label = batch.need("pair_label")
        return (targets["share"] * (label * first + (1.0 - label) * second)).sum(-1)


@dataclass(frozen=True)
class LikelihoodAlgorithm(Algorithm):
    """−Σ share·scale·ℓ: `weight` selects responses and normalises, `scale` multiplies each one's loss."""

    def at_update(self, batch: Batch, targets: Targets, probe_logp: Tensor | None) -> Targets:
        return {**targets, "share": response_shares(batch, targets)}

    def response_loss(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Loss of each response: −ℓ, (..., B, K)."""
        return likelihood_loss(sequence_sum(outputs.logp, batch.mask))

    def loss(self, outputs: Outputs, batch: Batch, targets: Targets) -> Tensor:
        loss = self.response_loss(outputs, batch)
        if "scale" in targets:
            loss = targets["scale"] * loss
        return (targets["share"] * loss).sum(-1)
