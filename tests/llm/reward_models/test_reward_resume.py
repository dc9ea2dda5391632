"""A fit of a reward model that is stopped goes on as if nothing had been, and loses nothing that it had."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llm.__main__ import main
from llm.commands import reward
from llm.models.settings import Scoring
from llm.reward_models.data import RewardData
from llm.reward_models.fit import Fit, RewardTraining
from llm.reward_models.model import new_reward_model
from llm.training import checkpoint
from llm.training.checkpoint import read_spec, write_spec
from llm.training.loggers import read_json_lines
from llm.training.loop import Loop
from llm.training.unfinished import Unfinished
from sims.core.spec import SpecError
from tests.llm.judge_server import serving
from tests.llm.reward_models.test_reward_training import length_pairs

LINE = ["reward", "--pairs", "48", "--batch-size", "8", "--labels", "min_length", "--save-every", "2"]


def stopped(folder: Path, monkeypatch: pytest.MonkeyPatch, at: int, *more: str, line: Sequence[str] = LINE) -> int:
    """The command, interrupted by Ctrl-C after so many updates."""
    log = Loop.log

    def interrupted(self: Loop, row: dict[str, float]) -> None:
        log(self, row)
        if row["update"] == at:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Loop, "log", interrupted)
        return main([*line, "--output", str(folder), *more])


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_restored_fit_goes_on_bit_for_bit(epochs: int) -> None:
    data, training = length_pairs(24, 0, "train"), RewardTraining(batch_size=8, epochs=epochs)
    whole = Fit(new_reward_model("pythia", seed=1), data, training=training)
    saved = None
    for update in whole.train():
        if update.update == 2:
            tensors, numbers = whole.state_dict()
            saved = {name: x.clone() for name, x in tensors.items()}, dict(numbers)
    assert saved is not None
    again = Fit(new_reward_model("pythia", seed=1), data, training=training)
    again.load_state_dict(*saved)
    assert [update.update for update in again.train()] == list(range(3, 3 * epochs + 1))
    assert all(torch.equal(a, b) for a, b in zip(again.parameters, whole.parameters, strict=True))


def test_the_command_goes_on_after_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--no-load-best-model-at-end", "--evaluations", "3"]
    assert main([*LINE, "--output", str(tmp_path / "whole"), *more]) == 0
    assert stopped(tmp_path / "stopped", monkeypatch, 5, *more) == 130
    left = tmp_path / "stopped.unfinished"
    assert f"{left}/checkpoint-00000004 is kept: the same command with --resume goes on" in capsys.readouterr().err
    assert main([*LINE, "--output", str(tmp_path / "stopped")]) == 2
    assert "a fit was stopped: --resume goes on" in capsys.readouterr().err
    assert main([*LINE, "--learning-rate", "0.5", "--output", str(tmp_path / "stopped"), "--resume"]) == 2
    assert "is a fit of other settings or rows" in capsys.readouterr().err
    assert main(["reward", "--output", str(tmp_path / "stopped"), "--resume"]) == 0
    names = ("model.safetensors", "metrics.jsonl", "run.yaml")  # what is evaluated and kept was stored, too
    assert all((tmp_path / "stopped" / x).read_bytes() == (tmp_path / "whole" / x).read_bytes() for x in names)
    assert not left.exists()


def test_metrics_have_every_update_and_held_out_numbers(tmp_path: Path) -> None:
    assert main([*LINE, "--output", str(tmp_path / "model"), "--evaluations", "2"]) == 0
    rows = read_json_lines(tmp_path / "model" / "metrics.jsonl")
    assert [row["update"] for row in rows if "loss" in row] == [1, 2, 3, 4, 5, 6]
    held_out = {row["update"]: row["eval_log_loss"] for row in rows if "eval_log_loss" in row}
    report = json.loads((tmp_path / "model" / "report.json").read_text())
    assert list(held_out) == [0, 3, 6]
    assert (held_out[0], held_out[report["update"]]) == (report["before"]["log_loss"], report["held_out"]["log_loss"])
    again = ["--config", str(tmp_path / "model" / "run.yaml"), "--output", str(tmp_path / "again")]
    assert main(["reward", *again]) == 0
    assert read_json_lines(tmp_path / "again" / "metrics.jsonl") == rows


def test_a_damaged_checkpoint_is_set_aside_and_overwrite_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stopped(tmp_path / "model", monkeypatch, at=5) == 130
    left = tmp_path / "model.unfinished"
    copy = shutil.copytree(left, tmp_path / "copy")
    newest = checkpoint.found(left)[-1][1] / checkpoint.TENSORS
    newest.write_bytes(newest.read_bytes()[:-1] + b"\x01")
    assert main([*LINE, "--output", str(tmp_path / "model"), "--resume"]) == 0
    assert "checkpoint-00000004: damaged" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "model")
    shutil.copytree(copy, left)
    assert main([*LINE, "--output", str(tmp_path / "model"), "--overwrite"]) == 0
    assert not left.exists()


def test_there_must_be_something_to_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*LINE, "--output", str(tmp_path / "model"), "--resume"]) == 2
    assert "there is nothing to go on with" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_fit_that_was_killed_after_its_model_stood_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def killed(self: Unfinished, taken: int) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Unfinished, "finish", killed)
        assert main([*LINE, "--output", str(tmp_path / "model")]) == 130
    assert len([row for row in read_json_lines(tmp_path / "model" / "metrics.jsonl") if "loss" in row]) == 6
    assert main([*LINE, "--output", str(tmp_path / "model"), "--resume"]) == 0
    assert "was finished already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_judge_is_asked_once_whatever_it_would_say_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its labels are data: a fit that goes on has those that it was started with, and pays for none again."""
    with serving() as server:
        words = f"reward --labels judge --judge-model m --judge-url {server.url}"
        line = [*words.split(), "--pairs", "16", "--epochs", "2", "--batch-size", "4", "--save-every", "2"]
        assert main([*line, "--output", str(tmp_path / "whole")]) == 0
        assert stopped(tmp_path / "stopped", monkeypatch, 3, line=line) == 130
        asked, server.reply = len(server.asked), longer_is_better
        assert main([*line, "--output", str(tmp_path / "stopped"), "--resume"]) == 0
        assert len(server.asked) == asked
        weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "stopped")]
        assert weights[0] == weights[1]
        # One of before they were kept asks again, and says so.
        assert stopped(tmp_path / "old", monkeypatch, 3, line=line) == 130
        spec = tmp_path / "old.unfinished" / "spec.json"
        held = read_spec(spec)
        assert [len(scores) for scores in held.pop("answers")] == [16, 4]
        write_spec(spec, held)
        capsys.readouterr()
        assert main([*line, "--output", str(tmp_path / "old"), "--resume"]) == 0
        assert "the judge is asked again, and may answer otherwise" in capsys.readouterr().err
        assert (tmp_path / "old" / "model.safetensors").read_bytes() != weights[0]


def longer_is_better(judged: dict[str, Any]) -> str:
    first, second = (len(judged[name]) for name in ("answer_1", "answer_2"))
    return "1" if first > second else "2" if second > first else "0"


def test_a_judge_is_asked_by_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others have what it said, which another time might be something else."""
    data, batch = RewardData(labels="judge", judge_model="m"), length_pairs(3, 0, "train")
    progress: Any = SimpleNamespace(answers=lambda: None, resume=False)
    told = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]], dtype=torch.float64)
    monkeypatch.setattr(reward, "load_labeller", lambda *given: pytest.fail("it asks"))

    def sum_of(tensors: Sequence[torch.Tensor]) -> None:
        for x in tensors:
            x += told

    ranks: Any = SimpleNamespace(first=False, sum=sum_of)
    tokenizer: Any = None
    (found,) = reward._scores((batch,), data, tokenizer, Scoring(), "cpu", progress, ranks)
    assert torch.equal(found, told)
    progress.answers = lambda: [[[1.0, 0.0]]]  # of one pair, not of three
    progress.folder = tmp_path
    with pytest.raises(SpecError, match="is a fit of other rows"):
        reward._scores((batch,), data, tokenizer, Scoring(), "cpu", progress, ranks)
