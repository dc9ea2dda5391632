"""How commands end, whatever ends them: an exit status, and one line on standard error that says what is kept."""

import errno
import importlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import figures.__main__
import llm.__main__
import sims.__main__
from sims.core.spec import SpecError
from sims.experiments.command import Stopped, in_a_line, keeping, run_command, short, write_anywhere
from tests.exits import exit_status
from tests.processes import Fork, wait_until

ROOT = Path(__file__).parents[2]


def raising(error: BaseException) -> Callable[[], int]:
    def command() -> int:
        with keeping("the first half is kept"):
            raise error

    return command


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (SpecError("beta", "a\nb", "must be float > 0"), 2, "error: beta = 'a\\nb': must be float > 0"),
        (SpecError("beta", "9" * 5000, "must be float > 0"), 2, "error: beta = '99999"),
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C; the first half is kept"),
        (Stopped(signal.SIGTERM), 143, "stopped by SIGTERM; the first half is kept"),
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), 1, "error: a/b: No space left on device; the first"),
        (Exception("File too large (os error 27)"), 1, "error: File too large (os error 27); the first"),
        (MemoryError(), 1, "error: out of memory: make the run smaller; the first half is kept"),
        (RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory"), 1, "error: out of memory: [enf"),
        (BrokenPipeError(), 141, ""),
    ],
)
def test_what_ends_a_command_is_a_status_and_a_line(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(raising(error)) == status
    said = capsys.readouterr().err
    assert said.startswith(line) and said.count("\n") == (1 if line else 0) and len(said) < 300


def test_a_fault_of_ours_keeps_its_traceback() -> None:
    for error in (RuntimeError("a bug"), ZeroDivisionError()):
        with pytest.raises(type(error)):
            run_command(raising(error))


def test_the_inner_of_two_knows_better_what_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        with keeping("nothing is kept"):
            return raising(KeyboardInterrupt())()

    assert run_command(command) == 130
    assert capsys.readouterr().err == "stopped by Ctrl-C; the first half is kept\n"


def test_signals_are_raised_within_a_command_and_nowhere_else(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def command() -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        while True:  # the signal comes at some instruction from here on
            pass

    assert run_command(command) == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert capsys.readouterr().err == "stopped by SIGTERM\n"


def test_any_text_is_written_in_any_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    write_anywhere()
    print("KL(π‖π_ref) ≥ 0 \ud800", flush=True)
    assert written.getvalue() == b"KL(pi\\u2016pi_ref) >= 0 \\ud800\n"


def test_a_long_value_is_told_by_its_ends() -> None:
    assert short("a" * 120) == "a" * 120
    assert short("a" * 60 + "x" * 999 + "b" * 60) == "a" * 60 + "..." + "b" * 60 + " (1,119 characters)"


def test_the_systems_own_message_repeats_no_more_of_a_value_than_its_ends() -> None:
    name = "9" * 5000
    error = OSError(errno.ENAMETOOLONG, "File name too long", name)
    said = in_a_line(SpecError("config", name, f"cannot be read: {error}"))
    assert said.endswith(f"cannot be read: [Errno {errno.ENAMETOOLONG}] File name too long: '{short(name)}'")
    assert len(said) < 500


def python(*arguments: str, **more: str) -> subprocess.Popen[str]:
    """A process of `python -m`, with further variables in its environment. It hears a Ctrl-C even where the tests were
    started in the background of a shell, which makes all that they start ignore it."""
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=ROOT, env=os.environ | more, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def test_a_reader_that_goes_away_ends_a_command_quietly() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "figures", "--list"]
    done = subprocess.run(command, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_terminal_without_unicode_is_written_to() -> None:
    process = python("figures", "--claims", PYTHONIOENCODING="ascii", LC_ALL="C")
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "") and "+-" in out and out.isascii()


def command(module: str, arguments: list[str]) -> int:
    """A command in a process of its own, which hears a Ctrl-C: see `python`."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main: Callable[[list[str]], int] = importlib.import_module(module).main
    return main(arguments)


def stopped(process: Fork, number: int, status: int) -> str:
    """Send it a signal; the last line that it prints."""
    os.kill(process.pid, number)
    assert process.wait() == status, process.printed()
    assert "Traceback" not in process.printed()
    return process.printed().replace("\r", "\n").strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("number", "status", "name"), [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGINT, 130, "Ctrl-C")]
)
def test_an_experiment_that_is_stopped_says_what_is_kept(tmp_path: Path, number: int, status: int, name: str) -> None:
    process = Fork(command, "sims.__main__", ["--updates", "100000000", "--results", str(tmp_path)])
    wait_until(lambda: bool(list(tmp_path.glob(".claims/*.keys"))), process)
    last = stopped(process, number, status)
    assert last == f"stopped by {name}; this experiment was not finished; those that were are kept in {tmp_path}"
    assert not list(tmp_path.glob(".claims/*.keys"))


def test_a_training_that_is_stopped_says_how_to_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = ["train", "--output", str(folder), "--updates", "1000", "--save-every", "1"]
    process = Fork(command, "llm.__main__", arguments)
    wait_until(lambda: bool(list(folder.glob("checkpoint-*"))), process)
    last = stopped(process, signal.SIGTERM, 143)
    assert last.startswith(f"stopped by SIGTERM; {folder}/checkpoint-") and "--resume goes on from there" in last


@pytest.mark.parametrize(
    ("main", "line", "near"),
    [
        (sims.__main__.main, "--algorithm dop", "dpo"),
        (sims.__main__.main, "--policy TABEL", "table"),
        (sims.__main__.main, "--labels implict", "implicit"),
        (sims.__main__.main, "--batchsize 3", "--batch-size"),
        (figures.__main__.main, "onlin_offline", "online_offline"),
        (figures.__main__.main, "c25x", "C25"),
        (figures.__main__.main, "--lst", "--list"),
        (figures.__main__.main, "lm --scale pythia-1.4", "pythia-1.4b"),
        (figures.__main__.main, "C25 --set algoritm.beta=1", "algorithm"),
        (figures.__main__.main, "C25 --set algorithm.bta=1", "beta"),
        (figures.__main__.main, "C25 --set update=10", "updates"),
        (figures.__main__.main, "--engine submit", "submitit"),
        (llm.__main__.main, "trian", "train"),
        (llm.__main__.main, "--task", "--tasks"),
        (llm.__main__.main, "train --preset tiny-min-lenght", "tiny-min-length"),
        (llm.__main__.main, "train --sharding ful", "full"),
        (llm.__main__.main, "train --task min-lenth", "min_length"),
        (llm.__main__.main, "sft --data-kind prompt-completions", "prompt_completion"),
        (llm.__main__.main, "reward --output x --labls gold", "--labels"),
        (llm.__main__.main, "new --output x --data y --archtecture gpt2", "--architecture"),
        (llm.__main__.main, "new --output x --data y --architecture gtp2", "gpt2"),
        (llm.__main__.main, "pretrain --architecture pithia", "pythia"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(
    main: Callable[[list[str]], int], line: str, near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = exit_status(main, line.split())
    err = capsys.readouterr().err
    assert status == 2 and err.count("\n") == 1
    assert f"did you mean {near}?" in err


@pytest.mark.parametrize(
    ("main", "line", "name"),
    [
        (sims.__main__.main, "--algorithm dpo --beta 0.1 --runs 2 --beta=0.2", "--beta"),
        (sims.__main__.main, "--algorithm dpo --algorithm ppo", "--algorithm"),
        (sims.__main__.main, "--learning-rate 1 --learning_rate 2", "--learning-rate"),
        (sims.__main__.main, "check a:b --claim dpo --claim ipo", "--claim"),
        (figures.__main__.main, "--jobs 1 --jobs 2", "--jobs"),
        (llm.__main__.main, "train --preset tiny-sft --preset tiny-min-length", "--preset"),
        (
            llm.__main__.main,
            "train --gradient-checkpointing --no-gradient-checkpointing",
            "--no-gradient-checkpointing",
        ),
        (llm.__main__.main, "reward --output x --output y", "--output"),
        (llm.__main__.main, "align run --cycles 1 --cycles 2", "--cycles"),
    ],
)
def test_an_option_that_is_given_twice_is_refused(
    main: Callable[[list[str]], int], line: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = exit_status(main, line.split())
    err = capsys.readouterr().err
    assert status == 2 and err.startswith(f"error: argument {name}: must be given once, not twice")
