"""The nearest stored vectors: numpy against the definition, and sqlite-vec against numpy."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from llm.alignment import registry
from llm.alignment.filter import nearest_above
from llm.alignment.generation import as_blob
from llm.alignment.nearest import nearest, unit
from llm.alignment.sqlite import sqlite3
from llm.alignment.store import Store, opened

ALL = "SELECT id FROM log"


@pytest.fixture(params=[False, True], ids=["numpy", "sqlite-vec"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """Rows a to f of vectors (3,): b and d are equal, f is zero; and whether SQLite compares them."""
    if request.param:
        pytest.importorskip("sqlite_vec", reason="sqlite-vec is an extra: pip install 'onoff-sims[vectors]'")
        if not hasattr(sqlite3.Connection, "enable_load_extension"):
            pytest.skip("this Python's SQLite loads no extensions; pysqlite3, of the extra too, would")
    vectors = [(1, 0, 0), (1, 2, 0), (0, -1, 0), (1, 2, 0), (1, 1, 1), (0, 0, 0)]
    with opened(tmp_path) as store:
        with store.transaction():
            registry.register(store, 1, None, 0, "pythia", "", None, {})
            for key, vector in zip("abcdef", np.array(vectors, np.float32), strict=True):
                store.insert("log", id=key, cycle=1, version=1, model="v1", prompt='"?"', response="!", sampling="{}")
                store.insert("vectors", row=key, prompt=as_blob(vector), response=as_blob(vector[::-1].copy()))
        assert not request.param or store.has_vector_functions
        store.__dict__["has_vector_functions"] = request.param
        yield store


def test_the_nearest_rows_are_those_of_the_definition_and_ties_go_by_row(store: Store) -> None:
    queries = np.array([[2, 4, 0], [0, -3, -3]], np.float32)
    first, second = nearest(store, ("prompt",), queries, 4, ALL)
    assert [key for key, _ in first] == ["b", "d", "e", "a"]
    assert [cosine for _, cosine in first] == pytest.approx([1, 1, 3 / 15**0.5, 0.2**0.5], abs=1e-12)
    assert [key for key, _ in second] == ["c", "a", "f", "b"] and second[2][1] == 0.0
    both = np.array([[1, 2, 0, 0, 2, 1]], np.float32)
    ((key, cosine),) = nearest(store, ("prompt", "response"), both, 1, f"{ALL} WHERE id > ?", "b")[0]
    assert key == "d" and cosine == pytest.approx(1, abs=1e-12)
    assert nearest(store, ("prompt",), queries, 2, f"{ALL} WHERE id > ?", "f") == [[], []]
    assert len(nearest(store, ("prompt",), queries[:1], 99, ALL)[0]) == 6


def test_what_finds_the_rows_changes_neither_rows_nor_cosines(store: Store) -> None:
    """The exact answer for 300 vectors of 64 numbers, some of which float32 cannot tell apart, and some of which are
    zero."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(300, 64)).astype(np.float32)
    vectors[200:] = vectors[:100] * (1 + 1e-7 * rng.normal(size=(100, 64))).astype(np.float32)
    vectors[100:120] = 0
    with store.transaction():
        for key, vector in enumerate(vectors):
            name = f"{key:03d}"
            store.insert("log", id=name, cycle=2, version=1, model="v1", prompt='"?"', response="!", sampling="{}")
            store.insert("vectors", row=name, prompt=as_blob(vector), response=b"")
    for query, found in zip(
        vectors[:9], nearest(store, ("prompt",), vectors[:9], 5, f"{ALL} WHERE cycle = 2"), strict=True
    ):
        cosines = (unit(vectors) * unit(query[None])).sum(1)
        order = sorted(range(300), key=lambda row: (-cosines[row], row))[:5]
        assert found == [(f"{row:03d}", cosines[row]) for row in order]


def test_the_nearest_row_above_is_the_first_of_equals() -> None:
    directions = unit(np.array([[0, 2], [1, 1], [0, 1], [3, 3]], np.float32))
    assert nearest_above(directions, ["a", "b", "c", "d"], 0) == []
    assert nearest_above(directions, ["a", "b", "c", "d"], 2)[0][0] == "a"
    ((key, cosine),) = nearest_above(directions, ["a", "b", "c", "d"], 3)
    assert key == "b" and cosine == pytest.approx(1)
