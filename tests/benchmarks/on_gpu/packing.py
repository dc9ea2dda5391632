"""Rows of many lengths, scored and differentiated: padded, grouped by length, and without padding under each attention;
seconds, peak memory, and the log-probs' largest difference from the padded ones."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from llm.models.loading import build_policy, load_tokenizer
from llm.models.policy import CausalLMPolicy
from llm.models.scoring import Scoring
from llm.models.spec import LanguageModelSpec
from sims.core.objectives.batch import Batch
from tests.llm.tiny_models import pad_left, pad_right

from .random_models import random_folder
from .section import Report

_ROWS, _LONGEST = 16, 512
FORMS: dict[str, tuple[Any, bool, bool]] = {  # attention, group_by_length, padding_free
    "padded, sdpa": ("sdpa", False, False),
    "grouped by length, sdpa": ("sdpa", True, False),
    "padding-free, sdpa": ("sdpa", False, True),
    "padding-free, varlen": ("varlen", False, True),
}


def main(report: Report) -> None:
    """Pythia 1.4B, 16 and 64 rows; Mistral 7B under LoRA adapters, 16 rows."""
    tiny = report.device == "cpu"
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("pythia-1.4b", "mistral-7b"):
            folder = random_folder(name, tiny, Path(scratch) / name)
            for rows in (_ROWS, 4 * _ROWS) if name == "pythia-1.4b" else (_ROWS,):
                batch = rows_of_many_lengths(rows, 16 if tiny else _LONGEST, report.device)
                padded: torch.Tensor | None = None
                for form in FORMS:
                    if tiny and "varlen" in form:
                        continue  # it needs a GPU
                    with report.part(f"{name}, {rows} rows, {form}"):
                        found = timed(report, f"{name}, {rows} rows, {form}", policy_of(folder, form, report), batch)
                        padded = found if padded is None else padded
                        report(f"{name}, {rows} rows, {form}: largest difference", float((found - padded).abs().max()))


def policy_of(folder: Path, form: str, report: Report) -> CausalLMPolicy:
    """Random weights; adapters where the base is Mistral's."""
    attention, grouped, free = FORMS[form]
    adapters: dict[str, Any] = {"lora_rank": 16, "base_precision": "bfloat16"} if "mistral" in folder.name else {}
    spec = LanguageModelSpec(
        model=str(folder),
        weights="random",
        attn_implementation=attention,
        scoring=Scoring(gradient_checkpointing=True, group_by_length=grouped, padding_free=free, precision="bfloat16"),
        **adapters,
    )
    return build_policy(spec, load_tokenizer(spec), False, torch.float32, torch.device(report.device))


def rows_of_many_lengths(rows: int, longest: int, device: str) -> Batch:
    """Prompts and responses of `longest`/32 to `longest` tokens each, the lengths spread evenly and in no order."""
    least = max(1, longest // 32)
    lengths = [least + (longest - least) * ((7 * i) % rows) // (rows - 1) for i in range(rows)]
    tokens = [[2 + (31 * i + 79 * row) % 251 for i in range(length)] for row, length in enumerate(lengths)]
    responses, mask = pad_right(tokens)
    prompts, prompt_mask = pad_left(tokens[::-1])
    made = Batch(prompts, responses.unsqueeze(1), mask.unsqueeze(1), prompt_mask)
    return made.over_prompts(lambda x, _: x.to(device))


def timed(report: Report, name: str, policy: CausalLMPolicy, batch: Batch) -> torch.Tensor:
    """Report the least seconds of three of a scoring pass, and of a pass with its gradient. Returns log-probs."""
    scoring, both = [], []
    logp = torch.empty(0)
    for _ in range(3):
        start = report.now()
        with torch.no_grad():
            logp = policy.forward(batch).logp
        scoring.append(report.now() - start)
    report.peak(anew=True)
    for _ in range(3):
        start = report.now()
        torch.autograd.grad(policy.forward(batch).logp.sum(), list(policy.parameters()))
        both.append(report.now() - start)
    numbers = [float(f"{x:.4g}") for x in (min(scoring), min(both), report.peak())]
    report(f"{name}: s to score, s with the gradient, peak GiB", numbers)
    return logp.float()
