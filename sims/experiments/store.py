"""Records on disk: what was computed, from which spec, by which sources, and whether it is still whole.

    <root>/<time of writing>-<random>.npz    a stack of records (`record_file`), never changed once it is there
    <root>/.claims/                          who computes what just now

A file appears by renaming a finished one, so a killed process leaves the old state or the new one. The keys that each
file holds are the index; of two files that hold a record the newer counts, and one of which every record has a newer
version is removed.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import re
import threading
import time
import uuid
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from errno import ENOENT
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from sims.core.spec import NAME

from .code_digest import git_state
from .record_file import Arrays, DamagedRecord, Record, RecordFile, encode, spec_hash
from .whole import write_file

__all__ = ["Arrays", "DamagedRecord", "Finished", "Record", "Store", "Wanted", "record_key", "spec_hash"]

_FILE = re.compile(r"\d{20}-[0-9a-f]{8}\.npz")


@dataclass(frozen=True, eq=False)
class Finished:
    """A record that was computed and is not saved yet. seconds: of the clock; core_seconds: of one core, None where
    nobody counted."""

    name: str
    spec: Mapping[str, Any]
    arrays: Arrays
    seconds: float
    sources: str | None = None
    core_seconds: float | None = None


@dataclass(frozen=True, eq=False)
class Wanted:
    """A record that is asked for. sources: the `sources_digest` of what computes it, or None, if any will do; weight:
    its part of what a stack costs."""

    name: str
    spec: Mapping[str, Any]
    sources: str | None
    weight: float = 1.0

    @functools.cached_property
    def key(self) -> str:
        return record_key(self.name, self.spec)


def record_key(name: str, spec: Mapping[str, Any]) -> str:
    """What a record is found by. name: letters, digits, _ and -."""
    if not NAME.fullmatch(name):
        raise ValueError(f"name = {name!r}: must be letters, digits, _ or -")
    return f"{name}-{spec_hash(spec)}"


class Store:
    """The records below one folder. Several processes may share it, and so may the threads of one.

    >>> sims.Store("results").load("mine", {"beta": 0.1}) is None  # nothing was saved there
    True
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._forget()

    def __getstate__(self) -> Path:
        return self.root

    def __setstate__(self, root: Path) -> None:
        self.root = root
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.RLock()
        self._files: dict[str, dict[str, str | None]] = {}  # file → record key → digest of sources
        self._newest: dict[str, str] = {}  # record key → file
        self._whole: set[str] = set()  # files that were held against their checksum, or written here
        self._open: weakref.WeakValueDictionary[str, RecordFile] = weakref.WeakValueDictionary()
        self._seen = -1  # when the folder had last changed when it was last looked at

    def load(
        self,
        name: str,
        spec: Mapping[str, Any],
        sources: str | None = None,
        on_damage: Callable[[DamagedRecord], None] | None = None,
    ) -> Record | None:
        """The record of `spec`, or None where there is none or it came from other sources (None: any will do).

        A file that is damaged is set aside as <file>.damaged, and what it held counts as missing; on_damage is told
        which, and by default a warning says so.
        """
        found = self.load_key(record_key(name, spec), sources, on_damage)
        return None if found is None else Record(dict(spec), found.arrays, found.provenance)

    def load_key(
        self, key: str, sources: str | None = None, on_damage: Callable[[DamagedRecord], None] | None = None
    ) -> Record | None:
        """The record of a key, as `load` gives it."""
        with self._lock:
            while True:
                self._look(on_damage)
                file = self._newest.get(key)
                if file is None or sources not in (None, self._files[file][key]):
                    return None
                try:
                    return self._opened(file).record(key)
                except FileNotFoundError:
                    self._drop(file)  # another process has replaced it since
                except DamagedRecord as damage:
                    self._set_aside(file, damage, on_damage)

    def specs(self) -> dict[str, dict[str, Any]]:
        """The spec of every record, by its key; what is damaged is set aside, as by `load`."""
        with self._lock:
            self._look(None)
            found: dict[str, dict[str, Any]] = {}
            for file in sorted(set(self._newest.values())):
                try:
                    held = self._opened(file).specs
                except DamagedRecord as damage:
                    self._set_aside(file, damage, None)
                else:
                    found |= {key: held[key] for key, newest in self._newest.items() if newest == file}
            return found

    def save(
        self,
        name: str,
        spec: Mapping[str, Any],
        arrays: Arrays,
        *,
        seconds: float,
        sources: str | None = None,
        core_seconds: float | None = None,
    ) -> Record:
        """Write a record, which then counts instead of an older one, and return it as the disk has it.

        arrays: of numbers, booleans or strings; others, objects above all, are refused by name with ValueError.
        seconds: what it cost to compute.
        """
        self.save_stack([Finished(name, spec, arrays, seconds, sources, core_seconds)])
        record = self.load(name, spec)
        assert record is not None
        return record

    def save_stack(self, finished: Sequence[Finished]) -> str:
        """Write the records of a stack into one file, and return its name (see `adopt`)."""
        records = {record_key(f.name, f.spec): _as_record(f) for f in finished}
        content = encode(records)
        claims = self._claims()
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.npz"
        temporary = claims / f"{name}.new"
        try:
            write_file(self.root / name, content, temporary)
        finally:
            temporary.unlink(missing_ok=True)
        with self._lock:
            self._look(None)  # what this replaces may be nothing that this process has read
            self._add(name, {key: record.provenance["sources"] for key, record in records.items()})
            self._whole.add(name)
            for old in set(self._files) - set(self._newest.values()):
                self._drop(old)
                (self.root / old).unlink(missing_ok=True)
        return name

    def adopt(self, file: str) -> None:
        """Take in a file that a process of ours has just written: it needs no checking."""
        with self._lock:
            self._add(file, RecordFile(self.root / file, verify=False).keys)
            self._whole.add(file)

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
        """The record of `spec`: the finished one, or else what `compute` returns, saved (see `complete`)."""
        if not force and (record := self.load(name, spec, sources, on_damage)):
            return record
        self.complete([Wanted(name, spec, sources)], lambda _: [compute()], force=force, on_damage=on_damage)
        found = self.load(name, spec)
        if found is None:
            raise FileNotFoundError(ENOENT, "its records were removed while they were written", str(self.root))
        return found

    def complete(
        self,
        wanted: Sequence[Wanted],
        compute: Callable[[Sequence[Wanted]], Sequence[Arrays]],
        *,
        force: bool = False,
        on_damage: Callable[[DamagedRecord], None] | None = None,
    ) -> tuple[str | None, dict[str, float]]:
        """Compute those records of a stack that are missing, and write them: the one way from a spec to a record.

        compute: returns the arrays of each that is missing. A record of other sources counts as missing; with `force`,
        all do. on_damage: as for `load`. Of several processes that ask at once, one computes and the others wait.

        Returns the file that was written, None if nothing was missing; and the core-seconds of each computed record, by
        its key."""
        with self.claim([w.key for w in wanted]):
            missing = [w for w in wanted if force or self.load_key(w.key, w.sources, on_damage) is None]
            if not missing:
                return None, {}
            start, core = time.perf_counter(), time.thread_time()
            arrays = compute(missing)
            seconds, core = time.perf_counter() - start, time.thread_time() - core
            shares = [w.weight / sum(other.weight for other in missing) for w in missing]
            finished = [
                Finished(w.name, w.spec, found, seconds * share, w.sources, core * share)
                for w, found, share in zip(missing, arrays, shares, strict=True)
            ]
            costs = {w.key: core * share for w, share in zip(missing, shares, strict=True)}
            return self.save_stack(finished), costs

    # Who computes what

    @contextmanager
    def claim(self, keys: Iterable[str]) -> Iterator[None]:
        """Compute records against all other threads and processes: they wait until this is over, or its process dead.

        Whoever claims must look again whether the records are there now. A claim is a list of keys beside a lock,
        which the system frees when a process dies; it is made under a lock that all share for that moment.
        """
        keys, folder = set(keys), self._claims()
        own = folder / uuid.uuid4().hex
        lock = FileLock(own.with_suffix(".lock"))
        try:
            while (busy := self._claimed(folder, keys, own, lock)) is not None:
                with FileLock(busy):
                    pass
                busy.unlink(missing_ok=True)
            yield
        finally:
            own.with_suffix(".keys").unlink(missing_ok=True)
            lock.release()
            own.with_suffix(".lock").unlink(missing_ok=True)
            self._seen = -1

    def _claimed(self, folder: Path, keys: set[str], own: Path, lock: FileLock) -> Path | None:
        """Make a claim of one's own, or return the lock of the one that is in its way."""
        with FileLock(folder / "all"):
            busy = self._busy(folder, keys)
            if busy is None:
                lock.acquire()
                own.with_suffix(".keys").write_text("\n".join(keys))
            return busy

    def _busy(self, folder: Path, keys: set[str]) -> Path | None:
        """The lock of a living claim on one of the keys; what dead processes left behind is removed."""
        found = None
        for claim in folder.glob("*.keys"):
            lock = FileLock(claim.with_suffix(".lock"))
            try:
                lock.acquire(blocking=False)
            except Timeout:
                with suppress(FileNotFoundError):  # given up since
                    if keys & set(claim.read_text().split()):
                        found = claim.with_suffix(".lock")
            else:
                lock.release()
                for left in (claim, claim.with_suffix(".lock")):
                    left.unlink(missing_ok=True)
        for lost in folder.glob("*.new"):  # nobody takes an hour to write a file
            with suppress(FileNotFoundError):  # finished since
                if time.time() - lost.stat().st_mtime > 3600:
                    lost.unlink()
        return found

    def _claims(self) -> Path:
        folder = self.root / ".claims"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    # The index

    def _look(self, on_damage: Callable[[DamagedRecord], None] | None) -> None:
        """Take notice of files that came or went, if the folder has changed."""
        try:
            changed = self.root.stat().st_mtime_ns
        except FileNotFoundError:
            return
        # A folder's time may stand still for some milliseconds: one that changed just now is looked at again.
        if changed == self._seen and time.time_ns() - changed > 50_000_000:
            return
        self._seen = changed
        there = {entry.name for entry in os.scandir(self.root) if _FILE.fullmatch(entry.name)}
        for gone in set(self._files) - there:
            self._drop(gone)
        for name in sorted(there - set(self._files)):
            try:
                self._add(name, RecordFile(self.root / name, verify=False).keys)
            except FileNotFoundError:
                continue
            except DamagedRecord as damage:
                self._set_aside(name, damage, on_damage)

    def _add(self, name: str, keys: dict[str, str | None]) -> None:
        self._files = {**self._files, name: keys}
        for key in keys:
            if name >= self._newest.get(key, ""):
                self._newest[key] = name

    def _drop(self, name: str) -> None:
        self._files = {file: keys for file, keys in self._files.items() if file != name}
        self._newest = {key: file for file in sorted(self._files) for key in self._files[file]}

    def _opened(self, name: str) -> RecordFile:
        file = self._open.get(name)
        if file is None:
            file = self._open[name] = RecordFile(self.root / name, verify=name not in self._whole)
            self._whole.add(name)
        return file

    def _set_aside(self, name: str, damage: DamagedRecord, on_damage: Callable[[DamagedRecord], None] | None) -> None:
        self._drop(name)
        path = self.root / name
        try:
            os.replace(path, path.with_suffix(".damaged"))
        except FileNotFoundError:
            return  # another process has seen it too
        (on_damage or _warn)(damage)


def _warn(damage: DamagedRecord) -> None:
    warnings.warn(f"{damage}; what it held is computed again", stacklevel=2)


def _as_record(finished: Finished) -> Record:
    _check_arrays(finished.arrays)
    return Record(dict(finished.spec), finished.arrays, _provenance(finished))


def _check_arrays(arrays: Arrays) -> None:
    """Refuse, with ValueError that names it, an array without a plain name or of a type that would not come back."""
    for name, array in arrays.items():
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ValueError(f"array name {name!r}: must be letters, digits, _ or -")
        if type(array) is not np.ndarray and not isinstance(array, np.generic):
            raise ValueError(f"array {name!r} is a {type(array).__name__}: must be a NumPy array")
        if array.dtype.kind not in "biufcSU":
            raise ValueError(f"array {name!r} has dtype {array.dtype}: must hold numbers, booleans or strings")


def _provenance(finished: Finished) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    cost = {"seconds": round(finished.seconds, 3), "core_seconds": round(finished.core_seconds or finished.seconds, 3)}
    return {**_surroundings(), **cost, "created": now, "sources": finished.sources}


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
