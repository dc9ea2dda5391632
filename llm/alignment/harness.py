"""Skills of the gold set that are tasks of lm-evaluation-harness (Gao et al. 2024), in files of one's own.

A task is a YAML file of the harness: what the prompt is, which answers there are, and where the data are, which must be
local files here: nothing is downloaded. A version answers without sampling; each item of the task has a score of its
own, between 0 and 1, so that the gate compares two versions item by item, as it does for other gold prompts.
"""

from __future__ import annotations

import glob
import logging
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from sims.core.spec import SpecError

FIELD = "gold_tasks"
LIBRARIES = ("lm_eval", "accelerate", "peft")  # the harness, and what its models in transformers' format need
METRICS = ("acc", "exact_match")  # the score of an item: the first of them that the task has
FORMATS = ("json", "csv", "text", "parquet", "arrow")  # of data in local files, as `datasets` names them


class _Loader(yaml.SafeLoader):
    """Reads the harness's files without importing the functions that they name."""


_Loader.add_constructor("!function", lambda loader, node: str(node.value))


def named(text: str) -> tuple[Path, list[str]]:
    """The folder and the names of FOLDER:task1,task2. SpecError for a text that is none."""
    folder, colon, tail = text.rpartition(":")
    names = [name.strip() for name in tail.split(",")]
    if not (folder and colon and all(names)) or len(set(names)) < len(names):
        raise SpecError(FIELD, text, "must be FOLDER:TASK,TASK: a folder of YAML files, and names of tasks in it")
    return Path(folder), names


def task_names(text: str | None) -> list[str]:
    """The tasks of the setting, [] for None. SpecError where the library is missing, and for a task that is not in the
    folder, or has data other than local files."""
    if text is None:
        return []
    folder, names = named(text)
    if any(find_spec(name) is None for name in LIBRARIES):
        raise SpecError(FIELD, text, "needs the library: pip install 'lm-eval[hf]'")
    found = tasks_in(folder)
    for name in names:
        if name not in found:
            raise SpecError(FIELD, name, f"must be a task of {folder}: {', '.join(sorted(found)) or 'there is none'}")
        check_local(name, found[name])
    return names


def tasks_in(folder: Path) -> dict[str, dict[str, Any]]:
    """The tasks of a folder by name, as their files say; groups of tasks are left out. SpecError for a folder that is
    not there."""
    if not folder.is_dir():
        raise SpecError(FIELD, str(folder), "must be a folder of YAML files of lm-evaluation-harness")
    found = {}
    for file in sorted(folder.glob("**/*.yaml")):
        held = _read(file)
        if isinstance(held.get("task"), str):
            found[held["task"]] = held
    return found


def check_local(name: str, task: Mapping[str, Any]) -> None:
    """SpecError unless the data of a task are local files."""
    kind, options = task.get("dataset_path"), task.get("dataset_kwargs")
    if "class" in task or "custom_dataset" in task or kind not in FORMATS:
        rule = f"its dataset_path must be one of {', '.join(FORMATS)}: data are read from local files alone"
        raise SpecError(FIELD, name, f"{rule}; it is {kind!r}")
    files = list(_texts(options.get("data_files") if isinstance(options, Mapping) else None))
    if not files:
        raise SpecError(FIELD, name, "its dataset_kwargs must have data_files: data are read from local files alone")
    for file in files:
        if "://" in file or "::" in file:
            raise SpecError(FIELD, name, f"{file} must be a local file: nothing is downloaded")
        if not glob.glob(file, recursive=True):
            raise SpecError(FIELD, name, f"its data file {file} is not there; a path is from the working directory")


def task_scores(text: str, model: str | Path, most: int) -> dict[str, NDArray[np.float64]]:
    """The score of each item by task, of a model in a folder, in float32 on the CPU. most: items of a task, its first
    ones. SpecError where `task_names` raises it, for a task that the harness cannot run, and for one that has no score
    between 0 and 1."""
    names = task_names(text)
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it tells the default of every setting
    language_model = HFLM(pretrained=str(model), device="cpu", dtype="float32", batch_size=16)
    manager = TaskManager(include_path=str(named(text)[0]), include_defaults=False)
    try:
        found = lm_eval.simple_evaluate(
            language_model, tasks=names, task_manager=manager, limit=most, bootstrap_iters=0, log_samples=True
        )
    except Exception as error:  # of a template, a function or data of the user's: whatever it raises
        told = " ".join(f"{type(error).__name__}: {error}".split())
        raise SpecError(FIELD, text, f"lm-evaluation-harness cannot run it: {told}") from error
    return {name: item_scores(name, found["samples"][name]) for name in names}


def item_scores(name: str, samples: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """(items,) scores of the samples that the harness logs of a task, in the order of its items. Where a task filters
    answers in several ways, by the first. SpecError for fewer than two items, and without a score."""
    rows = [sample for sample in samples if sample.get("filter") == samples[0].get("filter")]
    if len(rows) < 2:
        raise SpecError(FIELD, name, f"must have at least 2 items, for an interval: it has {len(rows)}")
    metric = next((metric for metric in METRICS if metric in rows[0]), None)
    if metric is None:
        raise SpecError(FIELD, name, f"its metric_list must have {' or '.join(METRICS)}")
    scores = np.array([row[metric] for row in sorted(rows, key=lambda row: row["doc_id"])], np.float64)
    if not ((scores >= 0) & (scores <= 1)).all():
        raise SpecError(FIELD, name, f"its {metric} must be between 0 and 1 for each item")
    return scores


def _read(file: Path) -> dict[str, Any]:
    """A YAML file of the harness with what it includes. SpecError for one that cannot be read."""
    try:
        held = yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise SpecError(FIELD, str(file), f"cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(held, dict):
        raise SpecError(FIELD, str(file), "must be a YAML file of lm-evaluation-harness, with names and values")
    included = [_read(file.parent / name) for name in _texts(held.pop("include", None))]
    return {name: value for part in (*included, held) for name, value in part.items()}


def _texts(value: Any) -> Iterable[str]:
    """The texts in a text, a list, or a mapping of them."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _texts(part)
    elif value is not None:
        yield str(value)
