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
