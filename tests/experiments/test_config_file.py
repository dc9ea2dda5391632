"""Options in a file: the command line goes before it, unknown names are told, and what is written reads the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llm.__main__ import main
from llm.commands.options import as_options, parse
from llm.training.presets import PRESETS
from sims.__main__ import main as sims_main
from sims.core.spec import SpecError
from sims.experiments.config_file import config_text
from sims.experiments.options import OptionParser


def parsed(folder: Path, text: str, *arguments: str) -> object:
    (folder / "run.yaml").write_text(text)
    return parse(OptionParser("t", True), ["--config", str(folder / "run.yaml"), *arguments], "tiny-min-length")[0]


def test_the_command_line_goes_before_the_file(tmp_path: Path) -> None:
    text = "algorithm: dpo\nbeta: 0.3\nlearning-rate: 1e-5\ngradient_checkpointing: true\nlora_rank: null\n"
    text += "data: [a.jsonl:0.5, b.jsonl:0.5]\ndata_kind: preference\n"
    found = parsed(tmp_path, text, "--beta", "0.4", "--num-generations", "2")
    assert (found.algorithm.kind, found.algorithm.beta, found.optimiser.learning_rate) == ("dpo", 0.4, 1e-5)
    assert found.policy.scoring.gradient_checkpointing and found.policy.lora_rank is None
    assert found.environment.data == "a.jsonl:0.5,b.jsonl:0.5"
    assert not parsed(tmp_path, text, "--no-gradient-checkpointing").policy.scoring.gradient_checkpointing
    assert parsed(tmp_path, "seed: 0x10\nbeta: 1_0.5\nalgorithm: dpo\n").seed == 16  # one meaning alone
    several = "stop_strings: ['a,b', c]\n"
    assert parsed(tmp_path, several).policy.decoding.stop_strings == ("a,b", "c")
    assert parsed(tmp_path, several, "--stop-strings=d").policy.decoding.stop_strings == ("d",)
    assert parsed(tmp_path, "stop_strings: null\n").policy.decoding.stop_strings == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1", r"^config = '.*run.yaml': learning_rat: no such option with these choices; did you mean l"),
        ("just words", r"^config = .*: must have lines of `option: value`"),
        ("a: [", r"^config = .*: must be YAML"),
        ("[" * 3000, r"^config = .*: must be YAML"),
        ("beta: 1\nseed: 010", r"must be YAML: 010 in line 2 is 8 in YAML: write that, or quotes around a text"),
        ("seed: 1:30", r"must be YAML: 1:30 in line 1 is 90 in YAML"),
        ("beta: 1:30.5", r"must be YAML: 1:30.5 in line 1 is 90.5 in YAML"),
        ("beta: 1\nseed: 2\nbeta: 3", r"must be YAML: the key 'beta' is there twice, in line 1 and in line 3: which"),
        ("learning-rate: 1\nlearning_rate: 2", r"the key 'learning_rate' is there twice, in line 1 and in line 2"),
        ("data: [[a, b]]", r"^data = .*: must be one value, or a list of values: options are not nested"),
        ("beta: {a: 1}", r"^beta = \{'a': 1\}: must be one value, or a list: options are not nested"),
        ("gradient_checkpointing: maybe", r"^gradient_checkpointing = 'maybe': must be true or false"),
    ],
)
def test_a_file_that_cannot_be_is_told_in_a_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parsed(tmp_path, text, "--algorithm", "dpo")
    with pytest.raises(SpecError, match="cannot be read"):
        parse(OptionParser("t", True), ["--config", str(tmp_path / "absent.yaml")], "tiny-min-length")


@pytest.mark.parametrize("name", PRESETS)
def test_the_file_beside_a_run_makes_its_experiment(tmp_path: Path, name: str) -> None:
    assert parsed(tmp_path, config_text(as_options(PRESETS[name]), "header")) == PRESETS[name]


def test_a_changed_experiment_is_made_again(tmp_path: Path) -> None:
    given = "--task mode-length --mode 7 --algorithm ppo --lr-scheduler-type cosine --warmup-steps 0.1 --updates 7"
    more = "--use-vllm --compute-precision bfloat16 --sync-every-updates 3 --labels implicit --implicit-after-updates 3"
    experiment, _ = parse(OptionParser("t", True), f"{given} {more}".split(), "tiny-min-length")
    assert parsed(tmp_path, config_text(as_options(experiment), "header")) == experiment


def test_a_run_is_made_again_from_the_file_beside_it(tmp_path: Path) -> None:
    line = ["train", "--algorithm", "dpo", "--num-generations", "2", "--batch-size", "2", "--max-new-tokens", "4"]
    line += ["--evaluation-prompts", "2", "--updates", "1", "--evaluations", "1", "--report-to", "tensorboard"]
    assert main([*line, "--output", str(tmp_path / "run")]) == 0
    assert main(["train", "--config", str(tmp_path / "run" / "run.yaml"), "--output", str(tmp_path / "again")]) == 0
    specs = [(tmp_path / name / "spec.json").read_text() for name in ("run", "again")]
    models = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("run", "again")]
    assert specs[0] == specs[1] and models[0] == models[1]
    assert list((tmp_path / "again").glob("events.out.tfevents.*"))


@pytest.mark.parametrize(
    ("program", "line", "hint"),
    [
        (main, "evaluate", "of a run give --model RUN/model, and the options of its task on the command line"),
        (main, "sample", "of a run give --model RUN/model, and the options of its task on the command line"),
        (main, "new --output new", "options of this command are given on the command line alone"),
        (main, "export run --output new", "options of this command are given on the command line alone"),
        (sims_main, "", "options of this command are given on the command line alone"),
    ],
)
def test_commands_that_read_no_file_say_how_their_options_are_given(
    program: Callable[[list[str]], int], line: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """And none suggests --data-config, which is a subset of a hub's data set."""
    with pytest.raises(SystemExit, match="2"):
        program([*line.split(), "--config", "run.yaml"])
    assert f"error: --config: no such option with these choices: {hint}\n" == capsys.readouterr().err
