"""What a GPU must be asked: correctness against the CPU, speed, memory against the estimates, waits and kernels per
token, decoding, NCCL, and steps beside TRL's. On the CPU everything runs with tiny models, to try the program.

    python -m tests.benchmarks.on_gpu --out found.json
    python -m tests.benchmarks.on_gpu --only correctness decoding --out found.json

Each section is a module here with a function `main(report, scale)`, and runs in a process of its own, so that an error,
a full memory or a limit of time in one leaves the others alone. Weights are random ones of the presets' shapes: nothing
is downloaded.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

SECTIONS = {  # in order of importance: seconds after which a section is stopped
    "correctness": 100,
    "forms": 60,
    "commands": 120,
    "pythia": 120,
    "counts": 60,
    "decoding": 120,
    "processes": 90,
    "beside_trl": 180,
    "mistral": 150,
    "packing": 200,
    "quantised": 120,
}


def main() -> int:
    """Run the sections one after another. Their processes start together, as imports take longer than some of them, and
    each waits for its turn. Exit status: the number of sections that did not end well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="NAME")
    parser.add_argument("--out", type=Path, required=True, help="file of results, as JSON")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    parts = {name: options.out.with_suffix(f".{name}.json") for name in options.only}
    command = [sys.executable, "-u", "-m", "tests.benchmarks.on_gpu.section"]
    waiting = {
        name: subprocess.Popen(
            [*command, name, str(part), options.device], stdin=subprocess.PIPE, text=True, start_new_session=True
        )
        for name, part in parts.items()
    }
    found, failed = {}, 0
    for name, process in waiting.items():
        print(f"\n== {name}", flush=True)
        start, note = time.perf_counter(), "ended"
        try:
            process.communicate("go\n", timeout=SECTIONS[name])
        except subprocess.TimeoutExpired:
            note = f"stopped after {SECTIONS[name]} s"
            os.killpg(process.pid, signal.SIGKILL)  # with the commands that it started
            process.wait()
        if process.returncode:
            failed, note = failed + 1, f"{note}, exit code {process.returncode}"
        seconds = time.perf_counter() - start
        print(f"== {name}: {note}, {seconds:.1f} s", flush=True)
        own = json.loads(parts[name].read_text()) if parts[name].exists() else {}
        found[name] = own | {"section": note, "seconds": round(seconds, 1)}
        options.out.write_text(json.dumps(found, indent=1) + "\n")
        parts[name].unlink(missing_ok=True)
    return failed
