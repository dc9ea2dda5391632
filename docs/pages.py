"""The pages of the site that are made from the package: the reference, the recipes, the claims, the design."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from figures.catalogue import NOT_TESTED, Entry, Row, catalogue
from figures.entries import entries
from figures.report.answers import without_arm
from figures.report.elsewhere import Lesson, lessons

from . import other_libraries, planted_bugs
from .docstrings import to_rst
from .repository import ROOT

MEMBERS = {"Result", "Store", "Record", "Schedule", "Algorithm", "PairAlgorithm", "EnumerableSpec", "TokenSpace"}
INHERITED = {"Result"}  # whose arrays are in a base class that has no page


@dataclass(frozen=True)
class Section:
    """Some names of a public face, and the comment above them."""

    title: str
    names: tuple[str, ...]


def made(has_report: bool) -> dict[str, str]:
    """All such pages: path in the source folder, text. has_report: whether the site will have report.html."""
    return {
        "reference/index.rst": _contents("Reference", REFERENCE_IN_WORDS, REFERENCE),
        **{f"reference/{name}.rst": text for name, text in reference().items()},
        "how-to/add-an-algorithm.rst": recipe("Add an algorithm", "sims/core/algorithms/base.py"),
        "how-to/add-an-environment.rst": recipe("Add an environment", "sims/environments/toy.py"),
        "how-to/add-a-policy.rst": recipe("Add a policy", "sims/policies/__init__.py"),
        "how-to/add-a-task.rst": recipe("Add a task for language models", "llm/tasks/__init__.py"),
        "how-to/add-a-reward.rst": recipe("Reward a language model by your own function", "llm/tasks/function.py"),
        "design.rst": design(),
        "claims.md": claims(),
        "other-libraries.md": other_libraries.page(),
        "planted-bugs.md": planted_bugs.page(),
        "the-report.md": REPORT.format(where=HERE if has_report else NOT_HERE),
    }


REPORT = """# The report

{where}

