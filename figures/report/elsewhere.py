"""Where the report leads: the explorer, the notebooks and the documentation site, as they lie in the repository."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXPLORER = Path("docs/explorer.html")
NOTEBOOKS, DOCUMENTATION = Path("notebooks/README.md"), Path("docs/out/html/index.html")
OTHERS = {"Explorer": EXPLORER, "Notebooks": NOTEBOOKS, "Documentation": DOCUMENTATION}

# Why the explorer, a table with exact expectations, has no lesson of a claim.
MISSING = {
    "a learned reward model": (
        "C01", "C02", "C04", "C11", "C12", "C13", "C14", "C20", "C21", "C43", "C47", "C55", "C57", "C67", "C70",
    ),
    "responses of several tokens": ("C36", "C37", "C42", "C56", "C60", "C65", "audit"),
    "recorded pairs, of which some responses are in none": ("C05", "C06", "C07"),
    "finitely many labelled pairs": ("C44", "C45", "C46", "C61", "C89"),
    "a replay of recorded batches": ("C15", "C16", "C17", "C18", "C19", "C23", "C53", "C69"),
    "the noise of finitely many samples": ("C26", "C29", "C30", "C34", "C50", "C68"),
    "PPO": ("C10", "C54", "C90"),
    "a reference that is replaced": ("C08", "C09", "C52"),
    "two tasks at once": ("C40", "C41", "C48"),
    "users whose wishes change from week to week": ("C58", "C59", "C62", "C63", "C66"),
    "more than two runs side by side": ("C28",),
    "Adam, or a second loss beside the first": ("C38", "C39"),
    "a network": ("C24", "C35"),
    "a language model": ("toy→lm",),
}  # fmt: skip


@dataclass(frozen=True)
class Lesson:
    """A lesson of the explorer: its name in an address, `#lesson=id`, its title, and the claims that this names."""

    id: str
    title: str
    claims: tuple[str, ...]


def lessons(root: Path = ROOT) -> list[Lesson]:
    """The lessons of the explorer, in their order; none where the package was installed without it."""
    script = root / "docs" / "explorer" / "lessons.js"
    text = script.read_text(encoding="utf-8") if script.exists() else ""
    found = re.findall(r'id: "([\w-]+)", group: "[^"]+",\s+title: "([^"]+)"', text)
    return [Lesson(id, title, tuple(re.findall(r"C\d\d", title))) for id, title in found]


def links(out: Path, root: Path = ROOT) -> dict[str, str]:
    """Addresses of other pages from a report in `out`, by name; `make docs` writes the documentation.

    None for a folder outside of the repository, from which an address would be of one machine.
    """
    if not (root / EXPLORER).exists() or not out.resolve().is_relative_to(root):
        return {}
    return {name: Path(os.path.relpath(root / page, out.resolve())).as_posix() for name, page in OTHERS.items()}


def in_the_explorer(out: Path, root: Path = ROOT) -> Mapping[str, list[tuple[str, str]]]:
    """Titles and addresses of the lessons that show something of a claim, by its id."""
    found: dict[str, list[tuple[str, str]]] = {}
    explorer = links(out, root).get("Explorer")
    for lesson in lessons(root) if explorer else ():
        for id in lesson.claims:
            found.setdefault(id, []).append((lesson.title, f"{explorer}#lesson={lesson.id}"))
    return found


def not_in_the_explorer() -> Mapping[str, str]:
    """What a claim is about that the explorer has not, by the claim's id."""
    return {id: what for what, ids in MISSING.items() for id in ids}
