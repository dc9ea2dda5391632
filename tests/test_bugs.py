"""The table of bugs that shipped elsewhere and the tests that guard against them name each other; kinds of fault name
the tests that hold them."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
NO_CODE = "– ("  # such a row gives its reason instead of a test


def guards(text: str) -> dict[int, str]:
    """The last cell of each numbered row."""
    found = re.findall(r"^\| (\d+) \|.*\| ([^|]+) \|$", text, re.MULTILINE)
    return {int(number): cell for number, cell in found}


def defined() -> set[str]:
    """The names of all tests, methods of classes among them."""
    nodes = [n for file in TESTS.rglob("test_*.py") for n in ast.walk(ast.parse(file.read_text()))]
    return {n.name for n in nodes if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")}


def rows_of(test: str) -> list[int]:
    """The rows that a test's name says it is about: [12, 46] of test_rows_12_and_46_weight_0_is_deleted."""
    named = re.match(r"test_rows?((?:_(?:and_)?\d+)+)_", test)
    return [int(number) for number in re.findall(r"\d+", named[1])] if named else []


def mismatches(text: str, tests: set[str]) -> list[str]:
    """What the table and the tests do not agree on."""
    cells = guards(text)
    named = {number: re.findall(r"`(test_\w+)`", cell) for number, cell in cells.items()}
    wrong = [f"row {n} names no test" for n, cell in cells.items() if not named[n] and not cell.startswith(NO_CODE)]
    wrong += [f"{test} is not there" for test in re.findall(r"`(test_\w+)`", text) if test not in tests]
    for test in sorted(tests):
        wrong += [f"row {n} does not name {test}" for n in rows_of(test) if test not in named.get(n, [])]
    return wrong


def test_every_row_names_its_tests_and_every_such_test_has_its_row() -> None:
    text = (TESTS / "BUGS.md").read_text()
    assert list(guards(text)) == [n for n in range(1, 54) if n != 37]
    assert mismatches(text, defined()) == []


def test_every_kind_of_fault_names_tests_and_targets_that_are_there() -> None:
    root = TESTS.parent
    page = (root / "docs/site/kinds-of-fault.md").read_text()
    held = [line.partition("Held by ")[2] for line in page.splitlines() if line.startswith("- ")]
    targets = re.findall(r"^([\w-]+):", (root / "Makefile").read_text(), re.MULTILINE)
    there = defined() | {f"make {target}" for target in targets}
    named = [re.findall(r"`([^`]+)`", text) for text in held]
    assert len(named) > 20 and all(named)
    assert [name for names in named for name in names if name not in there] == []


@pytest.mark.parametrize(
    ("row", "wrong"),
    [
        ("| 7 | a bug | TRL #1 | a property | `test_row_7_a` |", []),
        ("| 7 | a bug | TRL #1 | a property | `test_row_7_a`, `test_gone` |", ["test_gone is not there"]),
        ("| 7 | a bug | TRL #1 | a property | soon |", ["row 7 names no test", "row 7 does not name test_row_7_a"]),
        ("| 8 | a bug | TRL #1 | a property | – (no such code) |", ["row 7 does not name test_row_7_a"]),
    ],
)
def test_a_missing_side_is_seen(row: str, wrong: list[str]) -> None:
    assert mismatches(row, {"test_row_7_a", "test_other"}) == wrong


def test_the_numbers_in_a_name() -> None:
    assert rows_of("test_rows_10_13_14_17_any_partition") == [10, 13, 14, 17]
    assert rows_of("test_rows_12_and_46_weight_0_is_deleted") == [12, 46]
    assert rows_of("test_row_46_a_reward_of_0_is_a_reward") == [46]
    assert rows_of("test_rows_have_trls_names") == []
