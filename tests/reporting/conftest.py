import pytest


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
