"""Simulations on a GPU beside the CPU: the same random numbers, the same scores, and wall time per update.

    python -m tests.benchmarks.sims_on_gpu --out FILE.json [--device cpu] [--seconds 0.5] [--only SECTION ...]

Sections, each of which may fail without the others: `bits`, uniforms of both generators, on the device and by NumPy;
`records`, an experiment on a table and one on an MLP, on the device and on the CPU; `waits`, that no update waits for
the device; `kernels`, how many there are in an update and how long they take; `updates`, microseconds of wall time per
update of all runs, and per run, of the cases of `beside_jax`; `captured`, the same with updates captured as CUDA
graphs, and whether their numbers are the same; `jax`, the same in JAX on its default device, where many updates are one
compiled loop.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import sims
from sims.core.algorithms import Algorithm
from sims.core.loop.captured import train_captured
from sims.core.loop.train import Training
from sims.core.numerics.noise import Generator, Noise
from sims.core.spec import kinds_of
from sims.environments import TokenTree

from . import beside_jax
from .beside_jax import CASES, in_jax

RUNS = (1, 32, 256, 1024, 16384)
NAMES = ("table, policy gradient", "table, dpo", "mlp, policy gradient")
Found = dict[str, Any]


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def bits(device: str) -> Found:
    """Whether uniforms are the same as on the CPU, and nanoseconds per uniform on the device."""
    runs, found = [(seed, run) for seed in (0, 7, 2**62) for run in (0, 3, 1023)], {}
    generators: tuple[Generator, ...] = ("pcg64", "philox")
    for generator in generators:
        ours, theirs = Noise(runs, generator, device), Noise(runs, generator)
        same = [
            torch.equal(ours.uniforms(name, *shape).cpu(), theirs.uniforms(name, *shape))
            for name in ("responses", "labels")
            for shape in ((50, 2), (7,), (100_000,), (3, 5, 1), (500_000,))
        ]
        moved = torch.equal(ours.to("cpu").uniforms("labels", 11), theirs.uniforms("labels", 11))
        many = Noise.of(0, 1024, generator, device)
        many.uniforms("x", 200)
        wait(device)
        start = time.perf_counter()
        for _ in range(200):
            many.uniforms("x", 200)
        wait(device)
        nanoseconds = (time.perf_counter() - start) / (200 * 200 * 1024) * 1e9
        found[generator] = {"equal": all(same), "equal after a move": moved, "ns per uniform": nanoseconds}
    return found


def records(device: str) -> Found:
    """An experiment on the device and on the CPU: what must be equal, and how far scores are apart."""
    found: Found = {}
    policies = {"table": sims.Table(), "mlp": sims.MLP(hidden=(32, 32), fit_steps=20)}
    cases = {
        "table, dpo": (sims.DPO(), sims.BanditR1(num_prompts=3, label_temperature=0.1), policies["table"]),
        "table of token trees, rloo": (sims.RLOO(), sims.TokenTree(num_prompts=2), policies["table"]),
        "mlp, rloo": (sims.RLOO(), sims.BanditR1(num_prompts=3), policies["mlp"]),
        "mlp with critic, ppo": (sims.PPO(), sims.BanditR2(), policies["mlp"]),
    }
    for name, (algorithm, environment, policy) in cases.items():
        results = {}
        for where in (device, "cpu"):
            start = time.perf_counter()
            results[where if where == "cpu" else "device"] = sims.run(
                algorithm, environment, policy, updates=200, runs=64, learning_rate=0.03, generator="philox",
                device=where, evaluations=20,
            )  # fmt: skip
            found.setdefault(name, {})[f"seconds on {where}"] = time.perf_counter() - start
        ours, theirs = results.get("device", results["cpu"]), results["cpu"]
        apart = np.abs(ours.score - theirs.score)
        found[name] |= {
            "initial policy equal": bool(np.array_equal(ours.logp_ref, theirs.logp_ref)),
            "largest difference of its log-probs": float(np.abs(ours.logp_ref - theirs.logp_ref).max()),
            "rewards equal": bool(np.array_equal(ours.rewards, theirs.rewards)),
            "score, cpu": float(theirs.score[:, -1].mean()),
            "score, device": float(ours.score[:, -1].mean()),
            "largest difference of a run's score, by evaluation": apart.max(0).tolist(),
            "runs whose final score is within 1e-4": float((apart[:, -1] < 1e-4).mean()),
        }
    return found


def waits(device: str) -> Found:
    """Updates, with an error at whatever waits for the device."""
    found: Found = {}
    for name in NAMES:
        updates = CASES[name].training(32, generator="philox", device=device).train(10**9)
        for _ in range(3):
            next(updates)
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(20):
                next(updates)
            found[name] = "none in 20 updates"
        except RuntimeError:
            found[name] = traceback.format_exc().splitlines()[-8:]
        finally:
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    return found


def kernels(device: str) -> Found:
    """Per update: kernels, their time, and those that take longest."""
    from torch.profiler import ProfilerActivity, profile

    found: Found = {}
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device == "cuda" else [])
    for name in NAMES:
        for runs in (1024, 16384) if device == "cuda" and name.startswith("table") else (32,):
            updates = CASES[name].training(runs, generator="philox", device=device).train(10**9)
            for _ in range(5):
                next(updates)
            wait(device)
            with profile(activities=activities) as profiler:
                for _ in range(5):
                    next(updates)
                wait(device)
            events = [
                event for event in profiler.key_averages()
                if event.device_type == torch.autograd.DeviceType.CUDA
            ]  # fmt: skip
            events.sort(key=lambda event: -event.self_device_time_total)
            found[f"{name}, R = {runs}"] = {
                "kernels": sum(event.count for event in events) / 5,
                "microseconds": sum(event.self_device_time_total for event in events) / 5,
                "longest": {
                    event.key[:90]: [event.count / 5, event.self_device_time_total / 5] for event in events[:8]
                },
            }
    return found


def updates(device: str, runs: tuple[int, ...]) -> Found:
    """Wall time per update, in microseconds: of all runs, and of one."""
    found: Found = {}
    for name in NAMES:
        for count in runs:
            going = CASES[name].training(count, generator="philox", device=device).train(10**9)

            def several(going: Any = going) -> int:
                for _ in range(20):
                    next(going)
                wait(device)
                return 20

            seconds = beside_jax.per_update(several, time.perf_counter)
            memory = torch.cuda.max_memory_allocated() if device == "cuda" else 0
            found.setdefault(name, {})[count] = {"us": 1e6 * seconds, "us per run": 1e6 * seconds / count, "B": memory}
            print(f"  {name}, R = {count}: {1e6 * seconds:.0f} µs, {1e6 * seconds / count:.3g} per run", flush=True)
            del going
            if device == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
    return found


def captured(device: str, runs: tuple[int, ...]) -> Found:
    """Wall time of an update that is captured as a CUDA graph; how far the parameters of 50 updates are from those of
    the training loop, at R = 32; and the same of every algorithm on token trees, after 10 updates."""
    if device != "cuda":
        return {"left out": "graphs are CUDA's"}
    found: Found = {}
    for name in NAMES:
        found[name] = {"apart": apart(CASES[name], 50)}
        print(f"  {name}: apart by {found[name]['apart']}", flush=True)
        for count in runs:
            try:
                going = train_captured(CASES[name].training(count, generator="philox", device="cuda"), 100_000)
                found[name][count] = timed(name, count, going)
            except Exception:  # another size or case may still work
                found[name][count] = traceback.format_exc().splitlines()[-6:]
                print(*found[name][count], sep="\n", flush=True)
            torch.cuda.empty_cache()
    found["algorithms"] = {}
    for kind, algorithm in kinds_of(Algorithm).items():
        case = replace(CASES["table, dpo"], algorithm=algorithm(), environment=TokenTree(num_prompts=2), prompts=8)
        try:
            found["algorithms"][kind] = apart(case, 10)
        except Exception as error:  # such as one that waits for the device
            found["algorithms"][kind] = str(error)[:200]
    return found


def apart(case: beside_jax.Case, updates: int) -> float:
    """Largest difference of a parameter, captured and not; 0: the same bits."""
    both = [case.training(32, generator="philox", device="cuda") for _ in range(2)]
    for way, training in zip((Training.train, train_captured), both, strict=True):
        for _ in way(training, updates):
            pass
    pairs = zip(*(training.policy.parameters() for training in both), strict=True)
    return max(float((x - y).abs().max()) for x, y in pairs)


def timed(name: str, runs: int, going: Any) -> Found:
    """Microseconds per update: of all runs, and of one."""

    def several() -> int:
        for _ in range(20):
            next(going)
        torch.cuda.synchronize()
        return 20

    seconds = beside_jax.per_update(several, time.perf_counter)
    print(f"  {name}, R = {runs}: {1e6 * seconds:.0f} µs, {1e6 * seconds / runs:.3g} per run", flush=True)
    return {"us": 1e6 * seconds, "us per run": 1e6 * seconds / runs}


def jax(device: str, runs: tuple[int, ...]) -> Found:
    """The same in JAX."""
    if importlib.util.find_spec("jax") is None:
        return {"left out": "JAX is not installed"}
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if device == "cpu":
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax as library

    found: Found = {"devices": [str(x) for x in library.devices()], "version": library.__version__}
    for name in NAMES:
        for count in runs:
            try:
                seconds = in_jax(CASES[name], count, time.perf_counter)
            except Exception as error:  # such as lack of memory: the others still count
                found.setdefault(name, {})[count] = f"{type(error).__name__}: {str(error)[:300]}"
                continue
            found.setdefault(name, {})[count] = {"us": 1e6 * seconds * count, "us per run": 1e6 * seconds}
            print(f"  {name}, R = {count}: {1e6 * seconds * count:.0f} µs, {1e6 * seconds:.3g} per run", flush=True)
    return found


def main() -> int:
    """Run the sections, print each as it ends, and write all after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file of the results, JSON")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--seconds", type=float, default=0.3, help="of each measurement, at the least")
    parser.add_argument("--runs", type=int, nargs="*", default=RUNS, help="stack sizes of the sections with times")
    parser.add_argument("--only", nargs="*", help="sections")
    options = parser.parse_args(sys.argv[1:] if __name__ == "__main__" else [])
    device, runs = options.device, tuple(options.runs)
    if device == "cuda" and not torch.cuda.is_available():
        print("left out: there is no GPU here")
        return 0
    beside_jax.SECONDS = options.seconds
    torch.set_num_threads(max(1, min(8, os.cpu_count() or 1)) if device == "cuda" else 1)
    sections: dict[str, Callable[[], Found]] = {
        "bits": lambda: bits(device),
        "waits": lambda: waits(device),
        "records": lambda: records(device),
        "updates": lambda: updates(device, runs),
        "captured": lambda: captured(device, runs),
        "kernels": lambda: kernels(device),
        "jax": lambda: jax(device, runs),
    }
    found: Found = {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "numpy": np.__version__,
    }
    for name, section in sections.items():
        if options.only and name not in options.only:
            continue
        print(f"\n{name}", flush=True)
        start = time.perf_counter()
        try:
            found[name] = section()
        except Exception:  # the other sections still count
            found[name] = {"failed": traceback.format_exc()}
        found[name]["seconds"] = time.perf_counter() - start
        print(json.dumps(found[name], indent=1), flush=True)
        if options.out is not None:
            options.out.write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
