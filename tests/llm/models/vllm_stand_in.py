"""A stand-in for vLLM over a model of transformers: its interface as the sources of 0.22.0 and 0.31.0 have it, as far
as we use it. Names that vLLM does not know are errors, and what it does by default that we must not want is done here
too: log-probs of the raw logits, the configuration's own EOS, weights at random, a prefix cache that outlives its
weights.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from llm.models import vllm_sampler
from llm.models.decoding import Decoding
from llm.models.sampling import generate
from llm.models.scoring import LanguageModel
from llm.models.settings import Scoring


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class SamplingParams:
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    logprobs: int | None = None
    detokenize: bool = True


class LLM:
    """error: size of a random relative error of every weight that is loaded, by which it differs from the trainer's."""

    started: ClassVar[list[LLM]] = []
    error: ClassVar[float] = 0.0

    def __init__(
        self,
        model: str,
        *,
        skip_tokenizer_init: bool = False,
        dtype: str = "auto",
        seed: int = 0,
        gpu_memory_utilization: float = 0.92,
        enforce_eager: bool = False,
        max_model_len: int | None = None,
        max_num_seqs: int | None = None,
        max_num_batched_tokens: int | None = None,
        load_format: str = "auto",
        generation_config: str = "auto",
        logprobs_mode: str = "raw_logprobs",
        distributed_executor_backend: str | None = None,
    ) -> None:
        assert skip_tokenizer_init and load_format == "dummy" and not list(Path(model).glob("*.safetensors"))
        assert distributed_executor_backend == "external_launcher" and generation_config == "vllm"
        self.options = SimpleNamespace(memory=gpu_memory_utilization, eager=enforce_eager, rows=max_num_seqs)
        self.config = AutoConfig.from_pretrained(model)
        assert len(self.config.architectures) == 1
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.most = max_model_len or self.config.max_position_embeddings
        self.processed = logprobs_mode == "processed_logprobs"
        self.model: Any = None
        self.cached_of_other_weights = False
        self.llm_engine = SimpleNamespace(engine_core=self)
        self.stopped = False
        self.pushes: list[dict[str, Tensor]] = []
        self.requests: list[tuple[list[int], int | None]] = []
        LLM.started.append(self)

    def shutdown(self, timeout: float | None = None) -> None:
        assert not self.stopped
        self.stopped = True

    def collective_rpc(
        self,
        method: str,
        timeout: float | None = None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> list[Any]:
        assert method == "reload_weights" and not args and kwargs is not None
        return [self._reload_weights(**kwargs)]

    def _reload_weights(self, weights_iterator: Iterable[tuple[str, Tensor]]) -> None:
        """The tensors are a checkpoint, which transformers then reads; each of them must be there, and no other."""
        rows = list(weights_iterator)
        weights = {name: tensor.detach().to(self.dtype).clone().contiguous() for name, tensor in rows}
        assert len(weights) == len(rows)
        noise = torch.Generator().manual_seed(0)
        for x in weights.values():
            x.mul_(1 + self.error * torch.randn(x.shape, generator=noise, dtype=x.dtype))
        with TemporaryDirectory() as folder:
            save_file(weights, Path(folder, "model.safetensors"), {"format": "pt"})
            self.config.save_pretrained(folder)
            self.model, report = AutoModelForCausalLM.from_pretrained(
                folder, dtype=self.dtype, output_loading_info=True
            )
        assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"], report
        self.pushes.append(weights)
        self.cached_of_other_weights = bool(self.requests)

    def reset_prefix_cache(self) -> bool:
        self.cached_of_other_weights = False
        return True

    def generate(
        self,
        prompts: Sequence[dict[str, list[int]]],
        sampling_params: Sequence[SamplingParams],
        *,
        use_tqdm: bool = True,
    ) -> list[SimpleNamespace]:
        assert not self.stopped and not use_tqdm and len(prompts) == len(sampling_params)
        assert self.model is not None, "weights at random"
        assert not self.cached_of_other_weights, "keys and values of weights that are gone"
        rows = [prompt["prompt_token_ids"] for prompt in prompts]
        self.requests += [(row, p.seed) for row, p in zip(rows, sampling_params, strict=True)]
        first = sampling_params[0]
        assert all(dict(vars(p), seed=0) == dict(vars(first), seed=0) for p in sampling_params)
        ends = [*(first.stop_token_ids or []), *([] if first.ignore_eos else [self.config.eos_token_id])]
        most = first.max_tokens or 16
        noise = [torch.Generator().manual_seed(p.seed) for p in sampling_params if p.seed is not None]
        uniforms = torch.stack([torch.rand(most, generator=g, dtype=torch.float64) for g in noise])
        width = max(map(len, rows))
        tokens = torch.tensor([[0] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows])
        distribution = Decoding(most, first.temperature, first.top_p)
        model = LanguageModel(self.model, None, Scoring())
        drawn = generate([(model, 1.0)], tokens, mask, uniforms, distribution, ends, 0)
        if not self.processed:
            with torch.no_grad():
                drawn = drawn._replace(logp=model(tokens, mask, drawn.responses, drawn.mask, drawn.mask).logp)
        return [self._output(row, *one) for row, *one in zip(rows, *drawn, strict=True)]

    def _output(self, prompt: list[int], tokens: Tensor, mask: Tensor, logp: Tensor) -> SimpleNamespace:
        count = min(int(mask.sum()), self.most - len(prompt))
        ids = tokens[:count].tolist()
        logprobs = [{token: Logprob(float(x))} for token, x in zip(ids, logp, strict=False)]
        whole = bool(mask[-1]) or count < int(mask.sum())
        output = SimpleNamespace(token_ids=ids, logprobs=logprobs, finish_reason="length" if whole else "stop")
        return SimpleNamespace(outputs=[output])


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> type[LLM]:
    """vLLM, installed and running on the CPU."""
    library, platforms = ModuleType("vllm"), ModuleType("vllm.platforms")
    vars(library).update(LLM=LLM, SamplingParams=SamplingParams, platforms=platforms)
    vars(platforms).update(current_platform=SimpleNamespace(device_type="cpu"))
    monkeypatch.setitem(sys.modules, "vllm", library)
    monkeypatch.setitem(sys.modules, "vllm.platforms", platforms)
    monkeypatch.setattr(LLM, "started", [])
    monkeypatch.setattr(LLM, "error", 0.0)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # restored afterwards
        monkeypatch.delenv(name)
    vllm_sampler.stop_engine()
    yield LLM
    vllm_sampler.stop_engine()
