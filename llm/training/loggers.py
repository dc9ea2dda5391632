"""Where a run's metrics are written: JSON lines, TensorBoard, Weights & Biases."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sims.core.spec import SpecError
from sims.experiments.command import FOREIGN, raised, tell
from sims.experiments.whole import is_there

from .checkpoint import CheckpointError, last_good, write_text

CLOCKS = ("tokens_per_second",)


class Logger:
    """Where rows of metrics go: nowhere, for processes that write no files; see below for others.

    what: its name in an error. folder: of the run. errors: what its library may raise."""

    what = ""
    folder = Path()
    errors: tuple[type[BaseException], ...] = (OSError,)
    lost = False

    @property
    def checksums(self) -> dict[str, int]:
        """The checksum of all rows so far, for a checkpoint's numbers, of those that can be read again."""
        return {}

    def log(self, row: dict[str, Any]) -> None:
        """Write a row. Raises CheckpointError, with its update, for one that cannot be written."""
        with self._told(f"update {row['update']}"):
            self._write(row)

    def close(self) -> None:
        """See to it that all rows are on disk. Raises CheckpointError for rows that cannot be written, unless that was
        told of an update."""
        if not self.lost:
            with self._told("the last rows"):
                self._close()

    def _write(self, row: dict[str, Any]) -> None: ...

    def _close(self) -> None: ...

    @contextmanager
    def _told(self, when: str) -> Iterator[None]:
        try:
            yield
        except self.errors as error:
            self.lost = True
            said = str(error) if isinstance(error, OSError) else raised(error)
            left = last_good(self.folder)
            raise CheckpointError(f"{when}: {self.what} could not be written: {said}; {left}") from error


@contextmanager
def closing_all(loggers: Iterable[Logger]) -> Iterator[None]:
    """Close them at the end, however it comes."""
    with ExitStack() as stack:
        for logger in loggers:
            stack.callback(logger.close)
        yield


class JsonLines(Logger):
    """Rows in a file, one JSON object per line, flushed after each row.

    keep_until: rows after this update are removed, because a resumed run repeats them. numbers: of the checkpoint that
    it resumes from, which hold the checksum of the rows until then (`checksums`); a line tells where they differ. Equal
    runs have equal checksums: what clocks say is left out.
    """

    def __init__(self, path: Path, keep_until: int, numbers: Mapping[str, int] | None = None) -> None:
        rows = [row for row in (read_json_lines(path) if path.exists() else []) if row["update"] <= keep_until]
        self.what, self.folder, self.path, self.checksum = str(path), path.parent, path, 0
        for row in rows:
            self._note(row)
        if (numbers or {}).get(self._name, self.checksum) != self.checksum:
            tell(f"{path}: its rows until update {keep_until} are not what was written, and are taken as they are")
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
        self.file = path.open("a")

    def _note(self, row: Mapping[str, Any]) -> None:
        text = json.dumps({name: value for name, value in row.items() if name not in CLOCKS})
        self.checksum = zlib.crc32(text.encode(), self.checksum)

    @property
    def _name(self) -> str:
        return f"checksum.{self.path.name}"

    @property
    def checksums(self) -> dict[str, int]:
        return {self._name: self.checksum}

    def _write(self, row: dict[str, Any]) -> None:
        self._note(row)
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()
        if not is_there(self.path, self.file.fileno()):
            raise FileNotFoundError("it was removed while it was written")

    def _close(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()


def read_json_lines(path: Path, needed: Collection[str] = ()) -> list[dict[str, Any]]:
    """The rows of a file; an incomplete last line, as a killed process leaves it, is ignored. needed: what each has."""
    found = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        if not line:
            continue
        try:
            row = json.loads(line)
            if not isinstance(row.get("update"), int):
                raise ValueError("it has no update")
            if missing := [name for name in needed if name not in row]:
                raise ValueError(f"it has no {missing[0]}")
        except (ValueError, AttributeError, RecursionError) as error:
            raise SpecError("output", str(path), f"line {number} is damaged: {error}: delete this line") from error
        found.append(row)
    return found


class TensorBoard(Logger):
    """Scalars for TensorBoard, in an event file.

    keep_until: later updates in earlier event files of the folder are hidden, because a resumed run repeats them.
    """

    what, errors = "TensorBoard's event file", FOREIGN

    def __init__(self, folder: Path, keep_until: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise SpecError("report_to", "tensorboard", "needs the library: pip install tensorboard") from error
        self.writer = SummaryWriter(str(folder), purge_step=keep_until + 1 if keep_until > 0 else None)
        self.folder = folder

    def _write(self, row: dict[str, Any]) -> None:
        for name, value in row.items():
            if name != "update":
                self.writer.add_scalar(name, value, int(row["update"]))

    def _close(self) -> None:
        self.writer.close()


class WeightsAndBiases(Logger):
    """A run of Weights & Biases, its files in the folder. WANDB_MODE=offline keeps it on this machine."""

    what, errors = "the run of Weights & Biases", FOREIGN

    def __init__(self, folder: Path, name: str, spec: dict[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise SpecError("report_to", "wandb", "needs the library: pip install wandb") from error
        self.run = wandb.init(name=name, config=spec, dir=str(folder))
        self.folder = folder

    def _write(self, row: dict[str, Any]) -> None:
        self.run.log(row, step=int(row["update"]))

    def _close(self) -> None:
        self.run.finish()
