"""A name of TRL's that is none here is answered with what stands for it: every one of its configurations' names."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest

from llm.__main__ import main
from llm.commands.trl_names import TRL_NAMES
from sims.core.algorithms import Algorithm
from sims.core.spec import kinds_of
from sims.experiments.options import OptionParser

PLACES = {
    "trl.trainer.grpo_config": "GRPOConfig",
    "trl.trainer.dpo_config": "DPOConfig",
    "trl.trainer.sft_config": "SFTConfig",
    "trl.trainer.model_config": "ModelConfig",
    "trl.scripts.utils": "ScriptArguments",
    "trl.scripts.grpo": "GRPOScriptArguments",
    "transformers.training_args": "TrainingArguments",
}


def fields(module: str, name: str) -> set[str]:
    """The names of a dataclass, read from its file: to import it would import all of TRL."""
    spec = importlib.util.find_spec(module.partition(".")[0])
    assert spec is not None and spec.origin is not None
    file = Path(spec.origin).parent.joinpath(*module.split(".")[1:]).with_suffix(".py")
    (found,) = [n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.ClassDef) and n.name == name]
    names = {n.target.id for n in found.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
    return {each for each in names if not each.startswith("_")}


@pytest.fixture(scope="module")
def ours() -> set[str]:
    """Names of all options of `llm train`, whatever the algorithm and the task."""
    found: set[str] = set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OptionParser, "parse_strictly", lambda parser, arguments: found.update(_names(parser)) or 1 / 0)
        choices = [["--algorithm", kind] for kind in kinds_of(Algorithm)]
        for choice in [*choices, ["--task", "learned-reward"], ["--task", "function"]]:
            with pytest.raises(ZeroDivisionError):
                main(["train", *choice])
    return found


def _names(parser: OptionParser) -> set[str]:
    return {action.dest for action in parser._actions if action.option_strings}


def test_every_name_is_an_option_or_answered(ours):
    names = {name for module, cls in PLACES.items() for name in fields(module, cls)}
    assert len(names) > 200
    assert sorted(names - ours - set(TRL_NAMES) - {"attn_implementation"}) == []


def test_no_option_is_answered_as_if_it_were_none(ours):
    assert sorted(ours & set(TRL_NAMES)) == []


def test_what_an_answer_names_is_an_option(ours):
    named = {word for line in TRL_NAMES.values() for word in re.findall(r"--([a-z][a-z-]*)", line)}
    assert sorted(word for word in named if word.replace("-", "_") not in ours) == []


def test_the_command_and_the_file_answer(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["train", "--learning_rate=1e-6", "--per_device_train_batch_size", "8"])
    line = "error: --per-device-train-batch-size: no such option with these choices: use --batch-size, prompts on all"
    assert line in capsys.readouterr().err
    file = tmp_path / "grpo.yaml"
    file.write_text("learning_rate: 1.0e-6\nmax_steps: 100\n")
    assert main(["train", "--config", str(file)]) == 2
    assert "max_steps: no such option with these choices: use --updates" in capsys.readouterr().err
    file.write_text("max_steps: 100\nlearning_rat: 1.0e-6\nxyz: 1\nrun_name: x\n")
    assert main(["train", "--config", str(file)]) == 2
    line = "max_steps (use --updates); learning_rat (did you mean learning_rate?); xyz; run_name (use --name)"
    assert f"no such options with these choices: {line}" in capsys.readouterr().err


def test_a_limit_of_what_is_recorded_is_not_taken_for_one_of_what_is_sampled(capsys):
    """TRL's name for the longest sample is here that of the longest recorded completion."""
    assert main(["train", "--max_completion_length", "64"]) == 2
    line = "max_completion_length = 64: is of a file's recorded completions, and there are none: max_new_tokens is what"
    assert line in capsys.readouterr().err


def test_names_may_be_written_with_underscores(capsys):
    assert main(["train", "--num_generations=2", "--batch_size", "4", "--dry_run"]) == 0
    assert '"num_generations": 2' in capsys.readouterr().out
