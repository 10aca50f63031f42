"""The pages are read in a browser where there is one; where there is none, pytest says so."""

import shutil

import pytest
from playwright.sync_api import sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def pytest_collection_modifyitems(config, items):
    if not CHROMIUM:
        left = [item for item in items if "browser" in item.fixturenames]
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if "browser" not in item.fixturenames]


def pytest_terminal_summary(terminalreporter):
    if not CHROMIUM:
        terminalreporter.line("The pages of reports were not tried in a browser: there is no Chromium.")