One page answers every claim: a grid of claims and settings, then for each claim its effects with their intervals, the
figure, the number of runs, what the verdict does not show, and the command that makes it again. [The claims](claims.md)
lists what is tested, without verdicts.
"""
HERE = '<a href="report.html"><strong>Open the report</strong></a>.'
NOT_HERE = "`make reproduce` writes it to `figures/out/report.html`; this copy of the site was built without one."


REFERENCE = ("sims", "algorithms", "environments", "losses", "exact", "checks", "statistics", "llm")
REFERENCE_IN_WORDS = (
    "Made from the docstrings of the public names. Equations are those of the docstrings; ℓ is a log-probability, ρ = "
    "ℓ − ℓ_ref the log-ratio to the reference, h a margin, σ the logistic function. Axes are (..., B, K, L): prompts, "
    "responses per prompt, tokens; runs lead."
)


def reference() -> dict[str, str]:
    """The reference, a page for each part of the public faces."""
    face = sections(ROOT / "sims" / "__init__.pyi")
    run, _, algorithms, environments, policies, extends = face
    return {
        "sims": _page("Run an experiment: sims", run.names, "sims", "How experiments are run and looked at."),
        "algorithms": _page("Algorithms", algorithms.names, "sims", _opening("sims.core.algorithms")),
        "environments": _page(
            "Environments and policies",
            (*environments.names, *policies.names, *extends.names),
            "sims",
            "Environments, then policies, then what one of your own extends.",
        ),
        "losses": _by_module("Losses: sims.losses", "sims.losses", "sims.core.losses"),
        "exact": _by_module("Exact answers: sims.exact", "sims.exact", "sims.exact"),
        "checks": _page(
            "Checks of a loss: sims.checks",
            ("check_loss", "parametrize_with_checks", "as_function", "Report", "Outcome", "Property", "Family"),
            "sims.checks",
            _opening("sims.checks"),
        ),
        "statistics": _by_module("Statistics: sims.statistics", "sims.statistics", "sims.statistics"),
        "llm": _page(
            "Language models: llm",
            [name for section in sections(ROOT / "llm" / "__init__.pyi") for name in section.names],
            "llm",
            _opening("llm"),
        ),
    }


def sections(stub: Path) -> list[Section]:
    """The sections of a public face: a comment, and the names below it."""
    found: list[Section] = []
    for block in stub.read_text(encoding="utf-8").split("\n\n"):
        names = re.findall(r"import (\w+) as \1$", block, re.MULTILINE)
        if names:
            found.append(Section(" ".join(re.findall(r"^# ?(.*)", block, re.MULTILINE)), tuple(names)))
    return found


def _page(title: str, names: Iterable[str], module: str, opening: str) -> str:
    return "\n".join([*_title(title), opening, "", *_documented(names, module)])


def _by_module(title: str, face: str, home: str) -> str:
    """The functions of a module, by the modules that define them, in the order of these."""
    public = importlib.import_module(face)
    homes: dict[str, list[str]] = {}
    for name in public.__all__:
        if not isinstance(thing := getattr(public, name), ModuleType):
            homes.setdefault(thing.__module__, []).append(name)
    lines = [*_title(title), _opening(home), ""]
    told = importlib.import_module(home).__doc__ or ""  # names its modules in the order in which to read them
    for module in sorted(homes, key=lambda module: told.find(f"\n{module.rpartition('.')[2]} ")):
        names = homes[module]
        about = (importlib.import_module(module).__doc__ or "").strip()
        heading = about.partition("\n")[0].rstrip(".:") if len(homes) > 1 else ""
        if heading:
            lines += [*_title(_short(heading), "-"), *to_rst(about)[: -1 or None], ""]
        lines += _documented(sorted(names, key=_order(module)), face)
    return "\n".join(lines)


def _short(heading: str) -> str:
    """A first sentence as a heading."""
    return re.split(r"[.:] ", heading)[0]


def _order(module: str):  # type: ignore[no-untyped-def]
    """Where a name stands in the source of its module."""
    tree = ast.parse(Path(importlib.import_module(module).__file__ or "").read_text(encoding="utf-8"))
    places = {node.name: node.lineno for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    return lambda name: places.get(name, 0)


def _documented(names: Iterable[str], module: str) -> list[str]:
    lines = [f".. py:currentmodule:: {module}", ""]
    for name in names:
        thing = getattr(importlib.import_module(module), name)
        if isinstance(thing, type):
            lines += [
                f".. autoclass:: {module}.{name}",
                *(["   :members:"] if name in MEMBERS else []),
                *(["   :inherited-members:"] if name in INHERITED else []),
                "",
            ]
        elif callable(thing):
            lines += [f".. autofunction:: {module}.{name}", ""]
        else:
            lines += [f".. autodata:: {module}.{name}", "   :no-value:", ""]
    return lines


def _opening(module: str) -> str:
    """A module's docstring; an example of it ends at an empty line."""
    return "\n".join(to_rst(importlib.import_module(module).__doc__ or ""))


def recipe(title: str, file: str) -> str:
    """A recipe where it stands, as a page: the docstring of the file that it is in."""
    docstring = ast.get_docstring(ast.parse((ROOT / file).read_text(encoding="utf-8"))) or ""
    source = f"This is the docstring of ``{file}``, where the recipe is kept."
    return "\n".join([*_title(title), source, "", *to_rst(docstring)])


def design() -> str:
    """How the code is laid out: the docstring that the source begins with."""
    docstring = ast.get_docstring(ast.parse((ROOT / "sims/core/__init__.py").read_text(encoding="utf-8"))) or ""
    source = "This is the docstring of ``sims/core/__init__.py``: the order in which to read the source."
    return "\n".join([*_title("The design"), source, "", *to_rst(docstring)])


