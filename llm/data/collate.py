"""Examples to padded tensors: prompts padded on the left, completions on the right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from llm.data.tokenise import Example


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """B examples as tensors, in the axes of `sims.core.objectives.batch.Batch`; None where the kind has no such field.

    prompts: (B, P) int64, padded on the left; prompt_mask: (B, P) bool, True on the prompt's tokens, BOS included.
    responses: (B, K, L) int64, padded on the right; mask: (B, K, L) bool, True on its tokens, EOS included, but for
        those of others within a response of several turns.
        K = 2 for preferences (chosen, rejected), else 1.
    pairs: (B, 1, 2) int64, all [0, 1]; pair_label: (B, 1) float32, all 1: the first is preferred.
    desirable: (B, 1) float32, 1 where an unpaired completion is labelled good, else 0.
    examples: the rows themselves, for reward functions (prompt as read, extra columns).

    Padding is known from the masks only: the pad id may be the EOS id.
    """

    prompts: Tensor
    prompt_mask: Tensor
    examples: tuple[Example, ...]
    responses: Tensor | None = None
    mask: Tensor | None = None
    pairs: Tensor | None = None
    pair_label: Tensor | None = None
    desirable: Tensor | None = None


def collate(examples: Sequence[Example], pad_id: int) -> TokenBatch:
    """Pad examples of one kind into a batch. pad_id: `TextEncoder(tokenizer).pad`."""
    if not examples:
        raise ValueError("examples is empty: a batch needs at least one")
    k = len(examples[0].completion_ids)
    labelled = examples[0].label is not None
    for example in examples:
        if len(example.completion_ids) != k or (example.label is not None) != labelled:
            raise ValueError(f"{example.where} is of another kind than {examples[0].where}: a batch holds one kind")
    b = len(examples)

    def padded(rows: Sequence[np.ndarray], side: str) -> tuple[Tensor, Tensor]:
        """Ids (N, longest), and True where they are the rows' own."""
        ids = [torch.from_numpy(row).long() for row in rows]
        there = [torch.ones(len(row), dtype=torch.bool) for row in rows]
        whole = pad_sequence(ids, batch_first=True, padding_value=pad_id, padding_side=side)
        return whole, pad_sequence(there, batch_first=True, padding_side=side)

    prompts, prompt_mask = padded([example.prompt_ids for example in examples], "left")
    if k == 0:
        return TokenBatch(prompts, prompt_mask, tuple(examples))
    responses, mask = padded([ids for example in examples for ids in example.completion_ids], "right")
    for number, example in enumerate(examples):
        for at, chosen in enumerate(example.chosen_by_policy or ()):
            mask[number * k + at, : len(chosen)] &= torch.from_numpy(chosen)
    return TokenBatch(
        prompts,
        prompt_mask,
        tuple(examples),
        responses=responses.reshape(b, k, -1),
        mask=mask.reshape(b, k, -1),
        pairs=torch.tensor([0, 1]).repeat(b, 1, 1) if k == 2 else None,
        pair_label=torch.ones(b, 1) if k == 2 else None,
        desirable=torch.tensor([[float(bool(example.label))] for example in examples]) if labelled else None,
    )
