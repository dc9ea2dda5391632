"""A key that is there twice, in any file that others wrote; and a hub that cannot be reached."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import datasets
import huggingface_hub
import pytest

from llm.alignment.gold import read_gold_set
from llm.alignment.imported import LineError, read_line
from llm.alignment.people import read_tasks
from llm.data.hub import hub_answers
from llm.data.sources import read_rows
from llm.embedded import EMBEDDED
from llm.models.loading import load_config, load_tokenizer
from llm.models.settings import LanguageModelSettings
from llm.reward_models.model import load_reward_model
from sims.core.spec import SpecError

TWICE = "is there twice: which value counts is unknown"


def test_a_key_that_is_there_twice_is_refused_in_every_file_that_others_wrote(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a", "skill": "b", "answer": "c", "skill": "d"}\n')
    assert f"the key 'skill' {TWICE}" in str(next(read_rows(file))[1])
    with pytest.raises(SpecError, match=f"line 1 must be an object .* 'skill' {TWICE}"):
        read_gold_set(file)
    with pytest.raises(LineError, match=TWICE):
        read_line('{"request": {"prompt": "a", "prompt": "b"}}')
    file.write_text('[{"data": 1, "data": 2}]')
    with pytest.raises(SpecError, match=f"must be a JSON export of Label Studio: the key 'data' {TWICE}"):
        read_tasks(file)
    folder = shutil.copytree(EMBEDDED["pythia"], tmp_path / "model")
    held = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(held)[:-1] + ', "num_hidden_layers": 0}')
    with pytest.raises(SpecError, match=f"config.json cannot be read: the key 'num_hidden_layers' {TWICE}"):
        load_config(LanguageModelSettings(model=str(folder)))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub that cannot be reached; nobody may wait to try again."""

    def fail() -> None:
        raise ConnectionError("no network")

    waits: list[float] = []
    hub_answers.cache_clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)  # `conftest` asks for it
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.utils, "get_session", fail)
    monkeypatch.setattr(time, "sleep", waits.append)
    yield
    hub_answers.cache_clear()
    assert not waits


def test_a_name_on_a_hub_that_cannot_be_reached_is_refused_at_once(offline: None) -> None:
    settings = LanguageModelSettings(model="owner/absent")
    for load in (load_config, load_tokenizer):
        with pytest.raises(SpecError, match=r"^model = 'owner/absent': .*couldn't"):
            load(settings)
    with pytest.raises(SpecError, match=r"^tokenizer = 'owner/absent': .*couldn't"):
        load_tokenizer(LanguageModelSettings(tokenizer="owner/absent"))
    with pytest.raises(SpecError, match=r"^reward_model = 'owner/absent': .*couldn't"):
        load_reward_model("owner/absent")
    with pytest.raises(ValueError, match=r"owner/absent .*Couldn't reach"):
        list(read_rows("owner/absent", "train"))
