"""Checkpoints: tensors in safetensors, numbers in JSON, and always a whole one on disk.

    <folder>/checkpoint-00000040/state.safetensors  state.json

A checkpoint is written beside its place, flushed to the disk and renamed; the one before it goes only then. A process
killed at any moment leaves the old one, the new one, or both; what it had half written is removed by the next save.
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
    """A checkpoint that could not be written or read: says at which update, and what is left."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A run between two batches: `Training.state_dict()`, and the JSON of the experiment that it belongs to."""

    update: int
    tensors: dict[str, Tensor]
    numbers: dict[str, int]
    spec: dict[str, Any]


def found(folder: Path) -> list[tuple[int, Path]]:
    """The whole checkpoints in a folder, oldest first, as (update, path)."""
    if not folder.is_dir():
        return []
    matches = [(match, path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return sorted((int(match[1]), path) for match, path in matches)


def save(
    folder: Path, update: int, tensors: Mapping[str, Tensor], numbers: Mapping[str, int], spec: Mapping[str, Any]
) -> Path:
    """Write a checkpoint whole, then remove older ones. Raises CheckpointError, leaving the last good one alone."""
    folder.mkdir(parents=True, exist_ok=True)
    remove_partial(folder)
    place = folder / f"checkpoint-{update:08d}"
    scratch = folder / f"{_PARTIAL}{os.getpid()}"
    try:
        scratch.mkdir()
        save_file({name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}, scratch / TENSORS)
        text = json.dumps({"update": update, "numbers": dict(numbers), "spec": spec}, indent=1)
        (scratch / NUMBERS).write_text(text + "\n")
        for name in (TENSORS, NUMBERS):
            flush(scratch / name)
        flush(scratch)
        if place.exists():  # a run that was taken up again may reach the same update twice
            shutil.rmtree(place)
        os.rename(scratch, place)
        flush(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(scratch, ignore_errors=True)
        left = found(folder)
        rest = f"the last good one is {left[-1][1]}" if left else "there is none before it"
        raise CheckpointError(f"update {update}: its checkpoint could not be written: {error}; {rest}") from error
    for older, path in found(folder):
        if older != update:
            shutil.rmtree(path)
    return place


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
    """Remove what a killed process had half written."""
    for path in folder.glob(_PARTIAL + "*"):
        shutil.rmtree(path, ignore_errors=True)


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
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
