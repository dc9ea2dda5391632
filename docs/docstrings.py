"""From this project's docstrings, which are plain text, to the reStructuredText that Sphinx reads.

A docstring here is made of paragraphs: prose with `names` and equations, aligned lists of a name and what it is,
numbered steps, indented code or equations, and examples (>>>). Sphinx's own reading would take `|y|` and `π*` for
mark-up.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Collection, Iterator, Mapping

from .equations import Leading, NotAnEquation, inside, latex, leading

_ENTRY = re.compile(r"( *)(\S+(?: \S+)*?)(?: {2,}| *$)(\S.*)?")


def to_rst(docstring: str, names: Collection[str] = ()) -> list[str]:
    """The lines of a docstring as reStructuredText. names: arguments that may stand in its equation."""
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(docstring))
    lines: list[str] = []
    for number, paragraph in enumerate(_joined(paragraphs)):
        lines += [*(_opening(paragraph, names) if number == 0 else _paragraph(paragraph)), ""]
    return lines


def of_data(thing: object) -> list[str]:
    """What stands for the docstring of a name that is neither class nor function, and so shows its type's: its keys."""
    return [f"A mapping with {', '.join(f'``{key}``' for key in thing)}."] if isinstance(thing, Mapping) else []


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
    """A first paragraph, whose equation is displayed if it is a sentence of its own, or follows a name and a colon."""
    text = " ".join(paragraph.split())
    name, colon, after = text.partition(": ")
    named = leading(after, names) if colon and not leading(text, names) else None
    if named is not None and "=" in named.latex and named.rest[:1] in ("", "."):
        return [*_prose(name + ".").splitlines(), "", *_displayed(named)]
    found = leading(text, names)
    if found is None:
        return _paragraph(paragraph)
    if found.rest[:1] in ("", ".", ":"):
        return _displayed(found)
    glue = "" if found.rest[0] in ",;" else " "
    return [f":math:`{found.latex}`{glue or chr(92)}{_prose(found.rest.strip())}"]


def _displayed(found: Leading) -> list[str]:
    """An equation on a line of its own, and what follows as a paragraph."""
    text = found.rest.lstrip(".: ")
    return [*_math(found.latex), "", *_prose(text[:1].upper() + text[1:]).splitlines()]


def _math(equation: str) -> list[str]:
    return [".. math::", "", f"   {equation}"]


def _paragraph(paragraph: str) -> list[str]:
    lines = paragraph.splitlines()
    if lines[0].startswith(">>>"):
        return lines
    if all(line.startswith("    ") or not line.strip() for line in lines):
        return _block(textwrap.dedent(paragraph))
    if re.match(r"\d+\. |- ", lines[0]):
        return _list(paragraph)
    if _are_entries(lines):
        return _entries(lines)
    if len(lines) > 1 and all(re.search(r"\S {3,}\S", line) for line in lines):
        return _code(lines)
    if (start := next((k for k, line in enumerate(lines) if line.startswith("- ")), 0)) > 0:
        return [*_paragraph("\n".join(lines[:start])), "", *_list("\n".join(lines[start:]))]
    return _prose(" ".join(lines)).splitlines()


def _block(code: str) -> list[str]:
    """An indented block: a list of entries, Python, equations, or whatever else, as it stands."""
    lines = code.splitlines()
    if code.startswith(">>>"):
        return lines
    if _are_entries(lines):
        return _entries(lines)
    if all(
        re.search("[=Σ]", line) and re.search("[−·Σ²½π-ωℓ]", line) and not re.search("[\"'`]", line) for line in lines
    ):
        try:
            parts = [part.strip(" ,") for line in lines for part in re.split(" {2,}", line.strip())]
            return [line for part in parts for line in (*_math(latex(part)), "")]
        except NotAnEquation:
            pass
    return _code(lines)


def _code(lines: list[str]) -> list[str]:
    """Lines as they stand, coloured if they are Python."""
    try:
        ast.parse("\n".join(lines))
        language = "python"
    except SyntaxError:
        language = "text"
    return [f".. code-block:: {language}", "", *("   " + line for line in lines)]


def _are_entries(lines: list[str]) -> bool:
    """Whether most of some lines are a name, a gap, and what it is."""
    entry = re.compile(r" *[^\s=]+(?: [^\s=]+)* {2,}(?!.*\S {2,}\S)\S")
    return sum(bool(entry.match(line)) for line in lines) >= 0.5 * len(lines)


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
        found.append(f"{'  ' * level}- ``{name}``: {_prose(text)}" if text else f"{'  ' * level}- ``{name}``")
        before = level
    return found[1:]


def _list(paragraph: str) -> list[str]:
    """Steps or points: a new one begins where a line does with a number or a dash."""
    points = re.split(r"\n(?=\d+\. |- )", paragraph)
    points = [re.sub(r"^(\d+\. +`[^`]+`) {2,}", r"\1: ", point) for point in points]
    return [re.sub(r"^(\d+\.|-) +", r"\1 ", _prose(" ".join(point.split()))) for point in points]


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
