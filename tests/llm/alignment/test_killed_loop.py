"""The loop killed at random moments (`killed_loop`): at length; and what it would notice."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm.alignment import registry
from llm.alignment.store import Store, opened
from tests.llm.alignment.killed_loop import WRONG, wrong

PAIR = {"prompt": "p", "first": "a", "second": "b", "version": 1, "first_vector": b"", "second_vector": b""}
LOGGED = {"version": 1, "model": "v1", "prompt": "p", "response": "a", "sampling": "{}"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store with a labelled pair, and a version beside the first."""
    with opened(tmp_path / "loop") as store:
        with store.transaction():
            registry.register(store, 1, None, 0, "pythia", "", None, {})
            registry.promote(store, 1, 0, "first")
            store.insert("log", id="r", cycle=1, **LOGGED)
            store.insert("vectors", row="r", prompt=b"", response=b"")
            store.insert("pairs", row="r", cycle=1, **PAIR)
            store.insert("answers", row="r", **{"try": 0}, source="s", label=1.0, reason="")
            for version in (2, 3):
                registry.register(store, version, None, 1, "pythia", "", None, {})
                store.insert("trained", version=version, row="r", new=int(version == 2))
            store.finish(1, "log", {})
            store.finish(1, "watch", {})
        yield store


PLANTED: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "live, and not passed by the gate": [
        ("versions", {"version": 4, "parent": 1, "cycle": 1, "folder": "x", "weights": "", "spec": "{}"}),
        ("live", {"version": 4, "cycle": 1, "why": "", "at": 0.0}),
    ],
    "labelled twice": [("answers", {"row": "r", "try": 1, "source": "s", "label": 0.0, "reason": ""})],
    "asked about after a label": [("answers", {"row": "r", "try": 1, "source": "s", "label": None, "reason": ""})],
    "new to two versions": [("trained", {"version": 1, "row": "r", "new": 1})],
    "trained on without a label": [
        ("log", {"id": "q", "cycle": 1, **LOGGED}),
        ("pairs", {"row": "q", "cycle": 1, **PAIR}),
        ("trained", {"version": 2, "row": "q", "new": 1}),
    ],
    "logged without vectors": [("log", {"id": "q", "cycle": 1, **LOGGED})],
    "logged and not decided": [("steps", {"cycle": 1, "step": "filter", "note": "{}", "at": 0.0})],
    "gated without a verdict": [
        ("versions", {"version": 4, "parent": 1, "cycle": 1, "folder": "x", "weights": "", "spec": "{}"}),
        ("steps", {"cycle": 1, "step": "gate", "note": "{}", "at": 0.0}),
    ],
    "with a verdict before its gate": [("verdicts", {"version": 2, "cycle": 1, "passed": 1, "report": "[]"})],
    "is out of order": [("steps", {"cycle": 1, "step": "label", "note": "{}", "at": 0.0})],
    "cannot be read": [
        ("versions", {"version": 4, "parent": 1, "cycle": 1, "folder": "x", "weights": "", "spec": "{}"}),
    ],
}


@pytest.mark.parametrize("what", PLANTED)
def test_what_is_wrong_with_a_store_is_noticed(store: Store, what: str) -> None:
    assert wrong(store) == [] and set(WRONG) < set(PLANTED)
    with store.transaction():
        for table, row in PLANTED[what]:
            store.insert(table, **row)
    assert any(what in found for found in wrong(store))


@pytest.mark.long
@pytest.mark.parametrize("how", ["one", "two", "judge"])
def test_a_loop_that_is_killed_loses_doubles_and_lets_through_nothing(how: str) -> None:
    # A process of its own: it forks, which a process with threads should not.
    line = [sys.executable, "-m", "tests.llm.alignment.killed_loop", "--how", how, "--kills", "12"]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
