"""What is mutated and what is not, and that a mutant is one change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # libcst and mutmut take a second to import, of every process that collects tests
    from tests.mutation.mutants import Mutant

SOURCE = '''
"""A module, 1 + 1."""
from x import y
__all__ = ["f"]
Kind = Literal["a", "b"]

@dataclass(frozen=True)
class A:
    """A class, 1 + 1."""

    source: ClassVar[str] = "Someone2020"
    number: float = setting(2.0, "what it is", above=0)

    @property
    def twice(self) -> Literal["a"]:
        if self.number > 1:
            raise ValueError(f"{self.number + 1}")
        return 2 * self.number
'''


@pytest.fixture
def mutants() -> list[Mutant]:
    from tests.mutation.mutants import mutants_of

    return mutants_of("a.py", SOURCE)


def test_only_what_is_computed_is_mutated(mutants: list[Mutant]) -> None:
    """Not documentation, annotations, imports, names that are exported, decorators, help texts or messages."""
    changed = {mutant.diff()[0][1:].strip() for mutant in mutants}
    assert changed == {
        'number: float = setting(2.0, "what it is", above=0)',
        "if self.number > 1:",
        "return 2 * self.number",
    }


def test_each_mutant_is_one_change_at_its_line(mutants: list[Mutant]) -> None:
    for mutant in mutants:
        before, after = (text.splitlines() for text in (SOURCE, mutant.code()))
        assert [i for i, pair in enumerate(zip(before, after, strict=True), 1) if pair[0] != pair[1]] == [mutant.line]


def test_statements_are_forced_and_arguments_left_out(mutants: list[Mutant]) -> None:
    added = [mutant.diff()[1][1:].strip() for mutant in mutants]
    assert {"if (self.number > 1) and False:", "if (self.number > 1) or True:", "return 2 / self.number"} < set(added)
    fields = [line for line in added if line.startswith("number")]
    assert sorted(fields) == [  # not the default, without which the help would be it
        'number: float = setting(2.0, "what it is", )',
        'number: float = setting(2.0, "what it is", above=1)',
        'number: float = setting(3.0, "what it is", above=0)',
    ]
