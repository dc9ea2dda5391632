"""Rows of a .jsonl file that stay on disk: where each one begins is kept in memory, and a row is read when needed."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from llm.data.formats import RowError
from llm.data.sources import parse_json
from llm.data.tokenise import Example


class StreamedExamples(Sequence[Example]):
    """The kept rows of a file, each tokenised anew whenever it is asked for: 16 bytes of memory per row.

    `load_examples` fills it: it checks every row of `rows` as it checks those that it holds in memory, and appends the
    usable ones. decode: from a row's position and value to its example, set before the first row is asked for.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file() or not path.name.endswith(".jsonl"):
            raise ValueError(f"{path}: to be read row by row, data must be one .jsonl file, not compressed")
        self.path = path
        self.decode: Callable[[str, Any], Example] | None = None
        self._offsets, self._numbers = array("Q"), array("Q")
        self._at = (0, 0)

    def rows(self) -> Iterator[tuple[str, Any]]:
        """Every row with its position, as `read_rows` gives them."""
        offset = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                self._at = (offset, number)
                offset += len(line)
                if line.strip():
                    yield f"line {number}", parse_json(line)

    def append(self, example: Example) -> None:
        """Keep the row that `rows` gave last."""
        for kept, value in zip((self._offsets, self._numbers), self._at, strict=True):
            kept.append(value)

    def __len__(self) -> int:
        return len(self._offsets)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        offset, where = self._offsets[index], f"line {self._numbers[index]}"
        with self.path.open("rb") as file:
            file.seek(offset)
            line = file.readline()
        assert self.decode is not None
        try:
            return self.decode(where, parse_json(line))
        except RowError as error:
            raise ValueError(f"{self.path} {where}: was changed after it was checked: {error}") from error
