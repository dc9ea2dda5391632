"""Checkpoints: a run that is stopped, killed or fails goes on from its last good one as if nothing had been."""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from llm.__main__ import main
from llm.models.adapters import weights_digest
from llm.models.policy import CausalLMPolicy
from llm.tasks import LearnedReward
from llm.tasks.data_source import DataSource
from llm.training import checkpoint
from llm.training.folder import Start, begin, check_apart, weights_read
from llm.training.loggers import read_json_lines
from llm.training.presets import PRESETS
from llm.training.run import Run
from sims.core.algorithms import find_algorithm
from sims.core.schedule import Schedule
from sims.core.spec import SpecError
from sims.experiments.folders import written_by_one
from sims.experiments.whole import CHECKSUMS
from tests.processes import Fork, wait_until

TINY = {
    "max-new-tokens": "20",
    "batch-size": "4",
    "num-generations": "2",
    "evaluation-prompts": "4",
    "evaluations": "2",
    "save-every": "1",
}


def arguments(folder: Path, *more: str, **changes: str) -> list[str]:
    """Options of a run of a few tokens an update."""
    options = TINY | {name.replace("_", "-"): value for name, value in changes.items()}
    return [
        "train",
        "--output",
        str(folder),
        *(x for name, value in options.items() for x in (f"--{name}", value)),
        *more,
    ]


def state(folder: Path) -> bytes:
    return (checkpoint.found(folder)[-1][1] / checkpoint.TENSORS).read_bytes()


def rows(folder: Path) -> list[dict[str, float]]:
    found = read_json_lines(folder / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name != "tokens_per_second"} for row in found]


def last_update(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return max((int(row["update"]) for row in read_json_lines(path)), default=-1) if path.exists() else -1


def run_and_kill(folder: Path, at: int, delay: float, *more: str) -> None:
    """Run without end in a process of its own, and kill it `delay` seconds or more after it has logged update `at`."""
    process = Fork(main, arguments(folder, *more, updates="1000000"))
    try:
        wait_until(lambda: last_update(folder) >= at, process)
        time.sleep(delay)
    finally:
        process.kill()


def test_killed_twice_and_resumed_is_bit_identical_to_never_stopped(tmp_path):
    run_and_kill(tmp_path / "killed", 5, 0.037)
    run_and_kill(tmp_path / "killed", 15, 0.011, "--resume")
    # Evaluated halfway, which is after the kill: a run of a million updates has another middle.
    updates = str(2 * last_update(tmp_path / "killed") + 4)
    assert main(arguments(tmp_path / "killed", "--resume", updates=updates)) == 0
    assert main(arguments(tmp_path / "whole", updates=updates)) == 0
    assert state(tmp_path / "killed") == state(tmp_path / "whole")
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("killed", "whole")]
    assert weights[0] == weights[1]
    assert not list((tmp_path / "killed").glob(".checkpoint-*"))


SCHEDULES = {
    "reused": Schedule(batch_size=4, num_generations=2, minibatch_size=2, epochs=2),
    "stale": Schedule(batch_size=4, num_generations=2, sync_every_updates=4),
    "pool": Schedule(batch_size=4, num_generations=2, source="pool", pool_size=8),
    "recorded": Schedule(batch_size=4, num_generations=2, source="dataset"),
    "ema": Schedule(batch_size=4, num_generations=2, reference="ema", reference_rate=0.1),
}


