"""The store: one SQLite file that every step reads and writes, in a folder that also holds the models.

<store>/store.sqlite  models/v0002/  lock

What a step does is one transaction with the row that says that it is done: a process that is killed at any moment, or
that finds the disk full, leaves a step done or not begun. Rows have keys that are functions of what they are about, so
that nothing can be there twice. One process at a time may write: a second one is refused, or waits.

Every transaction also keeps, for each table, the sum of its rows' digests, which is compared with the rows whenever a
store is opened: SQLite sees damage to its own structure, and not a flipped bit in a text. That reads the whole file.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from llm.training.written_by import STORE
from sims.core.spec import SpecError

from .sqlite import add_vector_functions, sqlite3

FILE, LOCK, MODELS = STORE, "lock", "models"
# What can be wrong outside the program: SQLite's names of it.
_OUTSIDE = tuple(f"SQLITE_{name}" for name in ("FULL", "IOERR", "CANTOPEN", "READONLY", "NOTADB", "CORRUPT", "BUSY"))
FORMAT = 3  # of the tables below; 2 had no classifiers, which are added; another number is refused
_MODULUS = 1 << 62  # of the sums: SQLite's integers are signed

CLASSIFIERS = """
-- What flags rows that labellers may reject, by cycle. report: what it was fitted to and how well it tells them apart,
-- or why it is off, as JSON; numbers: float64, centre, scale, weight and offset; NULL where it is off.
CREATE TABLE classifiers (cycle INTEGER PRIMARY KEY, report TEXT NOT NULL, numbers BLOB);
"""

SCHEMA = f"""
{CLASSIFIERS}-- The settings of the loop, from a cycle on.
CREATE TABLE settings (cycle INTEGER PRIMARY KEY, spec TEXT NOT NULL);
-- The steps that are done, each once per cycle; note: what it did, as JSON.
CREATE TABLE steps (cycle INTEGER, step TEXT, note TEXT NOT NULL, at REAL NOT NULL, PRIMARY KEY (cycle, step));
-- Model versions. weights, data: digests of the weights and of the pairs trained on; spec: how it was trained, as JSON.
CREATE TABLE versions (version INTEGER PRIMARY KEY, parent INTEGER REFERENCES versions, cycle INTEGER NOT NULL,
  folder TEXT NOT NULL, weights TEXT NOT NULL, data TEXT, spec TEXT NOT NULL);
-- What the gate found of a version; report: its checks, as JSON.
CREATE TABLE verdicts (version INTEGER PRIMARY KEY REFERENCES versions, cycle INTEGER NOT NULL, passed INTEGER NOT NULL,
  report TEXT NOT NULL);
-- What went live; the last row is live now. undone: the number of a row that a later rollback took back.
CREATE TABLE live (number INTEGER PRIMARY KEY AUTOINCREMENT, version INTEGER NOT NULL REFERENCES versions,
  cycle INTEGER NOT NULL, why TEXT NOT NULL, undone INTEGER REFERENCES live, at REAL NOT NULL);
-- Logged traffic. prompt: JSON, a text or a conversation; tokens, logp: of the response, int32 and float32.
CREATE TABLE log (id TEXT PRIMARY KEY, cycle INTEGER NOT NULL, version INTEGER REFERENCES versions, model TEXT NOT NULL,
  prompt TEXT NOT NULL, response TEXT NOT NULL, tokens BLOB, logp BLOB, finished INTEGER, sampling TEXT NOT NULL,
  rating INTEGER);
-- Vectors of prompt and response, float32: mean hidden states of version 1, or of the setting `embedder`.
CREATE TABLE vectors (row TEXT PRIMARY KEY REFERENCES log, prompt BLOB NOT NULL, response BLOB NOT NULL);
-- What the filter decided of a row: chosen, kept or dropped.
CREATE TABLE decisions (row TEXT PRIMARY KEY REFERENCES log, cycle INTEGER NOT NULL, decision TEXT NOT NULL,
  reason TEXT NOT NULL, uncertainty REAL);
