"""The report as a reader meets it: it filters, follows links, fits a phone, is dark at night, asks no network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from figures.catalogue import catalogue
from tests.browser import browser, console_errors, lost_stops, set_window, tab_stops, weak_text
from tests.figures.small_report import ROWS, lay, row

DESKTOP, PHONE = (1280, 900), (390, 844)
TESTED = sorted({str(r["id"]) for r in ROWS}, key=list(catalogue()).index)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browser(tmp_path_factory.mktemp("browser"), *DESKTOP) as started:
        yield started


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    return lay(tmp_path_factory.mktemp("report")).as_uri()


def open_page(driver: Any, address: str, width: int = 1280, height: int = 900, dark: bool = False) -> None:
    set_window(driver, width, height, dark)
    driver.get("about:blank")
    driver.get(address)
    console_errors(driver)  # from here on


def shown(driver: Any, selector: str) -> list[str]:
    """Of the elements that a reader can see: the id, or the claim that a row of the grid is of."""
    return list(
        driver.execute_script(
            "return [...document.querySelectorAll(arguments[0])].filter(e => e.getClientRects().length)"
            ".map(e => e.dataset.of || e.id)",
            selector,
        )
    )


def press(driver: Any, *values: str) -> None:
    for value in values:
        driver.find_element("css selector", f'[data-value="{value}"]').click()


def test_it_opens_on_an_answer_for_each_claim_and_a_grid(driver: Any, address: str) -> None:
    driver.get(address)
    assert console_errors(driver) == []
    assert shown(driver, "[data-of]") == TESTED
    assert len(shown(driver, ".claim")) == len(catalogue())
    text = driver.find_element("css selector", '[data-of="C27"]').text
    assert "It depends: supported for “a part” (bandit); opposite for “another part” (token)." in text
    assert "✓ supported 1" in text.replace("\u00a0", " ")
    assert driver.execute_script("return performance.getEntriesByType('resource').length") == 0


def test_it_filters_by_the_state_and_setting_of_one_row_and_by_words(driver: Any, address: str) -> None:
    open_page(driver, address)
    press(driver, "opposite")
    assert shown(driver, "[data-of]") == shown(driver, ".claim") == ["C25", "C27"]
    assert driver.find_element("id", "count").text == f"2 of {len(catalogue())} claims"
    press(driver, "bandit")  # C27 came out opposite on tokens
    assert shown(driver, ".claim") == ["C25"]
    press(driver, "supported")
    assert shown(driver, ".claim") == ["C25", "C27"]
    driver.find_element("id", "clear").click()
    assert len(shown(driver, ".claim")) == len(catalogue())
    driver.find_element("id", "search").send_keys("CEILING arms")  # in a gate, in any order and case
    assert shown(driver, ".claim") == ["C50"]
    driver.find_element("id", "clear").click()
    press(driver, "not-tested")
    assert shown(driver, "[data-of]") == [] and len(shown(driver, ".claim")) == len(catalogue()) - len(TESTED)
    assert console_errors(driver) == []


def test_a_question_is_answered_by_its_words_and_where_none_has_all_by_most_of_them(driver: Any, address: str) -> None:
    open_page(driver, address)
    driver.find_element("id", "search").send_keys("Does on-policy sampling matter?")
    assert "C25" in shown(driver, ".claim")
    assert driver.find_element("id", "count").text == f"{len(shown(driver, '.claim'))} of {len(catalogue())} claims"
    driver.find_element("id", "search").send_keys(" For zebras, on-policy?")
    assert driver.find_element("id", "count").text.endswith(
        "claims, with 2 of 3 words: none has all. No tested claim speaks of “zebras”"
    )
    assert "C25" in shown(driver, ".claim")
    press(driver, "theorem")  # of C01, which has none of the words
    assert shown(driver, ".claim") == []
    assert console_errors(driver) == []


def test_the_rows_that_have_a_question_s_words_are_marked_and_counted_beside_the_answer(
    driver: Any, address: str
) -> None:
    open_page(driver, address)
    search = driver.find_element("id", "search")
    search.send_keys("C27 another")
    link = driver.find_element("css selector", '[data-of="C27"] .rows-asked')
    assert link.text == "Rows with “another”: 1 opposite"
    link.click()
    marked = driver.execute_script("return [...document.querySelectorAll('.asked')].map(e => e.id)")
    assert marked == ["C27-row-2"] and 0 <= top(driver, "C27-row-2") < 200
    search.clear()
    search.send_keys("C27")  # tells no row of it from another
    assert driver.find_elements("css selector", ".rows-asked, .asked") == []
    search.clear()
    search.send_keys("pposite")  # is the end of a word
    assert driver.find_element("id", "count").text.startswith("0 of ")
    search.clear()
    search.send_keys("draw phase_map")
    assert driver.find_element("id", "pictures").text == "Figures that speak of it: Does it draw?"
    assert console_errors(driver) == []


QUESTIONS = {
    "Which algorithm when the optimum is out of likelihood?": "C25",  # "… optimum is unlikely under …"
    "How should β be chosen?": "C51",  # C22 has "chosen" in its heading, as C51 has "β", but speaks less of either
    "Is reusing data harmless?": "C29",
}


def test_the_claim_whose_heading_has_the_words_of_a_question_comes_first(driver: Any, tmp_path: Path) -> None:
    """Every claim speaks of all that is asked in its rows, and C01 most of it."""
    told = "The chosen β, when reuse of data is harmless, and the optimum's likelihood."
    rows = [row(id="C01", note=told * 9), *(row(id=id, note=told) for id in ("C22", "C25", "C27", "C29", "C51"))]
    rows += [row(id="C51", part=f"β = {beta}") for beta in (0.01, 0.1, 1)]
    open_page(driver, lay(tmp_path / "report", rows).as_uri())
    search = driver.find_element("id", "search")
    for question, first in QUESTIONS.items():
        search.clear()
        search.send_keys(question)
        assert len(shown(driver, "[data-of]")) == 6, question
        assert (shown(driver, "[data-of]")[0], shown(driver, ".claim")[0]) == (first, first), question
    search.clear()
    search.send_keys("Which beta?")
    assert shown(driver, "[data-of]")[0] == "C51"
    driver.find_element("css selector", '#sort [value="order"]').click()
    assert shown(driver, "[data-of]")[0] == "C01"
    search.clear()
    search.send_keys("sensitivity")  # is offered for every claim, and so is said of none
    assert driver.find_element("id", "count").text.startswith("0 of ")
    assert console_errors(driver) == []


def test_a_question_about_a_knob_or_a_sampler_that_no_row_names_is_answered(driver: Any, tmp_path: Path) -> None:
    """C30 has one word of two in its heading, and the other in a note, as C51 has; C27 was measured on-policy."""
    both = "contrastive − Best-of-N, both on-policy"
    rows = [row(id="C30", note="The β was tuned."), row(id="C51", part="low"), row(id="C15", part="in order")]
    rows += [row(part=f"{name}, R1", measure=both) for name in ("ipo", "dpo")]
    open_page(driver, lay(tmp_path / "report", rows).as_uri())
    search = driver.find_element("id", "search")
    found = {
        "Which is most sensitive to beta?": ["C30", "C51"],
        "Are replayed batches good?": ["C15"],  # "Replaying …"; no claim has "batches" too
        "Is C27 true off-policy for IPO?": ["C27"],
    }
    for question, ids in found.items():
        search.clear()
        search.send_keys(question)
        assert shown(driver, "[data-of]") == ids, question
    link = "Rows with “ipo”: 1 supported; all are on-policy, none off-policy"
    assert driver.find_element("css selector", '[data-of="C27"] .rows-asked').text == link
    search.clear()
    search.send_keys("C27 off-policy")  # tells no row of it from another
    assert driver.find_element("css selector", ".rows-asked").text == "All rows are on-policy, none off-policy"
    assert console_errors(driver) == []


def test_what_no_row_answers_is_said_plainly(driver: Any, address: str) -> None:
    open_page(driver, address)
    search, count = (driver.find_element("id", id) for id in ("search", "count"))
    said = {
        "Is clipping a negative gradient?": "No tested claim speaks of “clipping”",
        "Does a negative gradient help ceiling arms?": "No row has all of this: nearest first",
        "Is my policy's clipping good for me?": "No tested claim speaks of “clipping”",
        "Does overoptimization happen?": ", none of them tested. No tested claim speaks of “overoptimization”",
    }
    for question, answer in said.items():
        search.clear()
        search.send_keys(question)
        assert count.text.endswith(answer), question
    named = driver.find_element("id", "untested-found").text
    assert named.startswith("Catalogued, and not tested yet: C14 Gold reward rises then falls with KL")
    search.clear()
    search.send_keys("a critic, and a network?")  # each in the one row or its setting
    assert "No " not in count.text and shown(driver, "[data-of]") == ["C50"]
    assert console_errors(driver) == []


def test_it_lists_what_changed_and_says_what_would_flip_an_answer(driver: Any, address: str) -> None:
    open_page(driver, address)
    driver.find_element("css selector", 'nav a[href="#changes"]').click()
    assert driver.find_element("css selector", "#changes h3").text == "2026-01-02"
    assert driver.find_element("css selector", "#changes li").text == "C50: a shorter budget"
    driver.find_element("css selector", '#changes a[href="#C50"]').click()
    assert 0 <= top(driver, "C50") < 200
    closest = "“another part” (token): opposite, with its interval's end 0.01 score from the margin"
    assert closest in driver.find_element("id", "C27").text


def test_it_sorts(driver: Any, address: str) -> None:
    open_page(driver, address)
    driver.find_element("css selector", '#sort [value="contested"]').click()
    assert shown(driver, "[data-of]")[:2] == shown(driver, ".claim")[:2] == ["C25", "C27"]
    driver.find_element("css selector", '#sort [value="order"]').click()
    assert shown(driver, "[data-of]") == TESTED
    assert console_errors(driver) == []


def test_a_link_leads_to_its_claim_also_where_the_filter_hides_it(driver: Any, address: str) -> None:
    open_page(driver, address)
    driver.find_element("css selector", "#numbers summary").click()
    driver.find_element("css selector", 'nav a[href="#C50"]').click()
    assert 0 <= top(driver, "C50") < 200
    press(driver, "supported")
    assert shown(driver, ".claim") == ["C27"]
    driver.find_element("css selector", 'nav a[href="#C25"]').click()
    wait_until(driver, "!document.getElementById('C25').hidden")
    assert 0 <= top(driver, "C25") < 200 and "C25" in shown(driver, "[data-of]")
    assert console_errors(driver) == []


def top(driver: Any, id: str) -> float:
    return float(driver.execute_script(f"return document.getElementById('{id}').getBoundingClientRect().top"))


def wait_until(driver: Any, condition: str) -> None:
    """Events of the address bar come when the browser has time for them."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, 60).until(lambda d: d.execute_script(f"return {condition}"))


