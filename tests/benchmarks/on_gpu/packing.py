"""Rows of many lengths, scored and differentiated: padded, grouped by length, without padding under each attention, and
compiled; seconds, peak memory, and how far log-probs and gradient are from those of padded rows in float32."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llm.models.loading import build_policy, load_tokenizer
from llm.models.policy import CausalLMPolicy
from llm.models.settings import Scoring
from llm.models.spec import LanguageModelSpec
from sims.core.objectives.batch import Batch
from tests.llm.tiny_models import pad_left, pad_right

from .random_models import random_folder
from .section import Report

EXACT = "padded, sdpa, float32"
FORMS: dict[str, tuple[Any, dict[str, Any]]] = {  # attention, and what scoring is told
    EXACT: ("sdpa", {"precision": "stored"}),
    "padded, sdpa": ("sdpa", {}),
    "padded, sdpa, compiled": ("sdpa", {"torch_compile": True}),
    "grouped by length, sdpa": ("sdpa", {"group_by_length": True}),
    "padding-free, sdpa": ("sdpa", {"padding_free": True}),
    "padding-free, varlen": ("varlen", {"padding_free": True}),
    "padding-free, varlen, compiled": ("varlen", {"padding_free": True, "torch_compile": True}),
}
CASES = {  # model; prompts, responses to each, the longest of either in tokens
    "pythia-1.4b, 16 rows": ("pythia-1.4b", (16, 1, 512, 512)),
    "pythia-1.4b, 64 rows": ("pythia-1.4b", (64, 1, 512, 512)),
    "pythia-1.4b, 8 prompts with 8 responses": ("pythia-1.4b", (8, 8, 512, 128)),
    "mistral-7b, 16 rows": ("mistral-7b", (16, 1, 512, 512)),
}


def main(report: Report) -> None:
    """Every case in every form."""
    tiny = report.device == "cpu"
    with tempfile.TemporaryDirectory() as scratch:
        folders = {name: random_folder(name, tiny, Path(scratch) / name) for name in ("pythia-1.4b", "mistral-7b")}
        for case, (name, sizes) in CASES.items():
            batch = rows_of_many_lengths(*sizes[:2], *((16, 16) if tiny else sizes[2:]), report.device)
            exact: list[Tensor] = []
            for form in FORMS:
                if (tiny and "varlen" in form) or (form == EXACT and (sizes[0] > 16 or "mistral" in name)):
                    continue  # it needs a GPU; it would need too much memory
                with report.part(f"{case}, {form}"):
                    found = timed(report, f"{case}, {form}", policy_of(folders[name], form, report), batch)
                    exact = exact or found
                    names = ("log-probs, largest difference", "gradient, relative difference")
                    errors = (float((found[0] - exact[0]).abs().max()), apart(found[1:], exact[1:]))
                    report(f"{case}, {form}: from the first", dict(zip(names, errors, strict=True)))
                    del found


def policy_of(folder: Path, form: str, report: Report) -> CausalLMPolicy:
    """Random weights; adapters where the base is Mistral's."""
    attention, told = FORMS[form]
    adapters: dict[str, Any] = {"lora_rank": 16, "base_precision": "bfloat16"} if "mistral" in folder.name else {}
    scoring = Scoring(**{"gradient_checkpointing": True, "precision": "bfloat16"} | told)
    spec = LanguageModelSpec(
        model=str(folder), weights="random", attn_implementation=attention, scoring=scoring, **adapters
    )
    return build_policy(spec, load_tokenizer(spec), False, torch.float32, torch.device(report.device))


def rows_of_many_lengths(prompts: int, responses: int, longest: int, longest_response: int, device: str) -> Batch:
    """Lengths spread evenly from 1 on, in no order."""

    def drawn(rows: int, most: int, seed: int) -> list[list[int]]:
        lengths = [1 + (most - 1) * ((7 * i) % rows) // (rows - 1) for i in range(rows)]
        return [[2 + (31 * i + 79 * (row + seed)) % 251 for i in range(n)] for row, n in enumerate(lengths)]

    tokens, mask = pad_right(drawn(prompts * responses, longest_response, 0))
    asked, there = pad_left(drawn(prompts, longest, 1000)[::-1])
    made = Batch(asked, tokens.unflatten(0, (prompts, responses)), mask.unflatten(0, (prompts, responses)), there)
    return made.over_prompts(lambda x, _: x.to(device))


def timed(report: Report, name: str, policy: CausalLMPolicy, batch: Batch) -> list[Tensor]:
    """Report the least seconds of three of a scoring pass, and of a pass with its gradient. Returns log-probs, and of
    the gradient of each parameter 65,536 entries at most."""
    scoring, both = [], []
    found: list[Tensor] = []
    for _ in range(3):
        start = report.now()
        with torch.no_grad():
            policy.forward(batch)
        scoring.append(report.now() - start)
    report.peak(anew=True)
    for _ in range(3):
        found.clear()
        start = report.now()
        logp = policy.forward(batch).logp
        found = [logp.detach(), *torch.autograd.grad(logp.sum(), list(policy.parameters()))]
        both.append(report.now() - start)
    numbers = [float(f"{x:.4g}") for x in (min(scoring), min(both), report.peak())]
    report(f"{name}: s to score, s with the gradient, peak GiB", numbers)
    return [found[0].float(), *(x.float().flatten()[: 1 << 16].clone() for x in found[1:])]


def apart(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """‖g − h‖ / ‖h‖ over all tensors together."""
    difference = sum(float((x - y).square().sum()) for x, y in zip(ours, theirs, strict=True))
    return (difference / max(sum(float(y.square().sum()) for y in theirs), 1e-30)) ** 0.5