-- Pairs to be labelled: first is what was served, second a fresh response.
CREATE TABLE pairs (row TEXT PRIMARY KEY REFERENCES log, cycle INTEGER NOT NULL, prompt TEXT NOT NULL,
  first TEXT NOT NULL, second TEXT NOT NULL, version INTEGER NOT NULL REFERENCES versions,
  first_vector BLOB NOT NULL, second_vector BLOB NOT NULL);
-- Answers, one row per try. label: the probability that the first is better, NULL where there was no usable answer.
CREATE TABLE answers (row TEXT REFERENCES pairs, try INTEGER, source TEXT NOT NULL, label REAL, reason TEXT NOT NULL,
  PRIMARY KEY (row, try));
-- Which pairs a version was trained on; new: for the first time.
CREATE TABLE trained (version INTEGER REFERENCES versions, row TEXT REFERENCES pairs, new INTEGER NOT NULL,
  PRIMARY KEY (version, row));
-- Numbers by name, of a cycle.
CREATE TABLE measures (cycle INTEGER, name TEXT, value REAL NOT NULL, PRIMARY KEY (cycle, name));
-- Of each table, the sum of the digests of its rows.
CREATE TABLE sums (name TEXT PRIMARY KEY, sum INTEGER NOT NULL);
"""


class Store:
    """An open store. Use `opened` or `read_only`."""

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        self.folder, self._connection = folder, connection
        self._changes = Counter[str]()  # of the sums, in the transaction that is open

    def all(self, query: str, *values: Any) -> list[sqlite3.Row]:
        """The rows of a query."""
        return list(self._connection.execute(query, values))

    def one(self, query: str, *values: Any) -> Any:
        """The first column of the first row; None where there is none."""
        row = self._connection.execute(query, values).fetchone()
        return None if row is None else row[0]

    @cached_property
    def has_vector_functions(self) -> bool:
        """Whether queries may use sqlite-vec's functions."""
        return add_vector_functions(self._connection)

    def insert(self, table: str, /, **values: Any) -> None:
        """One row; within `transaction`."""
        if not self._connection.in_transaction:
            raise RuntimeError(f"{table}: must be written in a transaction")
        names, marks = ", ".join(values), ", ".join("?" * len(values))
        query = f"INSERT INTO {table} ({names}) VALUES ({marks})"
        number = self._connection.execute(query, tuple(values.values())).lastrowid
        (row,) = self.all(f"SELECT * FROM {table} WHERE rowid = ?", number)  # as SQLite keeps it
        self._changes[table] += _digest(row)

    def delete(self, table: str, /, **values: Any) -> None:
        """The rows with these values; within `transaction`."""
        wanted = " AND ".join(f"{name} = ?" for name in values)
        self._changes[table] -= sum(map(_digest, self.all(f"SELECT * FROM {table} WHERE {wanted}", *values.values())))
        self._connection.execute(f"DELETE FROM {table} WHERE {wanted}", tuple(values.values()))

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written inside, or nothing of it."""
        self._connection.execute("BEGIN IMMEDIATE")
        self._changes.clear()
        try:
            yield
            for table, change in self._changes.items():
                held = self.one("SELECT sum FROM sums WHERE name = ?", table) or 0
                self._connection.execute("REPLACE INTO sums VALUES (?, ?)", (table, (held + change) % _MODULUS))
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    # Cycles and their steps.

    @property
    def cycle(self) -> int:
        """The cycle that is under way, from 1: one ends with its step `promote`."""
        return 1 + int(self.one("SELECT coalesce(max(cycle), 0) FROM steps WHERE step = 'promote'"))

    def done(self, cycle: int, step: str) -> dict[str, Any] | None:
        """The note of a step that is done; None of one that is not."""
        note = self.one("SELECT note FROM steps WHERE cycle = ? AND step = ?", cycle, step)
        return None if note is None else json.loads(note)

    def finish(self, cycle: int, step: str, note: Mapping[str, Any]) -> None:
        """Say that a step is done; in the transaction of what it wrote."""
        self.insert("steps", cycle=cycle, step=step, note=json.dumps(note, allow_nan=False), at=time.time())

    def measure(self, cycle: int, name: str, value: float) -> None:
        self.insert("measures", cycle=cycle, name=name, value=float(value))

    def measured(self, prefix: str) -> dict[tuple[int, str], float]:
        """Numbers by cycle and by the rest of their names."""
        rows = self.all("SELECT cycle, name, value FROM measures WHERE substr(name, 1, ?) = ?", len(prefix), prefix)
        return {(cycle, name[len(prefix) :]): value for cycle, name, value in rows}


@contextmanager
def opened(folder: Path, wait: bool = False) -> Iterator[Store]:
    """A store to write to, made if it is not there. Raises SpecError while another process has it, unless told to
    wait; OSError where the disk is full or the file cannot be read."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except Timeout as error:
        rule = "is in use by another process: let it end, or wait for it with --wait"
        raise SpecError("store", str(folder), rule) from error
    try:
        with _told(folder), _connected(folder, "rwc") as connection:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            held = connection.execute("PRAGMA user_version").fetchone()[0]
            if (missing := {0: SCHEMA, 2: CLASSIFIERS}.get(held)) is not None:
                connection.executescript(f"BEGIN IMMEDIATE; {missing} PRAGMA user_version = {FORMAT}; COMMIT;")
            _check(folder, connection)
            yield Store(folder, connection)
    finally:
        lock.release()


