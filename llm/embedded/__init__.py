"""The language models that come with the package: their names, and where they lie.

Each folder holds weights (safetensors), configuration, tokenizer and report.json, as `llm.training.pretrain` made them.
"""

from __future__ import annotations

from pathlib import Path

EMBEDDED = {name: Path(__file__).parent / f"{name}-tiny" for name in ("pythia", "mistral")}


def find_folder(name: str | Path) -> Path:
    """The folder of an embedded model; of any other name, that name as a path, there or not."""
    return EMBEDDED.get(str(name), Path(name))
