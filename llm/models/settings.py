"""Settings of a language model: which weights, which adapters, and how it is sampled and scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from sims.core.loop.protocols import PolicySpec
from sims.core.spec import Spec, SpecError, setting

from .decoding import Decoding


@dataclass(frozen=True)
class Scoring(Spec, kind="scoring"):
    """How log-probs are computed: memory against time. Only `precision` changes the numbers beyond rounding.

    >>> llm.Scoring(gradient_checkpointing=True).precision
    'stored'
    """

    gradient_checkpointing: bool = setting(
        False, "recompute a layer's activations in the backward pass instead of keeping them"
    )
    torch_compile: bool = setting(
        False,
        "score and train with layers that torch.compile has made into few kernels: faster on a GPU after a minute; "
        "rounding differs",
        omit_default=True,
    )
    logits_at_a_time: int = setting(
        1 << 24, "entries of the float32 block of logits (tokens x vocabulary) held at once, 4 bytes each", at_least=1
    )
    group_by_length: bool = setting(
        False,
        "responses of like length in one pass, in updates too, which saves padding; rounding differs",
        omit_default=True,
    )
    padding_free: bool = setting(
        False,
        "score the responses of a pass as one sequence without padding (TRL's packing); saves time with "
        "attn_implementation = varlen or flash_attention_2, and costs it with others",
        omit_default=True,
    )
    score_batch_size: int = setting(64, "responses scored in one batch where no gradient is needed", at_least=1)
    precision: Literal["stored", "bfloat16"] = setting(
        "stored",
        "stored: compute in the precision of the weights; bfloat16: under autocast; log-softmax at least in float32",
    )


@dataclass(frozen=True)
class LanguageModelSettings(PolicySpec):
    """The settings, which `loading` and `adapters` read; `LanguageModelSpec` builds a policy of them."""

    model: str = setting("pythia", "an embedded model (pythia, mistral), a folder, or a hub name")
    revision: str | None = setting(None, "branch, tag or commit of a hub name")
    tokenizer: str | None = setting(
        None, "tokenizer, if not the model's own: an embedded model, a folder, or a hub name"
    )
    weights: Literal["pretrained", "random"] = setting(
        "pretrained", "load the weights, or draw them at random, to measure speed"
    )
    base_precision: Literal["as_run", "bfloat16", "nf4"] = setting(
        "as_run",
        "precision of the frozen base under LoRA adapters; nf4: 4 bits in its linear layers (QLoRA), the rest as it is "
        "computed with; trained weights have that of the run",
    )
    lora_rank: int | None = setting(None, "rank of LoRA adapters; none: train all weights", at_least=1)
    lora_alpha: float = setting(16.0, "adapters are scaled by lora_alpha / lora_rank", above=0)
    lora_target_modules: tuple[str, ...] | None = setting(
        None, "names of the layers that get adapters (q_proj,v_proj); none: every linear one", omit_default=True
    )
    attn_implementation: (
        Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention", "varlen"] | None
    ) = setting(
        None,
        "attention of transformers; none: what it takes for the model, sdpa for most; varlen: PyTorch's own flash "
        "attention in passes with padding_free, sdpa in others",
        omit_default=True,
    )
    critic: Literal["shared", "own"] = setting(
        "shared", "backbone of the critic, if the algorithm needs one: the policy's, or a copy of its own"
    )
    micro_batch_size: int | None = setting(
        None, "prompts per forward and backward pass of an update; none: all. Less memory, same gradient", at_least=1
    )
    decoding: Decoding = setting(Decoding(), "the distribution that tokens are drawn from")
    scoring: Scoring = setting(Scoring(), "how log-probs are computed")

    def base_dtype(self, run: torch.dtype) -> torch.dtype:
        """Precision in which the frozen base is loaded, given that of the run: nf4 quantises it after that."""
        halved = self.base_precision == "nf4" and self.scoring.precision == "bfloat16"
        return torch.bfloat16 if halved or self.base_precision == "bfloat16" else run

    def check(self) -> None:
        if self.base_precision != "as_run" and self.lora_rank is None:
            raise SpecError("base_precision", self.base_precision, "only means something with lora_rank")
        if self.base_precision == "nf4" and self.scoring.torch_compile:
            raise SpecError("torch_compile", True, "must be false with base_precision = nf4: its layers stay in pieces")
        if self.lora_target_modules is not None and self.lora_rank is None:
            raise SpecError("lora_target_modules", self.lora_target_modules, "only means something with lora_rank")
        if self.attn_implementation == "varlen" and not self.scoring.padding_free:
            raise SpecError("attn_implementation", "varlen", "only means something with padding_free = True")
