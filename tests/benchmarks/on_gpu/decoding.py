"""Tokens per second of decoding in the shape of pythia-1.4b, for 1, 32 and 128 responses at a time, with a cache that
grows and with one of fixed size, under autocast and with all weights in bfloat16. Each draw is made twice: at first the
device's memory is laid out."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from llm.models.policy import CausalLMPolicy
from llm.training.run import Run
from sims.core.algorithms.contrastive import DPO
from sims.core.schedule import Schedule

from .counts import draw_of
from .section import Report
from .timed import experiment_of

ROWS = (1, 32, 128)


def main(report: Report) -> None:
    """The policy's own sampling, as training does it and after its weights are cast."""
    tiny = report.device == "cpu"
    with tempfile.TemporaryDirectory() as scratch:
        schedule = Schedule(batch_size=2, num_generations=2)
        experiment = experiment_of("pythia-1.4b", Path(scratch), tiny, DPO(beta=0.1), schedule, sample_batch_size=128)
        policy = Run(experiment, device=report.device).policy
        draws(report, "autocast", policy, tiny)
        policy.model.to(torch.bfloat16)
        policy.scoring = policy.language_model.scoring = policy.scoring.replace(precision="stored")
        draws(report, "all in bfloat16", policy, tiny)


def draws(report: Report, name: str, policy: CausalLMPolicy, tiny: bool) -> None:
    """Tokens per second of a first and a second draw of 128 tokens."""
    length = 8 if tiny else 128
    for cache in ("static", "dynamic"):
        policy.decoding = policy.decoding.replace(cache_implementation=cache)
        for rows in ROWS:
            with report.part(f"{name}, {cache}, {rows} rows"):
                report.peak(anew=True)
                found = []
                for _ in range(2):
                    start = report.now()
                    draw_of(policy, length, rows, report.device)
                    found.append(round(rows * length / (report.now() - start), 1))
                report(f"{name}, {cache}, {rows} rows: tokens/s, first and second; peak GiB", [*found, report.peak()])
