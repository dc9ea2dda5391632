"""Settings of a language model: which weights, which adapters, and how it is sampled and scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from sims.core.loop.protocols import PolicySpec
from sims.core.numerics.noise import Noise
from sims.core.spec import SpecError, setting

from .loading import build_policy, load_tokenizer
from .policy import CausalLMPolicy
from .sampling import Decoding
from .scoring import Scoring


@dataclass(frozen=True)
class LanguageModelSpec(PolicySpec, kind="language_model"):
    """The model that training starts from, which is also its reference, and how it is sampled and scored.

    >>> llm.LanguageModelSpec(model="mistral", lora_rank=4).decoding.max_new_tokens == llm.Decoding().max_new_tokens
    True
    """

    model: str = setting("pythia", "an embedded model (pythia, mistral), a folder, or a hub name")
    revision: str | None = setting(None, "branch, tag or commit of a hub name")
    tokenizer: str | None = setting(None, "its tokenizer, where it is not the model's own: likewise")
    weights: Literal["pretrained", "random"] = setting("pretrained", "load weights, or draw them: to measure speed")
    base_precision: Literal["as_run", "bfloat16"] = setting(
        "as_run", "precision of a frozen base under adapters; weights that are trained have the run's"
    )
    lora_rank: int | None = setting(None, "rank of LoRA adapters; none: train all weights", at_least=1)
    lora_alpha: float = setting(16.0, "adapters are scaled by lora_alpha / lora_rank", above=0)
    critic: Literal["shared", "own"] = setting("shared", "backbone of a critic, where the algorithm needs one")
    micro_batch_size: int | None = setting(
        None, "prompts that go through an update together; none: all. Cuts memory, changes no gradient", at_least=1
    )
    decoding: Decoding = setting(Decoding(), "the distribution that tokens are drawn from")
    scoring: Scoring = setting(Scoring(), "how log-probs are computed")

    def check(self) -> None:
        if self.base_precision != "as_run" and self.lora_rank is None:
            raise SpecError("base_precision", self.base_precision, "only means something with lora_rank")

    def check_environment(self, environment: Any) -> None:
        if not environment.text:
            raise SpecError(
                "environment", environment.kind, "must be a task of llm.tasks: a language model answers text"
            )

    def build(self, environment: Any, noise: Noise, critic: bool, dtype: torch.dtype) -> CausalLMPolicy:
        return build_policy(self, load_tokenizer(self), critic, dtype, torch.device("cpu"))
