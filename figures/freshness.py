"""Whether a figure that was drawn before would be drawn the same again: then, as in `make`, nothing is done."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sims.experiments.command import tell
from sims.experiments.whole import written_whole

from .tables import read_tables

ROOT = Path(__file__).resolve().parents[1]
FILES = (".png", ".svg", ".webp", ".json")  # of a figure
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


def write_sums(name: str, out: Path) -> None:
    """<name>.sha256: the checksums of what was just written of a figure in `out`."""
    lines = "".join(f"{digest}  {what}\n" for what, digest in _sums(name, out).items())
    with written_whole(out / f"{name}.sha256") as new:
        new.write_text(lines, encoding="utf-8")


def _sums(name: str, out: Path) -> dict[str, str]:
    """SHA-256 of a figure's files, and of its rows in claims.json but for what all rows together say of them."""
    found = {file: (out / file).read_bytes() for file in (f"{name}{suffix}" for suffix in FILES)}
    rows = read_tables(out / "claims.json")
    own = [{key: row[key] for key in row if key != "survives"} for row in rows if row.get("figure") == name]
    found["claims.json"] = json.dumps(own, sort_keys=True).encode()
    return {what: hashlib.sha256(data).hexdigest() for what, data in found.items()}


def _is_whole(name: str, out: Path) -> bool:
    """Whether a figure is what was written; what differs is told."""
    lines = (out / f"{name}.sha256").read_text(encoding="utf-8").splitlines()
    written = {line.partition("  ")[2]: line.partition("  ")[0] for line in lines}
    changed = [what for what, digest in _sums(name, out).items() if written.get(what) != digest]
    if changed:
        tell(f"{', '.join(changed)} in {out}: not what was written there; {name} is drawn again")
    return not changed


def is_fresh(name: str, now: dict[str, str], out: Path) -> bool:
    """Whether the figure in `out` was drawn by this code with these settings, and is all there, as it was written."""
    try:
        said = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
        before, sources = said["stamps"], said["where_from"]
        there = _is_whole(name, out)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    all_live = set(sources.values()) == {"live"}
    same = {key for key in now if before.get(key) == now[key]}
    return there and (out / "report.html").exists() and same | ({"budget"} if all_live else set()) == set(now)
