"""How every command of the project ends: an exit status, and at most one line on standard error.

0 done; 1 what failed on the way, such as a full disk; 2 options that cannot be; 130 Ctrl-C, 143 SIGTERM, 129 a closed
terminal; 141 nobody reads standard output any more, as in `python -m figures --list | head -1`.

Nothing here loads torch, so that a command can be stopped without a traceback while its libraries are being loaded.
"""

from __future__ import annotations

import codecs
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sims.core.spec import SpecError

FAILED, REFUSED, READER_GONE = 1, 2, 128 + 13  # 13 is SIGPIPE, which Windows does not have
FOREIGN = (Exception, SystemExit)  # what code that is not ours may raise: `exit()` in it is no wish of the user
LONGEST = 120  # characters of a value that an error repeats
_FOREIGN = ("SafetensorError",)  # OSErrors of libraries that are not to be loaded here
_PLAIN = {"π": "pi", "β": "beta", "σ": "sigma", "±": "+-", "×": "x", "−": "-", "–": "-", "→": "->", "≥": ">=",
          "≤": "<=", "“": '"', "”": '"', "…": "...", "✓": "yes"}  # fmt: skip


class Stopped(KeyboardInterrupt):
    """A signal other than Ctrl-C's asks the process to end; it is treated alike."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def run_command(command: Callable[[], int], refused: tuple[type[Exception], ...] = (SpecError,)) -> int:
    """The exit status of a command, which is `command`'s own or that of what stopped it, told in one line.

    refused: exceptions that mean options that cannot be. Others that are no fault of ours (a full disk, too little
    memory) are status 1; what is one is raised, with its traceback.
    """
    write_anywhere()
    try:
        with signals_raised():
            try:
                status = command()
            except SystemExit:  # argparse's: after --help, or after an error that it has told
                _flush()
                raise
            _flush()
            return status
    except KeyboardInterrupt as stop:
        number = stop.number if isinstance(stop, Stopped) else int(signal.SIGINT)
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        tell(f"stopped by {name}{_kept(stop)}")
        return 128 + number
    except BrokenPipeError:
        _forget_output()
        return READER_GONE
    except refused as error:
        return failed(error, REFUSED)
    except Exception as error:
        if not (_is_of_the_system(error) or _is_lack_of_memory(error)):
            raise
        return failed(error, FAILED, _kept(error))


@contextmanager
def keeping(what: str | Callable[[], str]) -> Iterator[None]:
    """Where a signal, a full disk or the like ends this, say what is kept, and how to go on."""
    try:
        yield
    except BaseException as stop:
        if not hasattr(stop, "kept"):  # an inner one knows better
            stop.kept = what if isinstance(what, str) else what()  # type: ignore[attr-defined]
        raise


def _kept(error: BaseException) -> str:
    return f"; {error.kept}" if hasattr(error, "kept") else ""


def failed(error: BaseException, status: int, rest: str = "") -> int:
    """Tell an error in one line; returns the status."""
    tell(f"error: {in_a_line(error)}{rest}")
    return status


def tell(text: str) -> None:
    """One line on standard error, which may be closed."""
    with suppress(OSError, ValueError):
        print(one_line(text), file=sys.stderr, flush=True)


def _is_of_the_system(error: Exception) -> bool:
    """Whether an error is a full disk or the like, which libraries in Rust raise as exceptions of other types."""
    told = type(error).__name__ in _FOREIGN or re.search(r"\(os error \d+\)$", str(error))
    return isinstance(error, OSError) or bool(told)


def in_a_line(error: BaseException) -> str:
    """An error's message without line breaks, repeating no more of a value than is needed to find it."""
    if isinstance(error, SpecError):
        value = str(error.value)  # which the system's own message repeats
        rule = error.valid.replace(value, short(value)) if len(value) > LONGEST else error.valid
        return f"{error.field} = {short(repr(error.value))}: {rule}"
    if _is_lack_of_memory(error):
        said = one_line(str(error)) or "make the run smaller"
        return said if "out of memory" in said else f"out of memory: {said}"
    if isinstance(error, OSError) and error.strerror:
        return ": ".join(short(str(x)) for x in (error.filename, error.strerror) if x is not None)
    return one_line(str(error)) or type(error).__name__


def raised(error: BaseException) -> str:
    """What code that is not ours raised, in a line: its message may itself be one that raises."""
    try:
        said = str(error)
    except Exception:
        said = "its message cannot be read"
    return one_line(f"{type(error).__name__}: {said}")


def one_line(text: str) -> str:
    """The text with every run of white space and control characters as one blank."""
    return " ".join("".join(x if x.isprintable() else " " for x in text).split())


def short(text: str) -> str:
    """A long text without its middle."""
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[:half]}...{text[-half:]} ({len(text):,} characters)"


def write_anywhere() -> None:
    """Let standard output and error write in any encoding what it lacks: π as pi, and else by number."""
    codecs.register_error("plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="plain")


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lost = error.object[error.start : error.end]
    escaped = (_PLAIN.get(x) or x.encode("ascii", "backslashreplace").decode("ascii") for x in lost)
    return "".join(escaped), error.end


@contextmanager
def signals_raised() -> Iterator[None]:
    """SIGTERM and SIGHUP raise `Stopped`, so that what is written is cleaned up and workers end; not outside the main
    thread, which alone may ask, and not where the caller ignores them, as `nohup` does."""

    def stop(number: int, frame: Any) -> None:
        raise Stopped(number)

    before: dict[int, Any] = {}
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is None or signal.getsignal(number) is signal.SIG_IGN:
            continue
        with suppress(ValueError):
            before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def _forget_output() -> None:
    """Let what is still to be written go nowhere: Python flushes standard output once more when it ends."""
    with suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _is_lack_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; torch says so in a RuntimeError on a CPU, in a class of its own on a GPU."""
    said = str(error)
    return isinstance(error, MemoryError) or "DefaultCPUAllocator" in said or "out of memory" in said
