"""Who imports whom: figures → llm → sims → sims.core; nothing points back."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
ALLOWED = {  # what a module of each room may import of ours
    "sims.core": {"sims.core"},
    "sims": {"sims", "sims.core"},
    "llm": {"llm", "sims", "sims.core"},
    "figures": {"figures", "llm", "sims", "sims.core"},
}


def room(module: str) -> str | None:
    """The room of a dotted module name, None if it is not ours."""
    if module == "sims.core" or module.startswith("sims.core."):
        return "sims.core"
    top = module.split(".")[0]
    return top if top in ALLOWED else None


def imports(path: Path) -> list[str]:
    """Absolute names of the modules that a file imports, wherever in it."""
    package = list(path.relative_to(ROOT).with_suffix("").parts[:-1])
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *(node.module.split(".") if node.module else [])])
            found += [f"{origin}.{alias.name}" for alias in node.names] if node.module is None else [origin]
    return found


def test_arrows_point_one_way() -> None:
    wrong = []
    for path in [p for top in ("sims", "llm", "figures") for p in (ROOT / top).rglob("*.py")]:
        here = room(".".join(path.relative_to(ROOT).with_suffix("").parts))
        assert here is not None
        for module in imports(path):
            there = room(module)
            if there is not None and there not in ALLOWED[here]:
                wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_the_test_sees_a_wrong_arrow() -> None:
    assert room("sims.core.objectives.batch") not in ALLOWED["figures"] - {"sims.core"}
    assert room("llm.models.policy") not in ALLOWED["sims"]
    assert room("llm.models.policy") not in ALLOWED["sims.core"]
