"""Which code ran: a digest of the sources behind a record, and the commit that they stood at."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import json
import subprocess
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

# Two threads that parse at once make some versions of Python raise SystemError (python/cpython#106905).
_one_at_a_time = threading.Lock()


def sources_digest(modules: Iterable[str], packages: Sequence[str] = ("sims", "llm")) -> str:
    """SHA-256 of the source files that a run goes through, blind to comments, docstrings and formatting.

    modules: dotted names to start from; their imports are followed wherever they stand in a file, within `packages`. Of
    "module:name" only what that definition rests on is read of its module (`behind`): a figure's drawing is not what
    its numbers come from. Found out once per process. Not seen: modules imported by a computed name, data files, other
    packages.
    """
    with _one_at_a_time:
        return _digest(tuple(modules), tuple(packages))


@functools.cache
def _digest(modules: tuple[str, ...], packages: tuple[str, ...]) -> str:
    waiting, digests = list(modules), {}
    seen: set[str] = set()
    for start in waiting:
        if _find_source(start.partition(":")[0], packages) is None:
            raise ValueError(f"modules has {start!r}: must be the name of a module in {', '.join(packages)}")
    while waiting:
        start = waiting.pop()
        if start and start not in seen:
            seen.add(start)
            name, _, definition = start.partition(":")
            waiting.append(name.rpartition(".")[0])  # importing a module runs the package around it
            if file := _find_source(name, packages):
                digests[start], imported = _read_source(file, name, definition)
                waiting += imported
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def _find_source(name: str, packages: Sequence[str]) -> Path | None:
    """The file of a module of `packages`, found without importing anything."""
    top, *rest = name.split(".")
    package = importlib.util.find_spec(top) if top in packages else None
    for folder in (package.submodule_search_locations or []) if package else []:
        stem = Path(folder, *rest)
        for file in (stem / "__init__.py", stem.parent / f"{stem.name}.py"):
            if file.is_file():
                return file
    return None


@functools.cache
def _read_source(file: Path, name: str, definition: str) -> tuple[str, tuple[str, ...]]:
    """The digest of one file's code, or of what a definition in it rests on, and the names that this may import
    (modules or what is in them)."""
    tree = ast.parse(file.read_bytes(), filename=str(file))
    if definition:
        tree.body = behind(tree.body, definition)
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    imported = tuple(_imports(tree, package))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            has_docstring = ast.get_docstring(node, clean=False) is not None
            del node.body[:has_docstring]
    return hashlib.sha256(_plain(tree).encode()).hexdigest(), imported


def behind(statements: Sequence[ast.stmt], definition: str) -> list[ast.stmt]:
    """Those statements of a module that a definition of it rests on, in their order: itself; the functions, classes,
    assignments and imports whose names it uses, and theirs; and all statements of any other kind, since they may change
    anything: `if`, `for`, a call, an assignment to a part of something, a decorated function, a class that registers
    itself by a keyword. Names in the annotations of functions are not used. ValueError if there is no such definition.
    """
    bound: dict[str, list[ast.stmt]] = {}
    used, single = [], [part for statement in statements for part in _one_by_one(statement)]
    for statement in single:
        names = _bound_by(statement)
        used += [statement] if names is None else []
        for name in names or ():
            bound.setdefault(name, []).append(statement)
    if definition not in bound:
        raise ValueError(f"modules names {definition!r}: must be defined at the top of its module")
    used += bound[definition]
    for statement in used:  # grows
        for name in sorted(_names(statement)):
            used += [other for other in bound.get(name, ()) if not any(other is known for known in used)]
    return [statement for statement in single if any(statement is known for known in used)]


def _one_by_one(statement: ast.stmt) -> list[ast.stmt]:
    """`from a import b, c` as two statements."""
    if not isinstance(statement, ast.Import | ast.ImportFrom):
        return [statement]
    return [ast.copy_location(_with_names(statement, alias), statement) for alias in statement.names]


def _with_names(statement: ast.Import | ast.ImportFrom, alias: ast.alias) -> ast.stmt:
    if isinstance(statement, ast.Import):
        return ast.Import([alias])
    return ast.ImportFrom(statement.module, [alias], statement.level)


def _bound_by(statement: ast.stmt) -> list[str] | None:
    """The names that a statement gives a meaning, and does nothing else; None for one that may do more."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef) and not statement.decorator_list:
        return [statement.name]
    if isinstance(statement, ast.ClassDef) and not statement.keywords:
        return [statement.name]
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name.partition(".")[0] for alias in statement.names]
    targets = statement.targets if isinstance(statement, ast.Assign) else ()
    if isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    flat = [part for target in targets for part in (target.elts if isinstance(target, ast.Tuple) else [target])]
    if not flat or not all(isinstance(target, ast.Name) for target in flat):
        return None
    return [target.id for target in flat if isinstance(target, ast.Name)]


def _names(node: ast.AST) -> set[str]:
    """All names in a syntax tree, but in annotations of functions."""
    if isinstance(node, ast.Name):
        return {node.id}
    fields = dict(ast.iter_fields(node))
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        fields.pop("returns")
    if isinstance(node, ast.arg):
        fields.pop("annotation")
    found: set[str] = set()
    for value in fields.values():
        for part in value if isinstance(value, list) else [value]:
            found |= _names(part) if isinstance(part, ast.AST) else set()
    return found


def _plain(node: Any) -> str:
    """A syntax tree as text. Unlike `ast.dump`, it leaves out what is empty: fields that a newer Python has added would
    else make the same code another. f-strings may still count as other code."""
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if value is not None and value != [])
        return f"{type(node).__name__}({','.join(f'{name}={_plain(value)}' for name, value in fields)})"
    if isinstance(node, list):
        return f"[{','.join(map(_plain, node))}]"
    return repr(node)


def _imports(tree: ast.Module, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)  # each may be a submodule, or in one


@functools.cache
def git_state(root: Path) -> tuple[str | None, bool | None]:
    """(commit, whether its sources were changed since) of the checkout at `root`; (None, None) where there is none.

    Only Python files and pyproject.toml count as changed: figures and records do not alter what a run computes.
    Asked once per process, since edits after the start do not change the code that runs.
    """
    git = ["git", "--no-optional-locks", "-C", str(root)]
    ask = functools.partial(subprocess.check_output, stderr=subprocess.DEVNULL, text=True)
    try:
        top, commit = ask([*git, "rev-parse", "--show-toplevel", "HEAD"]).splitlines()
        if Path(top).resolve() != root.resolve():  # installed inside somebody else's checkout
            return None, None
        return commit, bool(ask([*git, "status", "--porcelain", "--", "*.py", "pyproject.toml"]))
    except (OSError, subprocess.CalledProcessError):
        return None, None
