"""Every public name has an example in its docstring, and every example gives what it says.

Examples take for granted: import numpy as np; import torch; import sims; import llm.
"""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from typing import Any

import numpy as np
import pytest
import torch

import llm
import sims

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
PUBLIC = [
    *((f"sims.{name}", getattr(sims, name)) for name in sims.__all__),
    *((f"llm.{name}", getattr(llm, name)) for name in llm.__all__),
    *((f"sims.losses.{name}", getattr(sims.losses, name)) for name in sims.losses.__all__),
    *((f"sims.exact.{name}", getattr(sims.exact, name)) for name in sims.exact.__all__),
]


def modules() -> list[Any]:
    """Every module of sims, and those of llm that hold public names."""
    of_sims = [found.name for found in pkgutil.walk_packages(sims.__path__, "sims.") if "__main__" not in found.name]
    of_llm = {thing.__module__ for name, thing in PUBLIC if name.startswith("llm.") and hasattr(thing, "__module__")}
    return [importlib.import_module(name) for name in ["sims", *of_sims, "llm", *sorted(of_llm)]]


def examples() -> list[doctest.DocTest]:
    """Every docstring with an example, each once."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = {test.name: test for module in modules() for test in finder.find(module)}
    return [test for test in found.values() if test.examples]


@pytest.mark.parametrize("example", examples(), ids=lambda test: test.name)
def test_example(example: doctest.DocTest, capsys: pytest.CaptureFixture[str]) -> None:
    example.globs |= {"np": np, "torch": torch, "sims": sims, "llm": llm}
    failures = doctest.DocTestRunner(optionflags=OPTIONS).run(example).failed
    assert not failures, capsys.readouterr().out


@pytest.mark.parametrize(("name", "thing"), PUBLIC, ids=[name for name, _ in PUBLIC])
def test_every_public_name_has_an_example(name: str, thing: Any) -> None:
    if inspect.ismodule(thing) or not callable(thing):
        return  # a table, or a module, whose functions have their own
    text = inspect.getdoc(thing) if inspect.isfunction(thing) else vars(thing)["__doc__"]
    assert ">>> " in (text or ""), f"{name}: an example, please: >>> {name}(...)"
