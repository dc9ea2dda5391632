"""Updates of the preset pythia-1.4b: online DPO as it is, GRPO, and DPO with a static cache."""

from __future__ import annotations

import tempfile
from pathlib import Path

from sims.core.algorithms.clipped import GRPO
from sims.core.algorithms.contrastive import DPO
from sims.core.schedule import Schedule

from .section import Report
from .timed import experiment_of, some_updates


def main(report: Report) -> None:
    """32 prompts of 128 tokens with 2 responses of 256, and 8 prompts with 8."""
    tiny = report.device == "cpu"
    with tempfile.TemporaryDirectory() as scratch:
        for name, algorithm, schedule, cache in (
            ("DPO, static", DPO(beta=0.1), Schedule(batch_size=32, num_generations=2), "static"),
            ("DPO", DPO(beta=0.1), Schedule(batch_size=32, num_generations=2), "dynamic"),
            ("GRPO", GRPO(beta=0.04), Schedule(batch_size=8, num_generations=8), "dynamic"),
        ):
            with report.part(name):
                experiment = experiment_of(
                    "pythia-1.4b", Path(scratch), tiny, algorithm, schedule, cache_implementation=cache
                )
                some_updates(report, name, experiment, updates=3)
