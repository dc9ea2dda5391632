"""The rooms of the code, from the ground up: a module imports from its own room and from rooms below, never from above.

A room is a package. What is written one line up may import what is written below it; rooms that share a line do not
know each other. So there is no circle, and whoever reads from the bottom meets no name before its meaning.
"""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
FLOORS = (
    ("sims.core",),  # spec and schedule: settings, which all else is made from
    ("sims.core.numerics",),
    ("sims.core.objectives",),
    ("sims.core.losses",),
    ("sims.core.algorithms",),
    ("sims.core.loop",),
    ("sims.exact", "sims.statistics", "sims.environments"),
    ("sims.policies",),
    ("sims.experiments.engines",),
    ("sims.experiments",),
    ("sims.teaching", "sims.checks"),
    ("sims",),
    ("llm.embedded",),
    ("llm.data",),
    ("llm.models", "llm.judges"),
    ("llm.distributed",),
    ("llm.reward_models",),
    ("llm.tasks",),
    ("llm.training",),
    ("llm.alignment",),
    ("llm.commands",),
    ("llm",),
    ("figures",),  # what figures are made by: labs, plans, claims
    ("figures.report", "figures.libraries"),
    ("figures.arms",),
    ("figures.gallery",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
DOORS = {"sims", "llm"}  # whose __init__ hands on what lies in their rooms, lazily
PROGRAMS = {
    "figures.__main__",
    "figures.entries",
    "figures.figure",
    "figures.drawing",
    "figures.readme",
    "figures.what_if",
}  # put the rooms together


def name_of(path: Path) -> str:
    """The dotted name of a file's module."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for top in ("sims", "llm", "figures") for path in (ROOT / top).rglob("*.py")}


def room_of(module: str) -> str:
    """The package that a module lies in; a package lies in itself."""
    return module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]


def imports(module: str) -> Iterator[str]:
    """Our modules that a module imports, wherever in its file."""
    package = room_of(module).split(".")
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *(node.module.split(".") if node.module else [])])
            for alias in node.names:
                found = f"{origin}.{alias.name}"
                if found in MODULES or origin in MODULES:
                    yield found if found in MODULES else origin


def wrong(module: str, imported: str) -> bool:
    """Whether an import points up, or across to a room of the same floor."""
    here, there = room_of(module), room_of(imported)
    return here != there and FLOOR[there] >= FLOOR[here]


def test_every_room_has_its_floor() -> None:
    assert {room_of(module) for module in MODULES} == set(FLOOR)


def test_nothing_is_imported_from_above() -> None:
    arrows = [(module, imported) for module in MODULES for imported in imports(module) if wrong(module, imported)]
    assert not [f"{module} imports {imported}" for module, imported in arrows if module not in PROGRAMS]


def circles(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """Circles of imports: the strongly connected components of more than one file (Tarjan 1972)."""
    number: dict[str, int] = {}  # of a file, in the order of the visits
    lowest: dict[str, int] = {}  # of the files on the path to which it leads back
    path: list[str] = []
    found: list[list[str]] = []

    def visit(file: str) -> None:
        number[file] = lowest[file] = len(number)
        path.append(file)
        for other in sorted(arrows.get(file, ())):
            if other not in number:
                visit(other)
                lowest[file] = min(lowest[file], lowest[other])
            elif other in path:
                lowest[file] = min(lowest[file], number[other])
        if lowest[file] == number[file]:
            component = path[path.index(file) :]
            del path[path.index(file) :]
            if len(component) > 1:
                found.append(sorted(component))

    for file in sorted(arrows):
        if file not in number:
            visit(file)
    return found


def test_no_files_import_each_other_in_a_circle() -> None:
    """Imports for types alone and imports within a function count: a circle of names is hard to read, however it is
    loaded. On failure: move what both need into a file of its own, below them."""
    assert not circles({module: set(imports(module)) for module in MODULES})


def test_a_circle_is_seen_and_a_diamond_is_none() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a", "e"}, "e": {"a"}}) == [["b", "c"]]
    assert circles({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}) == []


def test_a_wrong_arrow_is_seen() -> None:
    assert wrong("sims.core.losses.contrastive", "sims.core.loop.train")
    assert wrong("sims.environments.bandit", "sims.policies.table")
    assert wrong("sims.exact.quantities", "sims.statistics.intervals")
    assert wrong("sims.__main__", "llm.training.run")
    assert not wrong("llm.training.run", "sims.core.loop.train")
    assert "sims.core.loop.protocols" in set(imports("sims.policies.table"))
