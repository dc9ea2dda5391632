"""From this project's docstrings, which are plain text, to the reStructuredText that Sphinx reads.

A docstring here is made of paragraphs: prose with `names` and equations, aligned lists of a name and what it is,
numbered steps, indented code or equations, and examples (>>>). Sphinx's own reading would take `|y|` and `π*` for
mark-up.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Collection, Iterator

from .equations import Leading, NotAnEquation, inside, latex, leading

_ENTRY = re.compile(r"( *)(\S+(?: \S+)*?)(?: {2,}| *$)(\S.*)?")
_STEP = re.compile(r"\d\. ")


def to_rst(docstring: str, names: Collection[str] = ()) -> list[str]:
    """The lines of a docstring as reStructuredText. names: arguments that may stand in its equation."""
    paragraphs = re.split(r"\n\s*\n", textwrap.dedent(docstring).strip("\n"))
    lines: list[str] = []
    for number, paragraph in enumerate(_joined(paragraphs)):
        lines += [*(_opening(paragraph, names) if number == 0 else _paragraph(paragraph)), ""]
    return lines


def _joined(paragraphs: list[str]) -> Iterator[str]:
    """Blocks of code or of examples are one paragraph each, blank lines and all."""
    block = ""
    for paragraph in paragraphs:
        if block and paragraph.startswith("    "):
            block += "\n\n" + paragraph
            continue
        if block:
            yield block
        block = paragraph if paragraph.startswith("    ") else ""
        if not block:
            yield paragraph
    if block:
        yield block


def _opening(paragraph: str, names: Collection[str]) -> list[str]:
    """A first paragraph, whose equation is displayed if it is a sentence of its own."""
    found = leading(paragraph, names)
    if found is None:
        return _paragraph(paragraph)
    rest = " ".join(found.rest.split())
    if rest[:1] in ("", ".", ":"):
        display = [".. math::", "", f"   {found.latex}"]
        text = rest.lstrip(".: ")
        return [*display, "", *(_prose(text[:1].upper() + text[1:]).splitlines())] if text else display
    glue = "" if rest[0] in ",;" else " "
    return [f":math:`{found.latex}`{glue or chr(92)}{_prose(rest)}"]


def _paragraph(paragraph: str) -> list[str]:
    lines = paragraph.splitlines()
    if lines[0].startswith(">>>"):
        return lines
    if all(line.startswith("    ") or not line.strip() for line in lines):
        return _block(textwrap.dedent(paragraph))
    if _STEP.match(lines[0]):
        return _steps(paragraph)
    if sum(bool(re.match(r" *\S+(?: \S+)* {2,}\S", line)) for line in lines) >= 0.5 * len(lines):
        return _entries(lines)
    return _prose(" ".join(lines)).splitlines()


def _block(code: str) -> list[str]:
    """An indented block: a list of entries, Python, an equation, or whatever else, as it stands."""
    lines = code.splitlines()
    if code.startswith(">>>"):
        return lines
    if sum(bool(re.match(r"\S+(?: \S+)* {2,}\S", line)) for line in lines) >= 0.5 * len(lines):
        return _entries(lines)
    try:
        ast.parse(code)
        language = "python"
    except SyntaxError:
        language = "text"
        if len(lines) == 1 and re.search("[=Σ]", code):
            try:
                return [".. math::", "", f"   {latex(code.strip())}"]
            except NotAnEquation:
                pass
    return [f".. code-block:: {language}", "", *("   " + line for line in lines)]


def _entries(lines: list[str]) -> list[str]:
    """Aligned columns of names and what they are, as a list of lists: one level for each indentation."""
    entries: list[tuple[int, str, str]] = []
    column = 0
    for line in lines:
        match = _ENTRY.fullmatch(line)
        indent = len(line) - len(line.lstrip())
        if entries and (indent >= column or match is None):
            level, name, text = entries[-1]
            entries[-1] = (level, name, f"{text} {line.strip()}")
        elif match is not None:
            entries.append((indent, match[2], match[3] or ""))
            column = match.start(3) if match[3] else column
    levels = sorted({indent for indent, _, _ in entries})
    found: list[str] = []
    before = -1
    for indent, name, text in entries:
        level = levels.index(indent)
        if level != before:
            found.append("")
        found.append(f"{'  ' * level}- ``{name}`` — {_prose(text)}" if text else f"{'  ' * level}- ``{name}``")
        before = level
    return found[1:]


def _steps(paragraph: str) -> list[str]:
    """Numbered steps: a new one begins where a line does with a number."""
    steps = (re.sub(r"^(\d+\. +`[^`]+`) {2,}", r"\1: ", step) for step in re.split(r"\n(?=\d+\. )", paragraph))
    return [re.sub(r"^(\d+)\. +", r"\1. ", _prose(" ".join(step.split()))) for step in steps]


def _prose(text: str) -> str:
    """Text whose names are references where they lead somewhere, and whose equations are set."""
    found = []
    for part in re.split(r"(`[^`]+`|\*\*[^*]+\*\*)", text):
        if part.startswith("`") and len(part) > 2:
            found.append(_named(part[1:-1]))
        elif part.startswith("**") and part.endswith("**") and len(part) > 4:
            found.append(part)
        else:
            for piece in inside(part):
                found.append(rf"\ :math:`{piece.latex}`\ " if isinstance(piece, Leading) else _escaped(piece))
    return "".join(found).strip()


def _named(name: str) -> str:
    target = name.removesuffix("()")
    is_name = re.fullmatch(r"[A-Za-z_][\w.]*", target) and not target.endswith((".py", ".toml", ".md"))
    return f":py:obj:`{name}`" if is_name else f"``{name}``"


def _escaped(text: str) -> str:
    return re.sub(r"([*|\\]|(?<=\w)_(?!\w))", r"\\\1", text)
