"""Changes to a file's recorded responses before training: cut short, or pairs relabelled by a reward.

Both are done once, when the data are loaded, and logged; no file is written.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from llm.data import Example, collate
from llm.data.rows import first_of
from sims.core.objectives.preferences import Labeller

OnTies = Literal["drop", "coin"]
_ROWS = 256  # scored at a time

# Rewards and gold rewards of the rows' responses: examples, responses (B, K, L), mask → (B, K) both.
Score = Callable[[Sequence[Example], Tensor, Tensor], tuple[Tensor, Tensor]]


def above_the_bar(line: str) -> None:
    """Print a line above a run's progress bar, which is shown already when the first batch loads recorded data."""
    tqdm.write(line, file=sys.stderr)


def cut_short(
    examples: Sequence[Example],
    shortest: int,
    longest: int,
    ends: Sequence[int],
    rng: np.random.Generator,
    source: str,
    log: Callable[[str], None] = above_the_bar,
) -> list[Example]:
    """Each response cut to a length drawn uniformly from `shortest` … `longest` tokens, and ended there by EOS.

    A response that is no longer than the length drawn for it is kept. ends: the tokens that end a response, EOS first.
    log: called with one line that counts both.
    """

    several = next((example.where for example in examples if example.chosen_by_policy is not None), None)
    if several is not None:
        raise ValueError(f"{source}: {several} has a response of several turns, which cannot be cut short")

    def cut(ids: np.ndarray) -> np.ndarray:
        length = int(rng.integers(shortest, longest + 1))
        return np.append(ids[:length], ends[0]).astype(ids.dtype) if (~np.isin(ids, ends)).sum() > length else ids

    found = [replace(e, completion_ids=tuple(cut(ids) for ids in e.completion_ids)) for e in examples]
    pairs = [
        (old, new)
        for before, after in zip(examples, found, strict=True)
        for old, new in zip(before.completion_ids, after.completion_ids, strict=True)
    ]
    changed = sum(old is not new for old, new in pairs)
    log(
        f"{source}: cut {changed} of {len(pairs)} recorded responses to {shortest} to {longest} tokens; "
        f"{len(pairs) - changed} were no longer"
    )
    return found


def relabel(
    examples: Sequence[Example],
    score: Score,
    labeller: Labeller,
    uniforms: Tensor,
    on_ties: OnTies,
    pad: int,
    source: str,
    log: Callable[[str], None] = above_the_bar,
) -> tuple[list[Example], Tensor]:
    """Preference rows with labels from a reward instead of their own: the rows that are kept, and labels (N, 1), the
    probability that the first of the pair is preferred.

    uniforms: (rows, 1, 2), one for the label and one for the flip. on_ties: a pair of equal rewards is dropped,
    or labelled by a fair coin, which may be flipped like any other label. log: called with one line that counts rows,
    labels that differ from the rows' own, and ties. Raises ValueError where every pair is a tie to be dropped.
    """
    rewards = torch.cat([_scores(examples[at : at + _ROWS], score, pad) for at in range(0, len(examples), _ROWS)])
    first, second = rewards.split(1, -1)
    uniforms, tied = uniforms.to(rewards.device), first == second
    coin = Labeller(label_temperature=1.0, flip_rate=labeller.flip_rate)  # of equal rewards: ½
    label = torch.where(tied, coin.label(first, second, uniforms), labeller.label(first, second, uniforms))
    ties = [example.where for example, tie in zip(examples, tied.flatten().tolist(), strict=True) if tie]
    kept = ~tied.flatten() if on_ties == "drop" else torch.ones_like(tied.flatten())
    changed = int((label[kept] < 0.5).sum())
    what = {"drop": "dropped", "coin": "labelled by a coin"}[on_ties]
    log(
        f"{source}: relabelled {int(kept.sum())} of {len(examples)} pairs, {changed} of them against the row's label; "
        f"{len(ties)} ties {what}{': ' + first_of(ties) if ties else ''}"
    )
    if not bool(kept.any()):
        raise ValueError(f"{source}: none of {len(examples)} pairs is left: all have two equal rewards")
    return [example for example, keep in zip(examples, kept.tolist(), strict=True) if keep], label[kept]


def _scores(examples: Sequence[Example], score: Score, pad: int) -> Tensor:
    rows = collate(examples, pad)
    assert rows.responses is not None and rows.mask is not None
    rewards, _ = score(examples, rows.responses, rows.mask)
    return rewards
