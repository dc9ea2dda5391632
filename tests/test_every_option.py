"""Every option of every command, tried with values that cannot be: exit status 0 or 2, one line, nothing written.

The options are read off the parsers that the commands themselves make, and the kinds of algorithms, environments,
policies and tasks off their registry: a new option is tried without being named here. Commands run in this process up
to where work would begin; there a stand-in says that the settings were accepted. `make test` tries three values of each
option, `make test-all` every value.
"""

import io
import re
import shutil
import zlib
from argparse import Action
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

import figures.__main__
import figures.entries
import llm.__main__
import sims.__main__
from llm.tasks import Task
from llm.training.memory import Estimate
from sims.core.algorithms import Algorithm
from sims.core.spec import Spec, kinds_of
from sims.environments import ToyEnvironment
from sims.experiments.folders import path as path_type
from sims.experiments.options import OptionParser
from sims.listings import toy_policies
from tests.exits import exit_status

FEW = 3  # values of each option that the fast tests try
VALUES = {
    "empty": "",
    "space": " ",
    "word": "nonsense",
    "nan": "nan",
    "infinity": "inf",
    "minus infinity": "-inf",
    "zero": "0",
    "minus zero": "-0.0",
    "minus one": "-1",
    "one": "1",
    "fraction": "0.5",
    "tiny": "1e-320",
    "huge": "1e300",
    "minus huge": "-1e300",
    "overflow": "1e400",
    "billion": "1000000000",
    "20 digits": "9" * 20,
    "minus 20 digits": "-" + "9" * 20,
    "400 digits": "9" * 400,
    "5000 digits": "9" * 5000,
    "none": "none",
    "true": "true",
    "comma": ",",
    "pair": "64,1000000000",
    "hole": "8,,8",
    "greek": "π",
    "emoji": "😀",
    "digits of another script": "١٢",
    "lone surrogate": "\udcff",
    "line break": "a\nb",
    "null byte": "a\0b",
    "300 characters": "x" * 300,
    "format": "{prompt:>999999999}",
    "percent": "%s%n",
    "dots": "../..",
    "dash": "-",
}
FILES = {  # for options that are paths or names: what stands there when they are tried
    "a folder": "folder",
    "a file": "file",
    "below a file": "file/below",
    "a dangling link": "dangling",
    "below a dangling link": "dangling/below",
    "a loop": "loop",
    "below a loop": "loop/below",
}


NEEDED = {  # by tasks that have a setting without a default
    "learned_reward": ("--reward-model", "scores"),
    "function": ("--reward-funcs", "math:sqrt"),
    "judge": ("--judge-model", "judge"),
}


class Accepted(BaseException):
    """Raised where the work would begin. No handler of errors catches it."""


def accept(*arguments: Any, **named: Any) -> Any:
    raise Accepted


class Command:
    """One command with choices: `python -m sims --algorithm dpo`. needed: what it must be given to begin its work."""

    def __init__(self, main: Callable[[list[str]], int], *chosen: str, needed: tuple[str, ...] = ()) -> None:
        self.main, self.chosen, self.needed = main, chosen, needed

    def __repr__(self) -> str:
        return " ".join([self.main.__module__.partition(".")[0], *self.chosen])

    def parser(self) -> OptionParser:
        """The parser that it reads its options with."""
        found: list[OptionParser] = []

        def note(parser: OptionParser, arguments: Any) -> None:
            found.append(parser)
            raise Accepted

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(OptionParser, "parse_strictly", note)
            with pytest.raises(Accepted):
                self.main([*self.chosen, *self.needed])
        return found[0]


def commands() -> Iterator[Command]:
    """Each command alone, then with each choice that brings options of its own."""
    yield Command(sims.__main__.main)
    for choice, kinds in (("algorithm", ours(Algorithm)), ("environment", ours(ToyEnvironment))):
        for kind in kinds:
            needed = ("--policy", "transformer") if kind.startswith("token_bandit_r") else ()
            yield Command(sims.__main__.main, f"--{choice}", kind, needed=needed)
    for kind in toy_policies():
        yield Command(sims.__main__.main, "--policy", kind, needed=("--environment", "contextual"))
    yield Command(figures.__main__.main)
    for name in llm.__main__.COMMANDS:
        if name in ("export", "align"):  # a folder, or a step
            yield Command(llm.__main__.main, name, "run")
            continue
        needed = {"new": ("--output", "new", "--data", "texts.jsonl"), "reward": ("--output", "new")}.get(name, ())
        yield Command(llm.__main__.main, name, needed=needed)
    for kind in ours(Task):
        yield Command(llm.__main__.main, "train", "--task", kind, needed=NEEDED.get(kind, ()))
    for kind in ours(Algorithm):
        yield Command(llm.__main__.main, "train", "--algorithm", kind)


def ours(base: type[Spec]) -> list[str]:
    """The kinds that the package itself defines: other tests register more."""
    return [kind for kind, cls in kinds_of(base).items() if cls.__module__.startswith(("sims.", "llm."))]


PROGRAMS = ("sims", "figures", *(f"llm {name}" for name in llm.__main__.COMMANDS))


