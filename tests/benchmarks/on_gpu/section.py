"""One section in this process: `python -m tests.benchmarks.on_gpu.section NAME FILE DEVICE`, once a line is read from
the standard input."""

from __future__ import annotations

import importlib
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar


class Report:
    """Results by name: printed as they come, and written to a file each time."""

    def __init__(self, file: Path, device: str) -> None:
        self.file, self.device = file, device
        self.found: dict[str, Any] = {}
        self.start = time.perf_counter()

    def __call__(self, name: str, value: Any) -> None:
        if isinstance(value, float):
            value = float(f"{value:.5g}")
        self.found[name] = value
        print(f"{time.perf_counter() - self.start:7.1f} s  {name}: {value}", flush=True)
        self.file.write_text(json.dumps(self.found, indent=1, default=str))

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What fails inside is reported under `name`, and the section goes on."""
        try:
            yield
        except Exception as error:
            traceback.print_exc(limit=-6)
            self(f"{name}: failed", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
            if self.device == "cuda":
                torch.cuda.empty_cache()

    def each(self, parts: dict[str, Callable[[], None]]) -> None:
        """Several parts in turn."""
        for name, run in parts.items():
            with self.part(name):
                run()

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def now(self) -> float:
        """Seconds on a clock, once the device has done what it was given."""
        self.synchronize()
        return time.perf_counter()

    def peak(self, anew: bool = False) -> float:
        """GiB, the most that was allocated since the last `anew`."""
        if self.device != "cuda":
            return 0.0
        found = torch.cuda.max_memory_allocated() / 2**30
        if anew:
            torch.cuda.reset_peak_memory_stats()
        return found


def main(name: str, file: str, device: str) -> int:
    """Run a section. Exit status: 1 if one of its parts failed."""
    disable_progress_bar()
    module = importlib.import_module(f"tests.benchmarks.on_gpu.{name}")
    if not sys.stdin.readline():
        return 1
    report = Report(Path(file), device)
    if device == "cuda":
        report("device", f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    torch.set_num_threads(1)
    with report.part(name):
        module.main(report)
    return int(any(key.endswith(": failed") for key in report.found))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
