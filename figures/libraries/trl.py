"""TRL: its trainers, made by their own constructors from a configuration, so that what these do to it is on the path.

A model of a few hundred parameters satisfies the constructors; then log-probs, generation and rewards are looked up.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
import warnings
from collections import defaultdict
from contextlib import nullcontext
from importlib import metadata
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from .paths import Library, LossPath

ACCELERATOR = SimpleNamespace(
    device=torch.device("cpu"),
    num_processes=1,
    process_index=0,
    is_main_process=True,
    gather=lambda x: x,
    gather_for_metrics=lambda x: x,
    reduce=lambda x, reduction: x,
    unwrap_model=lambda model: model,
)


@functools.cache
def tokenizer() -> Any:
    """Two words, padding and an end."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[EOS]": 1, "a": 2, "b": 3}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", eos_token="[EOS]", unk_token="a")


@functools.cache
def folder() -> str:
    """A saved model that is never asked: trainers with a reference load it once more."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tempfile.mkdtemp(prefix="onoff-trl-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    made = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=4, hidden_size=4, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1,
            num_key_value_heads=1, max_position_embeddings=16, pad_token_id=0, eos_token_id=1, bos_token_id=1,
        )
    )  # fmt: skip
    made.save_pretrained(folder)
    return folder


def tiny() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder())


def construct(name: str, config: dict[str, Any], rows: dict[str, list[str]], *models: Any, **more: Any) -> Any:
    """A trainer, as its constructor makes it from a configuration for a run on this CPU that is never started."""
    import trl
    from datasets import Dataset

    common = {"output_dir": tempfile.gettempdir(), "report_to": [], "use_cpu": True, "bf16": False}
    given = {"train_dataset": Dataset.from_dict(rows), "processing_class": tokenizer()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what TRL's own constructors use of transformers
        arguments = getattr(trl, f"{name}Config")(**common, **config)
        made = getattr(trl, f"{name}Trainer")(tiny(), *models, args=arguments, **given, **more)
    made.accelerator = ACCELERATOR
    return made


@functools.cache
def dpo_trainer(beta: float, label_smoothing: float, loss_type: str) -> Any:
    """DPOTrainer, as its constructor makes it."""
    rows = {"prompt": ["a"], "chosen": ["b"], "rejected": ["a"]}
    return construct("DPO", {"beta": beta, "label_smoothing": label_smoothing, "loss_type": [loss_type]}, rows, tiny())


def dpo(
    a: Tensor, b: Tensor, c: Tensor, d: Tensor,
    beta: float = 0.1, label_smoothing: float = 0.0, loss_type: str = "sigmoid",
) -> Tensor:  # fmt: skip
    """DPOTrainer._compute_loss. A response is two tokens of half its log-prob each."""
    from trl.trainer import dpo_trainer as module

    def model(logps: Tensor) -> Any:
        tokens = torch.stack([logps / 2, logps / 2], dim=-1)
        zeros = torch.zeros_like(tokens)
        outputs = SimpleNamespace(log_probs=tokens, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())
        return lambda **_: outputs

    trainer = dpo_trainer(beta, label_smoothing, loss_type)
    trainer.ref_model = model(torch.cat([c, d]))
    trainer._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
    ones = torch.ones(2 * len(a), 3, dtype=torch.int64)
    inputs = {"input_ids": ones, "attention_mask": ones, "completion_mask": torch.tensor([0, 1, 1]) * ones}
    with (
        patch.object(module, "disable_gradient_checkpointing", lambda *_: nullcontext()),
        # Whether peft is installed is read from its metadata at every call, which takes longer than the loss.
        patch.object(module, "is_peft_model", lambda _: False),
    ):
        return trainer._compute_loss(model(torch.cat([a, b])), inputs, return_outputs=False)  # type: ignore[no-any-return]


@functools.cache
def group_trainer(name: str, generations: int, settings: tuple[tuple[str, Any], ...]) -> Any:
    """GRPOTrainer or RLOOTrainer, as its constructor makes it."""
    config = {
        "num_generations": generations,
        "per_device_train_batch_size": generations,
        "num_iterations": 2,  # a batch is used twice: the sampling policy's log-probs are kept
        "max_completion_length": 8,
    }
    return construct(name, config | dict(settings), {"prompt": ["a"]}, reward_funcs=lambda **_: [0.0])


def groups(
    name: str, logps: Tensor, old: Tensor, reference: Tensor, mask: Tensor, rewards: Tensor, **settings: Any
) -> Tensor:
    """From rewards to the loss, of completions that are padded to the longest, as its collator does."""
    prompts, generations = rewards.shape
    rows, longest = prompts * generations, max(1, int(mask.sum(-1).max()))
    logps, old, reference, mask = (x[..., :longest].flatten(0, 1) for x in (logps, old, reference, mask))
    ids = [[2] * int(n) for n in mask.sum(-1)]
    generated: Any = ([[2]] * rows, ids, None, [""] * rows, None, {}, None, None)
    trainer = group_trainer(name, generations, tuple(settings.items()))

    def model(logps: Tensor) -> SimpleNamespace:
        return SimpleNamespace(training=True, is_gradient_checkpointing=False, logp=logps)

    trainer.__dict__.update(
        model=model(old),
        ref_model=model(reference),
        current_gradient_accumulation_steps=1,
        _generate=lambda prompts: ([[2]] * rows, ids, [""] * rows) if name == "RLOO" else generated,
        _calculate_rewards=lambda *_: rewards.reshape(rows, 1),
        _get_per_token_logps_and_entropies=lambda model, *_, **__: (model.logp, torch.zeros_like(model.logp), None),
        _metrics={"train": defaultdict(list), "eval": defaultdict(list)},
        _logs=defaultdict(list) | {"rewards": defaultdict(list)},
    )
    inputs = trainer._generate_and_score_completions([{"prompt": "a"}] * rows)
    return trainer._compute_loss(model(logps), inputs)  # type: ignore[no-any-return]


def grpo(
    logps: Tensor, old: Tensor, reference: Tensor, mask: Tensor, rewards: Tensor,
    beta: float = 0.0, epsilon: float = 0.2, epsilon_high: float = 0.2, loss_type: str = "grpo",
    scale_rewards: str = "group", importance_sampling_level: str = "token",
) -> Tensor:  # fmt: skip
    return groups(
        "GRPO", logps, old, reference, mask, rewards, beta=beta, epsilon=epsilon, epsilon_high=epsilon_high,
        loss_type=loss_type, scale_rewards=scale_rewards, importance_sampling_level=importance_sampling_level,
    )  # fmt: skip


def rloo(
    logps: Tensor, old: Tensor, reference: Tensor, mask: Tensor, rewards: Tensor,
    beta: float = 0.0, epsilon: float = 0.2,
) -> Tensor:  # fmt: skip
    return groups("RLOO", logps, old, reference, mask, rewards, beta=beta, epsilon=epsilon)


def orpo(a: Tensor, b: Tensor, c: Tensor, d: Tensor, beta: float = 0.1) -> Tensor:
    """ORPOTrainer.odds_ratio_loss, with the likelihood of the chosen response; without the constructor."""
    from trl.experimental.orpo.orpo_trainer import ORPOTrainer

    made: Any = object.__new__(ORPOTrainer)
    made.__dict__.update(beta=beta, accelerator=ACCELERATOR)
    return -a - made.odds_ratio_loss(a, b)[0]  # type: ignore[no-any-return]


def library() -> Library:
    """DPO's kinds, GRPO's kinds, RLOO and ORPO."""
    pair, group = "DPOTrainer", "GRPOTrainer"
    smoothed = {"label_smoothing": 0.2}
    left = {"gaps": "its completions begin at the first token; a tool's answers have a mask of their own"}
    kinds: tuple[tuple[str, str, str | None, dict[str, Any]], ...] = (
        ("GRPO", "grpo", "sequence_mean", {}),
        ("GRPO with a KL penalty", "grpo", "sequence_mean", {"beta": 0.04}),
        ("Dr. GRPO", "dr_grpo(constant_length=8)", None, {"loss_type": "dr_grpo"}),
        (
            "Dr. GRPO, not scaled", "dr_grpo(constant_length=8)", None,
            {"loss_type": "dr_grpo", "scale_rewards": "none"},
        ),
        (
            "DAPO", "dapo(drop_equal_groups=False)", "token_mean",
            {"loss_type": "dapo", "epsilon_high": 0.28},
        ),
        (
            "GSPO", "gspo", "sequence_mean",
            {"importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
        ),
    )  # fmt: skip
    paths = (
        LossPath("DPO", pair, "pair", dpo, "dpo"),
        LossPath("cDPO", pair, "pair", dpo, "cdpo", options=smoothed),
        LossPath("robust DPO", pair, "pair", dpo, "robust_dpo", options=smoothed | {"loss_type": "robust"}),
        LossPath("SLiC", pair, "pair", dpo, "slic", options={"loss_type": "hinge"}),
        LossPath("IPO", pair, "pair", dpo, "ipo", options={"loss_type": "ipo"}),
        LossPath("ORPO", "experimental.ORPOTrainer.odds_ratio_loss", "pair", orpo, "orpo", tolerance=1e-5),
        *(
            LossPath(name, group, "group", grpo, claim, reduction, options, left_out=left)
            for name, claim, reduction, options in kinds
        ),
        LossPath("RLOO", "RLOOTrainer", "group", rloo, None, None, left_out=left),
    )  # fmt: skip
    unable = {"PPO": "its losses stand in the middle of a training loop with generation"}
    url = "https://github.com/huggingface/trl"
    return Library("TRL", metadata.version("trl"), paths, url, unable=unable)
