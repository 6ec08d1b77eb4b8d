"""One headless browser for all tests of pages; without one they are skipped, with the reason."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# No test leaves the machine, and a browser that runs as root has no sandbox.
ARGUMENTS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--disable-crash-reporter", "--proxy-server=127.0.0.1:9",
]  # fmt: skip
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="session")
def started_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium, started once."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    program, driver = next(filter(None, map(shutil.which, BROWSERS)), None), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("there is no Chromium with its chromedriver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in [*ARGUMENTS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"]:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(driver, log_output=os.devnull)
    browser = webdriver.Chrome(options, service)
    yield browser
    browser.quit()


@pytest.fixture
def open_page(started_browser: Any, tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """Return a function that opens a page from a file. The page must ask for nothing, and the console stays empty."""

    def open_page(page: str) -> Any:
        file = tmp_path / "page.html"
        file.write_text(page, encoding="utf-8")
        # Forget what the browser has asked for to show its own first page.
        started_browser.get_log("performance")
        started_browser.get(file.as_uri())
        return started_browser

    started_browser.set_window_size(1280, 900)
    yield open_page
    assert started_browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in started_browser.get_log("performance")]
    sent = [each["params"] for each in messages if each["method"] == "Network.requestWillBeSent"]
    # The browser's own first page may still be loading.
    asked = {each["request"]["url"] for each in sent if each["documentURL"].startswith("file:")}
    assert asked <= {(tmp_path / "page.html").as_uri()}
