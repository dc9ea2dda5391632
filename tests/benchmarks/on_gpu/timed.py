"""A run whose sampling, scoring and training are timed apart, with the peak memory of each beside the estimate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from llm.commands.options import find_preset
from llm.tasks import MinLength
from llm.training.memory import Estimate, estimate
from llm.training.run import Run
from sims.core.algorithms import Algorithm
from sims.core.loop.optimise import Optimiser
from sims.core.schedule import Schedule
from sims.experiments.experiment import Experiment

from .random_models import random_folder, write_rows
from .section import Report

_OF = {"pythia-1.4b": "pythia-1.4b-min-length", "mistral-7b": "mistral-7b-ultrafeedback"}


def experiment_of(
    name: str, scratch: Path, tiny: bool, algorithm: Algorithm, schedule: Schedule, **decoding: Any
) -> Experiment:
    """The large preset with weights drawn at random, on prompts of their full length, rewarded by brevity, which needs
    no further model. Almost no random response ends early, so that each has `max_new_tokens`."""
    preset = find_preset(_OF[name])
    prompt = 4 if tiny else preset.environment.max_prompt_length  # type: ignore[attr-defined]
    folder, rows = scratch / name, scratch / f"{name}.jsonl"
    if not folder.exists():
        random_folder(name, tiny, folder)
    if not rows.exists():
        write_rows(rows, 64, prompt, 8 if tiny else decoding.get("max_new_tokens", 256))
    policy: Any = preset.policy
    recorded = schedule.source == "dataset"
    pairs = recorded and algorithm.label_pairing is not None
    changes = {"max_new_tokens": 8, "sample_batch_size": 8} if tiny else {}
    return preset.replace(
        environment=MinLength(
            data=str(rows),
            data_kind="preference" if pairs else "prompt_completion" if recorded else "prompt_only",
            completion_column="chosen" if recorded and not pairs else None,
            max_prompt_length=prompt,
            evaluation_prompts=1,
        ),
        policy=policy.replace(
            model=str(folder), weights="random", decoding=policy.decoding.replace(**changes | decoding)
        ),
        algorithm=algorithm,
        schedule=schedule,
        optimiser=Optimiser(learning_rate=1e-7, max_grad_norm=1.0),
        updates=1000,
    )


class Phases:
    """Seconds and peak GiB of a run's phases, added up until `take`."""

    def __init__(self, report: Report, run: Run) -> None:
        self.report, self.run = report, run
        self.seconds: dict[str, float] = {}
        self.peaks: dict[str, float] = {}
        policy, learner = run.policy, run.training.learner
        for owner, method, phase in (
            (type(policy), "sample", "sampling"),
            (type(policy), "forward", "scoring"),
            (type(learner), "update", "training"),
        ):
            self._wrap(owner, method, phase)

    def _wrap(self, owner: Any, method: str, phase: str) -> None:
        plain = getattr(owner, method)

        def timed(*arguments: Any, **options: Any) -> Any:
            if method == "forward" and torch.is_grad_enabled():
                return plain(*arguments, **options)  # inside an update
            with self.phase(phase):
                return plain(*arguments, **options)

        setattr(owner, method, timed)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """One call that belongs to a phase."""
        start = self.report.now()
        self.report.peak(anew=True)
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + self.report.now() - start
        self.peaks[name] = max(self.peaks.get(name, 0.0), self.report.peak())

    def take(self) -> tuple[dict[str, float], dict[str, float]]:
        """What was added up, which begins anew."""
        found = self.seconds, self.peaks
        self.seconds, self.peaks = {}, {}
        return found


def some_updates(report: Report, name: str, experiment: Experiment, updates: int) -> None:
    """Report the seconds of each update but the first, by phase; tokens per second of decoding; and memory."""
    expected = estimate(experiment)
    start = report.now()
    report.peak(anew=True)
    run = Run(experiment, device=report.device)
    report(f"{name}: seconds to build", report.now() - start)
    held_at_start = torch.cuda.memory_allocated() / 2**30 if report.device == "cuda" else 0.0
    with restored(type(run.policy), "sample", "forward"), restored(type(run.training.learner), "update"):
        phases, going = Phases(report, run), run.train()
        for number in range(updates):
            start = report.now()
            update = next(going)
            whole = report.now() - start
            seconds, peaks = phases.take()
            tokens = int(update.batch.mask.sum())
            parts = {phase: float(f"{x:.4g}") for phase, x in seconds.items()}
            report(f"{name}: update {number + 1}: seconds", parts | {"whole": float(f"{whole:.4g}"), "tokens": tokens})
            if "sampling" in seconds:
                report(f"{name}: update {number + 1}: tokens/s of decoding", tokens / seconds["sampling"])
    for phase, (measured, estimated) in memory(expected, peaks, held_at_start).items():
        ratio = f"{measured:.2f} of {estimated:.2f} GiB estimated, ratio {measured / max(estimated, 1e-9):.3f}"
        report(f"{name}: memory, {phase}", ratio)


def memory(expected: Estimate, peaks: dict[str, float], held_at_start: float) -> dict[str, tuple[float, float]]:
    """Measured and estimated GiB by phase."""
    held = sum(expected.held.values())
    phases = {"sampling": sum(expected.sampling.values()), "training": sum(expected.updating.values())}
    found = {"held before the first update": (held_at_start, held / 2**30)}
    found |= {phase: (peaks.get(phase, 0.0), (held + extra) / 2**30) for phase, extra in phases.items()}
    return found | {"peak": (max(peaks.values(), default=0.0), expected.peak / 2**30)}


@contextmanager
def restored(owner: Any, *methods: str) -> Iterator[None]:
    """The methods of a class are those of before at the end."""
    plain: dict[str, Callable[..., Any]] = {method: getattr(owner, method) for method in methods}
    try:
        yield
    finally:
        for method, function in plain.items():
            setattr(owner, method, function)
