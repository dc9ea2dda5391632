"""Updates of the preset mistral-7b (LoRA on a frozen bfloat16 base): online DPO as it is, and GRPO."""

from __future__ import annotations

import tempfile
from pathlib import Path

from sims.core.algorithms.clipped import GRPO
from sims.core.algorithms.contrastive import DPO
from sims.core.schedule import Schedule

from .section import Report
from .timed import experiment_of, some_updates


def main(report: Report) -> None:
    """8 prompts of 512 tokens with 4 responses of 128, and 32 prompts with 2 of 512; with a static cache."""
    tiny = report.device == "cpu"
    short = {"cache_implementation": "static"} | ({} if tiny else {"max_new_tokens": 128})
    with tempfile.TemporaryDirectory() as scratch:
        with report.part("GRPO"):
            schedule = Schedule(batch_size=8, num_generations=4)
            experiment = experiment_of("mistral-7b", Path(scratch), tiny, GRPO(beta=0.04), schedule, **short)
            some_updates(report, "GRPO", experiment, updates=2)
        with report.part("DPO"):
            schedule = Schedule(batch_size=32, num_generations=2)
            experiment = experiment_of(
                "mistral-7b", Path(scratch), tiny, DPO(beta=0.1), schedule, cache_implementation="static"
            )
            some_updates(report, "DPO", experiment, updates=2)
