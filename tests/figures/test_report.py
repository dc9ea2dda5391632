"""The report: it answers by the rows, trusts none of them, and two equal runs give equal bytes."""

from __future__ import annotations

import html
import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import pytest
from markupsafe import escape

from figures.catalogue import catalogue, claim, table
from figures.claims import as_markdown, row_of, write_claims
from figures.report import page
from figures.report.answers import answer
from figures.report.forest import axis, mark, number, tick
from figures.report.reading import Row, read_figures, read_rows
from figures.report.sections import sections, tuned
from figures.report.states import STATES
from sims.core.spec import SpecError
from sims.statistics.intervals import mean_interval
from sims.statistics.verdicts import State
from tests.figures.small_report import FIGURES, ROW, ROWS, lay, row

FIGURE = {"name": "audit", "title": "t", "caption": "c", "tuned": []}
ATTACK = "</style></script><script>window.attacked=1</script><img src=x onerror=window.attacked=1>\"'|`"


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a report, which no test changes."""
    return lay(tmp_path_factory.mktemp("laid")).parent


def read(tmp_path: Path, *tables: dict[str, Any]) -> list[Row]:
    path = tmp_path / "claims.json"
    path.write_text(json.dumps(tables))
    return read_rows(path)


class Tags(HTMLParser):
    """What tags a page holds, with their attributes; the text of each is left out."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def all(self, *names: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.found if tag in names]


# What it answers


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (["supported"], ("Yes", "supported in its one row (bandit).")),
        (["supported"] * 3, ("Yes", "supported in all 3 rows (bandit).")),
        (["opposite"], ("No, the opposite", "opposite in its one row (bandit).")),
        (["too small"], ("No effect that matters", "too small in its one row (bandit).")),
        (["theorem"], ("Settled by proof", "theorem in its one row (bandit).")),
        (["no test"], ("No test", "no test in its one row (bandit).")),
        (
            ["inconclusive", "supported"],
            ("Yes, where decided", "supported for “1” (bandit); inconclusive for “0” (bandit)."),
        ),
        (["opposite", "supported"], ("It depends", "supported for “1” (bandit); opposite for “0” (bandit).")),
        (["opposite", "too small"], ("Not as claimed", "opposite for “0” (bandit); too small for “1” (bandit).")),
        (["supported"] * 3 + ["too small"], ("It depends", "supported in 3 of 4 rows; too small for “3” (bandit).")),
        (["no test", "inconclusive"], ("Undecided", "inconclusive for “1” (bandit); no test for “0” (bandit).")),
    ],
)  # fmt: skip
def test_an_answer_counts_states_and_names_the_rare_ones(
    states: list[str], expected: tuple[str, str], tmp_path: Path
) -> None:
    assert answer(read(tmp_path, *(row(verdict=s, part=str(i)) for i, s in enumerate(states)))) == expected


def test_an_answer_says_where_the_rows_that_it_counts_are_alone_in_one_setting(tmp_path: Path) -> None:
    settings = ("bandit", "bandit", "bandit", "mlp")
    found = read(tmp_path, *(row(setting=s, part=str(i)) for i, s in enumerate(settings)))
    assert answer(found) == ("Yes", "supported in all 4 rows (bandit and mlp).")
    found += read(tmp_path, *(row(setting="mlp", part=str(i), verdict="opposite") for i in range(3)))
    assert answer(found)[1] == "supported in 4 of 7 rows; opposite in 3 of 7 rows (all mlp)."


def test_an_answer_of_many_rows_says_what_it_depends_on(tmp_path: Path) -> None:
    """Where they ask few things, as the part behind an arm's name says; one that asks none of these is named."""
    states = {"s = 10": "supported", "s = 100": "opposite", "s = 5, shorter": "no test"}
    rows = [row(part=f"{arm}: {what}", verdict=s) for arm in "abcde" for what, s in states.items()]
    found = read(tmp_path, *rows, row(part="another", verdict="too small"))
    assert answer(found)[1] == (
        "s = 10: 5 supported; s = 100: 5 opposite; too small for “another” (bandit). "
        "Inconclusive or no test: 5 of 16 rows."
    )
    near = [row(part=f"{n}, reference: {what}") for n in "abcdefg" for what in ("near", "far")]
    said = answer(read(tmp_path, *near, row(verdict="opposite")))[1]
    assert said.startswith("reference: near: 7 supported; reference: far: 7 supported; opposite for “a part”")
    many = read(tmp_path, *(row(part=f"a: {n}", verdict=("supported", "opposite")[n % 2]) for n in range(14)))
    assert answer(many)[1] == "supported in 7 of 14 rows; opposite in 7 of 14 rows."


