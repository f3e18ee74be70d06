"""The installed browser. It has a module of its own, since the tests of LightlyStudio run in another environment."""

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright


def launched() -> Iterator[Browser]:
    """Starts the browser; skips the test, with the reason, if none is installed."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not program:
        pytest.skip("There is no browser: apt-get install chromium.")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
