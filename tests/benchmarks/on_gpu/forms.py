"""Two forms of one computation on the device: static and growing cache, fused and plain Adam, a copy aside and one in
memory; and the memory of a run without a reference."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from llm.models.aside import Aside
from llm.training.memory import estimate
from llm.training.run import Run
from sims.core.algorithms.likelihood import SFT
from sims.core.loop.optimise import Optimiser, PerRunOptimiser
from sims.core.loop.protocols import Prompts, SampleRequest
from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import Batch
from sims.core.schedule import Schedule
from tests.llm.tiny_models import SHAPES, tiny_model, tiny_policy

from .correctness import PROMPTS, largest_difference
from .section import Report
from .timed import experiment_of


def main(report: Report) -> None:
    """Tiny models, then an SFT run in the shape of pythia-1.4b."""
    for shape in SHAPES:
        for precision in ("stored", "bfloat16"):
            with report.part(f"{shape}, {precision}"):
                caches(report, shape, precision)
    with report.part("Adam"):
        adam(report)
    with report.part("aside"):
        aside(report)
    with report.part("SFT"):
        without_reference(report)


def caches(report: Report, shape: str, precision: str) -> None:
    """The same uniforms through both caches."""
    drawn = []
    for cache in ("dynamic", "static"):
        model = tiny_model(shape, dtype=torch.float32).to(report.device)
        policy = tiny_policy(model, precision=precision, cache_implementation=cache)
        drawn.append(policy.sample(SampleRequest(Prompts(*PROMPTS), 16, Noise.single(0))))
    differ = int((drawn[0].responses != drawn[1].responses).sum())
    logp = float((drawn[0].logp - drawn[1].logp).abs().max())
    report(f"{shape}, {precision}: tokens that differ, log-probs' difference", [differ, logp])


def adam(report: Report) -> None:
    """Three steps on the same gradients."""
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(64, 48, generator=generator), torch.randn(48, generator=generator)]
    gradients = [[torch.randn(x.shape, generator=generator) for x in start] for _ in range(3)]
    found = []
    for fused in (False, True):
        parameters = [x.clone().to(report.device) for x in start]
        optimiser = PerRunOptimiser(parameters, (), Optimiser(learning_rate=1e-2, weight_decay=0.1, max_grad_norm=1.0))
        optimiser.fused = fused
        for step in gradients:
            own = [x.clone().to(report.device) for x in step]
            optimiser.step(own, optimiser.grad_norm(own))
        found.append(parameters)
    report("Adam, fused and plain: largest difference", largest_difference(*found))


def aside(report: Report) -> None:
    """Log-probs under a copy, after the policy has moved."""
    policy = tiny_policy(tiny_model("gpt_neox", dtype=torch.float32).to(report.device))
    kept, waiting = policy.clone(), Aside(policy)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1)
    tokens = torch.tensor([[[5, 7, 2]]] * 4, device=report.device)
    batch = Batch(PROMPTS[0], tokens, torch.ones_like(tokens, dtype=torch.bool), PROMPTS[1])
    report(
        "aside: difference of log-probs", largest_difference([kept.forward(batch).logp], [waiting.forward(batch).logp])
    )


def without_reference(report: Report) -> None:
    """What a run of SFT holds, beside the estimate."""
    tiny = report.device == "cpu"
    with tempfile.TemporaryDirectory() as scratch:
        schedule = Schedule(batch_size=8, num_generations=1, source="dataset")
        experiment = experiment_of("pythia-1.4b", Path(scratch), tiny, SFT(), schedule)
        report.peak(anew=True)
        run = Run(experiment, device=report.device)
        held = torch.cuda.memory_allocated() / 2**30 if report.device == "cuda" else 0.0
        expected = estimate(experiment)
        report("SFT: held, estimated GiB", [round(held, 3), round(sum(expected.held.values()) / 2**30, 3)])
        report.peak(anew=True)
        next(run.train())
        report("SFT: peak of an update, estimated GiB", [round(report.peak(), 3), round(expected.peak / 2**30, 3)])
