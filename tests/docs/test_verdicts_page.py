"""The page of verdicts before and after: what it reads from histories, and that every claim with rows is on it."""

import datetime
from dataclasses import replace

from docs.verdicts import PAGE, changed, first_said, known_rows, moves, page
from figures.catalogue import Change, Claim, Row
from figures.claims import row_of
from sims.statistics.gates import Gate
from sims.statistics.intervals import Interval

DAY = datetime.date(2026, 1, 31)


def row(*changes: str) -> Row:
    claim = Claim("C01", "here", "Something matters.", "a − b", margin=0.1)
    return Row(claim, "somewhere", ("bandit",), tuple(Change(DAY, change) for change in changes))


def test_the_first_state_is_the_first_that_a_history_names() -> None:
    found = row("first catalogued", "gates; before: refuted, +0.02", "wider; before: no test, grid edge")
    assert first_said(found) == "refuted, +0.02" and first_said(row("first catalogued, before its runs")) == ""
    now = row_of(found.claim, "bandit", Interval(0.2, 0.15, 0.25, 0.95, 20, ""), "somewhere", ["h"], "n.")
    assert moves(found, [now]) == [("refuted", "supported")]
    assert moves(row("gates; before: bandit: supported; mlp: opposite"), [now]) == []


def test_what_was_known_before_stays_on_the_page() -> None:
    assert first_said(row("wider, and the grid is that of before, not at an end")) == ""
    assert first_said(
        row("on other seeds. Known before: it was opposite, +0.3", "a gate; before, at the end: no test")
    ) == ("at the end: no test")
    told = changed([row("on other seeds. Known before: the effect", "a wider grid; before: no test, grid edge")])
    assert list(told) == ["- 31 Jan: on other seeds. Known before: the effect", "- 31 Jan: a wider grid"]


def test_a_closed_gate_is_listed_with_what_would_open_it() -> None:
    known = known_rows()[0]
    closed = Gate("room", False, "no room; a shorter budget would open it")
    effect = Interval(0.2, 0.15, 0.25, 0.95, 20, "")
    claim = Claim(known.claim.id, known.claim.part, "Something.", "a − b", margin=0.1)
    text = page([row_of(claim, "bandit", effect, known.figure, ["h"], "n.", [closed])], ["another"])
    assert "1 rows: 1 no test." in text and "a shorter budget would open it" in text and "left out: another" in text


def test_a_fragile_row_says_how_near_its_interval_is_to_a_margin() -> None:
    known = known_rows()[0]
    claim = Claim(known.claim.id, known.claim.part, "Something.", "a − b", margin=0.1)
    row = row_of(claim, "bandit", Interval(0.2, 0.12, 0.32, 0.95, 20, ""), known.figure, ["h"], "n.")
    flipped = replace(row, verdict="inconclusive", why="fragile: supported, but inconclusive with other seeds")
    assert "an end lies 10% of the interval's width from a margin" in page([flipped])  # (.12 − .1)/(.32 − .12)
    assert "a gate closed" in page([replace(flipped, why="fragile: supported, but no test with other seeds")])


def test_a_change_of_several_parts_is_a_line_with_the_parts_that_it_is_of_or_not_of() -> None:
    """Those that are fewer."""

    def part(name: str, *changes: str) -> Row:
        claim = Claim("C01", name, "Something matters.", "a − b", margin=0.1)
        return Row(claim, "somewhere", ("bandit",), tuple(Change(DAY, change) for change in changes))

    rows = [
        part("a", "first", "wider"),
        part("b", "first", "wider"),
        part("c", "first", "other seeds; before: opposite"),
    ]
    said = ["- 31 Jan: first", "- 31 Jan: wider (all but c)", "- 31 Jan: other seeds (c)"]
    assert list(changed(rows)) == said


def test_every_claim_with_rows_has_a_heading() -> None:
    """Made again by `python -m docs.verdicts`."""
    text = PAGE.read_text(encoding="utf-8")
    assert all(f"\n## {known.claim.id}\n" in text for known in known_rows())
