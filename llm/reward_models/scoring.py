"""Scorers: what can score responses, to reward a policy or to label pairs for the next reward model.

A reward model is one `Scorer` among others: a function of the text, or the policy's implicit reward, can take its
place. A *gold* reward model is the one that policies are evaluated by; a *proxy* is trained on the gold model's labels.
What a policy gains under the proxy beyond what it gains under the gold model is over-optimisation (Gao et al. 2023).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from llm.data import Example, collate
from llm.data.tokenise import plain_text
from llm.models.policy import CausalLMPolicy
from sims.core.loop.labelling import implicit_reward
from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import Batch, pick
from sims.core.objectives.preferences import Labeller, Pairing, choose_pairs
from sims.core.objectives.reductions import pair_weights

from .calibration import HeldOut, calibration
from .model import full_mask


class Scorer(Protocol):
    """Scores responses; scores of one prompt are comparable, up to a constant per prompt."""

    def score(self, prompts: Tensor, prompt_mask: Tensor | None, responses: Tensor, mask: Tensor) -> Tensor:
        """(B, K), without gradient. prompts, prompt_mask: (B, P); responses, mask: (B, K, L), as in `Batch`."""


@dataclass(frozen=True)
class ImplicitReward:
    """The policy's implicit reward r = β·(log π − log π_ref), as DPO defines it (Rafailov et al. 2023).

    Chen et al. 2024 (DICE) label pairs with it for a next round of DPO; Yuan et al. 2024 let the policy reward itself
    too. Log-probs are summed over tokens, whatever the length. Only differences within a prompt are meaningful.
    """

    policy: CausalLMPolicy
    reference: CausalLMPolicy
    beta: float

    @torch.no_grad()
    def score(self, prompts: Tensor, prompt_mask: Tensor | None, responses: Tensor, mask: Tensor) -> Tensor:
        """(B, K); see `Scorer`."""
        return implicit_reward(self.policy, self.reference, Batch(prompts, responses, mask, prompt_mask), self.beta)


@dataclass(frozen=True)
class TextScorer:
    """Scores text by a function like TRL's judges: judge(prompts, completions) gives a number for each completion.
    Neither text has special tokens."""

    judge: Callable[[list[str], list[str]], Sequence[float]]
    tokenizer: PreTrainedTokenizerBase

    def score(self, prompts: Tensor, prompt_mask: Tensor | None, responses: Tensor, mask: Tensor) -> Tensor:
        """(B, K); see `Scorer`. ValueError unless there is one number for each response."""
        texts = [self._text(x, m) for x, m in zip(prompts, full_mask(prompts, prompt_mask), strict=True)]
        completions = [self._text(x, m) for x, m in zip(responses.flatten(0, 1), mask.flatten(0, 1), strict=True)]
        generations = mask.shape[1]
        scores = self.judge([text for text in texts for _ in range(generations)], completions)
        if len(scores) != len(completions):
            raise ValueError(f"judge gave {len(scores)} scores: must be one for each of {len(completions)} responses")
        return torch.tensor(list(scores), dtype=torch.float64).unflatten(0, mask.shape[:2])

    def _text(self, tokens: Tensor, mask: Tensor) -> str:
        return plain_text(self.tokenizer, tokens[mask].tolist())


def preference_batch(examples: Sequence[Example], pad_id: int) -> Batch:
    """Preference rows as one batch, chosen first: B rows, K = 2, Q = 1. pad_id: `TextEncoder(tokenizer).pad`."""
    rows = collate(examples, pad_id)
    if rows.responses is None or rows.mask is None or rows.pairs is None:
        raise ValueError(f"{examples[0].where}: must be a preference, with a chosen and a rejected response")
    return Batch(
        prompts=rows.prompts,
        prompt_mask=rows.prompt_mask,
        responses=rows.responses,
        mask=rows.mask,
        pairs=rows.pairs,
        pair_label=rows.pair_label,
    )


def scores_of(batch: Batch, scorer: Scorer) -> Tensor:
    """(B, K), on the CPU: what a scorer gives each response of a batch."""
    return scorer.score(batch.prompts, batch.prompt_mask, batch.responses, batch.mask).cpu()


def label_pairs(batch: Batch, scores: Tensor, labeller: Labeller, noise: Noise, pairing: Pairing = "drawn") -> Batch:
    """The batch with `scores` (B, K) as rewards, and pairs that `labeller` labels by them.

    With the scores of a gold model, this gives the training data of a proxy; with those of `ImplicitReward`, a policy's
    own labels.
    """
    pairs, weight = choose_pairs(scores, pairing, labeller.correct_above)
    label = labeller.label(*pick(scores, pairs), noise.uniforms("labels", *pairs.shape))
    return batch.replace(rewards=scores, pairs=pairs, pair_label=label, pair_weight=weight)


def label_digest(*batches: Batch) -> str:
    """SHA-256 of the labels of pairs."""
    found = hashlib.sha256()
    for batch in batches:
        found.update(batch.need("pairs").cpu().numpy().tobytes())
        found.update(batch.need("pair_label").cpu().double().numpy().tobytes())
    return found.hexdigest()


def held_out(scorer: Scorer, batch: Batch, bins: int = 10) -> HeldOut:
    """Accuracy and calibration of a scorer's differences on the batch's labelled pairs."""
    first, second = pick(scores_of(batch, scorer), batch.need("pairs").cpu())
    weight = pair_weights(batch.weight, batch.need("pairs"), batch.pair_weight)
    return calibration(first - second, batch.need("pair_label").cpu(), None if weight is None else weight.cpu(), bins)
