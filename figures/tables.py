"""claims.json as it lies in a folder: a list of rows, which a figure of any version wrote, or somebody else."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from sims.core.spec import SpecError

AGAIN = "remove it and draw the figures again"


def read_tables(path: Path, needed: Collection[str] = ()) -> list[dict[str, Any]]:
    """The rows of a claims.json; none where there is no such file. SpecError for what is no list of rows, or where one
    lacks a field that is needed."""
    if not path.exists():
        return []
    tables = read_json(path)
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise SpecError(path.name, type(tables).__name__, f"must be a list of rows; {AGAIN}")
    for i, table in enumerate(tables):
        for name in needed:
            if name not in table:
                raise SpecError(f"{path.name}, row {i}: {name}", None, f"must be there; {AGAIN}")
    return tables


def read_json(path: Path) -> Any:
    """What a figure left in its folder. SpecError for what is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise SpecError(path.name, str(error), "must be JSON; remove it and draw its figures again") from error
