"""A small tree of token sequences with EOS: responses of several lengths, few enough to sum over all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sims.core.numerics.noise import Noise
from sims.core.spec import setting

from .enumerable import EnumerableSpec
from .space import TokenSpace


@dataclass(frozen=True)
class TokenTree(EnumerableSpec, kind="token_tree"):
    """Sequences of tokens with EOS, whose rewards and data policy are drawn once from `table_seed`. 3 tokens and length
    3 make 15 responses.

    >>> sims.TokenTree(num_prompts=2).rewards().shape
    (2, 15)
    """

    only_numbers: ClassVar[frozenset[str]] = frozenset(("table_seed",))

    vocabulary: int = setting(3, "number of tokens, EOS included", at_least=2, at_most=8)
    max_length: int = setting(3, "largest number of tokens in a response, EOS included", at_least=1, at_most=4)
    table_seed: int = setting(0, "seed of the rewards and of the data policy", at_least=0)

    @property
    def space(self) -> TokenSpace:
        return TokenSpace(self.vocabulary, self.max_length, eos=True)

    def rewards(self) -> np.ndarray:
        count = len(self.space.all_responses[0])
        return np.random.default_rng([self.table_seed, 0]).uniform(size=(self.num_prompts, count))

    def reference_logp(self, noise: Noise | None = None) -> np.ndarray:
        shape = (self.num_prompts, self.space.nodes, self.vocabulary)
        logits = np.random.default_rng([self.table_seed, 1]).normal(size=shape)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))
