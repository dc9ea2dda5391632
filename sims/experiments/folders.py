"""Files and folders that a command is told to write: refused in one line, before anything runs, if they cannot be."""

from __future__ import annotations

import argparse
import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from sims.core.spec import SpecError

from .command import short

_INSIDE = 100  # bytes that the path of a file within a folder needs beside the folder's own


def path(text: str) -> Path:
    """The type of a command-line option that names a file or a folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{short(repr(text))}: must name a file or folder")
    return Path(text)


def check_folder(name: str, path: Path) -> None:
    """Refuse, with SpecError, a folder that is not there and cannot be made, or that cannot be written to: a file, a
    link to nothing or to itself, too long a name, no permission, a full disk. name: of the setting. Nothing is made."""
    shown = short(str(path))
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError as error:  # libraries that write weights take no other name
        rule = "must be a name in UTF-8; where the locale has another encoding, PYTHONUTF8=1 lets it be read as such"
        raise SpecError(name, shown, rule) from error
    try:
        there = _nearest(path.absolute())
        if there is None:
            raise SpecError(name, shown, "must be a folder: it is a link that leads nowhere")
        if not there.is_dir():
            raise SpecError(name, shown, f"must be a folder: {there} is a file")
        _check_length(name, shown, path.absolute(), there)
        with tempfile.TemporaryFile(dir=there, buffering=0) as probe:  # has no name where the system can do that
            probe.write(b"\0")
    except OSError as error:
        rule = f"must be a folder that can be written to: {error.strerror}"
        raise SpecError(name, shown, rule) from error
    except ValueError as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError(name, shown, "must be a folder's name") from error  # with a NUL, or half a character


def check_new(name: str, path: Path) -> None:
    """`check_folder`, for a folder that must not be there yet."""
    check_folder(name, path)
    if os.path.lexists(path):
        raise SpecError(name, short(str(path)), "is there already: name another folder, or remove it")


@contextmanager
def written_by_one(name: str, path: Path, asked: bool = True) -> Iterator[None]:
    """SpecError while another process of this machine writes a run into the same folder: each would remove what the
    other has half written. The lock lies among temporary files, and ends with its process. asked: False takes none,
    for further processes of the same run."""
    locks = Path(tempfile.gettempdir()) / f"onoff-locks-{getattr(os, 'getuid', int)()}"
    lock = FileLock(locks / f"{hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:32]}.lock", timeout=0)
    with ExitStack() as stack:
        try:
            if asked:
                locks.mkdir(exist_ok=True)
                stack.enter_context(lock)
        except Timeout as error:
            raise SpecError(
                name, short(str(path)), "is being written by another process: must be a folder of its own"
            ) from error
        except OSError:
            pass  # no room for temporary files: nobody is locked out
        yield


def check_file(name: str, path: Path, endings: tuple[str, ...]) -> None:
    """Refuse, with SpecError, a file with another ending, or outside an existing folder that can be written to."""
    shown = short(str(path))
    if path.suffix not in endings:
        raise SpecError(name, shown, f"must end in {', '.join(endings[:-1])} or {endings[-1]}")
    check_folder(name, path.parent)
    if not path.parent.is_dir():
        raise SpecError(name, shown, "must be in an existing folder")
    _check_length(name, shown, path, path.parent)
    if path.is_dir():
        raise SpecError(name, shown, "must be a file: it is a folder")


def _nearest(path: Path) -> Path | None:
    """The nearest of a path and its parents that exists; None where that is a link to nothing."""
    for part in (path, *path.parents):
        try:
            os.stat(part)
            return part
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
                raise
            if os.path.islink(part):
                return None
    return path


def _check_length(name: str, shown: str, path: Path, there: Path) -> None:
    """Refuse names that the file system of an existing folder cannot take."""
    longest, whole = _limits(there)
    for part in path.parts:
        if len(os.fsencode(part)) > longest:
            raise SpecError(name, shown, f"must have names of at most {longest} bytes each")
    if len(os.fsencode(path)) + _INSIDE > whole:
        raise SpecError(name, shown, f"must be shorter: a path has at most {whole} bytes")


def _limits(there: Path) -> tuple[int, int]:
    """Bytes of a name, and of a path."""
    try:
        return os.pathconf(there, "PC_NAME_MAX"), os.pathconf(there, "PC_PATH_MAX")
    except (AttributeError, OSError, ValueError):  # Windows
        return 255, 4096
