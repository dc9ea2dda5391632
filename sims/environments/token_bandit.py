"""The token bandit of Tajwar et al. 2024 (their N-dimensional bandit): a prompt token, then tokens that are each
rewarded like an action of the 1-D bandit; and a small one with EOS, whose responses can all be listed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from sims.core.numerics.noise import Noise
from sims.core.objectives.preferences import Labeller
from sims.core.spec import SpecError, setting

from .bandit import bump, cauchy_data_policy
from .enumerable import EnumerableSpec
from .space import TokenSpace
from .toy import RewardLabeller, ToyEnvironment


@dataclass(frozen=True)
class TokenBandit(ToyEnvironment):
    """Responses of `length` tokens without EOS; reward = the mean of exp(−((token − peak)/width)²), in [0, 1].

    The data policy draws every token from the paper's histogram, independently. The paper's rewards include the
    prompt's own token (`reward_prompt`), which no policy can choose: with its 100 prompts, drawn uniformly,
    the largest reward is then 0.918 and not 1.
    """

    exact: ClassVar[str] = "largest reward; KL and entropy after each sampled prefix"
    estimators: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"reward": "samples", "gold": "samples", "kl_policy_ref": "prefixes", "entropy": "prefixes"}
    )

    num_prompts: int = setting(100, "number of different prompts (X), each a token; evenly spaced", at_least=1)
    vocabulary: int = setting(100, "number of tokens", at_least=2)
    length: int = setting(9, "tokens per response", at_least=1)
    peak: float = setting(70.0, "token with the largest reward", at_least=0)
    width: float = setting(10.0, "width of the reward's bump, in tokens", above=0)
    reward_prompt: bool = setting(False, "include the prompt's token in the mean reward, as the paper does")
    evaluation_samples: int = setting(128, "responses drawn per run at each evaluation", at_least=2)

    def check(self) -> None:
        if self.peak > self.vocabulary - 1:
            raise SpecError("peak", self.peak, f"must be a token: at most {self.vocabulary - 1}")
        if self.num_prompts > self.vocabulary:
            raise SpecError("num_prompts", self.num_prompts, f"must be at most vocabulary = {self.vocabulary}")

    @property
    def space(self) -> TokenSpace:
        return TokenSpace(self.vocabulary, self.length)

    def data_policy(self) -> np.ndarray:
        """(vocabulary,) probabilities of a token, at every position alike."""
        return cauchy_data_policy(self.vocabulary)

    def prompt_tokens(self) -> np.ndarray:
        """(X,) the token that each prompt is: all tokens if X is the vocabulary size, else evenly spaced."""
        return ((2 * np.arange(self.num_prompts) + 1) * self.vocabulary) // (2 * self.num_prompts)

    def build(self, dtype: torch.dtype, noise: Noise) -> TokenBanditEnvironment:
        """The environment that these settings describe, one for all runs."""
        of_token = torch.from_numpy(bump(self.vocabulary, self.peak, self.width)).to(dtype)
        of_prompt = of_token[torch.from_numpy(self.prompt_tokens())] if self.reward_prompt else None
        return TokenBanditEnvironment(self.space, self.num_prompts, of_token, of_prompt, self.labeller)


@dataclass(frozen=True)
class TokenBanditR1(TokenBandit, kind="token_bandit_r1"):
    """R1: peak at 70, which the data policy rarely hits (0.046 of a token's mass lies within ±10).

    >>> sims.TokenBanditR1(length=9).space
    TokenSpace(vocabulary=100, length=9, eos=False)
    """


@dataclass(frozen=True)
class TokenBanditR2(TokenBandit, kind="token_bandit_r2"):
    """R2: peak at 20, in the middle of the data policy (0.45 of a token's mass lies within ±10).

    >>> sims.TokenBanditR2(num_prompts=2).peak
    20.0
    """

    peak: float = setting(20.0, "token with the largest reward", at_least=0)


class TokenBanditEnvironment(RewardLabeller):
    """of_token: (V,) reward of each token; of_prompt: (X,) that of each prompt's own, or None if it is not included."""

    def __init__(
        self, space: TokenSpace, num_prompts: int, of_token: Tensor, of_prompt: Tensor | None, labeller: Labeller
    ) -> None:
        super().__init__(labeller)
        self.space, self.num_prompts = space, num_prompts
        self.of_token, self.of_prompt = of_token, of_prompt

    def reward(self, prompts: Tensor, responses: Tensor) -> Tensor:
        """(..., B, K) mean reward over the tokens of responses (..., B, K, L), and the prompt's if included."""
        total = self.of_token[responses].sum(-1)
        if self.of_prompt is None:
            return total / self.space.length
        return (total + self.of_prompt[prompts].unsqueeze(-1)) / (self.space.length + 1)

    def best_responses(self) -> Tensor:
        """(X, L) a response to each prompt that no other exceeds in reward."""
        return self.of_token.argmax().expand(self.num_prompts, self.space.length)


@dataclass(frozen=True)
class TokenBanditSmall(EnumerableSpec, kind="token_bandit_small"):
    """A token bandit with EOS whose 341 responses can be listed: reward = mean over the tokens, EOS included, of
    exp(−((token − peak)/width)²); the data policy draws every token from the paper's histogram, with one bin per token.

    >>> sims.TokenBanditSmall().rewards().shape
    (1, 341)
    """

    only_numbers: ClassVar[frozenset[str]] = frozenset(("peak", "width"))

    vocabulary: int = setting(5, "number of tokens, EOS (token 0) included", at_least=2, at_most=8)
    max_length: int = setting(4, "largest number of tokens in a response, EOS included", at_least=1, at_most=4)
    peak: float = setting(3.0, "token with the largest reward", at_least=0)
    width: float = setting(1.0, "width of the reward's bump, in tokens", above=0)

    def check(self) -> None:
        if self.peak > self.vocabulary - 1:
            raise SpecError("peak", self.peak, f"must be a token: at most {self.vocabulary - 1}")

    @property
    def space(self) -> TokenSpace:
        return TokenSpace(self.vocabulary, self.max_length, eos=True)

    def rewards(self) -> np.ndarray:
        responses, mask = (x.numpy() for x in self.space.all_responses)
        of_token = bump(self.vocabulary, self.peak, self.width)
        return np.tile((of_token[responses] * mask).sum(-1) / mask.sum(-1), (self.num_prompts, 1))

    def reference_logp(self, noise: Noise | None = None) -> np.ndarray:
        return np.tile(np.log(cauchy_data_policy(self.vocabulary)), (self.num_prompts, self.space.nodes, 1))
