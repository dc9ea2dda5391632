"""Files and folders that commands are told to write: what cannot be is refused, and a full disk leaves nothing."""

import errno
import os
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import llm.__main__
import sims.__main__
from sims.core.spec import SpecError
from sims.experiments.folders import check_file, check_folder, check_new
from sims.experiments.whole import written_whole


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("file", "file is a file"),
        ("file/below", "file is a file"),
        ("dangling", "a link that leads nowhere"),
        ("dangling/below", "a link that leads nowhere"),
        ("loop", "Too many levels of symbolic links"),
        ("loop/below", "Too many levels of symbolic links"),
        ("x" * 300, "must have names of at most"),
        ("new/" + "x" * 300, "must have names of at most"),
        ("/".join(["x" * 200] * 30), "at most"),
        ("nul\0", "must be a folder's name"),
        ("\ud800", "must be a name in UTF-8"),
        (os.fsdecode(b"\xff/below"), "must be a name in UTF-8"),
    ],
)
def test_a_folder_that_cannot_be_is_refused(place: Path, name: str, said: str) -> None:
    before = sorted(place.rglob("*"))
    with pytest.raises(SpecError, match=r"^out = ") as caught:
        check_folder("out", place / name)
    assert said.lower() in str(caught.value).lower() and len(str(caught.value)) < 400
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize("name", [".", "folder", "link", "link/new", "new/and/newer"])
def test_a_folder_that_can_be_is_taken_and_not_made(place: Path, name: str) -> None:
    before = sorted(place.rglob("*"))
    check_folder("out", place / name)
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_takes_nothing_is_seen_before_anything_runs(
    place: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **named: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(SpecError, match=os.strerror(code)):
        check_folder("out", place / "new")


def test_a_folder_that_must_be_new(place: Path) -> None:
    check_new("output", place / "new")
    for name, said in (("folder", "is there already"), ("dangling", "leads nowhere"), ("file", "is a file")):
        with pytest.raises(SpecError, match=said):
            check_new("output", place / name)


def test_a_file_needs_its_ending_and_a_folder_that_is_there(place: Path) -> None:
    (place / "folder.png").mkdir()
    check_file("plot", place / "new.png", (".png", ".svg"))
    for name, said in (
        ("new.gif", "must end in .png or .svg"),
        ("new/a.png", "must be in an existing folder"),
        ("folder.png", "is a folder"),
        ("x" * 300 + ".png", "names of at most"),
    ):
        with pytest.raises(SpecError, match=said):
            check_file("plot", place / name, (".png", ".svg"))


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file can grow beyond so many bytes: what writes more gets an OSError, as from a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_is_written_whole_or_stays_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("before")
    with pytest.raises(OSError), full_disk(10), written_whole(file) as new:
        new.write_text("x" * 100)
    assert file.read_text() == "before" and os.listdir(tmp_path) == ["a.txt"]
    with written_whole(file) as new:
        new.write_text("after")
    assert file.read_text() == "after" and os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("size", [0, 1, 300, 2000])
def test_a_disk_that_fills_during_an_experiment_leaves_no_half_record(
    size: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["--updates", "2", "--evaluations", "1", "--runs", "2", "--results", str(tmp_path)]
    assert sims.__main__.main([*line, "--seed", "1"]) == 0
    records = list(tmp_path.glob("*.npz"))
    capsys.readouterr()
    with full_disk(size):
        status = sims.__main__.main(line)
    last = capsys.readouterr().err.replace("\r", "\n").strip().splitlines()[-1]
    assert status in (1, 2) and last.startswith("error: ")
    assert list(tmp_path.glob("*.npz")) == records and not list(tmp_path.rglob("*.new"))
    assert sims.__main__.main(line) == 0


def test_a_disk_that_fills_while_a_plot_is_saved_leaves_the_old_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "run.png"
    picture.write_bytes(b"old")
    line = ["--updates", "2", "--evaluations", "1", "--runs", "2", "--results", str(tmp_path / "results")]
    assert sims.__main__.main(line) == 0
    with full_disk(1000):
        assert sims.__main__.main([*line, "--plot", str(picture)]) == 1
    assert picture.read_bytes() == b"old" and sorted(os.listdir(tmp_path)) == ["results", "run.png"]


@pytest.mark.parametrize("size", [0, 100, 10_000, 100_000])
def test_a_disk_that_fills_while_a_model_is_made_leaves_nothing(
    size: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "texts.jsonl"
    data.write_text('{"prompt": "a b", "completion": "b a"}\n' * 4)
    line = ["new", "--data", str(data), "--output", str(tmp_path / "base")]
    with full_disk(size):
        status = llm.__main__.main(line)
    assert status in (1, 2) and capsys.readouterr().err.count("\n") == 1
    assert os.listdir(tmp_path) == ["texts.jsonl"]


def test_a_folder_of_other_files_is_not_replaced_by_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    assert llm.__main__.main(["pretrain", "--output", str(tmp_path)]) == 2
    assert "holds other files" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").exists()
