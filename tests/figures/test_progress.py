"""The bar: half of it is half of the time, and it goes forward."""

from __future__ import annotations

import io
import re
import sys

import pytest

from figures import progress as room
from figures.progress import DRAWING, EVERY, Bar
from sims.experiments.runner import Progress


def told(bar: Bar, *events: Progress | None, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What the lines say after each event, a figure's drawing where it is None."""
    for event in events:
        bar.told -= 2 * EVERY  # as if so many seconds had passed
        if event is None:
            bar.finished([])
        else:
            bar.show(event)
    return capsys.readouterr().err.splitlines()


def test_drawing_is_part_of_the_work(capsys: pytest.CaptureFixture[str]) -> None:
    """All runs are done, and both figures are still to be drawn: 100 % would be said for as long as that takes."""
    bar = Bar(2)
    done = Progress(asked=3, cached=1, done=2, work_done=2 * DRAWING, work=2 * DRAWING, running="")
    lines = told(bar, done, None, None, capsys=capsys)
    assert [line.partition(" of the predicted work")[0].rpartition(" ")[2] for line in lines] == ["50%", "75%", "100%"]
    assert lines[0].startswith("0 of 2 figures; 3 of 3 records; ") and lines[2].startswith("2 of 2 figures; ")


def test_what_is_left_goes_by_all_the_time_that_was_taken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(room.time, "monotonic", lambda: now[0])
    bar = Bar(1)
    now[0] += 60.0
    bar.show(Progress(asked=2, cached=0, done=0, work_done=3 * DRAWING, work=11 * DRAWING, running="arm"))
    assert "; 25% of the predicted work; about 3.0 min left" in capsys.readouterr().err


def test_a_small_step_after_a_large_one_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    bar = Bar(1)
    bar._bar.mininterval = 0.0
    work = 99 * DRAWING  # and 1 for drawing
    for percent in (0, 50, 51, 52, 53):
        bar.show(Progress(asked=1, cached=0, done=0, work_done=percent * DRAWING, work=work, running="arm"))
    assert re.findall(r" (\d+)%\|", sys.stderr.getvalue())[-4:] == ["50", "51", "52", "53"]  # type: ignore[attr-defined]
