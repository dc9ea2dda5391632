"""The store and the registry: transactions, one writer, and what may go live."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm.__main__ import main
from llm.alignment import loop, registry
from llm.alignment.context import Context
from llm.alignment.promote import promote
from llm.alignment.settings import Settings
from llm.alignment.sqlite import sqlite3
from llm.alignment.store import FILE, Store, opened, read_only, remove_unused
from llm.alignment.update import WORK
from llm.models.adapters import weights_digest
from sims.core.spec import SpecError


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store with a first version, which is live."""
    with opened(tmp_path / "loop") as store:
        with store.transaction():
            registry.register(store, 1, None, 0, "pythia", "w1", None, {})
            registry.promote(store, 1, 0, "first")
        yield store


def add(store: Store, version: int, passed: bool | None) -> None:
    with store.transaction():
        registry.register(store, version, registry.live(store).version, version, f"models/v{version}", "w", "d", {})
        if passed is not None:
            store.insert("verdicts", version=version, cycle=version, passed=int(passed), report="[]")


def go_live(store: Store, version: int) -> None:
    with store.transaction():
        registry.promote(store, version, version, "passed")


def test_a_transaction_that_fails_leaves_nothing(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.transaction():
        store.measure(1, "x", 1.0)
        1 / 0  # noqa: B018
    assert store.measured("x") == {}


def test_nothing_is_written_outside_a_transaction_or_twice(store: Store) -> None:
    with pytest.raises(RuntimeError, match="in a transaction"):
        store.measure(1, "x", 1.0)
    with store.transaction():
        store.finish(1, "log", {})
    with pytest.raises(sqlite3.IntegrityError), store.transaction():
        store.finish(1, "log", {})


def test_a_cycle_ends_with_its_promotion(store: Store) -> None:
    assert store.cycle == 1
    with store.transaction():
        store.finish(1, "promote", {"live": 1})
    assert store.cycle == 2 and store.done(1, "promote") == {"live": 1} and store.done(2, "log") is None


def test_a_cycle_whose_working_files_cannot_be_removed_does_not_end(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk that has become read-only they would stay for good."""
    (store.folder / WORK).mkdir()
    (store.folder / WORK / "pairs.jsonl").touch()
    with store.transaction():
        store.finish(1, "gate", {})

    def refuse(path: Path, *arguments: object, **more: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    with monkeypatch.context() as read_only_disk, pytest.raises(OSError, match="Read-only"):
        for name in ("unlink", "rmdir", "remove"):
            read_only_disk.setattr(os, name, refuse)
        promote(Context(store, Settings()))
    assert store.done(1, "promote") is None
    assert promote(Context(store, Settings())) == "v1 stays live"
    assert store.done(1, "promote") is not None and not (store.folder / WORK).exists()


def test_a_second_writer_is_refused_and_a_reader_is_not(store: Store) -> None:
    with pytest.raises(SpecError, match="in use by another process"), opened(store.folder):
        pass
    with read_only(store.folder) as reader:
        assert registry.live(reader).version == 1
        with pytest.raises(sqlite3.OperationalError, match="readonly"), reader.transaction():
            reader.measure(1, "x", 1.0)


WRITER = """
import pathlib, sys
from llm.alignment.sqlite import sqlite3
from llm.alignment.store import opened
with opened(pathlib.Path(sys.argv[1])) as store:
    print("open", flush=True)
    sys.stdin.read()
    with store.transaction():
        store.measure(1, "x", 1.0)
"""


def test_a_writer_in_another_process_is_refused_or_waited_for(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None and other.stdout is not None and other.stdout.readline() == "open\n"
        with pytest.raises(SpecError, match="in use by another process"), opened(tmp_path):
            pass
        other.stdin.close()
        with opened(tmp_path, wait=True) as store:
            assert store.measured("x") == {(1, ""): 1.0}


def test_a_folder_without_a_store_and_a_file_that_is_none_are_told(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="holds no store"), read_only(tmp_path):
        pass
    (tmp_path / FILE).write_text("no database" * 1000)
    with pytest.raises(OSError, match="not a database"), opened(tmp_path):
        pass


def test_a_flipped_bit_in_a_row_is_told(store: Store) -> None:
    with store.transaction():
        store.insert("settings", cycle=1, spec="written")
        store.insert("settings", cycle=2, spec="taken back")
        store.delete("settings", cycle=2)
        store.measure(1, "minus zero", -0.0)  # which SQLite keeps as 0
    file = store.folder / FILE
    with read_only(store.folder):
        whole = file.read_bytes()
    for written, flipped in ((b"written", b"vritten"), (b"written", b"\xf7ritten"), (b"minus zero", b"minus zerO")):
        file.write_bytes(whole.replace(written, flipped))
        with pytest.raises(OSError, match="is damaged: "), read_only(store.folder):
            pass
    file.write_bytes(whole)
    with read_only(store.folder) as reader:
        assert reader.one("SELECT spec FROM settings") == "written"


def test_only_what_the_gate_passed_goes_live(store: Store) -> None:
    add(store, 2, passed=None)
    with pytest.raises(SpecError, match="has not seen it"):
        go_live(store, 2)
    add(store, 3, passed=False)
    with pytest.raises(SpecError, match="has refused it"):
        go_live(store, 3)
    add(store, 4, passed=True)
    go_live(store, 4)
    assert registry.live(store).version == 4 and registry.withdrawn(store) == {3}


def test_a_rollback_returns_to_what_was_replaced_again_and_again(store: Store) -> None:
    for version in (2, 3):
        add(store, version, passed=True)
        go_live(store, version)
    seen = []
    for _ in range(2):
        with store.transaction():
            taken, back = registry.roll_back(store, 9, "worse")
        seen.append((taken.version, back.version))
    assert seen == [(3, 2), (2, 1)]
    with pytest.raises(SpecError, match="no version was live before it"), store.transaction():
        registry.roll_back(store, 9, "worse")
    assert registry.live(store).version == 1 and registry.withdrawn(store) == {2, 3}
    add(store, 4, passed=True)  # what is promoted after a rollback replaces what it returned to
    go_live(store, 4)
    with store.transaction():
        assert registry.roll_back(store, 9, "worse")[1].version == 1
    assert [v.version for v in registry.lineage(store, 3)] == [1, 2, 3]


def test_a_rollback_that_names_its_version_is_done_once(store: Store) -> None:
    for version in (2, 3):
        add(store, version, passed=True)
        go_live(store, version)
    context = Context(store, Settings())
    assert loop.rollback(context, "worse", 3) == "v3 is taken back; v2 is live"
    assert loop.rollback(context, "worse", 3) == "v3 is not live: nothing to take back; v2 is live"
    with pytest.raises(SpecError, match="version = 9: must be a registered version: 1 to 3"):
        loop.rollback(context, "worse", 9)
    assert registry.live(store).version == 2


def test_weights_that_were_changed_are_refused(store: Store) -> None:
    from sims.experiments.whole import write_checksums

    folder = store.folder / "models/v2"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    write_checksums(folder)
    with store.transaction():
        registry.register(store, 2, 1, 1, "models/v2", weights_digest(folder), "d", {})
    version = registry.find(store, 2)
    assert registry.model_of(store, version) == str(folder)
    (folder / "model.safetensors").write_bytes(b"others")
    write_checksums(folder)
    with pytest.raises(SpecError, match="is damaged: its weights"):
        registry.model_of(store, version)


def test_a_first_start_that_is_refused_leaves_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "loop"
    line = ["align", "run", "--store", str(folder), "--model", str(tmp_path / "absent")]
    assert main(line) == 2 and "error: model = " in capsys.readouterr().err
    assert not folder.exists()
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    assert main(line) == 2
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_a_store_in_which_something_has_begun_stays(store: Store) -> None:
    remove_unused(store.folder)  # and which is in use
    assert (store.folder / FILE).exists()


def test_so_does_one_that_nobody_uses_now(tmp_path: Path) -> None:
    with opened(tmp_path / "loop") as store, store.transaction():
        store.finish(1, "log", {})
    remove_unused(tmp_path / "loop")
    assert (tmp_path / "loop" / FILE).exists()
