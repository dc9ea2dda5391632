"""Records on disk: what was computed, from which spec, by which sources, and whether it is still whole.

    <root>/<name>-<hash of the spec>/spec.json  record.npz  provenance.json

A record appears, or replaces an older one, by renaming a finished folder, so a killed process leaves the old state or
the new one. Every file is covered by a checksum. Nothing is ever pickled.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import io
import json
import math
import os
import platform
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from .code_digest import git_state

SPEC, ARRAYS, PROVENANCE = "spec.json", "record.npz", "provenance.json"
Arrays = dict[str, np.ndarray]
NAME = re.compile(r"[A-Za-z0-9_-]+")  # of a record, and of an array in one
_RESERVED = ("file", "allow_pickle")  # parameters of np.savez_compressed, which takes array names as keywords


class DamagedRecord(Exception):
    """A record that is there but not whole; `path` is the file or folder, `what` is wrong with it."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(path, what)
        self.path, self.what = path, what

    def __str__(self) -> str:
        return f"damaged record {self.path}: {self.what}"


@dataclass(frozen=True, eq=False)
class Record:
    """One finished computation.

    spec: everything that it was computed from, as plain JSON.
    arrays: what was computed; the shapes are the writer's business.
    provenance: created (UTC), commit and dirty (None outside a git checkout), machine, python, numpy, torch, seconds,
        sources (a `sources_digest`), sha256 of the other two files, checksum of the rest of the provenance itself.

    >>> record = sims.run(sims.RLOO(), sims.BanditR1(), updates=10, runs=2).record
    >>> record.spec["algorithm"]["kind"], record.arrays["reward"].shape
    ('rloo', (2, 11))
    """

    spec: dict[str, Any]
    arrays: Arrays
    provenance: dict[str, Any]

    @property
    def hash(self) -> str:
        """The `spec_hash` of its spec, as figures quote it."""
        return spec_hash(self.spec)


@dataclass(frozen=True, eq=False)
class CommittedRecord:
    """A record too costly to recompute by default, and a shrunken twin whose rerun tells whether it is stale."""

    record: Record
    twin: Record


def spec_hash(spec: Mapping[str, Any]) -> str:
    """The first 12 hex digits of the SHA-256 of the spec's canonical JSON: sorted keys, no spaces, floats by repr.

    1 and 1.0 are two specs. ValueError names the path of a NaN, an infinity or a value that JSON does not know;
    tuples and NumPy scalars are among these, because they would not come back as they went in.
    """
    _check_json(spec, "spec")
    return hashlib.sha256(_canonical(spec)).hexdigest()[:12]


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _check_json(value: Any, where: str) -> None:
    if type(value) is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise ValueError(f"{where} has the key {key!r}: keys must be strings")
            _check_json(item, f"{where}.{key}")
    elif type(value) is list:
        for index, item in enumerate(value):
            _check_json(item, f"{where}[{index}]")
    elif type(value) is float:
        if not math.isfinite(value):
            raise ValueError(f"{where} = {value!r}: must be a finite number")
    elif value is not None and type(value) not in (str, int, bool):
        raise ValueError(f"{where} = {value!r}: must be a dict, list, str, int, float, bool or None")


def _provenance(seconds: float, sources: str | None) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {**_surroundings(), "created": now, "seconds": round(seconds, 3), "sources": sources}


@functools.cache
def _surroundings() -> dict[str, Any]:
    """What computes: the commit, the machine, and the libraries that results depend on. Asked once per process."""
    commit, dirty = git_state(Path(__file__).resolve().parents[2])
    return {
        "commit": commit,
        "dirty": dirty,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": importlib.metadata.version("torch"),
    }


def _read(folder: Path) -> Record | None:
    """The record in `folder`, every checksum verified; None where there is no folder."""
    while (before := _identity(folder)) is not None:
        try:
            return _read_once(folder)
        except DamagedRecord:
            if _identity(folder) == before:
                raise
            # The folder was replaced between two of its files: what was read belongs to two records.
    return None


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        state = folder.lstat()
    except FileNotFoundError:
        return None
    return state.st_ino, state.st_mtime_ns


