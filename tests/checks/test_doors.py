"""The command line and pytest, as a user meets them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sims.__main__ import main
from sims.checks import PROPERTIES, parametrize_with_checks
from tests.checks import right

ROOT = Path(__file__).parents[2]
DPO = """
from torch.nn.functional import logsigmoid


def my_loss(chosen, rejected, ref_chosen, ref_rejected, beta=0.1):
    return -logsigmoid(beta * ((chosen - rejected) - (ref_chosen - ref_rejected)))


def swapped(chosen, rejected, ref_chosen, ref_rejected, beta=0.1):
    return my_loss(rejected, chosen, ref_rejected, ref_chosen, beta)


class Trainer:
    @staticmethod
    def loss(*x):
        print("a line of the trainer's")
        return my_loss(*x)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user's file, in the folder that they are in."""
    (tmp_path / "users_losses.py").write_text(DPO)
    (tmp_path / "users_broken.py").write_text("import no_such_package\n")
    (tmp_path / "users_exits.py").write_text("raise SystemExit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("users_losses", None)
    return "users_losses"


def test_a_right_loss_exits_with_0(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"{module}:my_loss", "--family", "pair", "--claim", "dpo", "--beta", "0.1"]) == 0
    assert "my_loss, pair, claimed to be dpo(pairing='drawn', beta=0.1" in capsys.readouterr().out


def test_a_wrong_loss_exits_with_1_and_json_has_it_all(
    module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its script is one of plain torch, beside the user's file."""
    assert main(["check", f"{module}:swapped", "--claim", "dpo", "--json", "--only", "direction", "shape"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [p["status"] for p in found["properties"]] == ["passed", "failed"]
    (tmp_path / "shown.py").write_text(found["properties"][1]["snippet"])
    shown = subprocess.run([sys.executable, "shown.py"], cwd=tmp_path, env={"PATH": ""}, capture_output=True, text=True)
    assert shown.returncode == 1 and "AssertionError" in shown.stderr and shown.stdout.startswith("got"), shown.stderr


def test_a_loss_in_a_class_that_prints_spoils_no_json(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"{module}:Trainer.loss", "--only", "shape", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["function"] == "loss" and "a line of the trainer's" in said.err


def test_an_expected_failure_exits_with_0(module: str) -> None:
    assert main(["check", f"{module}:swapped", "--only", "direction", "--expect", "direction=it is reversed"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["users_losses"], "must be module:function"),
        (["users_losses.py:my_loss"], "without .py"),
        (["users_losses:mine"], "users_losses has no mine; it has my_loss, swapped, Trainer"),
        (["no_such_module:loss"], "no_such_module cannot be imported: ModuleNotFoundError"),
        (
            ["users_broken:loss"],
            "users_broken cannot be imported: ModuleNotFoundError: No module named 'no_such_package'",
        ),
        (["users_losses:my_loss", "--gamma", "1"], "unexpected keyword argument 'gamma'"),
        (["users_losses:my_loss", "--beta"], "--beta = '': must have a value"),
        (["users_losses:my_loss", "extra"], "hyper-parameters are given by name"),
        (["users_losses:my_loss", "--expect", "ranks"], "must be PROPERTY=REASON"),
        (["users_losses:my_loss", "--function", "x"], "--function = 'x': is a name that check_loss has itself"),
        (
            ["users_losses:my_loss", "--beta", "low"],
            "a batch of torch.float64 on the CPU, beta='low'",
        ),
        (["users_exits:loss"], "users_exits cannot be imported: SystemExit: 3"),
        ([], "function = None"),
    ],
)
def test_errors_are_one_line_and_exit_with_2(
    module: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", *arguments]) == 2
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1 and not said.out


def test_the_table_of_properties(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--properties"]) == 0
    table = capsys.readouterr().out
    assert all(f"| {name} |" in table for name in PROPERTIES)


def test_it_runs_from_a_folder_of_ones_own(module: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sims", "check", f"{module}:swapped", "--only", "direction"]
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "FAILED  direction" in done.stdout and not done.stderr, done.stderr
    assert [path.name for path in tmp_path.iterdir() if path.is_dir() and path.name != "__pycache__"] == []


def test_pytest_runs_one_test_per_property(tmp_path: Path) -> None:
    (tmp_path / "users_losses.py").write_text(DPO)
    (tmp_path / "test_users_losses.py").write_text(
        "from sims.checks import parametrize_with_checks\n"
        "from users_losses import swapped\n\n"
        "@parametrize_with_checks(swapped, claim='dpo', expected_failures={'direction': 'it is reversed'})\n"
        "def test_swapped(check):\n    check()\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-rxf",
        "-p",
        "no:cacheprovider",
        "-k",
        "direction or ranks or population",
    ]
    environment = {"PYTHONPATH": f"{ROOT}:{tmp_path}", "PATH": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "1 failed, 1 passed" in done.stdout and "1 xfailed" in done.stdout, done.stdout
    assert "test_swapped[population_gradient]" in done.stdout and "it is reversed" in done.stdout


@parametrize_with_checks(right.dpo, claim="dpo", seed=1)
def test_dpo(check) -> None:
    check()