@cache
def options() -> list[tuple[Command, Action, frozenset[str]]]:
    """Every option once, under the first command that has it, and the names of all options that it has there.

    Options of one name and one help are one: what `train` and `sft` share, one parser made.
    """
    found: dict[tuple[Any, ...], tuple[Command, Action, frozenset[str]]] = {}
    for command in commands():
        actions = command.parser()._actions
        names = frozenset(name for a in actions for name in (a.dest, *(n.lstrip("-") for n in a.option_strings)))
        for action in actions:
            if action.option_strings and "--help" not in action.option_strings:
                key = (
                    repr(command).split()[0],
                    action.dest,
                    (action.help or "").rpartition(" (")[0],
                )  # without the default
                found.setdefault(key, (command, action, names))
    return list(found.values())


def lines_of(command: Command, action: Action) -> Iterator[tuple[str, list[str]]]:
    """(what, arguments) of each try of an option."""
    name = action.option_strings[0]
    pairs = zip(command.needed[::2], command.needed[1::2], strict=True)
    rest = [*command.chosen, *(word for pair in pairs if pair[0] != name for word in pair)]
    for what, value in VALUES.items() if action.nargs != 0 else {"word": "true", "empty": ""}.items():
        yield f"{name} {what}", [*rest, f"{name}={value}"]
    yield f"{name} without a value", [*rest, name]
    if action.nargs == 0:
        for form in action.option_strings:
            yield form, [*rest, form]
    if reads_names(action):
        for what, value in FILES.items():
            yield f"{name} {what}", [*rest, f"{name}={value}"]


def reads_names(action: Action) -> bool:
    """Whether an option takes any text: a path, the name of a model, a template."""
    return action.nargs != 0 and (
        action.type is path_type or action.metavar in ("STR", "TEXT", "FILE", "DIR", "FOLDER")
    )


def attempt(main: Callable[[list[str]], int], arguments: list[str]) -> tuple[int | None, str, str]:
    """(exit status, None where the settings were accepted; stdout; stderr). Whatever else is raised is the caller's."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            status: int | None = exit_status(main, arguments)
        except Accepted:
            status = None
    return status, out.getvalue(), err.getvalue()


def complaint(status: int | None, err: str, names: frozenset[str]) -> str | None:
    """What is wrong with how a command ended; None if nothing is."""
    if status in (None, 0):
        return f"accepted, and yet said {err[:300]!r}" if "error" in err.lower() else None  # a bar may have begun
    if status != 2:
        return f"exit status {status}"
    if err.count("\n") != 1 or not err.startswith("error: ") or len(err) > 3000:
        return f"must be one line, error: ..., not {err[:300]!r}"
    said = re.match(r"error: (?:argument )?([^ :=/]+)", err)
    if said is None or said[1].lstrip("-") not in names:
        return f"names no option: {err[:300]!r}"
    return None


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, but for what `FILES` names and a file of texts."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "texts.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 4)
    return tmp_path


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins where each command's work begins: settings and files have been looked at, nothing was computed."""
    for place in (
        "sims.api.find_or_run",
        "sims.api.compute",
        "figures.figure.load",
        "llm.commands.train.train",
        "llm.commands.train.estimate",
        "llm.commands.sample.Run",
        "llm.commands.evaluate.Run",
        "llm.commands.reward._run",
        "llm.commands.new.create",
        "llm.commands.align.opened",
        "llm.training.pretrain.build_model",
        "llm.training.pretrain.load",
    ):
        monkeypatch.setattr(place, accept)
    shape = Estimate(0, 0, {}, {}, {})  # the model's own takes too long to count so often
    monkeypatch.setattr("llm.training.memory.estimate", lambda *settings: shape)
    monkeypatch.setattr("figures.entries.entries", cache(figures.entries.entries))
    monkeypatch.setattr("figures.__main__.stamps", lambda *settings: {})


def tries(program: str, few: bool) -> Iterator[tuple[Command, str, list[str], frozenset[str]]]:
    """(command, what is tried, arguments, names of its options); few: of each option FEW, which ones by its name."""
    for command, action, names in options():
        if not f"{command!r} ".startswith(f"{program} "):
            continue
        lines = list(lines_of(command, action))
        first = zlib.crc32(f"{command!r} {action.dest}".encode()) % len(lines)
        step = max(1, len(lines) // FEW) if few else 1
        for what, arguments in islice(lines[first:] + lines[:first], 0, len(lines), step):
            yield command, what, arguments, names


def check_all(program: str, folder: Path, few: bool) -> None:
    stood = sorted(folder.rglob("*"))
    wrong, tried = [], 0
    for command, what, arguments, names in tries(program, few):
        tried, status = tried + 1, None
        try:
            status, _, err = attempt(command.main, arguments)
            found = complaint(status, err, names)
        except (Exception, KeyboardInterrupt) as error:
            found = f"raised {type(error).__name__}: {str(error)[:200]}"
        left = sorted(set(folder.rglob("*")) - set(stood))
        if status == 2 and left:
            found = f"refused, and yet left {left}"
        for path in left:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        if found is not None:
            wrong.append(f"{command!r} {what}: {found}")
    assert not wrong, f"{len(wrong)} of {tried} tries:\n" + "\n".join(wrong)
    assert tried


@pytest.mark.parametrize("program", PROGRAMS)
def test_values_that_cannot_be_are_refused_in_a_line(program: str, workplace: Path, no_work: None) -> None:
    check_all(program, workplace, few=True)


@pytest.mark.long
@pytest.mark.parametrize("program", PROGRAMS)
def test_every_value_of_every_option_is_taken_or_refused_in_a_line(
    program: str, workplace: Path, no_work: None
) -> None:
    check_all(program, workplace, few=False)
