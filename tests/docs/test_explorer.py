"""The explorer, in a browser: its runs are those of `sims.exact`, and the page does what it says."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sims
from figures.catalogue import catalogue
from sims.exact import Population, chain_rule, entropy, expected_reward, kl_policy_ref, population_weights, token_logp
from tests.browser import browser, console_errors, lost_stops, set_window, tab_stops, wait_until, weak_text

PAGE = (Path(__file__).parents[2] / "docs" / "explorer.html").as_uri()
DESKTOP, PHONE = (1280, 900), (390, 844)
ARROW_RIGHT = "\ue014"  # as WebDriver writes the key
PARTS = ("question", "answer", "limits")  # of a lesson
ENVIRONMENTS = {
    "bandit_overlap": lambda settings: sims.BanditOverlap(overlap=settings["overlap"]),
    "bandit_r1": lambda settings: sims.BanditR1(),
    "bandit_r2": lambda settings: sims.BanditR2(),
}
ALGORITHMS: dict[str, Callable[[float], Any]] = {
    "rloo": lambda beta: sims.RLOO(beta=beta),
    "reinforce": lambda beta: sims.Reinforce(beta=beta, baseline="none"),
    "dpo": lambda beta: sims.DPO(beta=beta),
    "ipo": lambda beta: sims.IPO(beta=beta),
    "pref_ft": lambda beta: sims.PrefFT(),
    "best_of_n": lambda beta: sims.BestOfN(),
}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browser(tmp_path_factory.mktemp("browser"), *DESKTOP) as driver:
        yield driver


def open_page(driver: Any, address: str = "") -> None:
    """The page at an address, loaded anew: going to another # alone would not."""
    driver.get("about:blank")
    driver.get(PAGE + address)


def drawn_settings(count: int) -> list[dict[str, Any]]:
    """Settings of runs, each algorithm at least thrice, at learning rates at which a run does not diverge."""
    generator = np.random.default_rng(20)
    drawn = []
    for k in range(count):
        algorithm = list(ALGORITHMS)[k % len(ALGORITHMS)]
        beta = float(np.exp(generator.uniform(np.log(0.03), np.log(1.0))))
        rate = {"dpo": 2.0 / beta, "rloo": 5.0, "reinforce": 5.0}.get(algorithm, 0.5)
        drawn.append(
            {
                "algorithm": algorithm,
                "environment": list(ENVIRONMENTS)[int(generator.integers(len(ENVIRONMENTS)))],
                "overlap": float(10 ** generator.uniform(-2.0, math.log10(0.7))),
                "beta": beta,
                "sync": [1, 3, 10, "inf"][int(generator.integers(4))],
                "temperature": float(generator.choice([0.0, generator.uniform(0.05, 2.0)])),
                "flip": float(generator.choice([0.0, generator.uniform(0.0, 0.5)])),
                "n": int(generator.integers(2, 17)),
                "rate": rate * float(generator.uniform(0.2, 1.0)),
                "updates": int(generator.integers(40, 81)),
            }
        )
    return drawn


def labels(rewards: np.ndarray, temperature: float, flip: float) -> np.ndarray:
    """P(first is preferred to second), Bradley–Terry or noiseless, then flipped: (N, N)."""
    gap = rewards[:, None] - rewards[None, :]
    won = (np.sign(gap) + 1.0) / 2.0 if temperature == 0 else np.exp(-np.logaddexp(0.0, -gap / temperature))
    return (1.0 - flip) * won + flip * (1.0 - won)


