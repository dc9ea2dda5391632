"""Files and folders that appear whole, or not at all, and that show later whether they are still what was written."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from errno import ENOENT
from pathlib import Path

CHECKSUMS = "checksums.json"


@contextmanager
def written_whole(file: Path) -> Iterator[Path]:
    """Another name to write a file under, which then takes the file's place; a failure leaves what was there. What a
    killed process left is removed by the next call for this file."""
    scratch = file.with_name(f".{os.getpid()}.{file.name}")  # its ending is that of the file
    for left in file.parent.glob(f".*{glob.escape(f'.{file.name}')}"):
        number = left.name.partition(".")[2].removesuffix(f".{file.name}")
        if number.isdigit() and not _is_in_use(number):
            left.unlink(missing_ok=True)
    try:
        yield scratch
        os.replace(scratch, file)
    finally:
        with suppress(FileNotFoundError):
            scratch.unlink()


def write_file(path: Path, content: bytes, beside: Path | None = None) -> None:
    """Write a file whole or not at all, flushed to the disk. beside: where it lies until it is finished."""
    temporary = beside or path.with_name(f".{path.name}.{os.getpid()}.new")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    flush(path.parent)


@contextmanager
def folder_written_whole(folder: Path, parents: bool = True) -> Iterator[Path]:
    """Another folder to write files into, which then takes the folder's place, with checksums of what is in it; a
    failure leaves what was there. parents: whether the folders that it lies in are made too, or must be there.

    FileNotFoundError where somebody removes it meanwhile: a library that makes it again would leave half of it.

    A process killed at any moment leaves the old one or the new one under the folder's name or, between two renames,
    the old one aside; the next call for this folder brings that back, and removes what else the killed one left.
    """
    if parents:
        folder.parent.mkdir(parents=True, exist_ok=True)
    stem = f".new-{zlib.crc32(os.fsencode(folder.name)):08x}"  # of a length that any name allows
    old, new = folder.with_name(f"{stem}-old"), folder.with_name(f"{stem}-{os.getpid()}")
    if old.exists() and not folder.exists():
        os.rename(old, folder)
    for left in list(folder.parent.iterdir()):
        if left.name.startswith(stem) and not _is_in_use(left.name.rpartition("-")[2]):
            shutil.rmtree(left, ignore_errors=True)
    try:
        new.mkdir()
        with _held(new) as check_there:
            yield new
            check_there()
            write_checksums(new)
            check_there()
        if folder.exists():
            os.rename(folder, old)
        try:
            os.rename(new, folder)
        except OSError:
            if old.exists():
                os.rename(old, folder)
            raise
        flush(folder.parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _held(folder: Path) -> Iterator[Callable[[], None]]:
    """A function that raises FileNotFoundError if the folder is not the one that it is now, and removes its parent if
    only that was made again."""
    descriptor = os.open(folder, os.O_RDONLY)

    def check_there() -> None:
        if is_there(folder, descriptor):
            return
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # it is not there, or has files of others
            folder.parent.rmdir()
        raise FileNotFoundError(ENOENT, "was removed while it was written", str(folder.parent))

    try:
        yield check_there
    finally:
        os.close(descriptor)


def is_there(path: Path, descriptor: int) -> bool:
    """Whether a path leads to the file that a descriptor is of: nobody has removed or replaced it."""
    with suppress(OSError):
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    return False


def _is_in_use(number: str) -> bool:
    """Whether the process whose number a scratch name has is another one, and still runs."""
    if not number.isdigit() or int(number) == os.getpid():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    try:  # one that has ended keeps its number until somebody looks: Z, or X, after its name in proc(5)
        state = Path(f"/proc/{number}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):  # a system without /proc: nothing is known
        return True
    return state not in "ZX"


def write_checksums(folder: Path) -> None:
    """Write the checksums of all files in a folder beside them; everything is flushed to disk."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != CHECKSUMS)
    sums = {path.name: checksum(path) for path in files}
    (folder / CHECKSUMS).write_text(json.dumps(sums, indent=1) + "\n")
    for path in (*files, folder / CHECKSUMS, folder):
        flush(path)


def changed(folder: Path, needed: Collection[str] = ()) -> list[str]:
    """Names of the files of a folder that are not what `write_checksums` found, or are gone.

    needed: files that must have a checksum. OSError or ValueError where the checksums cannot be read.
    """
    sums = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
    if not isinstance(sums, dict) or not set(needed) <= set(sums):
        raise ValueError(f"{CHECKSUMS} must have those of {', '.join(needed)}")
    return [name for name, sum in sums.items() if not (folder / name).is_file() or checksum(folder / name) != sum]


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """fsync a file, or the entries of a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
