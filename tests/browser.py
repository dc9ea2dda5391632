"""A browser without a window, for pages that are tested as a reader sees them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SELENIUM = "needs selenium, which the extra `test` brings"
QUIET = ("quic", "background-networking", "component-update", "sync", "gpu", "dev-shm-usage")


@contextmanager
def browser(folder: Path, width: int = 1280, height: int = 900, dark: bool = False) -> Iterator[Any]:
    """A Chromium of its own, driven by selenium, that keeps its profile in `folder` and asks nothing of a network.

    The test is skipped where there is no Chromium, no driver for it, or no selenium.
    """
    webdriver = pytest.importorskip("selenium.webdriver", reason=SELENIUM)
    chromium, driver = next(filter(None, map(shutil.which, CHROMIUM)), None), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs a browser and its driver; on Debian: apt install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    switches = ["headless", "no-sandbox", "no-first-run", *(f"disable-{name}" for name in QUIET)]
    for switch in [*switches, f"user-data-dir={folder}", f"window-size={width},{height}"]:
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        set_window(started, width, height, dark)
        yield started
    finally:
        started.quit()


def set_window(driver: Any, width: int, height: int, dark: bool = False) -> None:
    """What a page can see of the screen: (width, height) in CSS pixels, and whether its reader likes the dark."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def console_errors(driver: Any) -> list[str]:
    """What the page complained about since the last call."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def wait_until(driver: Any, condition: Callable[[Any], Any], seconds: float = 120) -> None:
    """Returns once condition(driver) is true; TimeoutException if it never is, however loaded the machine."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, seconds).until(condition)


WEAK = """
  const parse = (colour) => { const p = colour.match(/[\\d.]+/g).map(Number); return [p[0], p[1], p[2], p[3] ?? 1]; };
  const over = (a, b) => [0, 1, 2].map((i) => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
  const light = (c) => { const [r, g, b] = c.slice(0, 3).map((x) => x / 255)
    .map((x) => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const found = [], above = (e) => e ? [e, ...above(e.parentElement)] : [];
  for (const e of document.querySelectorAll("body *")) {
    const style = getComputedStyle(e), texts = [...e.childNodes].filter((n) => n.nodeType === 3);
    const words = texts.map((n) => n.data).join("").trim(), name = e.className.baseVal ?? e.className;
    if (!words || !e.getClientRects().length || e.closest(":disabled")) continue;
    const papers = above(e).map((x) => parse(getComputedStyle(x).backgroundColor)).concat([[255, 255, 255, 1]]);
    const paper = papers.reduceRight((below, colour) => over(colour, below));
    const ink = parse(e.namespaceURI.endsWith("svg") ? style.fill : style.color);
    ink[3] *= above(e).reduce((product, x) => product * getComputedStyle(x).opacity, 1);
    const [low, high] = [light(over(ink, paper)), light(paper)].sort((a, b) => a - b);
    found.push([(high + 0.05) / (low + 0.05), `${e.tagName}.${name}: ${words.slice(0, 40)}`]);
  }
  return found;
"""


def weak_text(driver: Any, least: float = 4.5) -> list[str]:
    """Text whose contrast with its paper, as both are blended, is below `least`, WCAG's for normal text; controls that
    are not in use are let off. AssertionError where the page has no text."""
    found = driver.execute_script(WEAK)
    assert found
    return [f"{name}, {contrast:.2f}" for contrast, name in found if contrast < least]


STOP = """
  const e = document.activeElement;
  if (!e || e === document.body) return null;
  const style = getComputedStyle(e), box = e.getBoundingClientRect();
  const visited = window.stops ??= [], before = visited.at(-1);
  const follows = !before || !!(before.compareDocumentPosition(e) & Node.DOCUMENT_POSITION_FOLLOWING);
  visited.push(e);
  return {
    id: e.id, tag: e.tagName, follows,
    name: e.getAttribute("aria-label") || [...e.labels ?? [], e].map((x) => x.textContent.trim()).find(Boolean) || "",
    marked: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
    seen: box.width > 0 && box.bottom > 0 && box.top < innerHeight && style.clipPath === "none",
  };
"""


def tab_stops(driver: Any, at_most: int = 1000) -> Iterator[dict[str, Any]]:
    """Press Tab until the page ends. Of each stop its id, tag and name, and whether an outline marks it and it is on
    the screen. AssertionError beyond `at_most`: focus goes in a circle."""
    from selenium.webdriver import ActionChains

    driver.execute_script("window.stops = []; document.activeElement.blur(); scrollTo(0, 0)")
    for _ in range(at_most):
        ActionChains(driver).send_keys(TAB).perform()
        stop = driver.execute_script(STOP)
        if stop is None or (not stop["follows"]):
            return
        yield stop
    raise AssertionError(f"{at_most} stops, and no end")


TAB = "\ue004"  # as WebDriver writes the key


def lost_stops(stops: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of a page's stops those that a reader without a mouse loses: no name, no outline, or not on the screen."""
    return [stop for stop in stops if not (stop["name"] and stop["marked"] and stop["seen"])]