def claims() -> str:
    """Every claim: what is tested of it, and where it can be seen."""
    shown: dict[str, list[Lesson]] = {}
    for lesson in lessons():
        for id in lesson.claims:
            shown.setdefault(id, []).append(lesson)
    tested = sum(bool(entry.rows) for entry in catalogue().values())
    lines = [
        "# The claims",
        "",
        f"Each of these {len(catalogue())} claims states, before its runs, one scalar effect, its sign, and the margin "
        f"that would matter; {tested} are tested today, and the others have the smallest honest test that would. This "
        "page is made from `figures/claims.toml`. [The report](the-report.md) has the verdicts, with their intervals.",
        "",
    ]
    for entry in catalogue().values():
        lines += _claim(entry, shown.get(entry.id, []), {e.name: e.title for e in entries().values()})
    return "\n".join(lines)


def _claim(entry: Entry, shown: list[Lesson], titles: Mapping[str, str]) -> list[str]:
    """One claim. In headings its id stands alone, so that a link to it stays."""
    lines = [f'<span id="{entry.id}"></span>', "", f"## {entry.id}", ""]
    lines += [f"**{_md(entry.text)}.** {_md(entry.source)}.", ""]
    lines += [f"Smallest honest test: {_md(entry.test)}."] if entry.test else []
    lines += [f"Refuted if: {_md(entry.refuted_if)}."] if entry.refuted_if else []
    lines += [f"Contradicts, or explains: {_md(entry.against)}."] if entry.against else []
    lines += [""]
    if not entry.rows:
        lines += [f"*{NOT_TESTED.capitalize()}.*", ""]
    else:
        for rows in _alike(entry.rows):
            lines += _rows(rows, titles)
        lines += ["", f"Tested again by `python -m figures {entry.id}`.", ""]
    if shown:
        links = (f'<a href="explorer.html#lesson={lesson.id}">{lesson.title}</a>' for lesson in shown)
        lines += [f"In the explorer: {'; '.join(links)}.", ""]
    return lines


def _alike(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows of one effect, but for its arm and what stands behind a semicolon, of one margin and figure, together."""
    found: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        same = (_effect(row)[0], row.claim.claimed, row.claim.unit, row.figure, row.settings)
        found.setdefault(same, []).append(row)
    return list(found.values())


def _effect(row: Row) -> tuple[str, str]:
    """Of a row's effect, without the name of its arm, what stands before the first semicolon, and the rest."""
    before, _, behind = without_arm(row.claim.part, row.claim.effect).partition("; ")
    return before, behind


def _rows(rows: list[Row], titles: Mapping[str, str]) -> list[str]:
    """One row, or what several have in common and then each. titles: of figures."""
    row = rows[0]
    effect, of = row.claim.effect, ""
    if len(rows) > 1:
        effect, of = _effect(row)[0], f"{len(rows)} rows"
    title = titles.get(row.figure, "")
    lines = [
        f"- **{_md(row.claim.part) if len(rows) == 1 else of}** ({', '.join(row.settings)}): {_md(effect)}; claimed "
        f"{_md(row.claim.claimed)} {_md(row.claim.unit)}. Figure `{row.figure}`{f': {_md(title)}' if title else ''}"
        + ("" if title.endswith("?") else ".")
    ]
    if len(rows) > 1:
        for each in rows:
            rest = _effect(each)[1]
            lines.append(f"  - **{_md(each.claim.part)}**{f': {_md(rest)}' if rest else ''}")
    return lines


def _md(text: str) -> str:
    return re.sub(r"([*_`|<>\[\]$])", r"\\\1", text.rstrip("."))


def _contents(title: str, text: str, names: Iterable[str]) -> str:
    return "\n".join([*_title(title), text, "", ".. toctree::", "   :maxdepth: 2", "", *(f"   {n}" for n in names), ""])


def _title(title: str, underline: str = "=") -> list[str]:
    return [title, underline * (2 * len(title)), ""]
