"""One page that holds every figure, every verdict, and how each arm was tuned; nothing outside it is needed to read
it."""

from __future__ import annotations

import base64
import html
import io
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from matplotlib.figure import Figure as MatplotlibFigure

from figures.claims import RULE, Verdict, write_text
from figures.figure import Figure
from figures.lab import Lab

CSS = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1.2rem; color: #1b1b1b; }
h1 { font-size: 1.9rem; } h2 { margin-top: 3rem; border-top: 1px solid #ddd; padding-top: 1.4rem; }
img { width: 100%; height: auto; }
figcaption, .note, td, th { font-size: 0.9rem; } figure { margin: 1rem 0; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; }
th, td { text-align: left; padding: 0.3rem 0.6rem; border-bottom: 1px solid #e4e4e4; vertical-align: top; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
.supported { color: #00694d; } .refuted { color: #a83a00; } .inconclusive { color: #555; }
.verdict { font-weight: 600; } code { background: #f4f4f4; padding: 0.1rem 0.3rem; border-radius: 3px; }
details { margin: 0.6rem 0; }
"""


def save_figure(
    figure: Figure, fig: MatplotlibFigure, caption: str, lab: Lab, out: Path, stamps: Mapping[str, str]
) -> None:
    """<name>.png and .svg with the hashes of the specs in their metadata, and <name>.json for the report."""
    hashes = sorted(set(lab.hashes))
    about = {"Title": figure.title, "Description": f"onoff figure {figure.name}; specs {' '.join(hashes)}"}
    for suffix, metadata in ((".png", about), (".svg", about | {"Date": None})):
        buffer = io.BytesIO()
        fig.savefig(buffer, format=suffix[1:], metadata=metadata)
        temporary = out / f".{figure.name}{suffix}.new"
        temporary.write_bytes(buffer.getvalue())
        os.replace(temporary, out / f"{figure.name}{suffix}")
    data = {
        "name": figure.name,
        "title": figure.title,
        "caption": caption,
        "claims": figure.claims,
        "spec_hashes": hashes,
        "where_from": lab.where_from,
        "compared": [asdict(compared) for compared in lab.compared],
        "stamps": dict(stamps),
        "tuned": [asdict(tuned) for tuned in lab.tuned],
    }
    write_text(out / f"{figure.name}.json", json.dumps(data, indent=1, default=float) + "\n")


def write(out: Path) -> None:
    """report.html, from whatever figures and claims lie in `out`."""
    path = out / "claims.json"
    rows = [Verdict(**row) for row in json.loads(path.read_text())] if path.exists() else []
    figures = [json.loads(file.read_text()) for file in sorted(out.glob("*.json")) if file.name != "claims.json"]
    body = ["<h1>Which preference-tuning algorithm works, when, and why</h1>", _summary(rows)]
    body += [_section(figure, [row for row in rows if row.figure == figure["name"]], out) for figure in figures]
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>onoff: claims</title><style>{CSS}</style>'
    write_text(out / "report.html", f"{page}<body>{''.join(body)}</body></html>\n")


def _summary(rows: list[Verdict]) -> str:
    if not rows:
        return "<p class=note>No verdicts: these are shrunken runs, for looking at the machinery.</p>"
    rule = f"Each claim named one effect, its sign and a margin that matters before its runs. {' '.join(RULE)}"
    lines = "".join(
        f"<tr><td>{_escape(row.id)}</td><td>{_escape(row.claim)}</td><td>{row.setting}<br>{_escape(row.part)}</td>{_verdict_cells(row)}"
        f'<td><a href="#{row.figure}">{_escape(row.figure)}</a></td></tr>'
        for row in rows
    )
    head = "<tr><th>claim<th><th>setting<th>verdict<th>effect [95&nbsp;%]<th>claimed<th>runs<th>records<th>figure</tr>"
    return f"<p>{_escape(rule)}</p><table>{head}{lines}</table>"


def _verdict_cells(row: Verdict) -> str:
    return (
        f'<td class="verdict {row.verdict}">{row.verdict}</td>'
        f'<td class="number">{row.effect:+.3f}<br>[{row.low:+.3f}, {row.high:+.3f}]</td>'
        f'<td class="number">{_escape(row.wanted)}</td><td class="number">{row.runs}</td>'
        f"<td>{_escape(row.records)}</td>"
    )


def _section(figure: dict, rows: list[Verdict], out: Path) -> str:
    image = base64.b64encode((out / f"{figure['name']}.png").read_bytes()).decode()
    verdicts = "".join(
        f'<p><span class="verdict {row.verdict}">{row.id} ({_escape(row.part)}) {row.verdict}.</span> '
        f"{_escape(row.measure)}: "
        f"{row.effect:+.3f} [{row.low:+.3f}, {row.high:+.3f}]. <i>What it does not show:</i> {_escape(row.note)}</p>"
        for row in rows
    )
    return (
        f'<h2 id="{figure["name"]}">{_escape(figure["title"])}</h2>{verdicts}'
        f'<figure><img alt="{_escape(figure["title"])}" src="data:image/png;base64,{image}">'
        f"<figcaption>{_escape(figure['caption'])}</figcaption></figure>"
        f"{_records(figure['where_from'], figure['compared'])}"
        f"<p><code>python -m figures {figure['name']}</code></p>{_tuning(figure['tuned'])}"
    )


def _records(where_from: dict[str, str], compared: list[dict]) -> str:
    """How many records were computed and how many are the repository's; and a warning where they are not what the
    code of today gives."""
    stale = [record for record, source in where_from.items() if source == "stale"]
    sources = list(where_from.values())
    count = ", ".join(f"{sources.count(s)} {s}" for s in ("live", "committed", "stale") if s in sources)
    same = sum(arm["same_bits"] for arm in compared)
    said = f"Records: {count}. Of {len(compared)} that were computed here and are committed, {same} have the same bits."
    warnings = [
        f"{arm['arm']} disagrees with its committed record {arm['hash']} by {arm['difference']:.3f}."
        for arm in compared
        if not arm["agrees"]
    ]
    if stale:
        warnings.append(f"Stale records: {', '.join(stale)}; their twins disagree. Try --full.")
    warned = f'<p class="refuted"><b>{_escape(" ".join(warnings))}</b></p>' if warnings else ""
    return f"<p class=note>{_escape(said)}</p>{warned}"


def _tuning(tuned: list[dict]) -> str:
    """The whole grid of every arm, folded away."""
    if not tuned:
        return ""
    lines = []
    for arm in tuned:
        order = sorted(range(len(arm["points"])), key=lambda i: -arm["scores"][i])
        cells = " · ".join(
            f"{'<b>' if i == arm['chosen'] else ''}{_point(arm['points'][i])} → {arm['scores'][i]:.3f}"
            f"{'</b>' if i == arm['chosen'] else ''}"
            for i in order
        )
        finals = " · ".join(f"{_point(arm['points'][i])} → {score:.3f}" for i, score in arm.get("finals", []))
        again = f"<br>again, {arm['final_runs']} runs each: {finals}" if finals else ""
        lines.append(f"<tr><td>{_escape(arm['arm'])}<td>{arm['runs']}<td>{cells}{again}</tr>")
    head = "<tr><th>arm<th>tuning runs a point<th>settings → mean final score, best first, taken in bold</tr>"
    summary = f"<summary>How the {len(tuned)} arms were tuned</summary>"
    return f"<details>{summary}<table>{head}{''.join(lines)}</table></details>"


def _point(point: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in point.items())


def _escape(text: str) -> str:
    return html.escape(text)
