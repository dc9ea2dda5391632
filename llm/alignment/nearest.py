"""The stored vectors that are nearest to given ones, by cosine, exactly: all are compared.

With sqlite-vec (the extra `vectors`) SQLite compares them where they lie, and only the nearest are read; without it all
are read, and numpy compares them. Either way the few nearest are compared once more in float64, so that both find the
same rows with the same cosines. What it saves is memory: 20 rows beside 100,000 of 768 numbers took it 7 core-seconds
and none, numpy 4 core-seconds and 1.8 GB.

sqlite-vec was chosen over LanceDB: it reads the blobs of the one store, in the transactions that there are, and is
0.2 MB. LanceDB (75 MB, and Arrow) would be a second store beside it, with commits of its own; its indices pay from
millions of rows on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .generation import Vectors, as_blob, as_vectors
from .store import Store

MORE = 8  # are compared again than are asked for: float32 may order near ties otherwise


def nearest(
    store: Store, columns: Sequence[str], queries: Vectors, count: int, rows: str, *values: Any
) -> list[list[tuple[str, float]]]:
    """For each query (N, H) the `count` nearest rows, nearest first and ties by row: their keys and cosines.

    columns: of the table `vectors`, joined to one vector of H numbers. rows: a query for the keys to look among, with
    its values. A vector of zeros has the cosine 0 with every other.
    """
    if not len(queries):
        return []
    candidates = _by_sqlite if store.has_vector_functions else _by_numpy
    found = []
    for query, keys in zip(queries, candidates(store, columns, queries, count + MORE, rows, values), strict=True):
        among, vectors = _read(store, columns, "SELECT value FROM json_each(?)", [json.dumps(keys)])
        # row by row, so that equal rows have equal cosines
        cosines = (unit(vectors) * unit(query[None])).sum(1) if keys else np.zeros(0)
        ranked = sorted(zip(among, cosines.tolist(), strict=True), key=lambda row: (-row[1], row[0]))
        found.append(ranked[:count])
    return found


def _by_sqlite(
    store: Store, columns: Sequence[str], queries: Vectors, count: int, rows: str, values: Sequence[Any]
) -> Iterator[list[str]]:
    """Keys of the nearest rows, compared by sqlite-vec. It gives no distance to a vector of zeros."""
    vector = f"CAST({' || '.join(columns)} AS BLOB)" if len(columns) > 1 else columns[0]
    distance = f"coalesce(vec_distance_cosine({vector}, ?), 1.0)"
    ordered = f"SELECT row FROM vectors WHERE row IN ({rows}) ORDER BY {distance}, row LIMIT ?"
    for query in queries:
        yield [row["row"] for row in store.all(ordered, *values, as_blob(query), count)]


def _by_numpy(
    store: Store, columns: Sequence[str], queries: Vectors, count: int, rows: str, values: Sequence[Any]
) -> Iterator[list[str]]:
    """Keys of the nearest rows, compared here."""
    keys, vectors = _read(store, columns, rows, values)
    among = unit(vectors)
    for query in queries:
        cosines = (among @ unit(query[None])[0]).round(6) if keys else np.zeros(0)  # near ties are ordered by row
        yield [keys[index] for index in np.argsort(-cosines, kind="stable")[:count]]


def _read(store: Store, columns: Sequence[str], rows: str, values: Sequence[Any]) -> tuple[list[str], Vectors]:
    """The keys of rows, in order, and their vectors (N, H)."""
    held = store.all(f"SELECT row, {', '.join(columns)} FROM vectors WHERE row IN ({rows}) ORDER BY row", *values)
    joined = np.concatenate([as_vectors([row[name] for row in held]) for name in columns], 1)
    return [row["row"] for row in held], joined


def unit(vectors: Vectors) -> NDArray[np.float64]:
    """Rows divided by their lengths."""
    wide = vectors.astype(np.float64)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
