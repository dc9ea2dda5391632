"""The report can be sent and opened anywhere: all of it, drawn from the committed records, has less than 3 MB."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from figures.claims import Verdict, write_claims
from figures.committed import Committed
from figures.figure import all_figures, call
from figures.lab import Lab
from figures.reading import committed_records
from figures.report import page
from sims.experiments.store import Store

LARGEST = 3_000_000  # bytes
MORE = 4  # figures like those there are, for which there must be room; each that comes, or as many rows, takes one


@pytest.mark.long
def test_the_report_is_small_and_has_room_for_more_figures(tmp_path: Path) -> None:
    """Red, it says what takes most. Less drawn in one picture helps more than any compression."""
    rows: list[Verdict] = []
    for figure in all_figures().values():
        records = committed_records(figure)
        drawn, tested = call(figure, "draw", records), call(figure, "verdicts", records)
        details = call(figure, "details", records) if figure.details is not None else {}
        lab = Lab(Store(tmp_path), kept_before=Committed(figure.name))
        lab.tuned = [tuned for key in lab.kept_before.tunings for tuned in lab.kept_before.tuning(key) or ()]
        page.save_figure(figure, drawn, call(figure, "caption", records), lab, tmp_path, {}, details, tested)
        plt.close(drawn)
        rows += tested
    write_claims(rows, tmp_path)
    page.write(tmp_path)
    size, sizes = sizes_of(tmp_path / "report.html")
    room = LARGEST - size
    assert room > MORE * size / len(all_figures()), (
        f"the report has {size / 1e6:.2f} MB of {LARGEST / 1e6:.0f}, and {len(all_figures())} figures; in kB: {sizes}"
    )


def sizes_of(report: Path) -> tuple[int, dict[str, int]]:
    """Bytes of a report; and kB of its text and of each picture, the largest first."""
    text = report.read_text()
    pictures = dict(re.findall(r'id="picture-(\w+)"><image [^>]*base64,([^"]*)"', text))
    assert pictures and all(base64.b64decode(data).startswith(b"RIFF") for data in pictures.values())
    size = len(text.encode())
    parts = {name: len(data) // 1000 for name, data in pictures.items()}
    found = {"text": size // 1000 - sum(parts.values()), **parts}
    return size, dict(sorted(found.items(), key=lambda part: -part[1]))
