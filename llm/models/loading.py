"""From a `LanguageModelSettings` to a policy: configuration, tokenizer, weights, LoRA adapters."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from llm.data.hub import hub_answers
from llm.data.tokenise import whole_text
from llm.embedded import EMBEDDED, find_folder
from sims.core.numerics.compiler import check_compiler
from sims.core.spec import SpecError

from .adapters import (
    MERGE,
    READ,
    add_adapters,
    base_named,
    base_of,
    check_base,
    is_of_adapters,
    merged,
    weights_digest,
)
from .decoding import VLLMDecoding
from .gate import (
    ADAPTER,
    CONFIG,
    check_config,
    check_folder,
    check_loaded,
    check_sizes,
    check_tokenizer,
    check_tokens,
    check_written,
    keep_savable,
    loading,
    say_unused,
)
from .policy import CausalLMPolicy
from .proof import prove
from .quantised import check_library, quantise
from .settings import LanguageModelSettings
from .shapes import SHAPES
from .steps import check_static
from .varlen import NAME as VARLEN
from .varlen import check_varlen
from .vllm_sampler import VLLMPolicy

# How the weights of any folder are read: no pickle and no code. Layers of the wrong shape are told, and then refused by
# name.
CHECKED: dict[str, Any] = {
    "use_safetensors": True,
    "ignore_mismatched_sizes": True,
    "output_loading_info": True,
}


def locate(name: str, field: str = "model") -> tuple[str, bool]:
    """A model's folder or hub name, and whether it is a folder on this machine. SpecError for a file, for a link that
    leads nowhere, and for the folder of a run, which has its model inside."""
    path = find_folder(name)
    try:
        local = path.is_dir()
        elsewhere = not local and (path.is_symlink() or path.exists())
    except OSError:  # too long for a path
        return str(path), False
    if not name or elsewhere:
        raise SpecError(field, name, f"must be {', '.join(EMBEDDED)}, a folder with a model, or a hub name")
    if local and (path / "run.yaml").is_file() and not any((path / file).is_file() for file in (CONFIG, ADAPTER)):
        inside = path / "model"
        rule = f"is {inside}" if inside.is_dir() else "is not there yet: its command with --resume ends with one"
        raise SpecError(field, name, f"is the folder of a run: its model {rule}")
    return str(path), local


def _held(local: bool, what: str) -> str:
    """What a folder on this machine must hold; nothing is said of a hub name here."""
    return f"must hold {what} that transformers can read" if local else ""


def from_here(local: bool) -> dict[str, bool]:
    """Arguments of transformers for where to look. local: whether it is a folder on this machine."""
    return {"local_files_only": local or not hub_answers(), "trust_remote_code": False}


def load_config(spec: LanguageModelSettings, field: str = "model") -> PretrainedConfig:
    """A model's shape: from disk, from `SHAPES`, else from the hub; that of the base where a folder holds adapters."""
    source, local = locate(spec.model, field)
    if not local and spec.model in SHAPES:
        kind, sizes = SHAPES[spec.model]
        return AutoConfig.for_model(kind, **sizes)
    if local:
        if (base := base_of(field, Path(source))) is not None:
            with base_named(field, Path(source), base):
                return load_config(spec.replace(model=base, revision=None), field)
        check_sizes(field, Path(source))
    with loading(field, spec.model, _held(local, "a configuration")):
        config = AutoConfig.from_pretrained(source, revision=spec.revision, **from_here(local))
    check_config(field, spec.model, config)
    return config


def load_tokenizer(spec: LanguageModelSettings, field: str = "model") -> PreTrainedTokenizerBase:
    """The tokenizer that goes with a model, padding on the left. field: which setting names the model."""
    field, name = ("tokenizer", spec.tokenizer) if spec.tokenizer else (field, spec.model)
    source, local = locate(name, field)
    if local and (Path(source) / CONFIG).exists():  # which says what tokenizer it is
        check_sizes(field, Path(source))
    if local and spec.tokenizer:  # that of the model's own folder is looked at with its weights
        check_written(field, Path(source))
    with loading(field, name, _held(local, "a tokenizer, and a configuration if any,")):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            source, revision=spec.revision, padding_side="left", **from_here(local)
        )
    check_tokenizer(field, name, tokenizer)
    return tokenizer


def check_attention(spec: LanguageModelSettings, dtype: torch.dtype, device: torch.device) -> None:
    """SpecError for an attention implementation that cannot compute here: its library is not installed, or it is made
    for another device or precision. dtype: of weights that are trained."""
    name = spec.attn_implementation or ""
    if name == VARLEN:
        check_varlen(torch.bfloat16 if spec.scoring.precision == "bfloat16" else spec.base_dtype(dtype), device)
    library = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}.get(name)
    if library is not None and importlib.util.find_spec(library) is None:
        rule = f"needs the library {library}: must be eager, sdpa or flex_attention without it"
        raise SpecError("attn_implementation", name, rule)


