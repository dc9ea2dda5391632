"""Files and folders that appear whole or not at all, whoever stops their writer, and show later what has changed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from sims.experiments.whole import CHECKSUMS, changed, folder_written_whole, written_whole


def written(folder: Path, text: str) -> None:
    with folder_written_whole(folder) as new:
        (new / "file").write_text(text)


def test_a_folder_is_replaced_whole_and_knows_its_files(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 255)  # the longest name that there is
    for text in ("one", "two"):
        written(folder, text)
        assert (folder / "file").read_text() == text and changed(folder, ["file"]) == []
    assert list(tmp_path.iterdir()) == [folder]
    (folder / "file").write_text("twp")
    assert changed(folder) == ["file"]
    (folder / "file").unlink()
    assert changed(folder) == ["file"]
    (folder / CHECKSUMS).write_text("{}")
    with pytest.raises(ValueError, match="must have those of file"):
        changed(folder, ["file"])


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    written(tmp_path / "folder", "one")
    with pytest.raises(OSError, match="full"), folder_written_whole(tmp_path / "folder") as new:
        (new / "file").write_text("two")
        raise OSError("full")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert (tmp_path / "folder" / "file").read_text() == "one"


def test_what_a_killed_process_left_is_removed_and_what_it_was_to_replace_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rename = tmp_path / "folder", os.rename
    written(folder, "one")

    class Killed(BaseException):
        pass

    def killed(before: Path, after: Path) -> None:
        if after == folder:
            raise Killed  # between the two renames; no cleaning up in a process that is gone
        rename(before, after)

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", killed)
        patched.setattr("shutil.rmtree", lambda *arguments, **options: None)
        with pytest.raises(Killed):
            written(folder, "two")
    left = [path for path in tmp_path.iterdir() if path.name.endswith(f"-{os.getpid()}")]
    assert not folder.exists() and len(left) == 1
    with pytest.raises(OSError, match="again"), folder_written_whole(folder):
        raise OSError("again")
    assert (folder / "file").read_text() == "one" and list(tmp_path.iterdir()) == [folder]


def test_what_is_left_by_a_process_that_nobody_has_looked_after_is_removed(tmp_path: Path) -> None:
    """One that has ended keeps its number until its parent asks for it."""
    process = subprocess.Popen(["sleep", "1000"])
    made, left = tmp_path / "made", None
    for ended in (False, True):
        with folder_written_whole(made) as new:
            left = new.with_name(new.name.replace(str(os.getpid()), str(process.pid)))
        left.mkdir(exist_ok=True)
        if ended:
            process.kill()
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with folder_written_whole(made):
            assert left.exists() != ended
    process.wait()


def test_what_a_killed_process_left_of_a_file_is_removed_and_nothing_else(tmp_path: Path) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    ours = [tmp_path / name for name in (".1.table.json", ".notes.table.json", f".{process.pid}.other.json")]
    for path in (*ours, tmp_path / f".{process.pid}.table.json"):
        path.write_text("half")
    with written_whole(tmp_path / "table.json") as new:
        new.write_text("whole")
    assert set(tmp_path.iterdir()) == {*ours, tmp_path / "table.json"}  # process 1 runs


@pytest.mark.parametrize("what", ["folder", "parent"])
def test_a_folder_that_is_removed_while_it_is_written_does_not_come_back_half(tmp_path: Path, what: str) -> None:
    """A library that makes the folder again for its next file would leave that file alone there."""
    folder = tmp_path / "runs" / "folder"
    with pytest.raises(FileNotFoundError, match="removed while it was written"), folder_written_whole(folder) as new:
        (new / "weights").write_text("one")
        shutil.rmtree(new if what == "folder" else tmp_path / "runs")
        new.mkdir(parents=True)
        (new / "tokenizer").write_text("two")
    assert list(tmp_path.iterdir()) == []


def test_the_folders_around_one_are_made_or_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), folder_written_whole(tmp_path / "runs" / "folder", parents=False):
        pass
    assert not (tmp_path / "runs").exists()
    written(tmp_path / "runs" / "folder", "one")
    assert (tmp_path / "runs" / "folder" / "file").read_text() == "one"
