"""One page that answers every claim: nothing outside it is needed to read it, and no network.

`save_figure` leaves a figure's pictures and its file; `write` makes report.html of whatever lies in the folder. The
template escapes every text, and the page's own policy lets the browser run no script and load no address but its own.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure as MatplotlibFigure
from PIL import Image

from figures.claims import RULE, Verdict, write_text
from figures.figure import Figure
from figures.lab import Lab
from sims.core.spec import SpecError
from sims.experiments.whole import written_whole

from . import elsewhere, forest
from .effects import panel_of
from .lettering import alike, kept, read_words
from .picture import pictures, small
from .reading import SETTINGS, read_figures, read_rows
from .sections import changes, described, remarks, sections, tuned
from .states import NOT_TESTED, STATES, state_of
from .survey import survey

PARTS = ("style.css", "script.js")


def save_figure(
    figure: Figure,
    fig: MatplotlibFigure,
    caption: str,
    lab: Lab,
    out: Path,
    stamps: Mapping[str, str],
    details: Mapping[str, list[str]] | None = None,
    rows: Sequence[Verdict] = (),
) -> None:
    """<name>.png and .svg, with the rows beside what is drawn and the hashes of the specs in their metadata; and for
    the report, which has rows and words as text, <name>.webp without them and <name>.json.

    Two equal figures give equal bytes, and an SVG's text is text.
    """
    hashes = sorted(set(lab.hashes))
    about = {"Title": figure.title, "Description": f"onoff figure {figure.name}; specs {' '.join(hashes)}"}
    drawn = pictures(fig, panel_of(rows, fig.get_figheight()), about)
    for suffix, content in ((".webp", drawn.webp), (".png", drawn.png), (".svg", drawn.svg)):
        _write_bytes(out / f"{figure.name}{suffix}", content)
    data = {
        "name": figure.name,
        "title": figure.title,
        "caption": caption,
        "details": dict(details or {}),
        "claims": figure.claims,
        "spec_hashes": hashes,
        "where_from": lab.where_from,
        "compared": [asdict(compared) for compared in lab.compared],
        "stamps": dict(stamps),
        "tuned": [asdict(tuned) for tuned in lab.tuned],
        "words": kept(drawn.words),
    }
    write_text(out / f"{figure.name}.json", json.dumps(data, indent=1, default=float) + "\n")


def write(out: Path) -> None:
    """report.html, from whatever figures and claims lie in `out`; SpecError if one of their files is damaged."""
    rows = read_rows(out / "claims.json")
    found = sections(rows)
    figures = [_shown(figure, out) for figure in read_figures(out)]
    style, script = (
        resources.files(__package__).joinpath(name).read_text("utf-8") for name in ("style.css", "script.js")
    )
    text = (
        _environment()
        .get_template("page.html")
        .render(
            rows=rows,
            tested=[section for section in found if section.rows],
            untested=[section for section in found if not section.rows],
            heads=dict(Counter(section.head for section in found if section.rows).most_common()),
            survey=survey(found),
            changed=changes(section for section in found if section.rows),
            figures=figures,
            by_name={figure["name"]: figure for figure in figures},
            states=[state for state in STATES.values() if any(row.state == state.word for row in rows)],
            not_tested=NOT_TESTED,
            settings=SETTINGS,
            links=elsewhere.links(out),
            shown=elsewhere.in_the_explorer(out),
            missing=elsewhere.not_in_the_explorer(),
            rule=" ".join(RULE),
            style=Markup(style),
            script=Markup(script),
            style_hash=_digest(style),
            script_hash=_digest(script),
        )
    )
    write_text(out / "report.html", text + "\n")


def _shown(figure: dict[str, Any], out: Path) -> dict[str, Any]:
    """A figure with its picture, remarks and arms. A folder that an older version drew has no small picture yet."""
    name = figure["name"]
    webp, png = out / f"{name}.webp", out / f"{name}.png"
    data = webp.read_bytes() if webp.exists() else small(png.read_bytes()) if png.exists() else b""
    words = read_words(figure.get("words", []) if webp.exists() else [], f"{name}.json")
    width = height = 0
    if data:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
    try:
        said, warnings = remarks(figure)
        arms = tuned(figure)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        found = f"{type(error).__name__}: {error}"
        raise SpecError(f"{name}.json", found, "must be as its figure writes it; draw the figure again") from error
    return figure | {
        "data": base64.b64encode(data).decode(),
        "width": width,
        "height": height,
        "words": alike(words),
        "said": said,
        "warnings": warnings,
        "details": figure.get("details", {}),
        "arms": arms,
    }


@functools.cache  # its templates take a fifth of a page's time to compile
def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("figures.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    tools: Mapping[str, Any] = {
        "number": forest.number, "tick": forest.tick, "described": described, "state_of": state_of
    }  # fmt: skip
    found.globals.update(tools)
    return found


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _write_bytes(path: Path, content: bytes) -> None:
    with written_whole(path) as new:
        new.write_bytes(content)
