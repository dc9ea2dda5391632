"""Rows from JSONL, Parquet, a folder of either, or a data set on the hub, each with its position."""

from __future__ import annotations

import codecs
import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from llm.data.formats import RowError
from llm.data.hub import hub_answers
from sims.experiments import foreign_text

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
Located = Iterator[tuple[str, Any]]


def read_rows(
    source: str | Path | Iterable[Mapping[str, Any]], split: str | None = None, config: str | None = None
) -> Located:
    """Yield (position, row); for a line that is not JSON, the row is a RowError, for the caller to raise or drop.

    source: a .jsonl, .jsonl.gz or .parquet file; a folder that holds `<split>` files of these, whole or in shards
        (train.jsonl, train-00000-of-00002.parquet, also under data/); a hub name `owner/name`; or rows in memory.
    split: for a folder or a hub name, where it is needed; a single file has none.
    config: a hub data set's configuration, e.g. "main".
    Blank lines are ignored; lines and rows count from 1.
    """
    if not isinstance(source, str | Path):
        return ((f"row {number}", row) for number, row in enumerate(source, 1))
    path = Path(source)
    if config is not None and path.exists():
        raise ValueError(f"config={config!r}: {source} is on disk; only a hub data set has configurations")
    if path.is_dir():
        files = split_files(path, split)
        return (located for file in files for located in read_file(file, f"{file.name} "))
    if path.is_file():
        if split is not None:
            raise ValueError(f"split={split!r}: {source} is one file and has no splits")
        return read_file(path)
    if path.exists():
        raise FileNotFoundError(f"{source} is a pipe or a device, and must be a file or a folder")
    if path.is_symlink():
        raise FileNotFoundError(f"{source} is a link to {path.readlink()}, which leads to no file or folder")
    if path.name.endswith(SUFFIXES) or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(source)):
        raise FileNotFoundError(f"{source} is no file or folder, and no hub name (owner/name) either")
    return read_hub(str(source), split, config)


def split_files(folder: Path, split: str | None) -> list[Path]:
    """The files of one split, in order of their names: one, or all shards of one number of them."""
    held = sorted(file for parent in (folder, folder / "data") if parent.is_dir() for file in parent.iterdir())
    held = [file for file in held if file.name.endswith(SUFFIXES)]
    if split is not None:
        shard = r"(-(?P<number>\d+)-of-(?P<shards>\d+)(-\w+)?)?"
        pattern = re.compile(re.escape(split) + shard + r"\.(?P<suffix>jsonl\.gz|jsonl|parquet)")
        matches = {file: match for file in held if (match := pattern.fullmatch(file.name))}
        if len({(file.parent, match["suffix"], match["shards"]) for file, match in matches.items()}) > 1:
            raise ValueError(f"split={split!r} is there more than once: {', '.join(map(str, matches))}")
        if matches:
            shards = next(iter(matches.values()))["shards"]
            numbers = sorted(int(match["number"] or 0) for match in matches.values())
            if shards is not None and numbers != list(range(int(shards))):
                missing = sorted(set(range(int(shards))) - set(numbers))[:5]
                found = f"of which {', '.join(map(str, missing))} are missing" if missing else "and holds some twice"
                raise ValueError(f"split={split!r}: {folder} must hold all of {int(shards)} shards, each once, {found}")
            return list(matches)
    names = ", ".join(file.name for file in held) or "no .jsonl, .jsonl.gz or .parquet file"
    raise ValueError(f"split={split!r}: no such split in {folder}, which holds {names}")


def read_file(path: Path, name: str = "") -> Located:
    """name: prefix of each position, where one source is several files."""
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return read_jsonl(path, name)
    if path.name.endswith(".parquet"):
        return read_parquet(path, name)
    raise ValueError(f"{path}: a data file ends in one of {', '.join(SUFFIXES)}")


def read_jsonl(path: Path, name: str) -> Located:
    number = 0
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        # Bytes, not text: a line that is not UTF-8 is then one bad line, and only \n ends a line.
        try:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{name}line {number}", parse_json(line)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path} line {number + 1}: the gzip stream is damaged: {error}") from error


def parse_json(line: bytes) -> Any:
    """The value of a line, or a RowError; a byte-order mark before it is ignored."""
    try:
        # As text: of bytes, json guesses the encoding, and half of the lines of a file in UTF-16 would be read.
        return foreign_text.parse_json(line.removeprefix(codecs.BOM_UTF8).strip().decode())
    except json.JSONDecodeError as error:
        return RowError("broken_json", f"{error.msg} at column {error.colno}")
    except (ValueError, RecursionError) as error:  # not UTF-8, a key twice, 5,000 digits, 1,000 brackets
        return RowError("broken_json", str(error))


def read_parquet(path: Path, name: str) -> Located:
    try:
        from pyarrow.lib import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ImportError(f"{path}: reading Parquet needs pyarrow: pip install pyarrow") from error
    number = 0
    try:
        with ParquetFile(path) as file:
            twice = [column for column, count in Counter(file.schema_arrow.names).items() if count > 1]
            if twice:
                raise ValueError(f"{path}: has the column {twice[0]!r} twice: which one counts is unknown")
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield f"{name}row {number}", row
    except (ArrowException, OSError) as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(f"{path} row {number + 1}: the Parquet file is damaged: {first}") from error


def read_hub(name: str, split: str | None, config: str | None) -> Located:
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            f"{name}: not on disk, and reading it from the hub needs datasets: pip install datasets"
        ) from error
    if split is None:
        raise ValueError(f"split=None: name the split of {name}, e.g. 'train' (--data-split train)")
    datasets.config.HF_HUB_OFFLINE |= not hub_answers()
    try:
        rows = datasets.load_dataset(name, config, split=split)
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise
        rows = datasets.load_dataset("parquet", data_files=exported_files(name, split, config), split=split)
    except (ValueError, OSError) as error:
        raise ValueError(f"{name} (config={config!r}, split={split!r}): {str(error).splitlines()[0]}") from error
    return ((f"row {number}", row) for number, row in enumerate(rows, 1))


def exported_files(name: str, split: str, config: str | None) -> dict[str, str]:
    """Where the hub keeps its own Parquet export of a data set that is a script (tatsu-lab/alpaca_farm is one).

    datasets 4 no longer runs scripts; version 3 reads this export by itself. split: may be a part, as "train[:90%]".
    """
    whole = split.partition("[")[0]
    return {whole: f"hf://datasets/{name}@refs%2Fconvert%2Fparquet/{config or 'default'}/{whole}/*.parquet"}
