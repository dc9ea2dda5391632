"""What a run reads beside its rows and weights, as digests: a run that goes on must find the same.

A checkpoint holds weights. What is computed with them is said by the model's configuration and its tokenizer, by those
of reward models, and by what a judge is told; a reward function is a file of the user's. What answers behind a judge's
address has no file: it is asked about samples that were logged.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm.data import Example
from llm.embedded import find_folder
from llm.judges import Judge
from llm.models.adapters import base_of
from llm.models.gate import ADAPTER
from llm.models.writing import REPORT
from llm.tasks import JudgeReward
from sims.core.spec import SpecError
from sims.experiments.command import tell
from sims.experiments.experiment import Experiment
from sims.experiments.whole import CHECKSUMS, checksum

_READ = (".json", ".jinja", ".txt", ".model")  # endings of configurations, tokenizers and chat templates
_BASE = "base_model_name_or_path"  # a model that lies elsewhere is still the same
_ROUNDING = 1e-4  # of scores that were rewards in float32
MODELS = ("model", "tokenizer", "reward_model", "gold_reward_model")


def files_digest(name: str | Path, field: str = "model") -> str:
    """SHA-256 over the configuration and the tokenizer in a model's folder, and in that of the base under its adapters;
    "" for a name of no folder here. field: which setting names it."""
    folder = find_folder(name)
    if not folder.is_dir():
        return ""
    found = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in _READ and file.name not in (CHECKSUMS, REPORT) and file.is_file():
            found.update(f"{file.name} {_said(file) if file.name == ADAPTER else checksum(file)}\n".encode())
    base = base_of(field, folder)
    return found.hexdigest() if base is None else f"{found.hexdigest()}, {files_digest(base)}"


def _said(file: Path) -> str:
    held = json.loads(file.read_text(encoding="utf-8"))
    return json.dumps({name: value for name, value in held.items() if name != _BASE}, sort_keys=True)


def files_read(experiment: Experiment) -> dict[str, str]:
    """A digest of each setting's files, by setting."""
    found = {field: files_digest(name, field) for field, name in _named(experiment, MODELS).items()}
    others = _named(experiment, ("judge_criteria",)) | {name: _module(name) for name in _functions(experiment)}
    return found | {field: checksum(Path(file)) for field, file in others.items() if file and Path(file).is_file()}


def check_files(experiment: Experiment, before: Mapping[str, Any], fields: tuple[str, ...] = ()) -> None:
    """SpecError for a run whose files were others when it was started; a line for a reward function, which may have
    been mended meanwhile. before: what `files_read` found then; of what is not in it, nothing is known. fields: look at
    these alone."""
    for field, digest in files_read(experiment).items():
        if before.get(field) in (None, "", digest) or (fields and field not in fields):
            continue
        if field in _functions(experiment):
            tell(f"reward_funcs = {field!r}: its file has changed since the run was started: so may its rewards")
            continue
        what = "text" if field == "judge_criteria" else "configuration or tokenizer"
        rule = f"has another {what} than when the run was started: must be the same, to go on with it"
        raise SpecError(field, _named(experiment, (field,))[field], rule)


def ask_again(experiment: Experiment, logged: Sequence[Mapping[str, Any]], examples: Iterable[Example]) -> None:
    """A line where the judge of a run that goes on scores samples otherwise than it did. logged: the last rows of them;
    examples: what they were drawn for. Nothing where their rewards are not the judge's scores alone, or prompts are
    conversations, of which the last message is logged."""
    task = experiment.environment
    if not isinstance(task, JudgeReward) or task.is_shaped or not logged:
        return
    if not all(isinstance(example.prompt, str) for example in examples):
        return
    try:
        scores = Judge(task).score([row["prompt"] for row in logged], [row["completion"] for row in logged])
    except SpecError:  # of a few replies one that cannot be read is many; the run itself says what is wrong
        return
    other = sum(abs(now - row["reward"]) > _ROUNDING for now, row in zip(scores, logged, strict=True))
    if other:
        what = f"{other} of {len(logged)} logged samples"
        tell(f"judge: scores {what} otherwise than before the stop: so it may all that follows")


def _named(experiment: Experiment, fields: tuple[str, ...]) -> dict[str, str]:
    """The names that a run has for these settings."""
    parts: tuple[Any, ...] = (experiment.policy, experiment.environment)
    return {field: name for field in fields for part in parts if isinstance(name := getattr(part, field, None), str)}


def _functions(experiment: Experiment) -> tuple[str, ...]:
    return tuple(getattr(experiment.environment, "reward_funcs", ()))


def _module(function: str) -> str | None:
    """The file of a reward function's module; None for one without."""
    try:
        found = importlib.util.find_spec(function.partition(":")[0])
    except (ImportError, ValueError):
        return None
    return None if found is None else found.origin
