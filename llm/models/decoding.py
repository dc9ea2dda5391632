"""Settings of the distribution that tokens are drawn from, and of what draws them. They load no library of models, so
that an experiment can be named, read and looked up without one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from sims.core.spec import Spec, SpecError, setting

CacheKind = Literal["dynamic", "static"]
_LEAST_TEMPERATURE = 0.01  # vLLM silently raises temperatures between 0 and this


@dataclass(frozen=True)
class Decoding(Spec, kind="decoding"):
    """The distribution that tokens are drawn from.

    temperature is part of the policy: responses are scored at it too, when they are drawn and in every update, so that
    the ratio of an on-policy update is 1. top_p is not: a draw's `logp` is that under the truncated distribution, an
    update scores under the whole one, and the ratio starts below 1. Evaluations measure the policy at their own
    temperature and top_p, where these are given: its samples, and its KL and entropy, too.

    >>> llm.Decoding(max_new_tokens=16, temperature=0.7).max_new_tokens
    16
    """

    max_new_tokens: int = setting(64, "longest response in tokens, EOS included (L)", at_least=1)
    temperature: float = setting(1.0, "divides the logits, in sampling and in scoring", above=0)
    top_p: float = setting(
        1.0, "nucleus sampling: draw from the fewest likeliest tokens with this total probability", above=0, at_most=1
    )
    sample_batch_size: int = setting(128, "responses drawn in one batch", at_least=1)
    cache_implementation: CacheKind = setting(
        "dynamic",
        "keys and values: dynamic, which grow with the responses, or static, of fixed size: on a GPU a step is then "
        "one CUDA graph",
        omit_default=True,
    )
    eval_temperature: float | None = setting(
        None, "temperature of evaluations; none: that of training", above=0, omit_default=True
    )
    eval_top_p: float | None = setting(
        None, "top_p of evaluations, near 0: greedy; none: that of training", above=0, at_most=1, omit_default=True
    )
    stop_strings: tuple[str, ...] = setting(
        (), "a response ends with the first of these strings that it has", omit_default=True, repeated=True
    )

    def check(self) -> None:
        super().check()
        if "" in self.stop_strings:
            raise SpecError("stop_strings", self.stop_strings, "must be strings that are not empty")

    def for_evaluation(self) -> Self:
        """The distribution that evaluations draw from."""
        temperature = self.temperature if self.eval_temperature is None else self.eval_temperature
        top_p = self.top_p if self.eval_top_p is None else self.eval_top_p
        return self.replace(temperature=temperature, top_p=top_p, eval_temperature=None, eval_top_p=None)


@dataclass(frozen=True)
class VLLMDecoding(Decoding, kind="vllm_decoding"):
    """The distribution that tokens are drawn from, and the vLLM engine that draws them; options under TRL's names."""

    vllm_gpu_memory_utilization: float = setting(
        0.3, "share of the GPU's memory for vLLM's weights and cache", above=0, at_most=1
    )
    vllm_max_model_length: int | None = setting(
        None, "longest prompt with its response in vLLM, in tokens; none: the model's positions", at_least=2
    )
    vllm_enforce_eager: bool = setting(False, "run vLLM without CUDA graphs: it starts faster and samples more slowly")

    def check(self) -> None:
        super().check()
        for name in ("temperature", "eval_temperature"):
            if (value := getattr(self, name)) is not None and value < _LEAST_TEMPERATURE:
                raise SpecError(name, value, f"must be at least {_LEAST_TEMPERATURE} with use_vllm")
        if self.cache_implementation != "dynamic":
            raise SpecError("cache_implementation", self.cache_implementation, "vLLM has a cache of its own")