@pytest.mark.parametrize("size", [DESKTOP, (820, 1180), PHONE, (320, 640)])
def test_nothing_is_wider_than_the_window(size: tuple[int, int], driver: Any, address: str) -> None:
    open_page(driver, address, *size)
    driver.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    wide, room = driver.execute_script("const d = document.documentElement; return [d.scrollWidth, d.clientWidth]")
    assert wide <= room <= size[0]
    cut = (
        "return [...document.querySelectorAll('.answers td .state')].filter(e => e.getClientRects().length &&"
        " e.getBoundingClientRect().right > e.parentElement.getBoundingClientRect().right + 1).map(e => e.textContent)"
    )
    assert driver.execute_script(cut) == []
    # Pictures and wide tables scroll in their own frame.
    outside = driver.execute_script(
        "return [...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll') && !e.closest('.unseen')"
        " && e.getBoundingClientRect().right > document.documentElement.clientWidth + 1)"
        ".map(e => e.outerHTML.slice(0, 80))"
    )
    assert outside == []
    assert console_errors(driver) == []


def test_the_first_answer_is_on_the_first_screen_also_of_a_phone(driver: Any, address: str) -> None:
    for size, filters in ((DESKTOP, True), (PHONE, False)):
        open_page(driver, address, *size)
        assert driver.find_element("css selector", "[data-of] .answer").rect["y"] < size[1] - 50
        assert driver.find_element("id", "sort").is_displayed() == filters
    driver.find_element("css selector", "#filters summary").click()
    press(driver, "opposite")
    assert shown(driver, ".claim") == ["C25", "C27"]


