"""A real browser for tests of the page: headless Chromium, driven by selenium, and what it noticed.

Without chromium and its driver the tests that need them skip and say how to get them; with
``LINEWATCH_REQUIRE_SERVICES=1`` they fail instead.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.brokers import wait_for

HOW_TO_GET_IT = "no browser to look at the page with: apt-get install chromium chromium-driver"
GONE = (NoSuchElementException, StaleElementReferenceException)
# Before any script of the page: what its policy forbade, wherever it happened.
WATCH = "addEventListener('securitypolicyviolation', (e) => (window.forbidden ??= []).push(e.violatedDirective), true)"


class Browser:
    """One window, of ``width`` x ``height`` CSS pixels."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self._driver = driver
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
        self.resize(1280, 900)

    def open(self, url: str) -> None:
        self._driver.get(url)

    @property
    def url(self) -> str:
        return self._driver.current_url

    def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        """The window's inner size, and which colours its user prefers."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def run(self, script: str, *arguments: Any) -> Any:
        """What ``script`` returns in the page."""
        return self._driver.execute_script(script, *arguments)

    def all(self, css: str) -> list[WebElement]:
        return self._driver.find_elements(By.CSS_SELECTOR, css)

    def find(self, css: str, text: str = "") -> WebElement:
        """The first element that ``css`` selects and that shows ``text``; waits for it."""

        def look() -> WebElement | None:
            try:
                return next((e for e in self.all(css) if text in e.text), None)
            except GONE:
                return None

        found: WebElement = wait_for(look, f"{css} {text!r} on the page")
        return found

    def click(self, css: str, text: str = "") -> None:
        """As a person does; the page may redraw between looking and clicking."""

        def try_it() -> bool:
            try:
                self.find(css, text).click()
            except GONE:
                return False
            return True

        wait_for(try_it, f"clicking {css} {text!r}")

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """What ``condition`` returns once it is true."""

        def look() -> Any:
            try:
                return condition()
            except GONE:
                return None

        return wait_for(look, what)

    def press(self, *keys: str) -> None:
        webdriver.ActionChains(self._driver).send_keys(*keys).perform()

    def picture(self, file: Path) -> None:
        self._driver.save_screenshot(file)

    def complaints(self) -> list[str]:
        """What the console and the page's policy have said so far, since this was asked last."""
        said = [entry["message"] for entry in self._driver.get_log("browser")]
        return said + (self.run("const said = window.forbidden ?? []; window.forbidden = []; return said"))

    def requested(self) -> set[str]:
        """The servers that anything was asked of so far, since this was asked last."""
        servers = set()
        for entry in self._driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                url = message["params"]["request"]["url"]
                servers.add("/".join(url.split("/")[:3]) if "://" in url else url)
        return servers


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser that knows nothing of earlier ones."""
    paths = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in paths:
        if os.environ.get("LINEWATCH_REQUIRE_SERVICES") == "1":
            pytest.fail(HOW_TO_GET_IT)
        pytest.skip(HOW_TO_GET_IT)
    options = webdriver.ChromeOptions()
    options.binary_location = str(paths[0])
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--lang=en-GB",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(paths[1])))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
