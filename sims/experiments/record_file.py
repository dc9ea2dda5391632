"""One file that holds the records of a whole stack: what figures/records and a store are made of.

An ordinary .npz (a zip of .npy arrays), readable by `numpy.load`. Equal arrays of its records are joined along their
first axis, so that a stack of 50 experiments has as many members as one. Three JSON members come first:

    keys.json     record key → digest of the sources that it ran through: all that a store needs to find a record
    index.json    record key → {"provenance": …, "arrays": {name: [member, start, stop] or [member, position]}}
    specs.json    record key → spec; and notes.json, whatever else its writer wants to keep

The zip's comment, the last 64 bytes, is the SHA-256 of all bytes before it, in hex. Nothing is ever pickled.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import math
import mmap
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

CHECKSUM = 64  # hex digits of a SHA-256
Arrays = Mapping[str, np.ndarray]
# What zipfile, json and numpy raise for contents that are not what they should be.
_UNREADABLE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError, RuntimeError)
_UNREADABLE += (KeyError, ValueError, TypeError, IndexError)  # type: ignore[assignment]


class DamagedRecord(Exception):
    """A file of records that is there but not whole; `path` is the file, `what` is wrong with it."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(path, what)
        self.path, self.what = path, what

    def __str__(self) -> str:
        return f"damaged record {self.path}: {self.what}"


@dataclass(frozen=True, eq=False)
class Record:
    """One finished computation.

    spec: everything that it was computed from, as plain JSON.
    arrays: what was computed, by name (`sims.experiments.record_schema`); each is loaded when it is first asked for.
    provenance: created (UTC), commit and dirty (None outside a git checkout), machine, python, numpy, torch, seconds,
        core_seconds, sources (a `sources_digest`).
    source: "live", computed by this code, now or earlier; "committed", read from the repository, made by sources that
        give the same numbers; "stale", read from there though today's sources give other numbers.

    >>> record = sims.run(sims.RLOO(), sims.BanditR1(), updates=10, runs=2).record
    >>> record.spec["algorithm"]["kind"], record.arrays["reward"].shape
    ('rloo', (2, 11))
    """

    spec: dict[str, Any]
    arrays: Arrays
    provenance: dict[str, Any]
    source: str = "live"

    @cached_property
    def hash(self) -> str:
        """The `spec_hash` of its spec, as figures quote it."""
        return spec_hash(self.spec)


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


# Writing


def encode(records: Mapping[str, Record], notes: Mapping[str, Any] | None = None, compress: bool = False) -> bytes:
    """The file of some records, by key. compress: for a file that is kept for ever; as it is, one is read faster."""
    members, index = _join({key: record.arrays for key, record in records.items()})
    headers = {
        "keys": {key: record.provenance.get("sources") for key, record in records.items()},
        "index": {key: {"provenance": r.provenance, "arrays": index[key]} for key, r in records.items()},
        "specs": {key: record.spec for key, record in records.items()},
        "notes": dict(notes or {}),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, value in headers.items():
            _add(archive, f"{name}.json", json.dumps(value, allow_nan=False).encode(), zipfile.ZIP_DEFLATED)
        for name, array in members.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, array, allow_pickle=False)
            _add(archive, f"{name}.npy", content.getvalue(), zipfile.ZIP_LZMA if compress else zipfile.ZIP_STORED)
        archive.comment = b"0" * CHECKSUM
    content_bytes = buffer.getvalue()[:-CHECKSUM]
    return content_bytes + hashlib.sha256(content_bytes).hexdigest().encode()


def _add(archive: zipfile.ZipFile, name: str, content: bytes, method: int) -> None:
    archive.writestr(zipfile.ZipInfo(name), content, method)  # ZipInfo's date is 1980: equal records, equal bytes