def test_what_rows_of_several_arms_measure_is_said_once_and_decided_ones_stand_first(tmp_path: Path) -> None:
    states = {"dpo: far": "no test", "dpo: near": "supported", "ipo: far": "supported", "ipo: near": "opposite"}
    rows = [row(part=part, measure=part.replace(": ", ": score, "), verdict=state) for part, state in states.items()]
    section = next(section for section in sections(read(tmp_path, *rows)) if section.rows)
    ((_, lines),) = section.plots[0].groups
    said = [(line.row.part, line.measure) for line in lines]
    assert said == [("ipo: far", "score, far"), ("dpo: far", ""), ("dpo: near", "score, near"), ("ipo: near", "")]


def test_every_state_of_the_rules_has_a_symbol_a_word_and_a_colour_of_the_page() -> None:
    assert set(get_args(State)) == set(STATES)
    assert len({state.symbol for state in STATES.values()}) == len(STATES)
    style = (Path(page.__file__).parent / "style.css").read_text()
    for state in STATES.values():
        assert style.count(f"--{state.css}: #") == 2, state  # by day and by night
        assert f".{state.css} {{ color: var(--{state.css}); }}" in style


def test_the_page_shows_every_claim_of_the_catalogue_once_with_its_answer_or_its_test(laid: Path) -> None:
    text = (laid / "report.html").read_text()
    tags = Tags(text)
    anchors = [tag["id"] for tag in tags.all("article") if tag.get("class", "").startswith("claim")]
    assert len(anchors) == len(set(anchors)) == len(catalogue())
    for entry in catalogue().values():
        assert str(escape(entry.text)) in text
    untested = [entry for id, entry in catalogue().items() if id not in {r["id"] for r in ROWS}]
    assert text.count("Smallest honest test:") == len(untested)
    links = {str(tag["href"])[1:] for tag in tags.all("a")}
    ids = {tag.get("id") for _, tag in tags.found}
    assert links and links <= ids
    assert len([tag["id"] for _, tag in tags.found if "id" in tag]) == len(ids - {None})


def test_fields_that_came_later_are_shown_where_they_are_there(laid: Path) -> None:
    text = (laid / "report.html").read_text()
    for said in (
        "Gate closed: room.",
        "both arms are at the ceiling",
        "p&nbsp;=&nbsp;0.25",
        "2026-01-02: a shorter budget",
    ):
        assert said in text
    assert '<span class="setting">live</span>' in text
    assert "<td>learning_rate 1 (at an end of its grid: learning_rate)" in text  # the arm took the last of its rates


def test_every_figure_has_alternative_text_and_every_interval_its_numbers_beside_it(laid: Path) -> None:
    text = (laid / "report.html").read_text()
    tags = Tags(text)
    pictures = [tag for tag in tags.all("svg") if tag.get("class") == "picture"]
    assert len(pictures) == 6  # of five claims, and of the figure beside
    assert all(str(tag["aria-label"]).startswith("Chart: Does it draw?") for tag in pictures)
    beside = r'class="plot"><svg aria-hidden="true">.*?</svg></td>\s*<td [^>]*in-effect"><b>[+−]?\d[^<]*</b> <span>'
    assert len(re.findall(beside, text)) == len(ROWS)
    assert all(tag.get("aria-hidden") or tag.get("aria-label") for tag in tags.all("svg"))
    assert not tags.all("img")


def test_a_picture_stands_in_the_page_once(laid: Path) -> None:
    text = (laid / "report.html").read_text()
    assert text.count("data:image/webp;base64,") == 3 and text.count('href="#picture-audit"') == 4
    assert len(text) < 200_000