def load_model(spec: LanguageModelSettings, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The model on its device, with new adapters if `lora_rank` is set. Weights are read from safetensors only, never
    from pickles; on the device `meta` there are none, and nothing is read."""
    check_attention(spec, dtype, device)
    if device.type == "meta":
        return meta_model(spec, dtype)
    if spec.scoring.torch_compile:
        check_compiler("torch_compile", device)
    _check_base(spec)
    stored = spec.base_dtype(dtype)
    # Before they are read: the folder may be trained on, or removed, while the adapters are.
    under = weights_digest(spec.model) if spec.lora_rank is not None else ""
    if spec.base_precision == "nf4":
        check_library()
    if spec.weights == "random":
        config = load_config(spec)
        generators = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=generators), torch.device(device):
            torch.manual_seed(0)
            with attention_of(spec) as chosen:
                model = AutoModelForCausalLM.from_config(config, dtype=stored, trust_remote_code=False, **chosen)
    else:
        model = load_weights(spec, stored)
    model = quantise(model, device) if spec.base_precision == "nf4" else model.to(device)
    if spec.lora_rank is None:
        return model.eval()
    source, local = locate(spec.model)
    if local:  # what is saved of the adapters names their base, and may be read from another folder
        model.name_or_path = str(Path(source).absolute())
    adapted: Any = add_adapters(model, spec, dtype)
    setattr(adapted, READ, under)
    return adapted  # type: ignore[no-any-return]


def _check_base(spec: LanguageModelSettings) -> None:
    """SpecError for new adapters on a folder of adapters."""
    source, local = locate(spec.model)
    if spec.lora_rank is not None and local and is_of_adapters(Path(source)):
        rule = "holds adapters, on which no others can be put (lora_rank): must be a whole model"
        raise SpecError("model", spec.model, f"{rule}: {MERGE}")


@contextmanager
def attention_of(spec: LanguageModelSettings) -> Iterator[dict[str, str]]:
    """The argument of transformers for the attention, if one is named. SpecError for one that the model lacks."""
    name = spec.attn_implementation
    try:
        yield {} if name is None else {"attn_implementation": name}
    except (ImportError, ValueError) as error:
        if name is None or name.split("_")[0] not in str(error).lower():
            raise
        first = " ".join(str(error).split())[:200]
        raise SpecError("attn_implementation", name, f"{spec.model} does not support it: {first}") from error


def load_weights(spec: LanguageModelSettings, dtype: torch.dtype, field: str = "model") -> nn.Module:
    """A pretrained causal language model, through the gate; adapters in its folder merged into their base."""
    source, local = locate(spec.model, field)
    if local:
        check_folder(field, Path(source))
        if (base := base_of(field, Path(source))) is not None:
            with base_named(field, Path(source), base):
                under = load_weights(spec.replace(model=base, revision=None), dtype, field)
            check_base(field, Path(source), base)
            check_written(field, Path(source))
            return merged(field, Path(source), under)
    kinds = load_config(spec, field).architectures or ()
    if local and kinds and all("SequenceClassification" in kind for kind in kinds):
        raise SpecError(field, spec.model, f"is a reward model ({kinds[0]}): must be a model that writes responses")
    # Missing weights are drawn, then refused.
    with (
        loading(field, spec.model, _held(local, "weights")),
        torch.random.fork_rng(devices=[]),
        attention_of(spec) as chosen,
    ):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            revision=spec.revision,
            dtype=dtype,
            **from_here(local),
            **chosen,
            **CHECKED,
        )
    model, info = loaded
    check_loaded(field, spec.model, model, info)
    if local:
        check_written(field, Path(source))
    keep_savable(model, spec.model)
    return model  # type: ignore[no-any-return]


def meta_model(spec: LanguageModelSettings, dtype: torch.dtype) -> nn.Module:
    """The model on the device `meta`: shapes without memory."""
    _check_base(spec)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            load_config(spec), dtype=spec.base_dtype(dtype), trust_remote_code=False
        ).eval()
        if spec.base_precision == "nf4":
            model = quantise(model, torch.device("meta"))
        return model if spec.lora_rank is None else add_adapters(model, spec, dtype)


def eos_token_ids(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> Sequence[int]:
    """Tokens that end a response: the tokenizer's EOS, and those of the model's generation config. `check_tokens` has
    seen that they are tokens."""
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    known = [named] if isinstance(named, int) else list(named or ())
    return tuple(dict.fromkeys([int(tokenizer.eos_token_id), *(token for token in known if token >= 0)]))


def build_policy(
    spec: LanguageModelSettings,
    tokenizer: PreTrainedTokenizerBase,
    critic: bool,
    dtype: torch.dtype,
    device: torch.device,
    field: str = "model",
) -> CausalLMPolicy:
    """The policy of a spec, its model proven (`llm.models.proof`). critic: whether it has one."""
    model = load_model(spec, dtype, device)
    adapted: Any = model
    core = adapted.get_base_model() if hasattr(model, "get_base_model") else model
    check_tokens(*(("tokenizer", spec.tokenizer) if spec.tokenizer else (field, spec.model)), core, tokenizer)
    say_unused(core, spec.model, spec.decoding)
    ends = eos_token_ids(core, tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0]
    kind = VLLMPolicy if isinstance(spec.decoding, VLLMDecoding) else CausalLMPolicy
    with loading(field, spec.model, "must be a model that can be sampled and scored"):
        own_critic = spec.critic if critic else None
        policy = kind(model, ends, int(pad), spec.decoding, spec.scoring, own_critic, whole_text(tokenizer))
    cache = spec.decoding.cache_implementation
    if cache == "static":
        check_static(policy.language_model, None)
    prove(policy.language_model, field, spec.model, cache)
    return policy
