"""A frozen base in NF4 beside one in bfloat16: the same weights as on the CPU, seconds of an update, and memory."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

from llm.models.quantised import NF4Linear
from sims.core.algorithms.clipped import GRPO
from sims.core.algorithms.contrastive import DPO
from sims.core.schedule import Schedule

from .correctness import largest_difference
from .section import Report
from .timed import experiment_of, some_updates


def main(report: Report) -> None:
    """A layer, then offline DPO and online GRPO of mistral-7b under adapters."""
    tiny = report.device == "cpu"
    with report.part("one layer"):
        one_layer(report)
    short = {"cache_implementation": "static"} | ({} if tiny else {"max_new_tokens": 128})
    cases = {
        "DPO, offline": (DPO(beta=0.1), Schedule(batch_size=8, num_generations=2, source="dataset"), {}),
        "GRPO": (GRPO(beta=0.04), Schedule(batch_size=8, num_generations=4), short),
    }
    with tempfile.TemporaryDirectory() as scratch:
        for name, (algorithm, schedule, decoding) in cases.items():
            for base in ("bfloat16", "nf4"):
                with report.part(f"{name}, {base}"):
                    experiment = experiment_of("mistral-7b", Path(scratch), tiny, algorithm, schedule, **decoding)
                    policy = experiment.policy.replace(base_precision=base)
                    some_updates(report, f"{name}, {base}", experiment.replace(policy=policy), updates=3)


def one_layer(report: Report) -> None:
    """Stored numbers, the weights made of them, the product and its gradient, on both processors."""
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(512, 1024, bias=False)
    layer.weight.data = torch.randn(1024, 512, generator=generator) / 20
    x = torch.randn(7, 512, generator=generator)
    found = []
    for device in ("cpu", report.device):
        own = NF4Linear.of(layer, torch.device(device))
        given = x.to(device).requires_grad_()
        product = own(given)
        (gradient,) = torch.autograd.grad(product.square().sum(), given)
        found.append((own.weight, own.largest, own.weights(torch.float32), product, gradient))
    report("stored numbers that differ", int((found[0][0].cpu() != found[1][0].cpu()).sum()))
    names = ("largest of a block", "weights", "product", "gradient")
    report("largest difference", {n: largest_difference([a], [b]) for n, a, b in zip(names, *(f[1:] for f in found))})  # noqa: B905