def test_arms_of_one_grid_and_gates_of_several_rows_are_said_once(tmp_path: Path) -> None:
    gate = {"name": "room", "open": True, "why": "the arms' mean is 0.5"}
    rows = read(tmp_path, row(gates=[gate]), row(part="another", gates=[gate]), row(part="a third", gates=[]))
    (found,) = (section for section in sections(rows) if section.id == "C27")
    said = (("room", True, "the arms' mean is 0.5"), "a part (bandit); another (bandit)")
    assert list(found.gates) == [said]
    table: dict[str, Any] = {"points": [{"beta": b} for b in (1, 2, 3)], "scores": [1, 3, 2], "runs": 5, "chosen": 1}
    arms = tuned({"tuned": [table | {"arm": "a"}, table | {"arm": "b"}, table | {"arm": "c", "runs": 9}]})
    assert {grid: [arm.name for arm in of] for grid, of in arms.items()} == {
        "3 points: beta 1 … 3 (3 values); 5 runs a point": ["a", "b"],
        "3 points: beta 1 … 3 (3 values); 9 runs a point": ["c"],
    }


@pytest.mark.parametrize(
    ("verdict", "claimed", "low", "high", "gap"),
    [
        ("supported", "> 0.05", 0.07, 0.5, "0.02"),
        ("too small", "> 0.05", -0.5, 0.01, "0.04"),
        ("opposite", "> 0.05", -0.5, -0.15, "0.1"),
        ("supported", "< −0.05", -0.5, -0.07, "0.02"),
        ("opposite", "< −0.05", 0.15, 0.5, "0.1"),
        ("supported", "within ±0.05", -0.02, 0.01, "0.03"),
        ("opposite", "within ±0.05", -0.5, -0.15, "0.1"),
        ("inconclusive", "> 0.05", 0.0, 0.5, None),
        ("theorem", "error ≤ 1e-06", None, None, None),
    ],
)
def test_the_closest_call_is_the_distance_to_the_margin_that_a_state_turns_on(
    verdict: str, claimed: str, low: float | None, high: float | None, gap: str | None, tmp_path: Path
) -> None:
    far = row(part="far", low=1.0, high=1.2) if gap else row(part="far", verdict="no test")
    rows = read(tmp_path, far, row(part="near", verdict=verdict, claimed=claimed, low=low, high=high))
    (found,) = (section for section in sections(rows) if section.id == "C27")
    assert found.closest == (
        f"“near” (bandit): {verdict}, with its interval's end {gap} score from the margin" if gap else ""
    )


# What it does not trust


def test_nothing_that_a_row_or_a_figure_says_becomes_markup(tmp_path: Path) -> None:
    numbers = {"effect", "low", "high", "margin", "runs"}
    attack = {name: ATTACK for name in ROW if name not in numbers} | {"spec_hashes": [ATTACK], "computed": ATTACK}
    gates = [{"name": ATTACK, "open": False, "why": ATTACK}, {"name": ATTACK, "open": True, "why": ATTACK}]
    attack |= {"gates": gates, "history": [{"date": ATTACK, "change": ATTACK}]}
    rows = [row(**attack), *(row(**{name: value}) for name, value in attack.items())]
    harmless = Tags(lay(tmp_path / "a", [row()] * len(rows)).read_text())
    lay(tmp_path / "b", rows, caption=ATTACK)
    file = tmp_path / "b" / "audit.json"
    data = json.loads(file.read_text())
    data |= {"title": ATTACK, "where_from": {ATTACK: "stale"}}
    data["tuned"][0] |= {"arm": ATTACK, "points": [{ATTACK: 1.0}] * 3, "runs": ATTACK}
    data["compared"] = [{"arm": ATTACK, "hash": ATTACK, "difference": 0.1, "agrees": False, "same_bits": False}]
    file.write_text(json.dumps(data))
    page.write(tmp_path / "b")
    text = (tmp_path / "b" / "report.html").read_text()
    found = Tags(text)
    assert text.count("&lt;script&gt;") > 50
    assert {tag for tag, _ in found.found} <= {tag for tag, _ in harmless.found} | {
        "br",
        "li",
        "ul",
        "p",
        "details",
        "summary",
    }
    assert len(found.all("script")) == len(found.all("style")) == 1 and not found.all("img")
    assert not [name for _, attributes in found.found for name in attributes if name.startswith("on")]


