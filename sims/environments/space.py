"""Token sequences of bounded length, as a tree whose nodes are prefixes.

A bandit is the tree of depth 1. Responses that end early end with EOS, which is token 0; all others have the full
length.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

EOS = 0


@dataclass(frozen=True)
class TokenSpace:
    """vocabulary: number of tokens (V); length: largest number of tokens in a response (L); eos: whether token 0 ends a
    response.

    >>> sims.TokenSpace(vocabulary=3, length=3, eos=True).nodes  # 1 + 3 + 9 prefixes
    13
    """

    vocabulary: int
    length: int = 1
    eos: bool = False

    @cached_property
    def nodes(self) -> int:
        """Number of prefixes after which a token is chosen, including those after an EOS, which are never reached."""
        return sum(self.vocabulary**t for t in range(self.length))

    def node_index(self, responses: Tensor) -> Tensor | None:
        """The prefix before each token, as an index below `nodes`. responses: (..., L); None if there is only one
        node."""
        if self.length == 1:
            return None
        nodes, first, state = [], 0, torch.zeros_like(responses[..., 0])
        for t in range(self.length):
            nodes.append(first + state)
            first += self.vocabulary**t
            state = state * self.vocabulary + responses[..., t]
        return torch.stack(nodes, dim=-1)

    def code(self, responses: Tensor) -> Tensor:
        """A number for each response, below vocabulary^length; padding must be EOS. responses: (..., L)."""
        code = responses[..., 0]
        for t in range(1, self.length):
            code = code * self.vocabulary + responses[..., t]
        return code

    def mask(self, responses: Tensor) -> Tensor:
        """True up to and including the first EOS. responses: (..., L)."""
        if not self.eos or self.length == 1:
            return torch.ones((), dtype=torch.bool, device=responses.device).expand(responses.shape)
        ended = (responses == EOS).long().cumsum(-1)
        return (ended == 0) | ((ended == 1) & (responses == EOS))

    @cached_property
    def all_responses(self) -> tuple[Tensor, Tensor]:
        """Every response, padded with EOS, and its mask: (N, L) both."""
        every = torch.tensor(list(itertools.product(range(self.vocabulary), repeat=self.length)))
        mask = self.mask(every)
        canonical = ((every == EOS) | mask).all(-1)  # only padding after EOS, so that each response is listed once
        return every[canonical], mask[canonical]
