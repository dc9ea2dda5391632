"""Packages whose names are imported on first use (PEP 562), listed once: in the stub that type checkers read.

This way `import sims` takes milliseconds, while PyTorch alone takes a second. The convention is that of Scientific
Python (SPEC 1, https://scientific-python.org/specs/spec-0001/).
"""

from __future__ import annotations

import ast
import difflib
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def attach(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package, from the imports of the `__init__.pyi` beside its
    `__init__.py`: `from .core.spec import Spec as Spec`, or `from . import exact as exact` for a module.

    An unknown name raises AttributeError with the nearest known one.
    """
    module = sys.modules[package]
    stub = Path(str(module.__file__)).with_suffix(".pyi")
    homes = {
        alias.name: node.module
        for node in ast.parse(stub.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    }

    def __getattr__(name: str) -> Any:
        if name not in homes:
            near = difflib.get_close_matches(name, homes, n=1) or [x for x in homes if x.lower() == name.lower()]
            hint = f"; did you mean {near[0]}?" if near else ""
            raise AttributeError(f"{package} has no {name}{hint}", name=name, obj=module)
        home = homes[name]
        if home is None:
            return importlib.import_module(f"{package}.{name}")
        found = getattr(importlib.import_module(f"{package}.{home}"), name)
        setattr(module, name, found)
        return found

    return __getattr__, lambda: sorted({*vars(module), *homes}), sorted(homes)