def _join(records: Mapping[str, Arrays]) -> tuple[dict[str, np.ndarray], dict[str, dict[str, list[Any]]]]:
    """The members of a file, and where in them each array of each record lies."""
    parts: dict[str, list[np.ndarray]] = {}
    lengths: dict[str, int] = {}
    known: dict[tuple[str, int, bytes], list[Any]] = {}  # equal arrays are kept once
    index: dict[str, dict[str, list[Any]]] = {key: {} for key in records}
    groups: dict[tuple[str, str, tuple[int, ...]], str] = {}
    for key, arrays in records.items():
        for name, array in arrays.items():
            group = (name, array.dtype.str, array.shape[1:])
            count = sum(other[0] == name for other in groups)
            member = groups.setdefault(group, f"{name}.{count}" if count else name)
            same = (member, array.ndim, array.tobytes())
            if same not in known:
                start, piece = lengths.get(member, 0), np.atleast_1d(array)
                parts.setdefault(member, []).append(piece)
                lengths[member] = start + len(piece)
                known[same] = [member, start, start + len(piece)] if array.ndim else [member, start]
            index[key][name] = known[same]
    return {member: np.concatenate(pieces) for member, pieces in parts.items()}, index


# Reading


class _Map(mmap.mmap):
    """A file in memory, as `zipfile` wants it."""

    def seekable(self) -> bool:
        return True


class RecordFile:
    """A file of records, opened; what it holds is read when it is asked for. DamagedRecord where it is not whole.

    It stays readable when the file is removed. verify: hold all of it against its checksum at once.
    """

    def __init__(self, path: Path, verify: bool = True) -> None:
        self.path = path
        with path.open("rb") as file:
            try:
                self._map = _Map(file.fileno(), 0, access=mmap.ACCESS_READ)
            except ValueError as error:
                raise DamagedRecord(path, "it is empty") from error
        if verify:
            self.verify()
        try:
            self._archive = zipfile.ZipFile(self._map)  # type: ignore[call-overload]
        except _UNREADABLE as error:
            raise DamagedRecord(path, str(error)) from error
        self._members: dict[str, np.ndarray] = {}

    def verify(self) -> None:
        """Hold the whole file against its checksum."""
        content = memoryview(self._map)
        found, said = hashlib.sha256(content[:-CHECKSUM]).hexdigest().encode(), bytes(content[-CHECKSUM:])
        content.release()
        if found != said:
            raise DamagedRecord(self.path, "its checksum differs")

    @cached_property
    def keys(self) -> dict[str, str | None]:
        """The digest of the sources of each record, by the record's key."""
        return self._json("keys")

    @cached_property
    def specs(self) -> dict[str, dict[str, Any]]:
        """The spec of each record."""
        return self._json("specs")

    @cached_property
    def notes(self) -> dict[str, Any]:
        """What its writer kept beside the records."""
        return self._json("notes")

    @cached_property
    def _index(self) -> dict[str, Any]:
        return self._json("index")

    def provenance(self, key: str) -> dict[str, Any]:
        """Where a record comes from."""
        found: dict[str, Any] = self._index[key]["provenance"]
        return found

    def record(self, key: str, spec: Mapping[str, Any] | None = None, source: str = "live") -> Record:
        """A record. spec: its spec, where the caller has it already."""
        given = dict(spec) if spec is not None else self.specs[key]
        return Record(given, _LoadedWhenAsked(self, self._index[key]["arrays"]), self.provenance(key), source)

    def slice(self, member: str, start: int, stop: int | None = None) -> np.ndarray:
        """An array of a record: part of a member."""
        if member not in self._members:
            try:
                content = io.BytesIO(self._archive.read(f"{member}.npy"))
                self._members[member] = np.lib.format.read_array(content, allow_pickle=False)
            except _UNREADABLE as error:
                raise DamagedRecord(self.path, f"{member}.npy: {error}") from error
        whole = self._members[member]
        return np.array(whole[start] if stop is None else whole[start:stop])

    def _json(self, name: str) -> Any:
        try:
            return json.loads(self._archive.read(f"{name}.json"))
        except _UNREADABLE as error:
            raise DamagedRecord(self.path, f"{name}.json: {error}") from error


@dataclass(eq=False)
class _LoadedWhenAsked(Mapping[str, np.ndarray]):
    """The arrays of a record, each read from its file when it is first asked for."""

    file: RecordFile
    where: Mapping[str, Sequence[Any]]
    loaded: dict[str, np.ndarray] = field(default_factory=dict)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.where:
            raise KeyError(f"{name}: {self.file.path.name} keeps of this record only {', '.join(self.where)}")
        if name not in self.loaded:
            self.loaded[name] = self.file.slice(*self.where[name])
        return self.loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in self.where

    def __iter__(self) -> Iterator[str]:
        return iter(self.where)

    def __len__(self) -> int:
        return len(self.where)

    def __or__(self, others: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(self) | dict(others)
