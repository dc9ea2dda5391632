"""A small tree of token sequences with EOS: responses of several lengths, few enough to sum over all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from sims.core.numerics.noise import Noise
from sims.core.spec import SpecError, setting

from .enumerable import EnumerableSpec
from .space import TokenSpace

MOST_SEQUENCES = 10_000


@dataclass(frozen=True)
class TokenTree(EnumerableSpec, kind="token_tree"):
    """Sequences of tokens with EOS, whose rewards and data policy are drawn once from `table_seed`. 3 tokens and length
    3 make 15 responses.

    >>> sims.TokenTree(num_prompts=2).rewards().shape
    (2, 15)
    """

    only_numbers: ClassVar[frozenset[str]] = frozenset(("table_seed",))

    vocabulary: int = setting(3, "number of tokens, EOS included", at_least=2, at_most=8)
    max_length: int = setting(3, "largest number of tokens in a response, EOS included", at_least=1, at_most=8)
    table_seed: int = setting(0, "seed of the rewards and of the data policy", at_least=0)

    structure: Literal["response", "path"] = setting(
        "response",
        "rewards: a number of its own for every response, or the mean of the worth of its tokens after their prefixes",
        omit_default=True,
    )

    def check(self) -> None:
        if self.vocabulary**self.max_length > MOST_SEQUENCES:
            most = int(np.log(MOST_SEQUENCES) / np.log(self.vocabulary))
            rule = f"must be at most {most} with vocabulary = {self.vocabulary}, so that all responses can be listed"
            raise SpecError("max_length", self.max_length, rule)

    @property
    def space(self) -> TokenSpace:
        return TokenSpace(self.vocabulary, self.max_length, eos=True)

    def rewards(self) -> np.ndarray:
        drawn, (responses, mask) = np.random.default_rng([self.table_seed, 0]), self.space.all_responses
        if self.structure == "response":
            return drawn.uniform(size=(self.num_prompts, len(responses)))
        worth = drawn.uniform(size=(self.num_prompts, self.space.nodes, self.vocabulary))
        nodes = self.space.node_index(responses)
        each = worth[:, np.zeros_like(responses) if nodes is None else nodes, responses]  # (X, N, L)
        return np.asarray((each * mask.numpy()).sum(-1) / mask.numpy().sum(-1))

    def reference_logp(self, noise: Noise | None = None) -> np.ndarray:
        shape = (self.num_prompts, self.space.nodes, self.vocabulary)
        logits = np.random.default_rng([self.table_seed, 1]).normal(size=shape)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))
