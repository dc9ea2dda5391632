"""The oldest versions that `make test-oldest` installs are those that pyproject.toml declares."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.oldest import oldest, requirements


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ("numpy>=1.26", "numpy==1.26"),
        ("torch >= 2.11, < 2.14", "torch==2.11"),
        ("some-thing[a,b]<3,>=2.1.0", "some-thing[a,b]==2.1.0"),
        ("math-verify==0.9.*", "math-verify==0.9.*"),
    ],
)
def test_a_lower_bound_becomes_the_version(declared: str, expected: str) -> None:
    assert oldest(declared) == expected


def test_what_is_no_requirement_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'>=2': is no requirement"):
        oldest(">=2")


def test_every_dependency_of_the_package_has_a_lower_bound() -> None:
    found = requirements(Path(__file__).parents[1] / "pyproject.toml")
    assert "transformers==4.57.1" in found and "numpy==1.26" in found
    assert "datasets==3" in found and len(found) == len(set(found))
    assert all("==" in requirement for requirement in found)
    assert not any(requirement.startswith(("trl", "ruff")) for requirement in found)


def test_only_tests_of_that_name_compare_with_trl() -> None:
    """`make test-oldest` leaves out test_trl_*.py, and TRL with them."""
    tests = Path(__file__).parent
    importing = [
        path.name for path in tests.rglob("test_*.py") if re.search(r"(?m)^(from|import) trl\b", path.read_text())
    ]
    assert importing and all(name.startswith("test_trl_") for name in importing), importing