def test_the_page_allows_only_its_own_script_and_style_and_no_address(laid: Path) -> None:
    text = (laid / "report.html").read_text()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    policy = html.unescape(policy)
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy
    for tag in ("script", "style"):
        (body,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert page._digest(body) in policy
    assert "://" not in text


def test_other_files_of_the_folder_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text("[1, 2")
    (tmp_path / "foreign.json").write_text(json.dumps({"name": "foreign", "title": "t", "caption": "c", "tuned": []}))
    lay(tmp_path)
    assert [figure["name"] for figure in read_figures(tmp_path)] == list(FIGURES)
    assert "foreign" not in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("claims.json", "[", "claims.json = "),
        ("claims.json", "{}", "claims.json = 'dict': must be a list of rows"),
        ("claims.json", json.dumps([row(effect="x")]), "claims.json, row 0: effect = 'x': must be a number"),
        ("claims.json", json.dumps([row(runs=None)]), "claims.json, row 0: runs = None: must be a whole number"),
        ("claims.json", json.dumps([row(effect=1e308)]), "claims.json, row 0: effect = 1e+308: must be a number"),
        ("claims.json", json.dumps([row(part="\ud800")]), "claims.json, row 0: part = '\\ud800': must be text"),
        ("audit.json", "[]", "audit.json: name = []: must be text"),
        *(
            ("audit.json", json.dumps(FIGURE | {name: value}), f"audit.json: {name} = {value!r}: must be {what}")
            for name, what in (("details", "an object"), ("where_from", "an object"), ("words", "a list"))
            for value in (None, 3, "x")
        ),
        ("audit.json", json.dumps(FIGURE | {"title": "\ud800"}), "audit.json: title = '\\ud800': must be text"),
        ("audit.json", json.dumps({"name": "other", "title": "t", "caption": "c", "tuned": []}), "name = 'other'"),
        (
            "audit.json",
            json.dumps(
                {"name": "audit", "title": "t", "caption": "c", "tuned": [{"arm": "a", "points": [{}], "chosen": 999}]}
            ),
            "audit.json = 'IndexError",
        ),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(name: str, content: str, said: str, laid: Path, tmp_path: Path) -> None:
    shutil.copytree(laid, tmp_path, dirs_exist_ok=True)
    (tmp_path / name).write_text(content)
    with pytest.raises(SpecError) as refused:
        page.write(tmp_path)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_claims_md_takes_no_markup_from_a_row_and_claims_json_keeps_what_it_does_not_know(tmp_path: Path) -> None:
    interval = mean_interval([0.2, 0.3, 0.25, 0.22] * 5)
    known = row_of(claim("C27", "token bandit, R1"), "token", interval, "g", ["h"], ATTACK)
    text = as_markdown([known])
    assert "<script" not in text and "<img" not in text and "| > 0.05 score |" in text
    (tmp_path / "claims.json").write_text(json.dumps([row(gates=["a gate"], part="a | b")]))
    write_claims([known], tmp_path)
    kept = {found["figure"]: found for found in json.loads((tmp_path / "claims.json").read_text())}
    assert kept["audit"]["gates"] == ["a gate"]
    assert "| a \\| b |" in (tmp_path / "claims.md").read_text()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[", "claims.json = .*: must be JSON; remove it and draw its figures again"),
        ("{}", "claims.json = 'dict': must be a list of rows; remove it"),
        (json.dumps([row()]).replace('"id"', '"if"'), "claims.json, row 0: id = None"),
    ],
)
def test_rows_of_before_that_are_damaged_are_refused_in_one_line(content: str, said: str, tmp_path: Path) -> None:
    """By whoever adds to them, and by the catalogue's list."""
    (tmp_path / "claims.json").write_text(content)
    with pytest.raises(SpecError, match=said):
        write_claims([], tmp_path)
    with pytest.raises(SpecError, match=said):
        table(tmp_path / "claims.json")
    assert (tmp_path / "claims.json").read_text() == content


# The same twice