def exact_run(settings: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Descent along `sims.exact`'s gradient: log π after every update, (updates + 1, N), rewards, log π_ref."""
    environment = ENVIRONMENTS[settings["environment"]](settings)
    algorithm = ALGORITHMS[settings["algorithm"]](settings["beta"])
    generations = settings["n"] if settings["algorithm"] == "best_of_n" else 2
    rewards, logits = environment.rewards(), environment.reference_logp()
    actions = rewards.shape[-1]
    responses, mask = np.arange(actions)[:, None], np.ones((actions, 1), bool)
    reference = token_logp(logits, responses, mask)
    label = labels(rewards[0], settings["temperature"], settings["flip"])[None]
    course = []
    for update in range(settings["updates"] + 1):
        logp = token_logp(logits, responses, mask)
        course.append(logp[0, :, 0])
        if update % float(settings["sync"]) == 0:
            sampler = np.broadcast_to(logp, (generations, *logp.shape))
        seen = Population(mask, logp, reference, sampler, rewards, label, np.zeros_like(logp))
        logits = logits - settings["rate"] * chain_rule(population_weights(algorithm, seen), logits, responses, mask)
    return np.stack(course), rewards[0], reference[0, :, 0]


@pytest.mark.parametrize(
    "settings", drawn_settings(20), ids=lambda s: f"{s['algorithm']}-{s['environment']}-{s['sync']}"
)
def test_a_run_is_that_of_the_exact_gradient(page: Any, settings: dict[str, Any]) -> None:
    open_page(page)
    code = "const run = onoff.simulate(arguments[0]); return [Array.from(run.logp), run.score, run.kl, run.entropy]"
    logp, score, kl, entropies = (np.array(x, dtype=float) for x in page.execute_script(code, settings))
    course, rewards, reference = exact_run(settings)
    assert np.abs(course[-1] - course[0]).max() > 1e-2  # something is learned
    np.testing.assert_allclose(logp.reshape(course.shape), course, atol=1e-9, rtol=1e-11)
    np.testing.assert_allclose(score, expected_reward(course, rewards), atol=1e-9)
    np.testing.assert_allclose(kl, kl_policy_ref(course, reference), atol=1e-9)
    np.testing.assert_allclose(entropies, entropy(course), atol=1e-9)


def test_the_optimum_that_is_drawn_is_the_exact_one(page: Any) -> None:
    open_page(page)
    settings = {"environment": "bandit_overlap", "overlap": 1e-3, "beta": 0.07}
    drawn = page.execute_script("return Array.from(onoff.build(onoff.complete(arguments[0])).logOptimum)", settings)
    environment = sims.BanditOverlap(overlap=1e-3)
    exact = sims.exact.optimum(environment.reference_logp()[0, 0], environment.rewards()[0], 0.07)
    np.testing.assert_allclose(drawn, exact, atol=1e-9)


def test_the_bars_are_the_step_that_the_next_update_takes(page: Any) -> None:
    """Up to a constant, which a softmax does not see: bars are of logits, policies are normalised."""
    open_page(page)
    code = """const run = onoff.simulate({algorithm: "dpo", sync: 7, updates: 20});
        return [10, 11].map((t) => Array.from(onoff.policyAt(run, t))).concat([Array.from(onoff.nextStep(run, 10))])"""
    before, after, step = map(np.array, page.execute_script(code))
    moved = after - before - step
    assert np.abs(step).max() > 1e-3
    np.testing.assert_allclose(moved, moved[0], atol=1e-12)


def test_every_lesson_opens_and_what_its_text_says_is_so(page: Any) -> None:
    open_page(page)
    lessons = page.execute_script("return onoff.LESSONS.map((lesson) => lesson.id)")
    assert len(set(lessons)) == len(lessons) >= 10
    for lesson in lessons:
        page.execute_script("onoff.openLesson(arguments[0])", lesson)
        code = "const lesson = onoff.LESSONS.find((x) => x.id === arguments[0])"
        assert page.execute_script(f"{code}; return lesson.holds(...onoff.lessonRuns(lesson))", lesson), lesson
        words = [page.find_element("id", f"lesson-{part}").get_attribute("textContent") for part in PARTS]
        assert all(len(text) > 20 and not {"NaN", "undefined", "–"} & set(text.split()) for text in words), words
        assert page.execute_script("return onoff.state().lesson") == lesson
    assert console_errors(page) == []


def test_the_address_bar_holds_the_whole_state(page: Any) -> None:
    open_page(page)
    code = """return onoff.LESSONS.map(({ id }) => {
        onoff.openLesson(id);
        const address = onoff.toAddress(onoff.state());
        return [address, onoff.state(), onoff.fromAddress(address)];
    })"""
    opened = page.execute_script(code)
    for _, state, read in opened:
        assert read == {"state": state, "faults": []}
    address, state, _ = opened[3]  # of one with a comparison
    assert "compare=" in address
    open_page(page, address)
    assert page.execute_script("return onoff.state()") == state
    assert console_errors(page) == []


def test_moving_a_control_reaches_the_address_and_the_run(page: Any) -> None:
    open_page(page, "#algorithm=dpo&beta=0.1&updates=50")
    slider = page.find_element("id", "set-beta")
    before = page.find_element("id", "score").get_attribute("innerHTML")
    slider.send_keys(ARROW_RIGHT)  # the next value above 0.1
    assert page.execute_script("return onoff.state().run.beta") == 0.12
    assert slider.get_attribute("aria-valuetext") == "0.12"
    assert page.find_element("id", "score").get_attribute("innerHTML") != before
    wait_until(page, lambda driver: "beta=0.12&" in driver.current_url)
    page.find_element("id", "keep").click()
    slider.send_keys(ARROW_RIGHT)
    wait_until(page, lambda driver: "compare=beta%3A0.12" in driver.current_url)
    assert page.find_element("id", "compare-note").text == "Compared with: β 0.12."
    assert console_errors(page) == []


def test_an_address_that_makes_no_sense_is_named(page: Any) -> None:
    open_page(page, "#beta=-1&rat=3&sync=inf")
    said = page.find_element("id", "address-faults").text
    assert said == "In the address: beta = -1: must be a number from 0.001 to 10; rat: no such setting."
    run = page.execute_script("const { run } = onoff.state(); return [run.beta, run.sync === Infinity]")
    assert run == [0.1, True]


def test_a_run_that_diverges_is_said_to_and_not_drawn(page: Any) -> None:
    open_page(page, "#algorithm=ipo&rate=1000&sync=inf&updates=1000")
    assert "this learning rate is too large" in page.find_element("id", "diverged").text
    assert "NaN" not in page.execute_script("return document.body.innerHTML")
    assert console_errors(page) == []


def test_play_pause_and_steps(page: Any) -> None:
    open_page(page, "#updates=1000&at=0")
    at = "return onoff.state().at"
    for button, expected in [("forward", 1), ("forward", 2), ("back", 1), ("last", 1000), ("first", 0)]:
        page.find_element("id", button).click()
        assert page.execute_script(at) == expected
    page.find_element("id", "play").click()
    wait_until(page, lambda driver: driver.execute_script(at) > 1)
    page.find_element("id", "last").click()  # pauses, too
    assert page.find_element("id", "play").text == "Play"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE, (320, 640)], ids=["desktop", "phone", "small phone"])
