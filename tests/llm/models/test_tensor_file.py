"""A file of tensors that somebody removes between the two times that safetensors opens it: who reads says so in a
line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llm.embedded import EMBEDDED
from llm.models.gate import WEIGHTS
from llm.models.loading import load_model
from llm.models.spec import LanguageModelSpec
from llm.training import checkpoint
from sims.core.spec import SpecError
from sims.experiments.command import in_a_line
from sims.experiments.whole import CHECKSUMS

Vanishes = Callable[[Path, int], list[str]]


@pytest.fixture
def vanishes(monkeypatch: pytest.MonkeyPatch) -> Vanishes:
    """Remove a file when it is opened for the second time by its n-th reader, counted from 0; a list with a name for
    each time."""
    open_again = torch.UntypedStorage.from_file

    def vanish(file: Path, reader: int) -> list[str]:
        readers: list[str] = []

        def opened(path: str, *arguments: object, **more: object) -> object:
            if Path(path).name == file.name:
                readers.append(path)
                if len(readers) == reader + 1:
                    file.unlink()
            return open_again(path, *arguments, **more)

        monkeypatch.setattr(torch.UntypedStorage, "from_file", staticmethod(opened))
        return readers

    return vanish


def test_a_checkpoint_that_vanishes_is_told(tmp_path: Path, vanishes: Vanishes) -> None:
    path = checkpoint.save(tmp_path, 3, {"a": torch.ones(2)}, {"n": 1}, {})
    vanishes(path / checkpoint.TENSORS, 0)
    with pytest.raises(checkpoint.CheckpointError) as told:
        checkpoint.read(path)
    assert in_a_line(told.value).endswith(f"No such file or directory: '{path / checkpoint.TENSORS}'")


@pytest.mark.parametrize("reader", [0, 1])
def test_weights_that_vanish_are_told(reader: int, tmp_path: Path, vanishes: Vanishes) -> None:
    folder = Path(shutil.copytree(EMBEDDED["pythia"], tmp_path / "base", ignore=shutil.ignore_patterns(CHECKSUMS)))
    readers = vanishes(folder / WEIGHTS, reader)
    with pytest.raises(SpecError) as told:
        load_model(LanguageModelSpec(model=str(folder)), torch.float32, torch.device("cpu"))
    assert len(readers) == reader + 1  # there were so many
    assert "No such file or directory" in in_a_line(told.value)