@pytest.mark.parametrize(
    ("algorithm", "schedule"),
    [
        ("dpo", "stale"),
        ("dpo", "pool"),
        ("dpo", "recorded"),
        ("dpo", "ema"),
        ("kto", "stale"),
        ("ppo", "reused"),
        ("grpo", "reused"),
    ],
)
def test_a_restored_run_goes_on_bit_for_bit(algorithm, schedule):
    base = PRESETS["tiny-min-length"]
    policy = base.policy.replace(decoding=base.policy.decoding.replace(max_new_tokens=8))
    experiment = base.replace(
        environment=base.environment.replace(recorded_prompts=24),
        algorithm=find_algorithm(algorithm)(),
        schedule=SCHEDULES[schedule],
        policy=policy,
        updates=12,
    )
    whole, saved = Run(experiment), None
    for update in whole.train():
        if update.number == 8:  # a batch, and a sync, after the first
            tensors, numbers = whole.training.state_dict()
            saved = {name: x.clone() for name, x in tensors.items()}, dict(numbers)
    again = Run(experiment)
    again.training.load_state_dict(*saved)
    assert [update.number for update in again.train()] == [9, 10, 11, 12]
    for mine, theirs in zip(again.policy.parameters(), whole.policy.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_the_last_good_one_is_kept_and_older_ones_go(tmp_path):
    for update in (1, 2):
        checkpoint.save(tmp_path, update, {"x": torch.full((2,), update)}, {"updates": update}, {"name": "a"})
    assert [update for update, _ in checkpoint.found(tmp_path)] == [2]
    held = checkpoint.load(tmp_path)
    assert (held.update, held.numbers, held.spec) == (2, {"updates": 2}, {"name": "a"})
    assert torch.equal(held.tensors["x"], torch.tensor([2, 2]))
    (tmp_path / ".checkpoint-77").mkdir()  # what a killed process leaves
    checkpoint.save(tmp_path, 3, {"x": torch.zeros(1)}, {}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000003"]


def flip_a_bit(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at // 8] ^= 1 << at % 8
    path.write_bytes(content)


def test_any_flipped_bit_of_settings_is_seen(tmp_path: Path) -> None:
    """Most leave JSON that can be read, and says something else."""
    file, held = tmp_path / "spec.json", {"experiment": {"updates": 40, "rate": 0.1, "name": "min"}, "run": 0}
    checkpoint.write_spec(file, held)
    assert checkpoint.read_spec(file) == held
    written, unread = file.read_bytes(), 0
    for place in range(len(written)):
        for bit in range(8):
            file.write_bytes(bytes(byte ^ ((at == place) << bit) for at, byte in enumerate(written)))
            try:
                found = checkpoint.read_spec(file)
            except ValueError as error:
                unread += "its checksum differs" not in str(error)
                continue
            assert {name: found.get(name) for name in held} == held  # of the checksum's own name: nothing is known then
    assert 0 < unread < 8 * len(written) / 2


@pytest.mark.parametrize("name", [checkpoint.TENSORS, checkpoint.NUMBERS, CHECKSUMS])
def test_any_flipped_bit_is_seen_and_the_checkpoint_before_is_used(tmp_path, name):
    """Every bit of the small files, and of the tensors' header and numbers."""
    place = checkpoint.save(tmp_path, 1, {"x": torch.zeros(2)}, {"updates": 1}, {})
    bits = 8 * (place / name).stat().st_size
    for at in range(0, bits, 7):
        flip_a_bit(place / name, at)
        with pytest.raises(checkpoint.CheckpointError, match="checkpoint-00000001: damaged"):
            checkpoint.read(place)
        flip_a_bit(place / name, at)
    assert checkpoint.read(place).update == 1
    newer = checkpoint.save(tmp_path, 2, {"x": torch.ones(2)}, {"updates": 2}, {}, keep=2)
    flip_a_bit(newer / name, 9)
    told: list[str] = []
    assert checkpoint.load(tmp_path, told.append).update == 1
    assert "checkpoint-00000002: damaged" in told[0] and told[0].endswith("set aside as checkpoint-00000002.damaged")
    assert (tmp_path / "checkpoint-00000002.damaged").is_dir()
    flip_a_bit(place / name, 9)
    with pytest.raises(checkpoint.CheckpointError, match=r"checkpoint-00000001: damaged.*no older one is whole"):
        checkpoint.load(tmp_path)


def test_a_folder_that_was_removed_does_not_come_back_with_a_checkpoint_alone(tmp_path):
    with pytest.raises(checkpoint.CheckpointError, match="update 3: its checkpoint could not be written"):
        checkpoint.save(tmp_path / "run", 3, {"x": torch.zeros(1)}, {}, {})
    assert not (tmp_path / "run").exists()


def test_the_last_ones_and_the_best_are_kept(tmp_path):
    for update in range(1, 7):
        checkpoint.save(tmp_path, update, {"x": torch.zeros(1)}, {}, {}, keep=2, also=(3,))
    assert [update for update, _ in checkpoint.found(tmp_path)] == [3, 5, 6]


def test_the_same_update_is_replaced_without_a_moment_without_it(tmp_path, monkeypatch):
    """Killed between the two renames, the old one comes back."""
    old = checkpoint.save(tmp_path, 4, {"x": torch.zeros(1)}, {"updates": 4}, {})
    rename = os.rename

    def killed(source, target):
        if Path(source).name.startswith(".checkpoint-"):
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, 4, {"x": torch.ones(1)}, {"updates": 4}, {})
    monkeypatch.undo()
    assert not old.exists()
    assert checkpoint.load(tmp_path).tensors["x"] == 0
    assert [path.name for path in tmp_path.iterdir()] == [old.name]
    checkpoint.save(tmp_path, 4, {"x": torch.ones(1)}, {"updates": 4}, {})
    assert checkpoint.load(tmp_path).tensors["x"] == 1
    assert [path.name for path in tmp_path.iterdir()] == [old.name]


def test_a_run_goes_on_from_its_folder_alone_and_from_the_checkpoint_before_a_damaged_one(tmp_path, capsys):
    assert main(arguments(tmp_path / "whole", updates="6", seed="3")) == 0
    assert main(arguments(tmp_path / "stopped", updates="4", seed="3")) == 0
    damaged = checkpoint.found(tmp_path / "stopped")[-1][1]
    flip_a_bit(damaged / checkpoint.TENSORS, 12345)
    capsys.readouterr()
    more = [f"--{name}={TINY[name]}" for name in ("evaluations", "save-every")]
    assert main(["train", "--resume", "--output", str(tmp_path / "stopped"), "--updates", "6", *more]) == 0
    assert "checkpoint-00000004: damaged" in capsys.readouterr().err
    assert state(tmp_path / "stopped") == state(tmp_path / "whole")


@pytest.mark.parametrize(
    "damage", ["a digit of the settings", "a checkpoint of other settings", "a list", "its weights"]
)
def test_settings_that_are_not_those_of_the_run_are_refused(tmp_path, capsys, damage):
    assert main(arguments(tmp_path, updates="2")) == 0
    file, held = tmp_path / "spec.json", checkpoint.read_spec(tmp_path / "spec.json")
    capsys.readouterr()
    if damage == "a digit of the settings":
        file.write_text(file.read_text().replace('"num_generations": 2', '"num_generations": 3'))
    elif damage == "a list":
        file.write_text("[]")
    elif damage == "its weights":
        checkpoint.write_spec(file, held | {"weights": [1]})
    else:
        held["experiment"]["schedule"]["num_generations"] = 3
        checkpoint.write_spec(file, held)
    assert main(["train", "--resume", "--output", str(tmp_path), "--updates", "3"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: output = ") and said.count("\n") == 1 and "spec.json is " in said


@pytest.mark.parametrize("more", [["--resume"], ["--overwrite"], []])
def test_a_folder_that_another_process_writes_is_left_alone(tmp_path, capsys, more):
    """Two commands in one folder removed each other's partial checkpoints, and mixed their metrics."""
    assert main(arguments(tmp_path / "run", updates="2")) == 0
    before = state(tmp_path / "run")
    capsys.readouterr()
    with written_by_one("output", tmp_path / "run"):
        assert main([*arguments(tmp_path / "run", updates="3"), *more]) == 2
        said = capsys.readouterr().err
        assert "is being written by another process" in said and said.count("\n") == 1
        assert main(arguments(tmp_path / "other", updates="2")) == 0
    assert state(tmp_path / "run") == before
    assert main([*arguments(tmp_path / "run", updates="3"), "--resume"]) == 0  # it is free again


def test_a_clock_that_stands_still_ends_no_run(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "perf_counter", lambda: 0.0)
    assert main(arguments(tmp_path, updates="2")) == 0


def test_a_line_of_metrics_that_is_damaged_is_named(tmp_path, capsys):
    assert main(arguments(tmp_path, updates="2")) == 0
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b"\x80" + file.read_bytes())
    capsys.readouterr()
    assert main(["train", "--resume", "--output", str(tmp_path), "--updates", "3"]) == 2
    assert "metrics.jsonl': line 1 is damaged" in capsys.readouterr().err


def test_the_best_evaluation_keeps_its_checkpoint_and_can_be_exported(tmp_path, capsys, monkeypatch):
    best = ["--metric-for-best-model", "eval_length", "--no-greater-is-better", "--save-total-limit", "1"]
    assert main(arguments(tmp_path / "run", *best, updates="6", evaluations="6", learning_rate="0.01")) == 0
    lengths = {int(row["update"]): row["eval_length"] for row in rows(tmp_path / "run") if "eval_length" in row}
    shortest = min(lengths.keys() - {0}, key=lambda update: (lengths[update], update))
    kept = [update for update, _ in checkpoint.found(tmp_path / "run")]
    assert kept == sorted({shortest, 6})
    assert main(["export", str(tmp_path / "run"), "--update", "6", "--output", str(tmp_path / "model")]) == 0
    assert all(
        (tmp_path / "model" / path.name).read_bytes() == path.read_bytes()
        for path in (tmp_path / "run" / "model").iterdir()
    )
    monkeypatch.setattr(DataSource, "load", None)  # an export wants no data, which may be gone
    assert main(["export", str(tmp_path / "run"), "--update", "6", "--output", str(tmp_path / "again")]) == 0
    capsys.readouterr()
    assert main(["export", str(tmp_path / "run"), "--output", str(tmp_path / "last")]) == 0  # the last checkpoint
    assert main(["export", str(tmp_path / "run"), "--update", "99", "--output", str(tmp_path / "x")]) == 2
    assert f"must be that of a checkpoint: {', '.join(map(str, kept))}" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "nope"), "--output", str(tmp_path / "x")]) == 2
    said = capsys.readouterr().err.replace(str(tmp_path), "")
    assert said == "error: folder = '/nope': holds no run: there is no spec.json in it\n"
    (tmp_path / "nope").mkdir()
    (tmp_path / "nope" / "spec.json").write_text("{")
    assert main(["export", str(tmp_path / "nope"), "--output", str(tmp_path / "x")]) == 2
    said = capsys.readouterr().err.replace(str(tmp_path), "")
    assert said.startswith("error: folder = '/nope': spec.json is damaged") and "--overwrite" not in said


def test_a_run_ends_with_its_best_weights_and_goes_on_from_its_folder_alone_with_what_it_kept(tmp_path, capsys):
    best = ["--metric-for-best-model", "eval_length", "--no-greater-is-better", "--load-best-model-at-end"]
    whole = arguments(
        tmp_path / "whole", *best, updates="6", evaluations="6", learning_rate="0.01", save_total_limit="1"
    )
    assert main(whole) == 0
    lengths = {int(row["update"]): row["eval_length"] for row in rows(tmp_path / "whole") if "eval_length" in row}
    taken = min(lengths.keys() - {0}, key=lambda update: (lengths[update], update))
    assert taken < 6 and f"the model is that of update {taken}, which was best" in capsys.readouterr().out
    assert main(["export", str(tmp_path / "whole"), "--update", str(taken), "--output", str(tmp_path / "model")]) == 0
    weights = "model.safetensors"
    assert (tmp_path / "model" / weights).read_bytes() == (tmp_path / "whole" / "model" / weights).read_bytes()
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped" / "checkpoint-00000006")
    assert main(["train", "--resume", "--output", str(tmp_path / "stopped")]) == 0
    for name in (f"checkpoint-{taken:08d}/{checkpoint.TENSORS}", f"model/{weights}", "run.yaml", "spec.json"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert main(arguments(tmp_path / "none", "--load-best-model-at-end")) == 2
    assert "load_best_model_at_end = True: needs --metric-for-best-model" in capsys.readouterr().err


def test_an_unknown_best_metric_names_those_there_are(tmp_path, capsys):
    assert main(arguments(tmp_path, "--metric-for-best-model", "eval_los", updates="2")) == 2
    assert "must be a metric of evaluations: eval_reward" in capsys.readouterr().err


def test_a_start_that_fails_leaves_nothing(tmp_path, capsys, monkeypatch):
    """A model that is not there; and one that could not be saved in the end."""
    assert main(arguments(tmp_path / "run", model=str(tmp_path / "no_model"), updates="2")) == 2
    assert not (tmp_path / "run").exists()
    fails = OSError("GenerationConfig is invalid: temperature is set, but do_sample is false")
    run_model = type(Run(PRESETS["tiny-min-length"]).policy.model)
    monkeypatch.setattr(run_model, "save_pretrained", fails_after(0, fails, None))
    assert main(arguments(tmp_path / "run", updates="2")) == 2
    assert "could not be saved after training: GenerationConfig is invalid" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_not_replaced_after_all_stays(tmp_path):
    assert main(arguments(tmp_path, updates="2")) == 0
    before = state(tmp_path)
    assert main(arguments(tmp_path, "--overwrite", model=str(tmp_path / "no_model"), updates="2")) == 2
    assert state(tmp_path) == before and (tmp_path / "model" / "config.json").exists()


def test_update_0_is_logged_once_where_there_was_no_checkpoint_yet(tmp_path):
    assert main(arguments(tmp_path / "run", updates="2")) == 0
    for _, place in checkpoint.found(tmp_path / "run"):
        shutil.rmtree(place)
    assert main(arguments(tmp_path / "run", "--resume", updates="2")) == 0
    assert main(arguments(tmp_path / "whole", updates="2")) == 0
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")


def fails_after(calls: int, error: Exception, function):
    """`function` until it has been called so often, then an error."""
    left = iter(range(calls))

    def replaced(*args, **kwargs):
        if next(left, None) is None:
            raise error
        return function(*args, **kwargs)

    return replaced


def stopped_at(folder: Path, capsys, *more: str, **changes: str) -> tuple[str, int]:
    """The error of a run that stops, and the update of the checkpoint that it leaves."""
    assert main(arguments(folder, *more, **{"updates": "6"} | changes)) == 1
    error = capsys.readouterr().err.rstrip().split("\n")[-1]
    return error, checkpoint.load(folder).update


def test_out_of_disk_names_the_update_and_leaves_the_last_good_one(tmp_path, capsys, monkeypatch):
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(checkpoint, "save_file", fails_after(2, full, checkpoint.save_file))
    error, left = stopped_at(tmp_path, capsys)
    assert "update 3: its checkpoint could not be written" in error
    assert "No space left on device" in error
    assert "checkpoint-00000002" in error
    assert left == 2
    assert not list(tmp_path.glob(".checkpoint-*"))  # a full disk gets its space back
    monkeypatch.undo()
    assert main(arguments(tmp_path, "--resume", updates="6")) == 0
    assert main(arguments(tmp_path / "whole", updates="6")) == 0
    assert state(tmp_path) == state(tmp_path / "whole")


def test_a_loss_that_is_not_finite_names_the_update(tmp_path, capsys):
    error, left = stopped_at(tmp_path, capsys, learning_rate="1e38")
    assert error.startswith("error: update 2: ")
    assert "finite" in error
    assert "checkpoint-00000001" in error
    assert left == 1


def test_a_nan_in_the_loss_changes_no_weight(monkeypatch):
    run = Run(PRESETS["tiny-min-length"].replace(updates=6))
    before = [p.clone() for p in run.policy.parameters()]
    loss = type(run.experiment.algorithm).loss
    monkeypatch.setattr(type(run.experiment.algorithm), "loss", lambda *a: loss(*a) * torch.nan)
    with pytest.raises(RuntimeError, match=r"update 1: loss = nan.*lower learning_rate"):
        next(run.train())
    assert all(torch.equal(a, b) for a, b in zip(before, run.policy.parameters(), strict=True))


def test_out_of_memory_names_the_update(tmp_path, capsys, monkeypatch):
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    monkeypatch.setattr(CausalLMPolicy, "sample", fails_after(3, error, CausalLMPolicy.sample))
    message, left = stopped_at(tmp_path, capsys)
    assert message.startswith("error: update 3: out of memory: lower micro_batch_size")
    assert left == 2


def test_a_folder_with_a_run_is_not_overwritten_silently(tmp_path, capsys):
    assert main(arguments(tmp_path, updates="2")) == 0
    assert main(arguments(tmp_path, updates="2")) == 2
    assert "holds a run: --resume goes on with it, --overwrite replaces it" in capsys.readouterr().err
    assert main(arguments(tmp_path, "--resume", updates="2", seed="7")) == 2
    assert "holds a run of another spec" in capsys.readouterr().err
    before = state(tmp_path)
    assert main(arguments(tmp_path, "--overwrite", updates="2", seed="7")) == 0
    assert state(tmp_path) != before
    assert json.loads((tmp_path / "spec.json").read_text())["experiment"]["seed"] == 7


@pytest.mark.parametrize("other", ["model", "reward_model"])
def test_other_weights_are_refused_on_resume(other: str, tmp_path: Path):
    """Checkpoints hold neither the reference, nor the base under adapters, nor the reward model."""
    for name in ("model", "reward_model"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text("weights")
    preset = PRESETS["tiny-min-length"]
    task = LearnedReward(reward_model=str(tmp_path / "reward_model"))
    experiment = preset.replace(environment=task, policy=preset.policy.replace(model=str(tmp_path / "model")))

    def start() -> Start:
        return Start(experiment=experiment, run=0, weights=weights_read(experiment), options={}, command="train")

    begin(tmp_path / "run", start(), overwrite=False)
    begin(tmp_path / "run", start(), overwrite=False)
    (tmp_path / other / "model.safetensors").write_text("trained again")
    with pytest.raises(SpecError, match=f"^{other} = .* has other weights than those that the run was started with"):
        begin(tmp_path / "run", start(), overwrite=False)
    again, read = start(), weights_read(experiment)
    shutil.rmtree(tmp_path / other)  # while the run, which has read it, begins
    begin(tmp_path / "run", again, overwrite=True)
    assert checkpoint.read_spec(tmp_path / "run" / "spec.json")["weights"] == read and "" not in read.values()


@pytest.mark.parametrize(("model", "refused"), [("run/model", True), ("run/../run/model", True), ("run/x", False)])
def test_a_run_does_not_replace_the_model_that_it_starts_from(model: str, refused: bool, tmp_path: Path):
    preset = PRESETS["tiny-min-length"]
    experiment = preset.replace(policy=preset.policy.replace(model=str(tmp_path / model)))
    with pytest.raises(SpecError, match=r"holds model = .* would replace") if refused else nullcontext():
        check_apart(experiment, tmp_path / "run")


def test_the_weights_of_adapters_are_those_of_their_base_too(tmp_path: Path):
    (tmp_path / "base").mkdir()
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path / "base")}))
    found = []
    for weights in ("first", "second"):
        (tmp_path / "base" / "model.safetensors").write_text(weights)
        found.append(weights_digest(tmp_path))
    assert found[0] != found[1] and weights_digest("no/folder") == ""
