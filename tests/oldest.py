"""python -m tests.oldest: the oldest version of each dependency that pyproject.toml declares, as pip wants it.

Of what the package and its tests need, one requirement per line: `name==version` where a lower bound is declared, and
what is declared where none is. The tests that compare with TRL are not among them: TRL wants newer versions.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?P<extras>\[[\w,-]+\])?(?P<bounds>.*)")
_NEWER = ("trl", "ruff", "mypy", "mutmut")  # not run with the oldest


def oldest(requirement: str) -> str:
    """`name==1.2` for `name>=1.2,<2`; a requirement without lower bound as it is. ValueError for what is neither."""
    match = _REQUIREMENT.fullmatch(requirement.replace(" ", ""))
    if match is None:
        raise ValueError(f"{requirement!r}: is no requirement of the form name>=version,<version")
    lower = re.search(r">=([\w.]+)", match["bounds"])
    return f"{match['name']}{match['extras'] or ''}=={lower[1]}" if lower else requirement


def requirements(pyproject: Path) -> list[str]:
    """The oldest of all that the package and its tests need."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    declared = [*project["dependencies"], *extras["test"], *extras["data"]]
    found = list(dict.fromkeys(oldest(requirement) for requirement in declared))
    return [requirement for requirement in found if re.split(r"\W", requirement)[0] not in _NEWER]


if __name__ == "__main__":
    sys.stdout.write("\n".join(requirements(Path(__file__).parents[1] / "pyproject.toml")) + "\n")
