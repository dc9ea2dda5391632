"""Model versions: where each came from, what the gate found, which is live.

A version is registered with its parent, the digests of its weights and of the pairs that it was trained on, and the
settings of its training. What is live is the last promotion that no rollback took back: both are one inserted row, so
that there is never a moment without a live version, and never two.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llm.models.writing import weights_digest
from sims.core.spec import SpecError
from sims.experiments.whole import changed

from .sqlite import sqlite3
from .store import MODELS, Store


@dataclass(frozen=True)
class Version:
    """A model version. parent: None for the first. folder: below the store's, or an embedded model's or hub name."""

    version: int
    parent: int | None
    cycle: int
    folder: str
    weights: str
    data: str | None
    spec: dict[str, Any]

    @property
    def name(self) -> str:
        return f"v{self.version}"


def folder_of(version: int) -> str:
    """Where the weights of a version lie, below the store's folder."""
    return f"{MODELS}/v{version:04d}"


def register(
    store: Store,
    version: int,
    parent: int | None,
    cycle: int,
    folder: str,
    weights: str,
    data: str | None,
    spec: Mapping[str, Any],
) -> None:
    """Add a version; within a transaction."""
    store.insert(
        "versions",
        version=version,
        parent=parent,
        cycle=cycle,
        folder=folder,
        weights=weights,
        data=data,
        spec=json.dumps(spec, sort_keys=True),
    )


def find(store: Store, version: int) -> Version:
    """A version by its number. SpecError for one that is not there."""
    rows = store.all("SELECT * FROM versions WHERE version = ?", version)
    if not rows:
        most = store.one("SELECT max(version) FROM versions")
        raise SpecError("version", version, f"must be a registered version: {f'1 to {most}' if most else 'none is'}")
    return _of(rows[0])


def versions(store: Store) -> list[Version]:
    """All versions, oldest first."""
    return [_of(row) for row in store.all("SELECT * FROM versions ORDER BY version")]


def lineage(store: Store, version: int) -> list[Version]:
    """A version and its ancestors, the first version first."""
    found = [find(store, version)]
    while found[-1].parent is not None:
        found.append(find(store, found[-1].parent))
    return found[::-1]


def model_of(store: Store, version: Version) -> str:
    """The folder of a version's weights, or the name of a model elsewhere, as `LanguageModelSpec.model` takes it.

    SpecError for weights that are not those that were registered.
    """
    if version.parent is None:
        return version.folder
    folder = store.folder / version.folder
    try:
        damaged = changed(folder) or ([] if weights_digest(folder) == version.weights else ["its weights"])
    except (OSError, ValueError) as error:
        raise SpecError("version", version.version, f"{folder} cannot be read: {error}") from error
    if damaged:
        raise SpecError("version", version.version, f"{folder} is damaged: {damaged[0]} is not what was registered")
    return str(folder)


def standing(store: Store) -> list[sqlite3.Row]:
    """The promotions that no rollback took back, oldest first: the last one is live."""
    return store.all(
        "SELECT number, version FROM live WHERE undone IS NULL AND number NOT IN "
        "(SELECT undone FROM live WHERE undone IS NOT NULL) ORDER BY number"
    )


def live(store: Store) -> Version:
    """The version that is live. SpecError for a store without one."""
    rows = standing(store)
    if not rows:
        rule = "has no model yet: `align log` or `align run` begins the first cycle"
        raise SpecError("store", str(store.folder), rule)
    return find(store, rows[-1]["version"])


def promote(store: Store, version: int, cycle: int, why: str) -> None:
    """Let a version go live; within a transaction. SpecError unless the gate has passed it; the first needs no gate."""
    found = find(store, version)
    passed = store.one("SELECT passed FROM verdicts WHERE version = ?", version)
    if found.parent is not None and not passed:
        rule = "the gate has refused it" if passed is not None else "the gate has not seen it"
        raise SpecError("version", version, f"cannot go live: {rule}")
    _go_live(store, version, cycle, why, None)


def roll_back(store: Store, cycle: int, why: str) -> tuple[Version, Version]:
    """Return to the version that the live one replaced; within a transaction. Returns (taken back, live now). SpecError
    where there is none before it."""
    rows = standing(store)
    taken = live(store)
    if len(rows) < 2:
        raise SpecError("version", taken.version, "cannot be rolled back: no version was live before it")
    _go_live(store, rows[-2]["version"], cycle, why, rows[-1]["number"])
    return taken, live(store)


def withdrawn(store: Store) -> set[int]:
    """Versions that were refused by the gate, or rolled back: what was new in their data is not used again."""
    refused = store.all("SELECT version FROM verdicts WHERE NOT passed")
    back = store.all("SELECT version FROM live WHERE number IN (SELECT undone FROM live WHERE undone IS NOT NULL)")
    return {row["version"] for row in (*refused, *back)}


def _of(row: sqlite3.Row) -> Version:
    return Version(**{**dict(row), "spec": json.loads(row["spec"])})


def _go_live(store: Store, version: int, cycle: int, why: str, undone: int | None) -> None:
    store.insert("live", version=version, cycle=cycle, why=why, undone=undone, at=time.time())
