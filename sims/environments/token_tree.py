"""A small tree of token sequences with EOS: responses of several lengths, few enough to sum over all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from sims.core.numerics.noise import Noise
from sims.core.spec import SpecError, setting

from .enumerable import EnumerableEnvironment, EnumerableSpec, Tables
from .space import EOS, TokenSpace

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


@dataclass(frozen=True)
class VerifiableTree(TokenTree, kind="verifiable_tree"):
    """A token tree whose responses are right or wrong, the short ones more often right.

    Each response has a quality u, drawn once from U(0, 1). It is right if u > 1 − p, where p goes evenly from
    `right_short`, of the shortest responses, to `right_long`, of the longest. The reward is 1 if it is right, else 0;
    or dense, above ½ if it is right, and growing with u: u·½/(1 − p) if it is wrong, 1 − (1 − u)·½/p if it is right.

    >>> sims.VerifiableTree(right_short=1.0).rewards()[0, :4]  # the first has one token
    array([1., 0., 0., 0.])
    """

    only_numbers: ClassVar[frozenset[str]] = frozenset(("table_seed", "right_short", "right_long", "reward"))

    right_short: float = setting(0.7, "probability that a response of one token is right", at_least=0, at_most=1)
    right_long: float = setting(0.1, "probability that a response of max_length tokens is right", at_least=0, at_most=1)
    reward: Literal["verifiable", "dense"] = setting(
        "verifiable", "1 if a response is right, else 0; or a number above 1/2 if it is right, that says how good it is"
    )

    def check(self) -> None:
        super().check()
        if self.structure != "response":
            raise SpecError("structure", self.structure, "must be response: each is right or wrong as a whole")

    def rewards(self) -> np.ndarray:
        quality = np.random.default_rng([self.table_seed, 0]).uniform(size=(self.num_prompts, len(self._tokens)))
        share = (self._tokens - 1) / max(1, self.max_length - 1)
        wrong = 1.0 - (self.right_short + share * (self.right_long - self.right_short))
        right = quality > wrong
        if self.reward == "verifiable":
            return right.astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(right, 1.0 - 0.5 * (1.0 - quality) / (1.0 - wrong), 0.5 * quality / wrong)

    @property
    def _tokens(self) -> np.ndarray:
        """(N,) tokens of each response, EOS included."""
        return self.space.all_responses[1].sum(-1).numpy()  # type: ignore[no-any-return]

    def environment(self, tables: Tables, dtype: torch.dtype, noise: Noise) -> EnumerableEnvironment:
        return TreeOfLengths(self.space, torch.from_numpy(tables["rewards"]).to(dtype), self.labeller)


class TreeOfLengths(EnumerableEnvironment):
    """One that measures the expected length of a response, before EOS."""

    def measures(self, logp: Tensor, logp_ref: Tensor) -> dict[str, Tensor]:
        responses, mask = self.space.all_responses
        tokens = (mask & (responses != EOS)).sum(-1).to(logp)
        return {"length": (logp.exp() * tokens).sum(-1).mean(-1)}