def test_nothing_overflows_and_every_control_has_a_name(page: Any, size: tuple[int, int], dark: bool) -> None:
    set_window(page, *size, dark)
    open_page(page)
    page.execute_script("onoff.openLesson('stale')")
    assert page.execute_script("return document.documentElement.scrollWidth") <= size[0]
    code = """const all = [...document.querySelectorAll("button, select, input, svg")].filter((x) => !x.hidden);
        const inside = ({ left, right }) => left >= 0 && right <= innerWidth + 0.5;
        const text = (x) => x.matches("button") ? x.textContent.trim() : x.labels?.length;
        const named = (x) => x.getAttribute("aria-label") || text(x);
        return [all.filter((x) => !inside(x.getBoundingClientRect())), all.filter((x) => !named(x))]
            .map((some) => some.map((x) => x.id))"""
    outside, unnamed = page.execute_script(code)
    assert outside == unnamed == []
    ground = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) < 200) is dark
    set_window(page, *DESKTOP)
    assert console_errors(page) == []


OPENED = "onoff.openLesson(arguments[0]); document.getElementById('lesson-reveal').open = true"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_text_stands_out_from_its_paper(page: Any, dark: bool) -> None:
    set_window(page, *DESKTOP, dark)
    open_page(page)
    for lesson in ("stale", "imitation"):  # of the policy gradient, which reads no labels; of recorded pairs
        page.execute_script(OPENED, lesson)
        assert weak_text(page) == [], lesson
    set_window(page, *DESKTOP)


def test_it_is_used_without_a_mouse(page: Any) -> None:
    open_page(page)
    page.execute_script(OPENED, "far")
    stops = list(tab_stops(page))
    assert lost_stops(iter(stops)) == []
    usable = page.execute_script(
        "return [...document.querySelectorAll('a[href], button, select, summary, input:not([type=radio])')]"
        ".filter((x) => !x.hidden && !x.disabled && x.getClientRects().length).length"
    )
    assert len(stops) >= usable  # and the radio that is chosen


def test_the_page_asks_nothing_of_a_network() -> None:
    folder = Path(__file__).parents[2] / "docs"
    files = [folder / "explorer.html", *(folder / "explorer").iterdir()]
    for file in files:
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")  # a name, not a place
        assert "http" not in text and "import(" not in text and "fetch(" not in text, file.name


def test_an_address_with_a_lesson_alone_opens_it_as_it_was_written(page: Any) -> None:
    for lesson in ("ranks", "near"):
        open_page(page, f"#lesson={lesson}")
        opened = page.execute_script("return onoff.state()")
        assert opened == page.execute_script("onoff.openLesson(arguments[0]); return onoff.state()", lesson)
    assert page.find_element("id", "address-faults").text == ""
    open_page(page, "#lesson=nowhere")
    assert "lesson = nowhere: must be one of optimum" in page.find_element("id", "address-faults").text
    assert console_errors(page) == []


def test_no_lesson_says_of_a_claim_that_it_is_tested_which_is_not(page: Any) -> None:
    open_page(page)
    for lesson in page.execute_script("return onoff.LESSONS.map(({ id }) => id)"):
        page.execute_script(OPENED, lesson)
        said = page.find_element("id", "lesson-text").text
        told = set(re.findall(r"(C\d\d) is tested", said))
        told |= set(re.findall(r"C\d\d", "".join(re.findall(r"[Tt]ested[^.]*: [^.]*\.", said))))
        assert [id for id in told if not catalogue()[id].rows] == [], lesson


def test_a_lesson_leads_to_its_notebook_and_its_claims(page: Any) -> None:
    open_page(page, "#lesson=near")
    links = page.find_element("id", "lesson-more").find_elements("tag name", "a")
    assert [link.get_attribute("textContent") for link in links] == ["notebook 5", "C25", "C31"]
    folder = Path(__file__).parents[2] / "notebooks"
    assert page.execute_script("return Object.values(onoff.NOTEBOOKS).length") >= 6
    for name in page.execute_script("return Object.values(onoff.NOTEBOOKS)"):
        assert (folder / f"{name}.ipynb").exists()
    assert links[1].get_attribute("href").endswith("figures/out/report.html#C25")


def test_pages_beside_it_are_where_it_says(page: Any) -> None:
    open_page(page)
    links = [link.get_attribute("href") for link in page.find_elements("css selector", "header nav a")]
    ends = ("figures/out/report.html", "notebooks/README.md", "docs/out/html/index.html")
    assert [link.endswith(end) for link, end in zip(links, ends, strict=True)] == [True] * 3
