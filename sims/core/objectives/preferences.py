"""From rewards to labels: which responses are compared, and which is preferred.

Labels are data: they are drawn once, when responses are labelled, from uniforms that are passed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from sims.core.spec import Spec, SpecError, setting

Pairing = Literal["drawn", "best_worst", "all", "correct_incorrect", "halves"]


@dataclass(frozen=True)
class Labeller(Spec, kind="labeller"):
    """A Bradley–Terry labeller: P(first ≻ second) = σ((r_1 − r_2) / label_temperature), then flipped with probability
    flip_rate.

    With rewards in [0, 1] and temperature 1 labels are nearly random; the default is noiseless.
    """

    label_temperature: float = setting(
        0.0, "temperature of the Bradley-Terry labels, in units of reward; 0: noiseless, ties give one half", at_least=0
    )
    flip_rate: float = setting(0.0, "probability that a label is flipped", at_least=0, at_most=0.5)
    correct_above: float = setting(0.5, "responses with a reward above this are correct (pairing = correct_incorrect)")

    def label(self, first: Tensor, second: Tensor, uniforms: Tensor) -> Tensor:
        """1 where the first is preferred, 0 where the second is, ½ for a noiseless tie.

        first, second: rewards (..., Q); uniforms: (..., Q, 2), one for the labels and one for the flip.
        """
        if self.label_temperature == 0:
            won = (torch.sign(first - second) + 1.0) / 2.0
        else:
            won = (uniforms[..., 0] < preference_probability(first, second, self.label_temperature)).to(first.dtype)
        return torch.where(uniforms[..., 1] < self.flip_rate, 1.0 - won, won) if self.flip_rate > 0 else won


def preference_probability(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """σ((r_1 − r_2)/temperature), in float64. Any shape. Bradley & Terry 1952."""
    return torch.exp(logsigmoid((first.double() - second.double()) / temperature))


def count_pairs(num_generations: int, pairing: Pairing) -> int:
    """Q, the number of pairs per prompt with K responses; SpecError if there is none."""
    if num_generations < 2:
        raise SpecError("num_generations", num_generations, "must be at least 2: a pair needs two responses")
    if pairing in ("drawn", "halves") and num_generations % 2:
        raise SpecError("num_generations", num_generations, f"must be even: pairing = {pairing} pairs up all responses")
    every, half = num_generations * (num_generations - 1) // 2, num_generations // 2
    return {"drawn": half, "halves": half, "best_worst": 1, "all": every, "correct_incorrect": every}[pairing]


def choose_pairs(rewards: Tensor, pairing: Pairing, correct_above: float = 0.5) -> tuple[Tensor, Tensor | None]:
    """The pairs to label, and the weight of each (None: all weigh 1). rewards: (..., B, K).

    drawn: 0-1, 2-3, ... · best_worst: argmax against argmin · all: every i < j · correct_incorrect: those i < j of
    which exactly one reward is above `correct_above` · halves: 0-K/2, 1-(K/2+1), ..., where the second half of the
    responses comes from another distribution. Returns pairs (..., B, Q, 2) and weights (..., B, Q).
    """
    generations = rewards.shape[-1]
    if generations % 2:
        count_pairs(generations, pairing)  # refuses what cannot be paired
    if pairing == "best_worst":
        best_worst = torch.stack([rewards.argmax(-1), rewards.argmin(-1)], dim=-1).unsqueeze(-2)
        # With equal rewards argmax and argmin are the same response, which is no pair: weight 0.
        return best_worst, (rewards.amax(-1, keepdim=True) > rewards.amin(-1, keepdim=True)).to(rewards.dtype)
    if pairing == "drawn":
        index = torch.arange(generations, device=rewards.device).reshape(-1, 2)
    elif pairing == "halves":
        index = torch.arange(generations, device=rewards.device).reshape(2, -1).T
    else:
        index = torch.triu_indices(generations, generations, 1, device=rewards.device).T
    pairs = index.expand(*rewards.shape[:-1], *index.shape)
    if pairing != "correct_incorrect":
        return pairs, None
    correct = rewards > correct_above
    return pairs, (correct[..., index[:, 0]] != correct[..., index[:, 1]]).to(rewards.dtype)


def desirable_from_pairs(pairs: Tensor, label: Tensor, generations: int, weight: Tensor | None = None) -> Tensor:
    """Share of its pairs in which each response was preferred: (..., B, K), ½ if it was in none. For KTO.

    label, weight: (..., B, Q); zero-weight pairs are ignored, all others weigh the same.
    """
    played = torch.ones_like(label) if weight is None else (weight > 0).to(label.dtype)
    wins = label.new_zeros((*label.shape[:-1], generations))
    games = torch.zeros_like(wins)
    for side, won in ((0, label), (1, 1.0 - label)):
        wins = wins.scatter_add(-1, pairs[..., side], played * won)
        games = games.scatter_add(-1, pairs[..., side], played)
    return torch.where(games > 0, wins / games.clamp(min=1), 0.5)
