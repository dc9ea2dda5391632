"""The training loop and the folder of a fit: checkpoints, the best of them, and going on from the folder alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from llm.__main__ import main
from llm.training import checkpoint
from llm.training.loggers import JsonLines, read_json_lines
from llm.training.loop import Loop, Saving
from llm.training.pretrain import load
from llm.training.unfinished import Unfinished, was_finished
from sims.core.spec import SpecError

LINE = ["pretrain", "--hidden", "16", "--layers", "1", "--heads", "2", "--steps", "6", "--batch-size", "4"]
BEST = Saving(metric_for_best_model="eval_loss")
SMALL = [*LINE, "--held-out-documents", "4", "--samples", "4", "--save-every", "2", "--evaluations", "2"]


@dataclass
class Counted:
    update: int
    loss: float


class Counting:
    """A fit whose one weight is the number of its updates, of which there are so many to a batch."""

    total = 6

    def __init__(self, batch: int = 1) -> None:
        self.weight, self.batch = torch.zeros(1), batch

    @property
    def between_batches(self) -> bool:
        return self.updates % self.batch == 0

    @property
    def updates(self) -> int:
        return int(self.weight)

    def train(self) -> Iterator[Counted]:
        while self.updates < self.total:
            self.weight += 1
            yield Counted(self.updates, 1.0)

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        return {"weight": self.weight}, {}

    def load_state_dict(self, tensors: dict[str, Tensor], numbers: dict[str, int]) -> None:
        self.weight = tensors["weight"]


def fitted(
    folder: Path,
    losses: dict[int, float],
    saving: Saving,
    fit: Counting | None = None,
    damage: tuple[str, str] = ("", ""),
) -> tuple[Counting, Unfinished, str]:
    """A fit with these held-out losses after its updates; 0 before the first. damage: a text of its metrics, and what
    stands there in its place at the end."""
    fit = fit or Counting()
    progress = Unfinished(
        folder / "model", "pretrain", {"pretrain": {}}, "a: 1", saving, False, False, evaluations=len(losses)
    )
    progress.held()
    progress.run(fit, lambda: {"eval_loss": ({0: 0.0} | losses)[fit.updates]}, "fit")
    kept = [update for update, _ in checkpoint.found(progress.folder)]
    assert progress.written()[0].read_text().count("\n") == 7 + len(losses)
    metrics = progress.folder / checkpoint.METRICS
    metrics.write_text(metrics.read_text().replace(*damage))
    line = progress.finish(fit.updates)
    return fit, progress, f"{kept} {line.strip()}"


@pytest.mark.parametrize("load_best", [True, False])
def test_the_model_is_that_of_the_lowest_held_out_loss_where_that_is_wanted(tmp_path: Path, load_best: bool) -> None:
    saving = dataclasses.replace(BEST, save_every=1, save_total_limit=1, load_best_model_at_end=load_best)
    fit, progress, line = fitted(tmp_path, {2: 0.5, 4: 0.7, 6: 0.6}, saving)
    assert fit.updates == (2 if load_best else 6)
    last = "the model is that of update 2" if load_best else "--load-best-model-at-end would have taken it"
    assert line == f"[2, 6] eval_loss was best at update 2 (0.500; at the end 0.600): {last}"
    assert not progress.folder.exists()


def test_a_best_loss_whose_field_a_flipped_bit_has_renamed_is_told(tmp_path: Path) -> None:
    damage = ('"eval_loss": 0.5', '"evil_loss": 0.5')
    _, _, line = fitted(tmp_path, {2: 0.5, 4: 0.7, 6: 0.6}, BEST, damage=damage)
    assert line.endswith("metrics.jsonl was damaged: update 2, which was best, has no eval_loss")
    _, _, line = fitted(tmp_path / "all", {2: 0.5, 4: 0.7, 6: 0.6}, BEST, damage=("eval_loss", "evil_loss"))
    assert line.endswith("metrics.jsonl was damaged: update 2, which was best, has no eval_loss")


def test_a_fit_that_is_best_at_its_end_says_nothing(tmp_path: Path) -> None:
    fit, _, line = fitted(tmp_path, {3: 0.5, 6: 0.4}, dataclasses.replace(BEST, load_best_model_at_end=True))
    assert fit.updates == 6 and line == "[5, 6] "


def test_the_best_is_kept_wherever_the_others_are_saved(tmp_path: Path) -> None:
    """Its evaluation is no multiple of `save_every`; and that before the first update is not of this fit."""
    _, _, line = fitted(tmp_path, {3: 0.5, 6: 0.6}, dataclasses.replace(BEST, save_every=5, save_total_limit=1))
    assert line.startswith("[3, 6] eval_loss was best at update 3")


@pytest.mark.parametrize(("points", "best"), [((3, 8), 8), ((4, 8), 4)])
def test_a_checkpoint_that_is_due_within_a_batch_is_saved_after_it(
    tmp_path: Path, points: tuple[int, ...], best: int
) -> None:
    """An evaluation within a batch is not the best, as its weights cannot be saved."""
    fit = Counting(batch=4)
    fit.total = 8
    loop = Loop(tmp_path, {}, dataclasses.replace(BEST, save_total_limit=9), points)
    loop.run(fit, lambda: {"eval_loss": float(fit.updates)}, "fit")
    assert [update for update, _ in checkpoint.found(tmp_path)] == [4, 8]
    assert loop.best.update == best


def again(folder: Path, resume: bool) -> Unfinished:
    return Unfinished(folder / "model", "pretrain", {"pretrain": {}}, "a: 1", BEST, resume, False)


def test_rows_that_changed_since_the_checkpoint_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    progress = again(tmp_path, resume=False)
    progress.held()
    progress.run(Counting(), lambda: {"eval_loss": 1.0}, "fit")
    for changed in (False, True):
        if changed:
            file = progress.folder / "metrics.jsonl"
            file.write_text(file.read_text().replace('"loss": 1.0', '"loss": 1.1', 1))
        resumed = again(tmp_path, resume=True)
        assert resumed.held() is not None
        resumed.begin(6)
        assert ("its rows until update 6 are not what was written" in capsys.readouterr().err) == changed


def test_an_empty_folder_is_no_fit_and_beside_a_model_the_last_trace_of_one(tmp_path: Path) -> None:
    (tmp_path / "model.unfinished").mkdir()
    again(tmp_path, resume=False)  # killed as it began
    with pytest.raises(SpecError, match="there is nothing to go on with"):
        again(tmp_path, resume=True)
    assert not was_finished(tmp_path / "model", "pretrain")
    (tmp_path / "model").mkdir()
    assert not was_finished(tmp_path / "model", "pretrain")  # somebody's, with no metrics of a fit
    (tmp_path / "model" / "metrics.jsonl").touch()
    assert was_finished(tmp_path / "model", "pretrain") and not (tmp_path / "model.unfinished").exists()


@pytest.mark.parametrize("left", [("spec.json", "metrics.jsonl", "run.yaml"), ("metrics.jsonl",), ("run.yaml",), ()])
def test_a_fit_whose_folder_is_half_removed_was_finished_for_each_of_its_processes(
    left: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder is removed in no certain order, and by the first process while the others look."""
    model, beside = tmp_path / "model", tmp_path / "model.unfinished"
    for folder, files in ((model, ("metrics.jsonl",)), (beside, left)):
        folder.mkdir()
        for name in files:
            (folder / name).write_text("{}\n")
    for rank, there in (("1", True), ("0", False), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        assert was_finished(model, "pretrain") and beside.exists() == there
        assert ("was finished already" in capsys.readouterr().err) == (rank == "0")
    beside.mkdir()
    (beside / "spec.json").write_text("{}")  # another one, which has no metrics yet
    assert not was_finished(model, "pretrain")


def test_counts_that_cannot_be_are_refused_by_name() -> None:
    with pytest.raises(SpecError, match=r"^save_total_limit = 0: must be int >= 1"):
        Saving(save_total_limit=0)


def test_rows_that_cannot_be_written_name_the_update_and_what_is_left(tmp_path: Path) -> None:
    rows = JsonLines(tmp_path / "metrics.jsonl", -1)
    rows.log({"update": 1})
    rows.file.close()
    rows.file = open("/dev/full", "a")  # noqa: SIM115
    with pytest.raises(checkpoint.CheckpointError, match=r"^update 2: .*metrics\.jsonl could not be written: .*space"):
        rows.log({"update": 2})
    rows.close()  # does not fail once more, in place of what was told


def test_rows_whose_file_is_removed_are_not_written_into_nothing(tmp_path: Path) -> None:
    rows = JsonLines(tmp_path / "metrics.jsonl", -1)
    rows.log({"update": 1})
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").write_text("")  # another's
    with pytest.raises(checkpoint.CheckpointError, match=r"^update 2: .*jsonl could not be written: .*removed"):
        rows.log({"update": 2})
    rows.close()


def test_pretraining_goes_on_bit_for_bit_from_its_folder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SMALL, "--output", str(tmp_path / "whole")]) == 0
    log = Loop.log

    def interrupted(self: Loop, row: dict[str, float]) -> None:
        log(self, row)
        if row["update"] == 5:
            raise KeyboardInterrupt

    stopped = str(tmp_path / "stopped")
    with monkeypatch.context() as patched:
        patched.setattr(Loop, "log", interrupted)
        assert main([*SMALL, "--output", stopped]) == 130
    assert "checkpoint-00000004 is kept: the same command with --resume goes on" in capsys.readouterr().err
    assert not Path(stopped).exists()
    assert main([*SMALL, "--output", stopped]) == 2
    assert main(["pretrain", "--output", stopped, "--resume"]) == 0
    rows = [read_json_lines(tmp_path / name / "metrics.jsonl") for name in ("whole", "stopped")]
    assert rows[0] == rows[1] and [row["update"] for row in rows[0] if "eval_loss" in row] == [0, 3, 6]
    (whole, _), (resumed, _) = (load(tmp_path / name) for name in ("whole", "stopped"))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stopped", "whole"]
    again = ["--config", str(tmp_path / "whole" / "run.yaml"), "--output", str(tmp_path / "again")]
    assert main(["pretrain", *again]) == 0
    assert (tmp_path / "again" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
