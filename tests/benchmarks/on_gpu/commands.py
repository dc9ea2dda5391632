"""Every command on the device, as a user types it, and a run that is stopped and resumed beside the whole one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from .section import Report

_SMALL = "--updates 4 --evaluations 2 --batch-size 8 --max-new-tokens 16 --evaluation-prompts 16 --save-total-limit 4"
_LORA = "--lora-rank 4"
RUNS = {
    "sft": f"sft {_SMALL}",
    "sft-lora": f"sft {_SMALL} {_LORA}",
    "dpo": f"train --algorithm dpo --num-generations 2 {_SMALL}",
    "dpo-lora": f"train --algorithm dpo --num-generations 2 {_SMALL} {_LORA}",
    "dpo-offline": f"train --preset tiny-skew-length {_SMALL}",
    "dpo-mistral": f"train --algorithm dpo --num-generations 2 --model mistral {_SMALL}",
    "grpo": f"train --algorithm grpo --num-generations 4 {_SMALL} --compute-precision bfloat16",
    "rloo": f"train --algorithm rloo --num-generations 4 {_SMALL} --micro-batch-size 3",
    "ppo": f"train --algorithm ppo {_SMALL} --minibatch-size 4",
    "ppo-lora": f"train --algorithm ppo {_SMALL} {_LORA} --critic own",
    "checkpointed": f"train --algorithm dpo --num-generations 2 {_SMALL} --gradient-checkpointing --log-kl",
}
REWARD = "reward --pairs 64"
AFTER = {  # commands that need the output of another
    "sample": "sample --model {runs}/dpo/model --prompt cat --device {device}",
    "evaluate": "evaluate --model {runs}/dpo-lora/model --evaluation-prompts 16 --device {device}",
    "export": "export {runs}/dpo --update 2 --output {runs}/exported",
    "learned-reward": "train --task learned-reward --reward-model {runs}/reward --output {runs}/learned "
    f"--device {{device}} {_SMALL}",
}


def main(report: Report) -> None:
    """All commands at once, then those that need their output, then the resumed runs."""
    with tempfile.TemporaryDirectory() as scratch:
        runs = Path(scratch)
        first = {
            name: [*words.split(), "--output", str(runs / name), "--device", report.device]
            for name, words in RUNS.items()
        }
        first["reward"] = [*REWARD.split(), "--output", str(runs / "reward")]
        together(report, first)
        for name in RUNS:
            if (runs / name / "checkpoint-00000004").exists():
                stopped = runs / f"{name}-resumed"
                shutil.copytree(runs / name, stopped, ignore=shutil.ignore_patterns("checkpoint-00000004", "model"))
        after = {name: words.format(runs=runs, device=report.device).split() for name, words in AFTER.items()}
        resumed = {
            f"{name}, resumed": ["train", "--resume", "--output", str(path), "--device", report.device]
            for name in RUNS
            if (path := runs / f"{name}-resumed").exists()
        }
        together(report, after | resumed)
        for name in RUNS:
            whole, part = (runs / f"{name}{end}" / "checkpoint-00000004" for end in ("", "-resumed"))
            if whole.exists() and part.exists():
                report(f"{name}, resumed: largest difference of the state", largest_difference(whole, part))


def together(report: Report, commands: dict[str, Sequence[str]]) -> None:
    """Run commands side by side and report those that fail."""
    few = 1 if report.device == "cpu" else max(2, (os.cpu_count() or 2) - 2)
    waiting, running, failures = list(commands.items()), dict[str, subprocess.Popen[str]](), 0
    while waiting or running:
        while waiting and len(running) < few:
            name, words = waiting.pop(0)
            running[name] = subprocess.Popen(
                [sys.executable, "-m", "llm", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
        name, process = next(iter(running.items()))
        said = process.communicate()[1]
        del running[name]
        if process.returncode:
            failures += 1
            print(said[-3000:])
            report(f"{name}: failed", " ".join(said.split())[-400:])
    report(f"{len(commands)} commands from {next(iter(commands))}: failures", failures)


def largest_difference(one: Path, other: Path) -> float:
    """0.0 where the tensors of two checkpoints have the same bits."""
    ours, theirs = (load_file(path / "state.safetensors") for path in (one, other))
    assert ours.keys() == theirs.keys()
    return max(
        float((x.double() - theirs[name].double()).abs().max()) if not torch.equal(x, theirs[name]) else 0.0
        for name, x in ours.items()
        if x.numel()
    )
