"""From a `LanguageModelSpec` to a policy: configuration, tokenizer, weights, LoRA adapters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from llm.embedded import EMBEDDED, find_folder
from sims.core.spec import SpecError

from .policy import CausalLMPolicy
from .shapes import SHAPES
from .vllm_sampler import VLLMDecoding, VLLMPolicy

if TYPE_CHECKING:
    from .spec import LanguageModelSpec


def locate(name: str) -> tuple[str, bool]:
    """A model's folder or hub name, and whether it is a folder on this machine."""
    path = find_folder(name)
    try:
        return str(path), path.is_dir()
    except OSError:  # too long for a path
        return str(path), False


def load_config(spec: LanguageModelSpec) -> PretrainedConfig:
    """A model's shape: from disk, from `SHAPES`, else from the hub."""
    source, local = locate(spec.model)
    if not local and spec.model in SHAPES:
        kind, sizes = SHAPES[spec.model]
        return AutoConfig.for_model(kind, **sizes)
    try:
        return AutoConfig.from_pretrained(
            source, revision=spec.revision, local_files_only=local, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise _not_found("model", spec.model, error) from error


def load_tokenizer(spec: LanguageModelSpec) -> PreTrainedTokenizerBase:
    """The tokenizer that goes with a model, padding on the left."""
    name = spec.tokenizer or spec.model
    source, local = locate(name)
    try:
        return AutoTokenizer.from_pretrained(  # type: ignore[no-any-return]
            source, revision=spec.revision, local_files_only=local, trust_remote_code=False, padding_side="left"
        )
    except (OSError, ValueError) as error:
        raise _not_found("tokenizer" if spec.tokenizer else "model", name, error) from error


def load_model(spec: LanguageModelSpec, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The model on its device, with new adapters if `lora_rank` is set. Weights are read from safetensors only, never
    from pickles; on the device `meta` there are none, and nothing is read."""
    if device.type == "meta":
        return meta_model(spec, dtype)
    stored = torch.bfloat16 if spec.base_precision == "bfloat16" else dtype
    config = load_config(spec)
    if spec.weights == "random":
        with torch.random.fork_rng(devices=[]), torch.device(device):
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config, dtype=stored, trust_remote_code=False)
    else:
        source, local = locate(spec.model)
        try:
            model = AutoModelForCausalLM.from_pretrained(
                source,
                revision=spec.revision,
                local_files_only=local,
                dtype=stored,
                use_safetensors=True,
                trust_remote_code=False,
            ).to(device)  # type: ignore[arg-type]  # transformers wraps `to` without its types
        except (OSError, ValueError) as error:
            raise _not_found("model", spec.model, error) from error
    return model.eval() if spec.lora_rank is None else add_adapters(model, spec, dtype)


def meta_model(spec: LanguageModelSpec, dtype: torch.dtype) -> nn.Module:
    """The model on the device `meta`: shapes without memory."""
    stored = torch.bfloat16 if spec.base_precision == "bfloat16" else dtype
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(load_config(spec), dtype=stored, trust_remote_code=False).eval()
        return model if spec.lora_rank is None else add_adapters(model, spec, dtype)


def add_adapters(model: nn.Module, spec: LanguageModelSpec, dtype: torch.dtype) -> nn.Module:
    """LoRA on every linear layer but the head, as an identity at the start; its weights in `dtype`. Hu et al. 2022."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise SpecError("lora_rank", spec.lora_rank, "needs the library peft: pip install peft") from error
    config = LoraConfig(
        r=spec.lora_rank or 1,
        lora_alpha=spec.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adapted = get_peft_model(model, config)  # type: ignore[arg-type]
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    return adapted.eval()


def eos_token_ids(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> Sequence[int]:
    """Tokens that end a response: the tokenizer's EOS, and those of the model's generation config."""
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    known = [named] if isinstance(named, int) else list(named or ())
    if tokenizer.eos_token_id is None:
        raise SpecError("tokenizer", tokenizer.name_or_path, "must have an EOS token: without it no response ends")
    vocabulary = len(tokenizer)
    return tuple(dict.fromkeys([int(tokenizer.eos_token_id), *(token for token in known if token < vocabulary)]))


def build_policy(
    spec: LanguageModelSpec,
    tokenizer: PreTrainedTokenizerBase,
    critic: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> CausalLMPolicy:
    """The policy of a spec. critic: whether it has one."""
    model = load_model(spec, dtype, device)
    ends = eos_token_ids(model, tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0]
    kind = VLLMPolicy if isinstance(spec.decoding, VLLMDecoding) else CausalLMPolicy
    return kind(model, ends, int(pad), spec.decoding, spec.scoring, spec.critic if critic else None)


def _not_found(field: str, name: str, error: Exception) -> SpecError:
    first = str(error).strip().splitlines()[0]
    return SpecError(field, name, f"must be {', '.join(EMBEDDED)}, a folder with a model, or a hub name: {first}")
