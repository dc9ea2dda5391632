"""Waits for the device and kernels, per token of decoding and per update, in the shape of pythia-1.4b."""

from __future__ import annotations

import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from llm.models.policy import CausalLMPolicy
from llm.training.run import Run
from sims.core.algorithms.contrastive import DPO
from sims.core.loop.protocols import Prompts, SampleRequest
from sims.core.numerics.noise import Noise
from sims.core.schedule import Schedule

from .section import Report
from .timed import experiment_of

SHORT, LONG = 16, 48  # tokens drawn; the difference of two counts is that of the tokens between


def main(report: Report) -> None:
    """Counts by subtraction of a short draw from a long one; those of an update as they are."""
    tiny = report.device == "cpu"
    with tempfile.TemporaryDirectory() as scratch:
        schedule = Schedule(batch_size=8, num_generations=2)
        experiment = experiment_of("pythia-1.4b", Path(scratch), tiny, DPO(beta=0.1), schedule, max_new_tokens=LONG)
        run = Run(experiment, device=report.device)
        policy = run.policy

        def draw(length: int) -> Callable[[], Any]:
            return lambda: draw_of(policy, length, 8, report.device)

        for cache in ("static", "dynamic"):
            policy.decoding = policy.decoding.replace(cache_implementation=cache)
            draw(SHORT)()
            with report.part(f"{cache}: waits"):
                few, many = waits(report, draw(SHORT)), waits(report, draw(LONG))
                report(f"{cache}: waits per token", (sum(many.values()) - sum(few.values())) / (LONG - SHORT))
                report(f"{cache}: waits of a draw, by line", dict(few))
            with report.part(f"{cache}: kernels"):
                few, many = kernels(report, draw(SHORT)), kernels(report, draw(LONG))
                per_token = {name: (many[name] - few[name]) / (LONG - SHORT) for name in many}
                report(f"{cache}: kernels per token", sum(per_token.values()))
                often = sorted(per_token.items(), key=lambda item: -item[1])[:12]
                report(f"{cache}: kernels per token, most frequent", {name[:60]: round(x, 2) for name, x in often})
        updates = run.train()
        next(updates)
        with report.part("update"):
            found = waits(report, lambda: next(updates))
            report("waits of an update", sum(found.values()))
            report("waits of an update, by line", dict(found.most_common(20)))
            report("kernels of an update", sum(kernels(report, lambda: next(updates)).values()))


def draw_of(policy: CausalLMPolicy, length: int, prompts: int, device: str) -> Any:
    """One response of `length` tokens to each of some prompts of 16."""
    policy.decoding = policy.decoding.replace(max_new_tokens=length)
    tokens = (torch.arange(prompts * 16).reshape(prompts, 16) % 200 + 1).to(device)
    return policy.sample(SampleRequest(Prompts(tokens), 1, Noise.single(0)))


def waits(report: Report, call: Callable[[], Any]) -> Counter[str]:
    """How often the host waits for the device, by the line of this repository that does."""
    found: Counter[str] = Counter()
    if report.device != "cuda":
        return found

    def note(*_: Any, **__: Any) -> None:
        ours = [f for f in traceback.extract_stack() if "/llm/" in f.filename or "/sims/" in f.filename]
        deepest = traceback.extract_stack()[-2]
        where = [ours[-1]] if ours else []
        names = [f"{Path(f.filename).name}:{f.lineno}" for f in [*where, deepest]]
        found[" > ".join(dict.fromkeys(names))] += 1

    shown = warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
            warnings.showwarning = shown
    return found


def kernels(report: Report, call: Callable[[], Any]) -> Counter[str]:
    """Kernels that ran on the device, by name; operations on the CPU."""
    on_gpu = report.device == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiled:
        call()
        report.synchronize()
    kind = torch.autograd.DeviceType.CUDA if on_gpu else torch.autograd.DeviceType.CPU
    return Counter({e.key: e.count for e in profiled.key_averages() if e.device_type == kind})