def _read_once(folder: Path) -> Record:
    provenance = _parse(folder / PROVENANCE, _read_bytes(folder / PROVENANCE))
    if not isinstance(provenance, dict) or provenance.get("checksum") != _checksum(provenance):
        raise DamagedRecord(folder / PROVENANCE, "its checksum differs")
    contents = {name: _read_bytes(folder / name) for name in (SPEC, ARRAYS)}
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != provenance["sha256"][name]:
            raise DamagedRecord(folder / name, f"its checksum is not the one in {PROVENANCE}")
    spec = _parse(folder / SPEC, contents[SPEC])
    if not isinstance(spec, dict) or spec_hash(spec) != folder.name.rpartition("-")[2]:
        raise DamagedRecord(folder / SPEC, "the spec's hash is not the folder's")
    try:
        with np.load(io.BytesIO(contents[ARRAYS]), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except ValueError as error:
        raise DamagedRecord(folder / ARRAYS, str(error)) from error
    return Record(spec, arrays, provenance)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise DamagedRecord(path, "the file is missing") from error


def _parse(path: Path, content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise DamagedRecord(path, f"not JSON: {error}") from error


def _checksum(provenance: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in provenance.items() if key != "checksum"}
    return hashlib.sha256(_canonical(rest)).hexdigest()


def _write(folder: Path, spec: Mapping[str, Any], arrays: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
    """The three files of a record in a new folder, flushed to the disk."""
    folder.mkdir(parents=True)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **_check_arrays(arrays))
    contents = {SPEC: _dump(spec), ARRAYS: buffer.getvalue()}
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    provenance = {**provenance, "sha256": sums}
    contents[PROVENANCE] = _dump({**provenance, "checksum": _checksum(provenance)})
    for name, content in contents.items():
        with (folder / name).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    _sync_folder(folder)


def _dump(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"


def _check_arrays(arrays: Mapping[str, Any]) -> Any:
    """The arrays, if each has a plain name and a type that comes back as it went in; else ValueError names it."""
    for name, array in arrays.items():
        if not isinstance(name, str) or not NAME.fullmatch(name) or name in _RESERVED:
            raise ValueError(f"array name {name!r}: must be letters, digits, _ or -, and none of {_RESERVED}")
        if type(array) is not np.ndarray and not isinstance(array, np.generic):
            raise ValueError(f"array {name!r} is a {type(array).__name__}: must be a NumPy array")
        if array.dtype.kind not in "biufcSU":
            raise ValueError(f"array {name!r} has dtype {array.dtype}: must hold numbers, booleans or strings")
    return dict(arrays)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def _publish(folder: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` make a folder beside `folder` and rename it into place. The caller holds the lock.

    A full folder cannot be renamed over, so an older record first steps aside: a reader may for a moment see none,
    never half of one.
    """
    fresh, aside = _beside(folder, "new"), _beside(folder, "old")
    try:
        fill(fresh)
        if os.path.lexists(folder):
            os.replace(folder, aside)
        os.replace(fresh, folder)
        _sync_folder(folder.parent)
    finally:
        _settle(folder)


def _settle(folder: Path) -> None:
    """Undo what a killed process left half done. The caller holds the lock."""
    aside = _beside(folder, "old")
    if os.path.lexists(aside) and not os.path.lexists(folder):
        os.replace(aside, folder)
    for path in _leftovers(folder):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _leftovers(folder: Path) -> list[Path]:
    return [path for what in ("new", "old") if os.path.lexists(path := _beside(folder, what))]


def _beside(folder: Path, what: str) -> Path:
    return folder.with_name(f".{folder.name}.{what}")


class Store:
    """The records below one folder. Several processes may share it.

    >>> sims.Store("results").path("mine", {"beta": 0.1}).name
    'mine-...'
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def path(self, name: str, spec: Mapping[str, Any]) -> Path:
        """The folder of a record, there or not. name: letters, digits, _ and -."""
        if not NAME.fullmatch(name):
            raise ValueError(f"name = {name!r}: must be letters, digits, _ or -")
        return self.root / f"{name}-{spec_hash(spec)}"

    @contextmanager
    def lock(self, name: str, spec: Mapping[str, Any]) -> Iterator[None]:
        """Hold a record against all other threads and processes; what a killed one left half done is undone first.

        Its holder may enter it again, as `save` does. The system frees it when a process dies.
        """
        folder = self.path(name, spec)
        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(_beside(folder, "lock"), is_singleton=True):
            _settle(folder)
            yield

    def load(self, name: str, spec: Mapping[str, Any], sources: str | None = None) -> Record | None:
        """The record of `spec`, or None where there is none or it came from other sources (None: any will do).

        Raises DamagedRecord where a file is missing, fails its checksum, or is not this spec's. Takes no lock.
        """
        record = _read(self.path(name, spec))
        return record if record and sources in (None, record.provenance["sources"]) else None

    def save(
        self, name: str, spec: Mapping[str, Any], arrays: Arrays, *, seconds: float, sources: str | None = None
    ) -> Record:
        """Write a record, replacing an older one, and return it as the disk has it.

        arrays: of numbers, booleans or strings; others, objects above all, are refused by name with ValueError.
        seconds: what it cost to compute.
        """
        folder = self.path(name, spec)
        with self.lock(name, spec):
            _publish(folder, lambda fresh: _write(fresh, spec, arrays, _provenance(seconds, sources)))
            return _read_once(folder)

    def get_or_run(
        self,
        name: str,
        spec: Mapping[str, Any],
        compute: Callable[[], Arrays],
        sources: str | None,
        *,
        force: bool = False,
        on_damage: Callable[[DamagedRecord], None] | None = None,
    ) -> Record:
        """The record of `spec`: the finished one, or else what `compute` returns, saved.

        sources: the `sources_digest` of what `compute` runs through; a record of other sources is computed again.
        force: compute even if there is one. on_damage: told of a damaged record, which is then computed again;
        by default a warning names it. Of several processes that ask at once, one computes and the others wait.
        """
        usable = not force and not _leftovers(self.path(name, spec))
        # Damage is reported only under the lock: here another process may be about to repair it.
        if usable and (record := self._find(name, spec, sources, on_damage=lambda damage: None)):
            return record
        with self.lock(name, spec):
            if not force and (record := self._find(name, spec, sources, on_damage or _warn)):
                return record
            start = time.perf_counter()
            arrays = compute()
            return self.save(name, spec, arrays, seconds=time.perf_counter() - start, sources=sources)

    def _find(
        self, name: str, spec: Mapping[str, Any], sources: str | None, on_damage: Callable[[DamagedRecord], None]
    ) -> Record | None:
        try:
            return self.load(name, spec, sources)
        except DamagedRecord as damage:
            on_damage(damage)
            return None


def _warn(damage: DamagedRecord) -> None:
    warnings.warn(f"{damage}; computing it again", stacklevel=4)  # the caller of get_or_run


def save_committed(folder: str | Path, name: str, record: Record, twin: Record) -> CommittedRecord:
    """Write a finished record and its twin, each with the provenance it has, for the repository to keep.

    The twin lies in twin-<hash>/ inside the record's folder, and the record's provenance names it under "twin".
    """
    store = Store(folder)
    path, inner = store.path(name, record.spec), f"twin-{twin.hash}"

    def fill(fresh: Path) -> None:
        _write(fresh, record.spec, record.arrays, {**record.provenance, "twin": inner})
        _write(fresh / inner, twin.spec, twin.arrays, twin.provenance)

    with store.lock(name, record.spec):
        _publish(path, fill)
        return CommittedRecord(_read_once(path), _read_once(path / inner))


def load_committed(folder: str | Path, name: str, spec: Mapping[str, Any]) -> CommittedRecord | None:
    """A committed record and its twin, or None. Sources are not compared: a rerun of the twin tells what is stale.

    Raises DamagedRecord, as `Store.load` does, also for the twin.
    """
    path = Store(folder).path(name, spec)
    record = _read(path)
    if record is None:
        return None
    if "twin" not in record.provenance:
        raise DamagedRecord(path, "it has no twin")
    return CommittedRecord(record, _read_once(path / record.provenance["twin"]))