def test_two_equal_runs_leave_equal_bytes_and_text_as_text(tmp_path: Path) -> None:
    first, second = (lay(tmp_path / name).parent for name in ("a", "b"))
    for name in ("audit.svg", "audit.png", "audit.webp", "audit.json", "report.html"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    svg = (first / "audit.svg").read_text()
    assert "updates with a name</text>" in svg and "clip-path" in svg


def test_what_many_rows_do_not_show_stands_once_and_first_and_what_single_rows_do_not_is_folded(tmp_path: Path) -> None:
    """A sentence that points back stays with the one that it points to."""
    tables = [row(part=part, note=f"Tuned at {part}. It is short. One network alone.") for part in "ABCD"]
    (found,) = (section for section in sections(read(tmp_path, *tables)) if section.rows)
    own = [(f"Tuned at {part}. It is short.", f"{part} (bandit)") for part in "ABCD"]
    assert found.notes == [("One network alone.", ""), *own]
    assert "<summary>2 more, of fewer rows</summary>" in lay(tmp_path / "report", tables).read_text()


# Where things stand in a forest plot


def test_an_axis_holds_intervals_zero_and_margins(tmp_path: Path) -> None:
    rows = read(tmp_path, row(), row(claimed="< −0.05", effect=-0.9, low=-1.0, high=-0.8))
    assert [found.zone for found in rows] == [(0.05, math.inf), (-math.inf, -0.05)]
    line = axis(rows)
    assert line.low < -1.0 and line.high > 0.5 and 0.0 in line.ticks
    positions = [line.at(x) for x in (line.low, -1.0, 0.0, 0.5, line.high)]
    assert positions == sorted(positions) and positions[0] >= 0 and positions[-1] <= 100


def test_one_wide_interval_goes_on_beyond_the_axis_and_does_not_squeeze_the_others(tmp_path: Path) -> None:
    """Its effect is on the axis, as every effect is; so is a narrow interval, however far out."""
    wide, far = row(effect=0.2, low=-2.0, high=3.0, part="wide"), row(effect=2.0, low=1.9, high=2.1, part="far")
    rows = read(tmp_path, *[row(low=0.3 - i / 100) for i in range(3)], wide)
    line = axis(rows)
    assert line.low == 0.0 and 0.5 < line.high < 0.6
    assert [mark(each, line).beyond for each in rows] == [(False, False)] * 3 + [(True, True)]
    assert axis(rows[1:]).high > 3.0, "of three intervals none is cut"
    assert axis(read(tmp_path, *[row()] * 3, far)).high > 2.1
    page = lay(tmp_path / "report", [row(low=0.3 - i / 100) for i in range(3)] + [wide]).read_text()
    assert page.count("An arrow: the interval goes on") == page.count('<use href="#goes-on-left"') == 1
    assert "An arrow" not in lay(tmp_path / "none").read_text()


@pytest.mark.parametrize(
    ("claimed", "inside", "outside"),
    [("> 0.05", 0.06, 0.04), ("< −0.05", -0.06, -0.04), ("within ±0.05", 0.04, 0.06), ("≤ 0.05", -0.15, 0.06)],
)
def test_the_zone_is_where_the_claim_puts_its_effect(
    claimed: str, inside: float, outside: float, tmp_path: Path
) -> None:
    (found,) = read(tmp_path, row(claimed=claimed, low=-0.2, high=0.2, effect=0.0))
    line = axis([found])
    drawn = mark(found, line)
    assert drawn.zone is not None and drawn.ends is not None
    left, right = drawn.zone[0], sum(drawn.zone)
    assert left < line.at(inside) < right and not left <= line.at(outside) <= right
    assert drawn.ends == (line.at(-0.2), line.at(0.2)) and drawn.effect == line.at(0.0)


def test_what_is_not_finite_is_said_and_not_drawn(tmp_path: Path) -> None:
    (found,) = read(tmp_path, row(effect=float("nan"), low=float("-inf"), claimed=""))
    assert mark(found, axis([found])).ends is None and mark(found, axis([found])).zone is None
    (found,) = read(tmp_path, row(margin=float("nan")))
    assert found.zone is None and mark(found, axis([found])).ends is not None
    for field in ("effect", "low", "high", "margin"):
        for value in (float("nan"), float("inf"), 1e300):
            text = lay(tmp_path / "a", [row(**{field: value}), row(part="another")]).read_text()
            assert not re.search(r'="-?(nan|inf)|NaN%|nan%|inf%', text), (field, value)


def test_numbers_are_short_and_have_a_sign() -> None:
    assert [number(x) for x in (0.0, 0.338, -0.034, 3.9e-17, -12.468)] == [
        "0.000",
        "+0.338",
        "−0.034",
        "+3.9e−17",
        "−12.468",
    ]
    line = axis([])
    assert [tick(value, line) for value in (0.0, -0.5, 0.25)] == ["0", "−0.5", "0.25"]
