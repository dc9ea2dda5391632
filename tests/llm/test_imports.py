"""Modules of llm import one another in one direction."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import llm

FOLDER = Path(llm.__file__).parent


def imports() -> dict[str, set[str]]:
    """Each module of llm, with those that it imports anywhere in its file, but for type hints alone."""
    files = {".".join(("llm", *file.relative_to(FOLDER).with_suffix("").parts)): file for file in FOLDER.rglob("*.py")}
    files = {name.removesuffix(".__init__"): file for name, file in files.items()}
    found: dict[str, set[str]] = {}
    for name, file in files.items():
        tree = ast.parse(file.read_text())
        hints = {node for test in ast.walk(tree) if _is_type_checking(test) for node in ast.walk(test)}
        named: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node not in hints:
                above = name.split(".")[: -node.level] if node.level else []
                source = ".".join([*above, *([node.module] if node.module else [])])
                named |= {source, *(f"{source}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import) and node not in hints:
                named |= {alias.name for alias in node.names}
        found[name] = (named & set(files)) - {name}
        # `from llm.data import Example` reads the package's own file; a module inside it does not.
        found[name] -= {package for package in found[name] if name.startswith(f"{package}.")}
    return found


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def test_no_circle():
    found = imports()
    assert len(found) > 30 and "llm.tasks" in found["llm.tasks.environment"]
    TopologicalSorter(found).prepare()  # CycleError names the circle


def test_the_embedded_models_names_need_no_pretraining():
    found = imports()
    assert found["llm.embedded"] == set()
    assert not [name for name, named in found.items() if {"llm.embedded", "llm.embedded.pretrain"} <= named]