def test_a_long_p_value_is_no_wider_than_a_phone(driver: Any, tmp_path: Path) -> None:
    long = row(effect=-0.123, low=-0.456, high=-0.101, p=1.2e-12, survives=False)
    open_page(driver, lay(tmp_path / "report", [long]).as_uri(), 390, 844)
    wide = driver.execute_script("return document.documentElement.scrollWidth")
    assert "(not after correction)" in driver.find_element("css selector", "#C27 .in-effect").text and wide <= 390


def test_letters_on_a_phone_are_no_smaller_than_eleven_pixels(driver: Any, address: str) -> None:
    open_page(driver, address, *PHONE)
    sizes = driver.execute_script(
        "return [...document.querySelectorAll('main *')].filter(e => e.getClientRects().length && !e.closest('.unseen')"
        " && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))"
        ".map(e => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert sizes and min(sizes) >= 11


@pytest.mark.parametrize("dark", [False, True])
def test_every_text_stands_out_from_its_paper_by_day_and_by_night(dark: bool, driver: Any, address: str) -> None:
    open_page(driver, address, *DESKTOP, dark)
    paper = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert luminance(paper) < 0.05 if dark else luminance(paper) > 0.9
    edges = (
        "return [...document.querySelectorAll('input, select, button')].map(e => getComputedStyle(e).borderTopColor)"
    )
    for edge in driver.execute_script(edges):  # 3 for what shows where a control is
        low, high = sorted((luminance(edge), luminance(paper)))
        assert (high + 0.05) / (low + 0.05) >= 3, edge
    driver.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert weak_text(driver) == []
    driver.find_element("id", "search").send_keys("a part")  # marked rows, and links beside answers
    press(driver, "supported")
    assert weak_text(driver) == []


def test_it_is_read_without_a_mouse(driver: Any, address: str) -> None:
    """All that can be used is reached by Tab, in the order of the page, has a name, and is seen to have the focus."""
    open_page(driver, address)
    stops = list(tab_stops(driver))
    assert lost_stops(iter(stops)) == []
    names = [stop["name"] for stop in stops]
    assert names[0] == "Skip to the answers" and len(set(names)) > 30
    usable = driver.execute_script(
        "return [...document.querySelectorAll('a[href], button, input, select, summary, [tabindex]')]"
        ".filter((e) => e.checkVisibility()).length"
    )
    assert len(stops) == usable
    open_page(driver, address)
    assert next(tab_stops(driver))["name"] == "Skip to the answers"
    driver.switch_to.active_element.send_keys("\ue007")  # Enter
    wait_until(driver, "location.hash === '#answers'")
    driver.switch_to.active_element.send_keys("\ue004")
    assert driver.switch_to.active_element.get_attribute("id") == "search"


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_tables_are_tables_to_a_screen_reader_also_where_they_are_laid_out_as_blocks(
    size: tuple[int, int], driver: Any, address: str
) -> None:
    open_page(driver, address, *size)
    parts = {"": "table", "tbody": "rowgroup", "tbody tr": "row", "tbody th": "rowheader", "tbody td": "cell"}
    found = {part: driver.find_element("css selector", f".answers {part}").aria_role for part in parts}
    assert found == parts
    assert driver.find_element("css selector", ".forest tbody td.in-row").aria_role == "cell"


def test_it_is_printed_on_white_also_in_the_dark(driver: Any, address: str) -> None:
    """Also what is narrow on paper stays a table there."""
    open_page(driver, address, 720, 1000, dark=True)
    media = {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    try:
        paper, zone, table, controls = driver.execute_script(
            "const style = (selector) => getComputedStyle(document.querySelector(selector));"
            "return [style('body').backgroundColor, style('.zone').fill,"
            " style('.forest').display, style('#controls').display]"
        )
    finally:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert luminance(paper) > 0.9 and luminance(zone) > 0.7
    assert (table, controls) == ("table", "none")


def luminance(colour: str) -> float:
    """WCAG's relative luminance of 'rgb(r, g, b)'."""
    parts = [float(x) / 255 for x in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    red, green, blue = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_pictures_are_drawn_wherever_they_stand(driver: Any, address: str) -> None:
    open_page(driver, address)
    sizes = driver.execute_script(
        "return [...document.querySelectorAll('.picture use')].map(e => [e.getBBox().width, e.getBBox().height])"
    )
    assert len(sizes) == 6 and all(width > 500 and height > 100 for width, height in sizes)


def test_hostile_rows_run_nothing(driver: Any, tmp_path: Path) -> None:
    attack = "</script><script>window.attacked = 1</script><img src=x onerror='window.attacked = 1'>"
    texts = ("id", "part", "setting", "verdict", "claim", "measure", "unit", "claimed", "note", "figure", "command")
    rows = [row(**{name: attack}) for name in texts] + [row(**dict.fromkeys(texts, attack))]
    open_page(driver, lay(tmp_path / "report", rows, caption=attack).as_uri())
    assert driver.execute_script("return window.attacked === undefined && document.scripts.length === 1")
    assert driver.execute_script("return performance.getEntriesByType('resource').length") == 0
    press(driver, "supported")
    assert console_errors(driver) == [] and shown(driver, ".claim")


def test_the_claim_whose_row_has_the_words_of_a_question_comes_first(driver: Any, tmp_path: Path) -> None:
    """C08 has them all too, but some in its notes alone; and one of thousand is one of 1,000."""
    rows = [
        row(id="C08", part="rounds", note="A fifth of the labels is flipped, which hurts PPO and DPO. " * 9),
        row(id="C43", part="flipped labels: PPO less DPO"),
        row(id="C61", part="1,000 pairs"),
    ]
    open_page(driver, lay(tmp_path / "report", rows).as_uri())
    search = driver.find_element("id", "search")
    search.send_keys("Do flipped labels hurt DPO more than PPO?")
    assert shown(driver, "[data-of]")[:2] == ["C43", "C08"]
    search.clear()
    search.send_keys("A thousand pairs")
    assert shown(driver, "[data-of]")[0] == "C61"
    assert "thousand" not in driver.find_element("id", "count").text


def test_a_note_of_many_rows_says_how_many_and_unfolds_which(driver: Any, tmp_path: Path) -> None:
    note = {"note": "Of these alone."}
    rows = [row(id="C27", part=f"part {n}", **(note if n else {})) for n in range(5)]
    open_page(driver, lay(tmp_path / "report", rows).as_uri())
    held = driver.find_element("css selector", "#C27 .notes .of")
    assert held.find_element("tag name", "summary").text == "of 4 rows"
    assert held.get_property("innerText") == "of 4 rows"
    held.find_element("tag name", "summary").click()
    assert "part 1 (bandit); part 2 (bandit)" in held.get_property("innerText")
