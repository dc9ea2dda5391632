"""The specification of a language model: its settings, and the policy that they make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from sims.core.numerics.noise import Noise
from sims.core.spec import SpecError

from .settings import LanguageModelSettings

if TYPE_CHECKING:
    from .policy import CausalLMPolicy


@dataclass(frozen=True)
class LanguageModelSpec(LanguageModelSettings, kind="language_model"):
    """The model that training starts from, which is also its reference, and how it is sampled and scored.

    >>> llm.LanguageModelSpec(model="mistral", lora_rank=4).decoding.max_new_tokens == llm.Decoding().max_new_tokens
    True
    """

    largest_stack: ClassVar[int] = 16  # runs, one after another: with more, some processes have nothing to do

    def check_environment(self, environment: Any) -> None:
        if not environment.text:
            raise SpecError(
                "environment", environment.kind, "must be a task of llm.tasks: a language model needs prompts of text"
            )
        environment.check_longest(self.decoding.max_new_tokens)

    def build(self, environment: Any, noise: Noise, critic: bool, dtype: torch.dtype) -> CausalLMPolicy:
        # Not at the top: transformers takes seconds to load, which one who only names a model should not wait for.
        from .loading import build_policy, load_tokenizer

        return build_policy(self, load_tokenizer(self), critic, dtype, torch.device("cpu"))
