"""The distributed code through NCCL, as one process that communicates with itself, beside a run that does not; and two
processes that share the device through gloo. Several GPUs are not needed, and nothing is learnt of their speed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from .section import Report

_WORKER = ["-m", "tests.benchmarks.on_gpu.worker"]
FORMS = {"alone": (1, "none"), "nccl": (1, "none"), "nccl sharded": (1, "full"), "two by gloo": (2, "none")}


def main(report: Report) -> None:
    """Each form as processes of its own, at the same time; then their weights are compared."""
    with tempfile.TemporaryDirectory() as scratch:
        running = {}
        for name, (count, sharding) in FORMS.items():
            backend = "gloo" if "gloo" in name or report.device == "cpu" else "nccl"
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = str(free.getsockname()[1])
            for rank in range(count):
                settings = {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": "0"}
                settings |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
                words = [name, backend, sharding, report.device, str(Path(scratch) / f"{name}.{rank}.safetensors")]
                running[name, rank] = subprocess.Popen(
                    [sys.executable, *_WORKER, *words], env=os.environ | settings, stderr=subprocess.PIPE, text=True
                )
        for (name, rank), process in running.items():
            said = process.communicate()[1]
            if process.returncode:
                print(said[-3000:])
                report(f"{name}, rank {rank}: failed", " ".join(said.split())[-400:])
        files = {form: Path(scratch) / f"{form}.0.safetensors" for form in FORMS}
        whole = load_file(files["alone"])
        for form, file in files.items():
            if form != "alone" and file.exists():
                report(f"{form}: largest difference of a weight from the run alone", difference(whole, load_file(file)))


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest one."""
    return max(float((x - other[name]).abs().max()) for name, x in one.items() if name != "losses")


def save(path: str, tensors: dict[str, torch.Tensor]) -> None:
    """What a worker found."""
    save_file({name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}, path)
