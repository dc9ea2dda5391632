"""What figures there are, read from their sources: to list them loads neither torch nor matplotlib."""

from __future__ import annotations

import ast
import functools
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sims.core.spec import SpecError, nearest

GALLERY = Path(__file__).parent / "gallery"
SCALES = ("tiny", "pythia-1.4b", "mistral-7b")  # of language models; see figures.arms.language_model


@dataclass(frozen=True)
class Entry:
    """A figure, before it is loaded. module: of figures.gallery; has_scale: whether it runs language models."""

    name: str
    title: str
    tags: tuple[str, ...]
    claims: tuple[str, ...]
    module: str
    has_scale: bool


def entries() -> dict[str, Entry]:
    """Every figure of the gallery by name, in the order of their modules' names."""
    paths = sorted(GALLERY.glob("[!_]*.py"))
    return {entry.name: entry for entry in (_read(path.stem, path.read_text(encoding="utf-8")) for path in paths)}


def choose(wanted: Sequence[str]) -> list[Entry]:
    """Figures by name, tag or claim; all for nothing wanted. SpecError if nothing has that name."""
    known = entries()
    tags = sorted({tag for entry in known.values() for tag in entry.tags})
    claims = sorted({claim for entry in known.values() for claim in entry.claims})
    for name in wanted:
        if name not in (*known, *tags, *claims):
            hint = nearest(name, [*known, *tags, *claims])
            valid = f"{', '.join(known)}, or a tag: {', '.join(tags)}, or a claim: {', '.join(claims)}"
            raise SpecError("figure", name, f"must be one of {valid}{hint}")
    return [e for e in known.values() if not wanted or {e.name, *e.tags, *e.claims} & set(wanted)]


@functools.cache  # to parse a module takes milliseconds, and some ask for all of them often
def _read(module: str, text: str) -> Entry:
    """The entry of a module that ends in FIGURE = Figure(name=…, …): from its text where name, title, tags and claims
    are written out, and else, which takes seconds, from the module itself."""
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and _targets(node) == ["FIGURE"]:
            given = {keyword.arg: keyword.value for keyword in node.value.keywords}
            try:
                name, title, tags, claims = (ast.literal_eval(given[x]) for x in ("name", "title", "tags", "claims"))
            except (KeyError, ValueError):
                break
            return Entry(name, title, tags, claims, module, "arms" in given)
    figure = importlib.import_module(f"{__package__}.gallery.{module}").FIGURE
    return Entry(figure.name, figure.title, figure.tags, figure.claims, module, figure.arms is not None)


def _targets(node: ast.Assign) -> list[str]:
    return [target.id for target in node.targets if isinstance(target, ast.Name)]
