"""Whether a figure that was drawn before would be drawn the same again: then, as in `make`, nothing is done."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ("numpy", "torch", "scipy", "matplotlib")


def code_stamp(root: Path = ROOT) -> str:
    """Of all sources that a figure could depend on, to the byte, of what is committed, and of the libraries."""
    found = hashlib.sha256()
    for path in _sources(root):
        found.update(f"{path.relative_to(root)}\n{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    for library in LIBRARIES:
        found.update(f"{library} {importlib.metadata.version(library)}\n".encode())
    return found.hexdigest()


def _sources(root: Path) -> Iterable[Path]:
    for package in ("sims", "llm", "figures"):
        for suffix in ("py", "toml", "html", "css", "js"):
            yield from sorted((root / package).rglob(f"*.{suffix}"))
    for pattern in ("*.npz", "*.json", "checks/*.json"):
        yield from sorted((root / "figures" / "records").glob(pattern))


def stamps(settings: Sequence[Any], budget: Sequence[Any]) -> dict[str, str]:
    """What lies beside a figure, to compare with later. budget: what matters only where not every record is live."""
    return {"code": code_stamp(), "settings": repr(list(settings)), "budget": repr(list(budget))}


def is_fresh(name: str, now: dict[str, str], out: Path) -> bool:
    """Whether the figure in `out` was drawn by this code with these settings, and is all there."""
    try:
        said = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
        before, sources = said["stamps"], said["where_from"]
        there = all((out / f"{name}{suffix}").stat().st_size > 0 for suffix in (".png", ".svg"))
    except (OSError, ValueError, KeyError, TypeError):
        return False
    all_live = set(sources.values()) == {"live"}
    same = {key for key in now if before.get(key) == now[key]}
    return there and (out / "report.html").exists() and same | ({"budget"} if all_live else set()) == set(now)
