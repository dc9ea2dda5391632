"""Commands that are killed, run out of disk, lose a folder or find a flipped bit (`tests.interrupted`): at length."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.undisturbed import CASES, Case


def check(*arguments: str) -> None:
    # A process of its own: it forks, which a process with threads should not.
    done = subprocess.run([sys.executable, "-m", "tests.interrupted", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_killed_command_goes_on_to_the_same_end() -> None:
    check("kill", "--kills", "2", "--cases", "pretrain,new,sims")


def test_no_command_that_is_interrupted_is_refused_for_an_option_given_twice() -> None:
    for case in CASES:
        for line in (case.line, case.go_on or "", *case.before):
            options = [word for word in line.split() if word.startswith("--")]
            assert len(options) == len(set(options)), line


def test_a_folder_that_is_removed_does_not_come_back_half() -> None:
    check("remove", "--tries", "2", "--cases", "new,export")


@pytest.mark.long
@pytest.mark.parametrize("how", ["kill", "disk", "remove", "flip"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_nothing_is_lost_half_written_or_silently_wrong(case: Case, how: str) -> None:
    # Workers that start afresh load their libraries each time: not at all of their moments.
    few = how == "remove" or (how == "disk" and case.workers == "replaced")
    check(how, "--kills", "18", "--cases", case.name, *(("--tries", "8") if few else ()))
