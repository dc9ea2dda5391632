"""Checkpoints: tensors in safetensors, numbers in JSON; at any moment a complete one is on disk.

    <folder>/checkpoint-00000040/state.safetensors  state.json

A checkpoint is written under a temporary name, flushed to disk and renamed; only then is the previous one deleted. A
process killed at any moment leaves the old one, the new one, or both; the next save removes its partial files.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

_NAME = re.compile(r"checkpoint-(\d{8})")
_PARTIAL = ".checkpoint-"
TENSORS, NUMBERS = "state.safetensors", "state.json"


class CheckpointError(RuntimeError):
    """A checkpoint that could not be written or read; the message names the update, and the checkpoint that is left."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A run between two batches: `Training.state_dict()`, and the JSON of the experiment that it belongs to."""

    update: int
    tensors: dict[str, Tensor]
    numbers: dict[str, int]
    spec: dict[str, Any]


def found(folder: Path) -> list[tuple[int, Path]]:
    """The complete checkpoints in a folder, oldest first, as (update, path)."""
    if not folder.is_dir():
        return []
    matches = [(match, path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return sorted((int(match[1]), path) for match, path in matches)


def save(
    folder: Path, update: int, tensors: Mapping[str, Tensor], numbers: Mapping[str, int], spec: Mapping[str, Any]
) -> Path:
    """Write a checkpoint, then remove older ones. Raises CheckpointError, and keeps the last good one."""
    folder.mkdir(parents=True, exist_ok=True)
    remove_partial(folder)
    final = folder / f"checkpoint-{update:08d}"
    scratch = folder / f"{_PARTIAL}{os.getpid()}"
    try:
        scratch.mkdir()
        save_file({name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}, scratch / TENSORS)
        text = json.dumps({"update": update, "numbers": dict(numbers), "spec": spec}, indent=1)
        (scratch / NUMBERS).write_text(text + "\n")
        for name in (TENSORS, NUMBERS):
            flush(scratch / name)
        flush(scratch)
        if final.exists():  # a resumed run may reach the same update twice
            shutil.rmtree(final)
        os.rename(scratch, final)
        flush(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(scratch, ignore_errors=True)
        left = found(folder)
        rest = f"the last good one is {left[-1][1]}" if left else "there is none before it"
        raise CheckpointError(f"update {update}: its checkpoint could not be written: {error}; {rest}") from error
    for older, path in found(folder):
        if older != update:
            shutil.rmtree(path)
    return final


def load(folder: Path) -> Checkpoint | None:
    """The newest checkpoint in a folder, None where there is none. Raises CheckpointError for one that is damaged."""
    checkpoints = found(folder)
    if not checkpoints:
        return None
    update, path = checkpoints[-1]
    try:
        held = json.loads((path / NUMBERS).read_text())
        return Checkpoint(update, load_file(path / TENSORS), held["numbers"], held["spec"])
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{path}: damaged: {error}") from error


def remove_partial(folder: Path) -> None:
    """Remove the partial files of a killed process."""
    for path in folder.glob(_PARTIAL + "*"):
        shutil.rmtree(path, ignore_errors=True)


def flush(path: Path) -> None:
    """fsync a file, or the entries of a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name, flush and rename it."""
    scratch = path.with_name(f".{path.name}.new")
    scratch.write_text(text)
    flush(scratch)
    os.replace(scratch, path)
