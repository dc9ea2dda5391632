"""The language models that come with the package: names and folders; `language`, what they are trained on.

Each folder holds weights (safetensors), configuration, tokenizer and report.json, as `llm.training.pretrain` made them.
"""

from __future__ import annotations

from pathlib import Path

EMBEDDED = {name: Path(__file__).parent / f"{name}-tiny" for name in ("pythia", "mistral")}


def find_folder(name: str | Path) -> Path:
    """The folder of an embedded model; any other name as a path, which need not exist."""
    return EMBEDDED.get(str(name), Path(name))
