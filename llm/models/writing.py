"""A model's folder, as every command writes it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sims.experiments.whole import folder_written_whole

from .adapters import BASE, READ, WEIGHTS_OF_BASE, base_of, weights_digest

REPORT = "report.json"


def write_model(
    folder: str | Path,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    report: Mapping[str, Any] | None = None,
    beside: Sequence[Path] = (),
    weights: dict[str, Tensor] | None = None,
    parents: bool = True,
) -> None:
    """Write weights (safetensors), configuration and tokenizer in the format of transformers, with their checksums;
    `report` as report.json, and copies of the files `beside`. weights: in place of the model's.
    parents: as of `folder_written_whole`.

    Atomic: the folder is written under a temporary name and renamed. An existing one is replaced.
    """
    with folder_written_whole(Path(folder), parents) as new:
        model.save_pretrained(new, state_dict=weights)
        tokenizer.save_pretrained(new)
        _name_class(new / "tokenizer_config.json")
        if (base := base_of("model", new)) is not None:
            read = getattr(model, READ, None)
            digest = weights_digest(base) if read is None else read
            (new / BASE).write_text(json.dumps({WEIGHTS_OF_BASE: digest}, indent=1) + "\n")
        if report is not None:
            (new / REPORT).write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
        for file in beside:
            shutil.copyfile(file, new / file.name)


def _name_class(file: Path) -> None:
    """Give a tokenizer the class name that transformers 4 knows too, where 5 writes one that only it knows."""
    settings = json.loads(file.read_text(encoding="utf-8"))
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        file.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
