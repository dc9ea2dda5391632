"""No command goes on with, adds to or replaces a folder that another one wrote: all commands, all folders, all ways."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from llm.__main__ import main
from llm.alignment.store import opened
from llm.training.loop import Saving
from llm.training.pretrain import PretrainConfig
from llm.training.unfinished import Unfinished
from sims.core.spec import to_json

_RUN = "--updates 1 --evaluations 1 --evaluation-prompts 2 --max-new-tokens 4 --batch-size 2 --output"
_PRETRAIN = "pretrain --hidden 16 --layers 1 --heads 2 --steps 2 --batch-size 4 --held-out-documents 4 --samples 4"
RUN, PRETRAIN = _RUN.split(), _PRETRAIN.split()
ROW = '{"prompt": "a b", "chosen": "c d", "rejected": "e"}\n'
# What a command is told to write into the folder X, and the ways in which it may.
WRITE = {
    "train": (["train", *RUN], ("", "--resume", "--overwrite")),
    "sft": (["sft", *RUN], ("", "--resume", "--overwrite")),
    "reward": (["reward", "--pairs", "8", "--output"], ("", "--resume", "--overwrite")),
    "pretrain": ([*PRETRAIN, "--output"], ("", "--resume", "--overwrite")),
    "align": (["align", "run", "--cycles", "1", "--store"], ("",)),
    "new": (["new", "--data", "ROWS", "--output"], ("",)),
    "export": (["export", "RUN", "--update", "1", "--output"], ("",)),
}
# Where a command says what it would need: the name of the setting.
SETTING = {"align": "store"}


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each kind, by the command that may go on with it or replace it."""
    root = tmp_path_factory.mktemp("there")
    (root / "rows.jsonl").write_text(ROW * 3)
    assert main(["train", *RUN, str(root / "train")]) == 0
    assert main(["sft", *RUN, str(root / "sft"), "--recorded-prompts", "4"]) == 0
    assert (
        main(
            ["new", "--data", str(root / "rows.jsonl"), "--hidden", "16", "--heads", "1", "--output", str(root / "new")]
        )
        == 0
    )
    assert main(["reward", "--pairs", "8", "--output", str(root / "reward")]) == 0
    assert main([*PRETRAIN, "--output", str(root / "pretrain")]) == 0
    with opened(root / "align"):
        pass
    for name, settings in (("reward", {"reward_data": {}}), ("pretrain", {"pretrain": to_json(PretrainConfig())})):
        fit = Unfinished(root / f"stopped_{name}", name, settings, "", Saving(), resume=False, overwrite=False)
        fit.held()
        fit.begin(0)
    return {path.name: path for path in root.iterdir()}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


KINDS = (
    "train",
    "sft",
    "new",
    "reward",
    "pretrain",
    "align",
    "stopped_reward.unfinished",
    "stopped_pretrain.unfinished",
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", WRITE)
def test_a_folder_of_another_command_stays_as_it_is(kind: str, command: str, there, tmp_path: Path, capsys):
    """The folder itself, and, of a command that keeps what is unfinished beside its output, that one too."""
    own = kind.partition(".")[0].removeprefix("stopped_") == command
    line, ways = WRITE[command]
    line = [{"ROWS": str(there["rows.jsonl"]), "RUN": str(there["train"])}.get(x, x) for x in line]
    for way in ways:
        # `train` and `sft` write the same files, and what --overwrite deletes is what it says.
        if own or (way == "--overwrite" and {kind, command} == {"train", "sft"}):
            continue
        places = [tmp_path / f"{command}{way}"]
        if command in ("reward", "pretrain"):
            places.append(tmp_path / f"{command}{way}.unfinished")
        for place in places:
            shutil.copytree(there[kind], place)
            before = files(place)
            assert main([*line, str(place).removesuffix(".unfinished"), *([way] if way else [])]) == 2
            said = capsys.readouterr().err.strip()
            assert said.startswith(f"error: {SETTING.get(command, 'output')} = ") and "\n" not in said, said
            assert "damaged" not in said and "--overwrite starts again" not in said, said
            assert files(place) == before
            shutil.rmtree(place)


def test_what_is_there_is_named_and_whose_it_is(there, tmp_path: Path, capsys):
    def said(*line: str) -> str:
        assert main(list(line)) == 2
        return capsys.readouterr().err

    resumed = said("sft", "--resume", "--output", str(there["train"]))
    assert resumed.endswith("holds a run of train: must be a folder of sft\n")
    assert "holds a model of reward: must be a folder of pretrain" in said(*PRETRAIN, "--output", str(there["reward"]))
    assert "holds a model of new: must be a folder of train" in said("train", "--output", str(there["new"]))
    stopped = str(there["stopped_reward.unfinished"])
    assert "folder = " in (line := said("export", stopped)) and "an unfinished fit of reward" in line
    assert "holds a run of sft: must be a folder of align" in said("align", "run", "--store", str(there["sft"]))


def test_a_run_of_before_commands_were_kept_goes_on(there, tmp_path: Path):
    place = shutil.copytree(there["train"], tmp_path / "run")
    held = json.loads((place / "spec.json").read_text())
    del held["command"], held["checksum"]
    (place / "spec.json").write_text(json.dumps(held))
    assert main(["train", "--resume", "--updates", "2", "--output", str(place)]) == 0
