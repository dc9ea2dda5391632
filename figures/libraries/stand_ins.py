"""Modules that a library imports and its losses never call: kernels that are built for a GPU alone, loggers, data."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any


class StandIn(ModuleType):
    """An empty module: whatever is asked of it is an empty class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def stand_in(*names: str) -> None:
    """Put an empty module where `import` finds it, and those that it lies in if these are not installed."""
    for name in names:
        parts = name.split(".")
        for end in range(len(parts) if find_spec(parts[0]) else 1, len(parts) + 1):
            path = ".".join(parts[:end])
            if path not in sys.modules:
                made = StandIn(path)
                made.__spec__ = ModuleSpec(path, None, is_package=True)
                made.__path__ = []
                sys.modules[path] = made
