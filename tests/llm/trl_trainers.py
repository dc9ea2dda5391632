"""TRL's own DPO and GRPO trainers on an embedded model, constructed as a user would: in memory, without a network."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer

from llm.embedded import EMBEDDED

TOKENIZER = AutoTokenizer.from_pretrained(EMBEDDED["pythia"])


def tiny_pythia(dtype: torch.dtype = torch.float64, moved: float = 0.0) -> PreTrainedModel:
    """The embedded Pythia; moved: standard deviation of noise on its weights, always the same noise."""
    model = AutoModelForCausalLM.from_pretrained(EMBEDDED["pythia"], dtype=dtype).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(moved * torch.randn(parameter.shape, generator=generator, dtype=dtype))
    return model


def dpo_trainer(
    model: PreTrainedModel, reference: PreTrainedModel, folder: Path, pairs: list[dict[str, str]], **settings: Any
) -> DPOTrainer:
    """TRL's trainer of preferences. pairs: rows of prompt, chosen, rejected; settings go to its configuration."""
    rows = Dataset.from_list(pairs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of its own defaults
        config = DPOConfig(**_common(folder) | settings)
        return DPOTrainer(model, reference, config, train_dataset=rows, processing_class=TOKENIZER)


def grpo_trainer(model: PreTrainedModel, reward: Any, prompts: list[str], folder: Path, **settings: Any) -> GRPOTrainer:
    """TRL's trainer on groups; its reference is a copy of the model. reward: a function in TRL's signature."""
    rows = Dataset.from_list([{"prompt": prompt} for prompt in prompts])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        config = GRPOConfig(**_common(folder) | settings)
        return GRPOTrainer(model, reward, config, train_dataset=rows, processing_class=TOKENIZER)


def _common(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }
