"""A run that goes on must read what it read before: the configuration and tokenizer of each model, a judge's criteria,
and the labels of a reward model's pairs. Checkpoints hold none of these."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llm.__main__ import main
from llm.embedded import EMBEDDED
from llm.reward_models.model import new_reward_model
from llm.tasks import JudgeReward, LearnedReward, RewardFunction
from llm.training import read_again
from llm.training.folder import Start, begin, weights_read
from llm.training.presets import PRESETS
from llm.training.read_again import ask_again, files_digest
from sims.core.spec import SpecError
from sims.experiments.experiment import Experiment
from sims.experiments.whole import CHECKSUMS
from tests.llm.judge_server import serving
from tests.llm.reward_models.test_reward_resume import stopped

TINY = "--max-new-tokens 6 --num-generations 2 --batch-size 2 --evaluations 1 --evaluation-prompts 2 --save-every 1"


def foreign(folder: Path) -> Path:
    """A model that comes without checksums of ours."""
    return Path(shutil.copytree(EMBEDDED["pythia"], folder, ignore=shutil.ignore_patterns(CHECKSUMS)))


def change(file: Path, **fields: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def changed(file: Path) -> str:
    """One bit of a file, which still is what it was in form."""
    held = bytearray(file.read_bytes())
    at = held.rindex(b"1") if b"1" in held else held.rindex(b"e")
    held[at] ^= 2
    file.write_bytes(held)
    return file.name


def experiment(tmp_path: Path) -> Experiment:
    """One that names files of every kind, which are not read here."""
    preset, task = PRESETS["tiny-min-length"], LearnedReward(reward_model=str(foreign(tmp_path / "reward")))
    policy = preset.policy.replace(model=str(foreign(tmp_path / "model")), tokenizer=str(foreign(tmp_path / "words")))
    return preset.replace(environment=task.replace(gold_reward_model=str(foreign(tmp_path / "gold"))), policy=policy)


def start(run: Experiment, folder: Path, overwrite: bool = False) -> None:
    """Begin a run, or go on with it."""
    begin(folder, Start(experiment=run, run=0, weights=weights_read(run), options={}, command="train"), overwrite)


@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    ("folder", "field"),
    [("model", "model"), ("words", "tokenizer"), ("reward", "reward_model"), ("gold", "gold_reward_model")],
)
def test_one_flipped_bit_of_what_a_run_reads_is_refused(folder: str, field: str, file: str, tmp_path: Path) -> None:
    run = experiment(tmp_path)
    start(run, tmp_path / "run")
    start(run, tmp_path / "run")
    (tmp_path / folder / "README.md").write_text("is not read")
    start(run, tmp_path / "run")
    changed(tmp_path / folder / file)
    with pytest.raises(SpecError, match=f"^{field} = .*{folder}': has another configuration or tokenizer than when"):
        start(run, tmp_path / "run")
    start(run, tmp_path / "run", overwrite=True)


def test_so_is_another_text_of_what_a_judge_is_told(tmp_path: Path) -> None:
    criteria = tmp_path / "criteria.txt"
    criteria.write_text("Short answers are better.")
    task = JudgeReward(judge_model="m", judge_url="http://127.0.0.1:1/v1", judge_criteria=str(criteria))
    run = PRESETS["tiny-min-length"].replace(environment=task)
    start(run, tmp_path / "run")
    changed(criteria)
    with pytest.raises(SpecError, match=r"^judge_criteria = .*has another text than when the run was started"):
        start(run, tmp_path / "run")


def test_a_judge_that_scores_logged_samples_otherwise_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What answers behind its address may be another model than before the stop."""
    with serving() as server:
        line = ["train", "--task", "judge", "--judge-model", "m", "--judge-url", server.url, *TINY.split()]
        for name, reply in (("same", server.reply), ("other", lambda judged: "10")):
            assert stopped(tmp_path / name, monkeypatch, 2, line=[*line, "--updates", "3"]) == 130
            before, server.reply = len(server.asked), reply
            capsys.readouterr()
            assert main(["train", "--output", str(tmp_path / name), "--resume"]) == 0
            said = "judge: scores 2 of 2 logged samples otherwise than before the stop" in capsys.readouterr().err
            assert said == (name == "other") and len(server.asked) > before


def test_a_judge_that_does_not_answer_about_samples_stops_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """The run, which asks it about its own, says what is wrong."""
    with serving(lambda judged: "no number") as server:
        run = PRESETS["tiny-min-length"].replace(environment=JudgeReward(judge_model="m", judge_url=server.url))
        example: Any = SimpleNamespace(prompt="p")
        ask_again(run, [{"prompt": "p", "completion": "a", "reward": 0.5}], [example])
        assert len(server.asked) == 1 and capsys.readouterr().err == ""


@pytest.mark.parametrize("changes", [{"length_penalty": 0.1}, {}])
def test_a_judge_is_not_asked_about_what_is_not_its_score_alone(
    changes: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rewards with a penalty, and conversations, of which the last message is logged."""
    monkeypatch.setattr(read_again, "Judge", lambda settings: pytest.fail("it is asked"))
    task = JudgeReward(judge_model="m", judge_url="http://127.0.0.1:1/v1", **changes)
    run = PRESETS["tiny-min-length"].replace(environment=task)
    logged = [{"prompt": "p", "completion": "a", "reward": 0.5}]
    messages: Any = [{"role": "user", "content": "p"}]
    example: Any = SimpleNamespace(prompt="p" if changes else messages)
    ask_again(run, logged, [example])
    ask_again(PRESETS["tiny-min-length"], logged, [example])


def test_a_reward_function_may_be_mended_and_it_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "read_again_rewards.py"
    module.write_text("def f(completions, **columns):\n    return [1.0] * len(completions)\n")
    importlib.invalidate_caches()
    run = PRESETS["tiny-min-length"].replace(environment=RewardFunction(reward_funcs=("read_again_rewards:f",)))
    start(run, tmp_path / "run")
    module.write_text(module.read_text().replace("1.0", "2.0"))
    for told in (True, False):
        start(run, tmp_path / "run")
        line = "reward_funcs = 'read_again_rewards:f': its file has changed since the run was started"
        assert (line in capsys.readouterr().err) == told
    assert "read_again_rewards" not in sys.modules


def test_a_run_of_before_they_were_written_down_goes_on(tmp_path: Path) -> None:
    run, spec = experiment(tmp_path), tmp_path / "run" / "spec.json"
    start(run, tmp_path / "run")
    held = json.loads(spec.read_text())
    del held["files"], held["checksum"]
    spec.write_text(json.dumps(held))
    changed(tmp_path / "model" / "config.json")
    start(run, tmp_path / "run")


def test_adapters_are_the_same_over_a_base_that_lies_elsewhere(tmp_path: Path) -> None:
    for name in ("base", "moved"):
        foreign(tmp_path / name)
    (tmp_path / "adapters").mkdir()
    file, found = tmp_path / "adapters" / "adapter_config.json", []
    for base, alpha in (("base", 4), ("moved", 4), ("moved", 8)):
        file.write_text(json.dumps({"base_model_name_or_path": str(tmp_path / base), "lora_alpha": alpha}))
        found.append(files_digest(tmp_path / "adapters"))
    changed(tmp_path / "moved" / "config.json")
    found.append(files_digest(tmp_path / "adapters"))
    assert found[0] == found[1] and len(set(found)) == 3 and files_digest("no/folder") == ""


def test_the_command_refuses_to_go_on_and_to_export_with_another_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twice as many heads have the same weights, and are another model."""
    model, run = foreign(tmp_path / "model"), tmp_path / "run"
    assert main(f"train --model {model} --output {run} --updates 1 {TINY}".split()) == 0
    change(model / "config.json", num_attention_heads=8)
    capsys.readouterr()
    for line in (f"train --resume --output {run} --updates 2", f"export {run} --output {tmp_path / 'out'}"):
        assert main(line.split()) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: model = ") and "has another configuration or tokenizer than when" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("labels", "what"), [("min_length", "model, by its configuration or tokenizer"), ("scores", "labelling")]
)
def test_a_reward_model_goes_on_from_the_same_model_and_labels(
    labels: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from llm.models.loading import load_tokenizer
    from llm.models.spec import LanguageModelSpec

    monkeypatch.chdir(tmp_path)
    model = foreign(tmp_path / "model")
    for seed, name in enumerate(("scores", "others")):
        new_reward_model("pythia", seed=seed).save(tmp_path / name, load_tokenizer(LanguageModelSpec()))
    line = [
        "reward",
        "--pairs",
        "48",
        "--batch-size",
        "8",
        "--save-every",
        "2",
        "--model",
        str(model),
        "--labels",
        labels,
    ]
    assert stopped(tmp_path / "fit", monkeypatch, 3, line=line) == 130
    if labels == "scores":
        shutil.rmtree(tmp_path / "scores")
        (tmp_path / "others").rename(tmp_path / "scores")
    else:
        change(model / "config.json", num_attention_heads=8)
    capsys.readouterr()
    assert main([*line, "--output", str(tmp_path / "fit"), "--resume"]) == 2
    assert f"is a fit of another {what}: --overwrite starts again" in capsys.readouterr().err
