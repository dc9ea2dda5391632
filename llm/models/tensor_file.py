"""Files of safetensors whose reading fails as that of any other file does: with an OSError."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def tensor_file(path: Path) -> Iterator[Path]:
    """The path, to be read by safetensors, which finds it by its name twice, the second time through torch: where it
    was removed between, torch raises a RuntimeError that ends with the system's number of the error."""
    try:
        yield path
    except RuntimeError as error:
        number = re.search(r"unable to \w+ .*\((\d+)\)$", str(error).strip())
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
