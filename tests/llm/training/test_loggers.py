"""TensorBoard's event files, read back; and Weights & Biases by its documented interface: to have it takes 100 MB."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from llm.__main__ import main
from llm.training.checkpoint import CheckpointError, stored_options
from llm.training.loggers import TensorBoard, WeightsAndBiases, read_json_lines
from sims.core.spec import SpecError

SMALL = ["--max-new-tokens", "8", "--evaluation-prompts", "4", "--evaluations", "1", "--batch-size", "4"]
DPO = ["--algorithm", "dpo", "--num-generations", "2"]
TRL = {  # what TRL's DPOTrainer and GRPOTrainer call these
    "loss", "grad_norm", "learning_rate", "reward", "reward_std", "kl", "entropy", "completions/mean_length",
    "completions/min_length", "completions/max_length", "completions/clipped_ratio", "logps/chosen", "logps/rejected",
    "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies",
}  # fmt: skip


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Scalar → (step, value) of each event, as TensorBoard would show them."""
    found = EventAccumulator(str(folder))
    found.Reload()
    return {name: [(e.step, e.value) for e in found.Scalars(name)] for name in found.Tags()["scalars"]}


def as_written(rows: list[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    names = {name for row in rows for name in row} - {"update"}
    # Event files hold float32.
    return {
        name: [(row["update"], pytest.approx(row[name], rel=1e-6, abs=1e-12)) for row in rows if name in row]
        for name in names
    }


def test_event_files_hold_the_metrics_under_trls_names(tmp_path):
    line = ["train", "--output", str(tmp_path), "--report-to", "tensorboard", *SMALL, *DPO]
    assert main([*line, "--updates", "3"]) == 0
    found, rows = events(tmp_path), read_json_lines(tmp_path / "metrics.jsonl")
    assert set(found) > TRL and {"eval_reward", "eval_length", "tokens_per_second"} < set(found)
    assert not {"gold", "eval_gold"} & set(found)  # it is the reward
    assert found == as_written(rows)
    assert [step for step, _ in found["rewards/margins"]] == [1, 2, 3]
    assert [step for step, _ in found["eval_reward"]] == [0, 3]
    # A run that replaces it leaves nothing of it; one that goes on with it adds what is new.
    assert main([*line, "--updates", "2", "--overwrite"]) == 0
    assert [step for step, _ in events(tmp_path)["loss"]] == [1, 2]
    assert main([*line, "--updates", "4", "--resume"]) == 0
    assert [step for step, _ in events(tmp_path)["loss"]] == [1, 2, 3, 4]
    assert stored_options(tmp_path)["report_to"] == ["tensorboard"]  # not once more for each time


def test_what_is_done_again_is_shown_once(tmp_path):
    """A run killed at update 5 goes on from its checkpoint at update 3."""
    for keep, updates in ((0, range(6)), (3, range(4, 8))):
        logger = TensorBoard(tmp_path, keep)
        for update in updates:
            logger.log({"update": update, "loss": update + 10.0 * keep})
        logger.close()
    assert events(tmp_path) == {"loss": [(0, 0), (1, 1), (2, 2), (3, 3), (4, 34), (5, 35), (6, 36), (7, 37)]}


class FakeWandb:
    """The part of its documented interface that is used: init(name=, config=, dir=); run.log(data, step=), finish()."""

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}
        self.rows: list[tuple[int, dict[str, Any]]] = []
        self.finished = 0

    def init(self, *, name: str, config: dict[str, Any], dir: str) -> SimpleNamespace:
        self.given = {"name": name, "config": config, "dir": dir}
        return SimpleNamespace(log=self._log, finish=self._finish)

    def _log(self, data: dict[str, Any], *, step: int) -> None:
        assert not self.rows or step >= self.rows[-1][0]  # a smaller step than the last would be dropped with a warning
        self.rows.append((step, json.loads(json.dumps(data))))

    def _finish(self) -> None:
        self.finished += 1


def test_weights_and_biases_gets_the_spec_and_every_row(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    line = ["train", "--output", str(tmp_path), "--report-to", "wandb", "--updates", "2", *SMALL, *DPO]
    assert main(line) == 0
    spec = json.loads((tmp_path / "spec.json").read_text())["experiment"]
    assert fake.given == {"name": "tiny-min-length-dpo", "config": spec, "dir": str(tmp_path)}
    rows = read_json_lines(tmp_path / "metrics.jsonl")
    assert [row for _, row in fake.rows] == rows and [step for step, _ in fake.rows] == [0, 1, 2, 2]
    assert set().union(*(row for _, row in fake.rows)) > TRL
    assert fake.finished == 1


def test_a_row_that_a_library_cannot_write_is_told_with_its_update(tmp_path, monkeypatch):
    """It is told once: closing does not fail again in its place."""

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def gone(*_: Any, **__: Any) -> None:
        raise RuntimeError("no service")

    board = TensorBoard(tmp_path, 0)
    monkeypatch.setattr(board.writer, "add_scalar", full)
    fake = SimpleNamespace(init=lambda **_: SimpleNamespace(log=lambda *_, **__: None, finish=gone))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    service = WeightsAndBiases(tmp_path, "x", {})
    service.log({"update": 1})
    with pytest.raises(CheckpointError, match=r"^update 2: TensorBoard's event file could not be written: .*No space"):
        board.log({"update": 2, "loss": 1.0})
    with pytest.raises(CheckpointError, match=r"^the last rows: .* Biases could not be written: RuntimeError: no serv"):
        service.close()
    board.writer.close()
    monkeypatch.setattr(board.writer, "close", gone)
    for logger in (board, service):
        logger.close()


@pytest.mark.parametrize(
    ("module", "make", "message"),
    [
        ("torch.utils.tensorboard", lambda p: TensorBoard(p, 0), "report_to = 'tensorboard': needs .* install tensorb"),
        ("wandb", lambda p: WeightsAndBiases(p, "x", {}), "report_to = 'wandb': needs the library: pip install wandb"),
    ],
)
def test_where_a_library_is_missing_the_error_names_it(module, make, message, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SpecError, match=message):
        make(tmp_path)