def remove_unused(folder: Path) -> None:
    """Remove a store in which nothing has begun, as one whose first start was refused, but nothing that others have or
    have put beside it."""
    with suppress(OSError, SpecError):
        with opened(folder) as store:
            if any(store.one(f"SELECT count(*) FROM {table}") for table in ("steps", "versions", "log")):
                return
        for name in (FILE, LOCK):
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()


@contextmanager
def read_only(folder: Path) -> Iterator[Store]:
    """A store to read, also while another process writes. SpecError where there is none."""
    if not (folder / FILE).is_file():
        raise SpecError("store", str(folder), f"holds no store: there is no {FILE} in it; `align run` makes one")
    with _told(folder), _connected(folder, "rw") as connection:  # rw: what a killed writer left is rolled back
        connection.execute("PRAGMA query_only = ON")
        _check(folder, connection)
        yield Store(folder, connection)


@contextmanager
def _connected(folder: Path, mode: str) -> Iterator[sqlite3.Connection]:
    uri = f"{(folder / FILE).absolute().as_uri()}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=60.0, isolation_level=None)
    connection.row_factory = sqlite3.Row
    try:
        yield connection
    finally:
        connection.close()


def _check(folder: Path, connection: sqlite3.Connection) -> None:
    held = connection.execute("PRAGMA user_version").fetchone()[0]
    if held != FORMAT:
        rule = f"this version reads format {FORMAT}" + (
            ", which the next step of the loop makes of it" if held == 2 else ""
        )
        raise SpecError("store", str(folder), f"has tables of format {held}: {rule}")
    try:
        damage = _damage(connection)
    except sqlite3.OperationalError as error:  # of a text that is none
        if getattr(error, "sqlite_errorname", "").startswith(_OUTSIDE):
            raise
        damage = str(error)
    if damage:
        raise OSError(f"{folder / FILE} is damaged: {damage}; put back a copy of the whole folder")


def _damage(connection: sqlite3.Connection) -> str:
    """What is wrong with the file, or nothing: by SQLite's own check, and by the sums of the rows' digests."""
    found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if found != "ok":
        return str(found)
    connection.execute("BEGIN")  # another process may write meanwhile
    try:
        sums = Counter(dict(connection.execute("SELECT name, sum FROM sums")))
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            if table == "sums" or table.startswith("sqlite_"):
                continue
            if sum(map(_digest, connection.execute(f"SELECT * FROM {table}"))) % _MODULUS != sums[table]:
                return f"the rows of the table {table} are not those that were written"
    finally:
        connection.execute("COMMIT")
    return ""


def _digest(row: sqlite3.Row) -> int:
    return int.from_bytes(hashlib.sha256(repr(tuple(row)).encode()).digest()[:8])


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Errors of SQLite's as OSError, which every command tells in a line: a full disk, a file that is no database."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        name = getattr(error, "sqlite_errorname", "")
        if not name.startswith(_OUTSIDE):
            raise  # a mistake of ours
        raise OSError(f"{folder / FILE}: {error}") from error
