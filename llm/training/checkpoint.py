"""Checkpoints: tensors in safetensors, numbers in JSON, checksums of both; at any moment a complete one is on disk.

    <folder>/checkpoint-00000040/state.safetensors  state.json  checksums.json

A checkpoint is written under a temporary name, flushed to disk and renamed; only then are older ones deleted. A process
killed at any moment leaves the old ones, the new one, or both; the next save removes its partial files. One that does
not match its checksums is set aside as checkpoint-00000040.damaged, and the one before it is used: since an update is a
function of the state before it, a run that goes on from there gives the same results.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from llm.models.tensor_file import tensor_file
from sims.experiments.whole import changed, flush, write_checksums, write_file

_NAME = re.compile(r"checkpoint-(\d{8})")
_PARTIAL = ".checkpoint-"
_REPLACED = re.compile(r"\.replaced-(checkpoint-\d{8})")
TENSORS, NUMBERS = "state.safetensors", "state.json"
SPEC, CONFIG, METRICS = "spec.json", "run.yaml", "metrics.jsonl"  # of a run, beside its checkpoints
OPTIONS, COMMAND = "options", "command"  # in SPEC: what the run logs and keeps, and whose it is


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


def last_good(folder: Path) -> str:
    """What an error says of the checkpoints that are left."""
    left = found(folder)
    return f"the last good checkpoint is {left[-1][1]}" if left else "there is no checkpoint"


def save(
    folder: Path,
    update: int,
    tensors: Mapping[str, Tensor],
    numbers: Mapping[str, int],
    spec: Mapping[str, Any],
    keep: int = 1,
    also: Collection[int] = (),
) -> Path:
    """Write a checkpoint, then remove older ones, but for the last `keep` and those of the updates `also`.

    Raises CheckpointError, and keeps the last good one; also where the folder is not there: somebody has removed it.
    """
    remove_partial(folder)
    final = folder / f"checkpoint-{update:08d}"
    scratch = folder / f"{_PARTIAL}{os.getpid()}"
    try:
        scratch.mkdir()
        save_file({name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}, scratch / TENSORS)
        text = json.dumps({"update": update, "numbers": dict(numbers), "spec": spec}, indent=1)
        (scratch / NUMBERS).write_text(text + "\n")
        write_checksums(scratch)
        replaced = folder / f".replaced-{final.name}"
        if final.exists():  # a resumed run may reach the same update twice
            os.rename(final, replaced)
        os.rename(scratch, final)
        flush(folder)
        shutil.rmtree(replaced, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(scratch, ignore_errors=True)
        left = last_good(folder)
        raise CheckpointError(f"update {update}: its checkpoint could not be written: {error}; {left}") from error
    prune(folder, keep, also)
    return final


def prune(folder: Path, keep: int, also: Collection[int] = ()) -> None:
    """Remove all checkpoints but the last `keep` and those of the updates `also`, each in one moment."""
    for update, path in found(folder)[:-keep]:
        if update not in also:
            left = path.rename(folder / f"{_PARTIAL}{os.getpid()}-{update}")
            shutil.rmtree(left)


def load(folder: Path, told: Callable[[str], None] = lambda text: None) -> Checkpoint | None:
    """The newest whole checkpoint in a folder, None where there is none.

    A damaged one is set aside, `told` gets a line about it, and the one before it counts. Raises CheckpointError if all
    are damaged.
    """
    remove_partial(folder)
    damage: CheckpointError | None = None
    for _, path in reversed(found(folder)):
        try:
            return read(path)
        except CheckpointError as error:
            aside = path.with_suffix(".damaged")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            told(f"{error}; it is set aside as {aside.name}")
            damage = damage or error
    if damage is not None:
        raise CheckpointError(f"{damage}, and no older one is whole: --overwrite starts again") from damage
    return None


def read(path: Path) -> Checkpoint:
    """A checkpoint as it was written. Raises CheckpointError for one that is not whole."""
    try:
        for name in changed(path, (TENSORS, NUMBERS)):
            raise CheckpointError(f"{path}: damaged: {name} is not what was written (its checksum differs)")
        held = json.loads((path / NUMBERS).read_text())
        with tensor_file(path / TENSORS) as file:
            return Checkpoint(held["update"], load_file(file), held["numbers"], held["spec"])
    except (OSError, ValueError, KeyError, AttributeError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{path}: damaged: {error}") from error


def remove_partial(folder: Path) -> None:
    """Remove the partial files of a killed process; bring back what it was about to replace."""
    for path in folder.glob(".replaced-*"):
        if (match := _REPLACED.fullmatch(path.name)) and not (folder / match[1]).exists():
            path.rename(folder / match[1])
        else:
            shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(_PARTIAL + "*"):
        shutil.rmtree(path, ignore_errors=True)


def write_spec(path: Path, held: Mapping[str, Any]) -> None:
    """Write the settings of a run, with a checksum of them."""
    write_text(path, json.dumps({**held, "checksum": _sum_of(held)}, indent=1) + "\n")


def read_spec(path: Path) -> dict[str, Any]:
    """What `write_spec` wrote, without the checksum. OSError or ValueError for what is not that."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError(f"it is of type {type(found).__name__}: must be a JSON object")
    expected = found.pop("checksum", None)
    if expected is not None and expected != _sum_of(found):  # None: of a run before there were checksums
        raise ValueError("it is not what was written (its checksum differs)")
    return found


def stored_options(folder: Path) -> dict[str, Any]:
    """What the run in a folder logs and keeps, by option; nothing where that cannot be read."""
    try:
        found = read_spec(folder / SPEC).get(OPTIONS, {})
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _sum_of(held: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a file whole, under one temporary name, so that a killed process leaves one at most."""
    write_file(path, text.encode(), path.with_name(f".{path.name}.new"))
