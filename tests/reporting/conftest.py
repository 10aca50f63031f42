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


@pytest.fixture
def in_browser(browser, tmp_path):
    """``in_browser(text)``: a page in the browser, from a file; what it says and asks for may be nothing."""
    contexts, said, asked = [], [], []

    def open_page(text, **options):
        path = tmp_path / "report.html"
        path.write_text(text, encoding="utf-8")
        contexts.append(browser.new_context(viewport={"width": 1280, "height": 800}, **options))
        tab = contexts[-1].new_page()
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: request.url.startswith("data:") or asked.append(request.url))
        tab.goto(path.as_uri())
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert said == []
    assert all(url.startswith("file:") and url.endswith("/report.html") for url in asked), asked


def pytest_collection_modifyitems(config, items):
    if not CHROMIUM:
        left = [item for item in items if "browser" in item.fixturenames]
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if "browser" not in item.fixturenames]


def pytest_terminal_summary(terminalreporter):
    if not CHROMIUM:
        terminalreporter.line("The pages of reports were not tried in a browser: there is no Chromium.")
