"""Adapters of peft: new ones, and folders that hold adapters instead of a model."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers.pytorch_utils import Conv1D

from llm.embedded import find_folder
from sims.core.spec import SpecError
from sims.experiments.command import one_line
from sims.experiments.whole import checksum

from .gate import ADAPTER, ADAPTER_WEIGHTS, check_finite, loading, read_json
from .quiet import quiet_bitsandbytes
from .settings import LanguageModelSettings

# Beside adapters that we write: a digest of the weights under them, as they were when they were read, which is kept on
# the adapted model until then; "" where these were on the hub.
BASE, WEIGHTS_OF_BASE, READ = "base_weights.json", "sha256", "weights_of_base"
MERGE = "python -m llm export RUN --output whole --merge writes one"


def add_adapters(model: nn.Module, spec: LanguageModelSettings, dtype: torch.dtype) -> nn.Module:
    """LoRA on every linear layer but the head, or on those named, as an identity at the start; its weights in `dtype`.
    Hu et al. 2022. No dropout: a policy that changes from pass to pass has no ratio of 1 to what it sampled."""
    try:
        with _quiet():
            from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise SpecError("lora_rank", spec.lora_rank, "needs the library peft: pip install peft") from error
    config = LoraConfig(
        r=spec.lora_rank or 1,
        lora_alpha=spec.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=0.0,
        target_modules="all-linear" if spec.lora_target_modules is None else list(spec.lora_target_modules),
        task_type="CAUSAL_LM",
    )
    layers = [name for name, x in model.named_modules() if isinstance(x, (nn.Linear, Conv1D))]
    for target in spec.lora_target_modules or ():  # peft refuses only where none of them is a layer
        if not any(f".{layer}".endswith(f".{target}") for layer in layers):
            names = sorted({layer.rpartition(".")[2] for layer in layers})
            rule = f"{target!r} is none of its linear layers: {', '.join(names)}"
            raise SpecError("lora_target_modules", spec.lora_target_modules, rule)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        try:
            with _quiet():
                adapted = get_peft_model(model, config)  # type: ignore[arg-type]
        except ValueError as error:  # of Mamba's, some layers take none
            rule = f"must name layers of {spec.model} that take adapters: peft says: {one_line(str(error))}"
            raise SpecError("lora_target_modules", spec.lora_target_modules, rule) from error
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    return adapted.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what peft and the library of quantisation, which it imports, say of each other and of transformers."""
    with quiet_bitsandbytes(), warnings.catch_warnings():  # peft 0.21 asks for what transformers will rename
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield


def base_of(field: str, folder: Path) -> str | None:
    """The base model that a folder of adapters names; None for a folder that is none.

    SpecError where the base has adapters itself: peft and transformers put both into one model under one name, and take
    one of them for the other."""
    if not is_of_adapters(folder):
        return None
    base = read_json(field, folder, ADAPTER).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        rule = f"{ADAPTER}: base_model_name_or_path = {json.dumps(base)}: must name the model under the adapters"
        raise SpecError(field, str(folder), rule)
    if is_of_adapters(find_folder(base)):
        rule = f"must be a whole model, and has adapters itself: {MERGE}"
        raise SpecError(field, str(folder), f"{ADAPTER}: base_model_name_or_path = {json.dumps(base)}: {rule}")
    return base


def is_of_adapters(folder: Path) -> bool:
    """Whether a folder holds adapters instead of a model."""
    try:
        return (folder / ADAPTER).is_file()
    except OSError:  # too long for a path
        return False


def weights_digest(name: str | Path, field: str = "model") -> str:
    """SHA-256 over the weights of a folder, and of the base under its adapters; "" for a name of no folder here. field:
    which setting names it."""
    folder = find_folder(name)
    if not folder.is_dir():
        return ""
    sums = [checksum(file) for file in sorted(folder.glob("*.safetensors"))]
    base = base_of(field, folder)
    return ", ".join(sums if base is None else [*sums, weights_digest(base)])


def check_base(field: str, folder: Path, base: str) -> None:
    """SpecError for adapters of ours over other weights than those that they were trained on: another model of the same
    shape, the base as it was trained on since, or the model that they are merged into already."""
    if not (folder / BASE).is_file():
        return
    held, now = read_json(field, folder, BASE).get(WEIGHTS_OF_BASE), weights_digest(base)
    if held and now and held != now:
        rule = "has other weights than the model that these adapters were trained on: must be that model"
        raise SpecError(field, str(folder), f"{ADAPTER}: base_model_name_or_path = {json.dumps(base)}: {rule}")


@contextmanager
def base_named(field: str, folder: Path, base: str) -> Iterator[None]:
    """Say of a base that is refused which folder of adapters names it."""
    try:
        yield
    except SpecError as error:
        rule = f"{ADAPTER}: base_model_name_or_path = {json.dumps(base)}: {error.valid}"
        raise SpecError(field, str(folder), rule) from error


def merged(field: str, folder: Path, base: Any) -> nn.Module:
    """The base model with the folder's LoRA adapters added to its weights. SpecError where they do not fit it."""
    try:
        with _quiet():
            from peft import PeftModel, get_peft_model_state_dict
    except ImportError as error:
        raise SpecError(field, str(folder), "holds adapters, which need the library peft: pip install peft") from error
    kind = read_json(field, folder, ADAPTER).get("peft_type")
    if kind != "LORA":
        raise SpecError(field, str(folder), f"{ADAPTER}: peft_type = {json.dumps(kind)}: must be LORA")
    with _quiet(), loading(field, str(folder), "its adapters must fit their base model"):
        adapted = PeftModel.from_pretrained(base, folder, is_trainable=False)
        with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as opened:
            held = set(opened.keys())
        wanted = set(get_peft_model_state_dict(adapted))
        if held != wanted:
            raise ValueError(f"{ADAPTER_WEIGHTS} has tensors for {len(held & wanted)} of {len(wanted)} adapters")
        check_finite(field, str(folder), adapted)
        whole: Any = adapted.merge_and_unload()  # type: ignore[operator]
        check_finite(field, str(folder), whole)  # their scale, lora_alpha / r, may be no number
        return whole.requires_grad_(True)  # type: ignore[no-any-return]  # peft froze it
