"""Tokens per second of decoding in the shape of pythia-1.4b, for 1, 32 and 128 responses at a time: as training does
it; and with a static cache, one kernel at a time, replayed as a CUDA graph, and compiled; all in bfloat16."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import StaticCache

from llm.models.scoring import cache_keyword
from llm.training.run import Run
from sims.core.algorithms.contrastive import DPO
from sims.core.schedule import Schedule

from .counts import draw_of
from .section import Report
from .timed import experiment_of

ROWS, PROMPT = (1, 32, 128), 16


def main(report: Report) -> None:
    """The policy's own sampling, then bare steps of the model."""
    tiny = report.device == "cpu"
    length = 8 if tiny else 128
    with tempfile.TemporaryDirectory() as scratch:
        schedule = Schedule(batch_size=2, num_generations=2)
        experiment = experiment_of("pythia-1.4b", Path(scratch), tiny, DPO(beta=0.1), schedule, sample_batch_size=128)
        policy = Run(experiment, device=report.device).policy
        for rows in ROWS:
            with report.part(f"{rows} rows: as training does"):
                draw_of(policy, 4, rows, report.device)
                start = report.now()
                draw_of(policy, length, rows, report.device)
                report(f"{rows} rows: as training does: tokens/s", rows * length / (report.now() - start))
        model = policy.model.to(torch.bfloat16)
        policy.scoring = policy.language_model.scoring = policy.scoring.replace(precision="stored")
        for rows in ROWS:
            with report.part(f"{rows} rows: weights in bfloat16"):
                draw_of(policy, 4, rows, report.device)
                start = report.now()
                draw_of(policy, length, rows, report.device)
                report(f"{rows} rows: weights in bfloat16: tokens/s", rows * length / (report.now() - start))
        for name, prepare in (("static cache", plainly), ("CUDA graph", as_graph), ("torch.compile", compiled)):
            for rows in ROWS if name != "torch.compile" else ROWS[1:2]:
                with report.part(f"{rows} rows: {name}"), torch.no_grad():
                    bare_steps(report, f"{rows} rows: {name}", model, rows, length, prepare)


def bare_steps(report: Report, name: str, model: Any, rows: int, length: int, prepare: Callable[..., Any]) -> None:
    """Steps of the model that take the likeliest token, with a cache of fixed size."""
    start = report.now()
    step = Step(model, rows, PROMPT + length, report.device)
    call = prepare(step)
    for _ in range(3):
        call()
    report(f"{name}: seconds to prepare", report.now() - start)
    step.position.fill_(PROMPT)
    start = report.now()
    for _ in range(length - 1):
        call()
    report(f"{name}: tokens/s", rows * (length - 1) / (report.now() - start))


class Step:
    """One token for each row; what it reads and writes stays where it is in memory."""

    def __init__(self, model: Any, rows: int, most: int, device: str) -> None:
        self.model = model
        self.cache = StaticCache(config=model.config, max_cache_len=most)
        self.tokens = torch.ones((rows, 1), dtype=torch.int64, device=device)
        self.position = torch.full((1,), PROMPT, device=device)
        self.slots = torch.arange(most, device=device)
        prompt = torch.ones((rows, PROMPT), dtype=torch.int64, device=device)
        self._forward(prompt, self.slots[:PROMPT])

    def __call__(self) -> Tensor:
        logits = self._forward(self.tokens, self.position)
        self.tokens.copy_(logits[:, -1:].argmax(-1))
        self.position.add_(1)
        return self.tokens

    def _forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        allowed = (self.slots <= positions.unsqueeze(-1)).expand(len(tokens), 1, -1, -1)
        kind: dict[str, Any] = {cache_keyword(self.model): self.cache}
        if "cache_position" in type(self.model).forward.__code__.co_varnames:
            kind["cache_position"] = positions
        found = self.model(
            input_ids=tokens,
            attention_mask=allowed,
            position_ids=positions.expand(len(tokens), -1),
            use_cache=True,
            **kind,
        )
        return found.logits  # type: ignore[no-any-return]


def plainly(step: Step) -> Callable[[], Any]:
    """A kernel at a time."""
    return step


def as_graph(step: Step) -> Callable[[], Any]:
    """Captured once and replayed."""
    if not step.tokens.is_cuda:
        return step
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def compiled(step: Step) -> Callable[[], Any]:
    """torch.compile with CUDA graphs."""
    if not step.tokens.is_cuda:
        return step
    step.model.forward = torch.compile(step.model.forward, mode="reduce-overhead")

    def call() -> None:
        torch.compiler.cudagraph_mark_step_begin()
        step()

    return call
