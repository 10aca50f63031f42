"""The page of a server in Chromium: pictures in, boxes out, whatever the server answers."""

import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from fixtures.browser import WIDTHS, check_widths_and_access, violations

RED, BLUE = (220, 30, 30), (30, 60, 220)


def picture(*squares, size=(96, 64), kind="PNG", **options):
    """The bytes of a picture with squares ``(colour, x1, y1, x2, y2)``."""
    image = np.full((size[1], size[0], 3), 110, np.uint8)
    for colour, x1, y1, x2, y2 in squares:
        image[y1:y2, x1:x2] = colour
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


def given(name, data):
    return {"name": name, "mimeType": "image/png", "buffer": data}


BOTH = given("both.png", picture((RED, 10, 8, 30, 28), (BLUE, 60, 30, 90, 60)))


@pytest.fixture
def opened(browser, server):
    """``opened()``: the page in the browser, which says nothing and asks for nothing elsewhere."""
    contexts, said, asked = [], [], []
    origin = f"http://127.0.0.1:{server.port}/"

    def open_page(**options):
        contexts.append(browser.new_context(viewport={"width": 1280, "height": 800}, **options))
        tab = contexts[-1].new_page()
        tab.set_default_timeout(10_000)
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(origin)
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert [
        text for text in said if not text.startswith("Failed to load resource: ")
    ] == []  # a refusal, which is shown
    allowed = (f"blob:{origin}", "data:,", *(origin + name for name in ("page.css", "page.js", "predict?score=0.05")))
    assert [url for url in asked if url != origin and not url.startswith(allowed)] == []


def said(tab, text):
    """Waits until the page says it."""
    tab.wait_for_function("text => document.querySelector('#said').textContent.includes(text)", arg=text)


def drawn(tab):
    """The boxes, by number, as shares of the picture that is shown: x1, y1, x2, y2."""
    return tab.evaluate("""() => {
        const at = document.querySelector("#picture").getBoundingClientRect();
        const share = (r) => [(r.left - at.left) / at.width, (r.top - at.top) / at.height,
                              (r.right - at.left) / at.width, (r.bottom - at.top) / at.height];
        return Object.fromEntries([...document.querySelectorAll("#boxes i")].map(
            (one) => [one.dataset.number, share(one.getBoundingClientRect())])); }""")


def rows(tab):
    return tab.eval_on_selector_all(
        "#list li", "all => all.map(one => [...one.querySelectorAll('span, bdi')].map(o => o.textContent))"
    )


def test_it_may_do_nothing_but_ask_this_server(server):
    for path, kind in (("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")):
        status, headers, body = server.ask("GET", path)
        assert (status, headers["Content-Type"]) == (200, f"{kind}; charset=utf-8") and body
        assert headers["X-Content-Type-Options"] == "nosniff"
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy and "http" not in policy
    assert server.ask("GET", "/index.html")[0] == server.ask("GET", "/page/page.js")[0] == 404


def test_pictures_are_shown_with_what_is_in_them_and_refusals_with_their_reasons(opened):
    tab = opened()
    assert violations(tab) == []
    tab.set_input_files("#files", [
        BOTH, given("empty.png", picture()), given("text.png", b"no picture"), given("large.png", bytes(1 << 20)),
    ])  # fmt: skip
    said(tab, "large.png: The server refuses it (413): ")
    assert tab.locator("#pictures bdi").all_text_contents() == ["both.png", "empty.png", "text.png", "large.png"]
    assert tab.locator("#pictures span").all_text_contents() == ["1 detection", "0 detections", "failed", "failed"]
    assert rows(tab) == [["1", "red", "0.90"]]
    assert drawn(tab)["1"] == pytest.approx([10 / 96, 8 / 64, 30 / 96, 28 / 64], abs=0.005)
    assert tab.text_content("#size") == ", 96 × 64 pixels, model signs"
    tab.click("#pictures li:nth-child(2) button")
    assert tab.text_content("#said") == "empty.png: nothing was found, not even at a score of 0.05."
    assert tab.text_content("#none") == tab.text_content("#said") and not tab.is_visible("#again")
    tab.click("#pictures li:nth-child(3) button")
    assert re.fullmatch(
        r"text.png: The server refuses it \(400\): (?!text).* not an image .*\. ", tab.text_content("#said")
    )
    assert tab.is_visible("#again") and tab.is_disabled("#copy")
    tab.click("#pictures li:nth-child(4) button")
    assert "Make the picture smaller" in tab.text_content("#none")
    tab.click("#pictures li:nth-child(1) button")
    tab.fill("#threshold", "0.05")
    check_widths_and_access(tab)


def test_boxes_lie_on_what_they_mean_however_the_picture_is_turned(opened):
    """What is red in the picture that the browser shows is what the box of it encloses."""
    tab = opened()
    exif = Image.Exif()
    files = [given("long.jpg", picture((RED, 4_000, 40, 4_500, 250), size=(5_000, 300), kind="JPEG"))]
    for number, kind in [
        *((number, "JPEG") for number in range(2, 9)),
        (6, "PNG"),
        (6, "AVIF"),
        (3, "AVIF"),
        (5, "AVIF"),
    ]:
        exif[0x0112] = number
        data = picture((RED, 8, 4, 40, 20), kind=kind, exif=exif, quality=95)
        files.append(given(f"{number}.{kind.lower()}", data))
    tab.set_input_files("#files", files)
    tab.wait_for_function(
        "() => [...document.querySelectorAll('#pictures span')].every(one => one.textContent === '1 detection')"
    )
    for number, file in enumerate(files):
        tab.click(f"#pictures li:nth-child({number + 1}) button")
        tab.wait_for_function("() => document.querySelector('#picture').complete")
        (box,) = drawn(tab).values()
        tab.evaluate("document.querySelector('#boxes').hidden = true")
        shown = np.asarray(Image.open(io.BytesIO(tab.locator("#picture").screenshot())).convert("RGB")).astype(int)
        tab.evaluate("document.querySelector('#boxes').hidden = false")
        y, x = np.nonzero(np.abs(shown - RED).max(axis=2) < 60)
        red = [x.min(), y.min(), x.max() + 1, y.max() + 1] / np.array([*shown.shape[1::-1]] * 2)
        assert red == pytest.approx(box, abs=0.03), file["name"]
        assert tab.text_content("#note") == "", file["name"]
    # What a browser does not show as the model sees it: Chromium leaves a WebP as it is stored, and reads no TIFF.
    exif[0x0112] = 6
    for kind, text in (("WEBP", "shows the picture at another size or turned"), ("TIFF", "cannot show a picture")):
        data = picture((RED, 8, 4, 40, 20), kind=kind, exif=exif)
        tab.set_input_files("#files", given(f"6.{kind.lower()}", data))
        said(tab, f"6.{kind.lower()}: 1 detection")
        tab.wait_for_function("() => document.querySelector('#note').textContent")
        assert text in tab.text_content("#note")
        assert tab.eval_on_selector("#frame", "one => one.clientHeight / one.clientWidth") == pytest.approx(
            1.5, abs=0.01
        )


@pytest.mark.parametrize("how", ["drop", "paste"])
def test_a_picture_is_dropped_or_pasted(opened, how):
    tab = opened()
    make = """([how, data]) => {
        const held = new DataTransfer();
        if (data) held.items.add(new File([Uint8Array.from(data)], "both.png", { type: "image/png" }));
        const event = how === "drop" ? new DragEvent("drop", { dataTransfer: held, bubbles: true, cancelable: true })
                                     : new ClipboardEvent("paste", { clipboardData: held, bubbles: true });
        document.querySelector("h1").dispatchEvent(event);
        return event.defaultPrevented; }"""
    tab.evaluate(make, [how, None])
    assert tab.text_content("#said").startswith({"drop": "That is no file.", "paste": "There is no picture"}[how])
    assert not tab.is_visible("#results")
    assert tab.evaluate(make, [how, list(BOTH["buffer"])]) is (how == "drop")
    said(tab, "both.png: 1 detection with a score of 0.63 or more.")


def test_all_of_it_is_done_by_keyboard(opened, browser):
    tab = opened(permissions=["clipboard-read", "clipboard-write"], accept_downloads=True)

    def on_to(place):
        for _ in range(9):
            tab.keyboard.press("Tab")
            if tab.evaluate("place => document.activeElement.matches(place)", place):
                return
        raise AssertionError(place)

    tab.on("filechooser", lambda _: None)  # so that it is waited for before the key is pressed
    on_to("#files")
    with tab.expect_file_chooser() as chooser:
        tab.keyboard.press("Enter")
    chooser.value.set_files(BOTH)
    said(tab, "both.png: 1 detection with a score of 0.63 or more.")
    assert json.loads(tab.input_value("#json"))["score"] == 0.625  # the model's own
    on_to("#pictures button")
    on_to("#threshold")
    tab.keyboard.press("Home")
    assert tab.text_content("#score") == "0.05"
    said(tab, "both.png: 2 detections with a score of 0.05 or more.")
    on_to("#class")
    tab.keyboard.press("b")
    said(tab, "both.png: 1 detection with a score of 0.05 or more and the class blue.")
    assert rows(tab) == [["2", "blue", "0.30"]] and list(drawn(tab)) == ["2"]
    on_to("#copy")
    tab.keyboard.press("Enter")
    said(tab, "The JSON of 1 detection is copied.")
    assert tab.text_content("#copy") == "Copied ✓"
    copied = json.loads(tab.evaluate("navigator.clipboard.readText()"))
    (image,) = copied["images"]
    (found,) = image.pop("detections")
    scores = {"score": 0.05, "default_score": 0.625}
    assert copied == {"model": "signs", "classes": ["red", "blue"], **scores, "images": [image]}
    assert image == {"file": "both.png", "width": 96, "height": 64}
    assert found == {"label": "blue", "score": 0.3, "box": [60, 30, 90, 60]}
    on_to("#save")
    with tab.expect_download() as download:
        tab.keyboard.press("Enter")
    assert download.value.suggested_filename == "both.json"
    with open(download.value.path(), encoding="utf-8") as file:
        assert json.load(file)["images"][0]["detections"] == [found]
    tab.keyboard.press("Shift+Tab")
    tab.keyboard.press("Shift+Tab")
    tab.keyboard.press("Shift+Tab")
    tab.keyboard.press("Home")
    said(tab, "both.png: 2 detections")
    on_to("#list li:nth-child(2) button")
    assert tab.locator(".lit").evaluate_all("all => all.map(one => one.dataset.number)") == ["2", "2"]
    tab.keyboard.press("Enter")
    assert tab.get_attribute("#list li:nth-child(2) button", "aria-pressed") == "true"
    on_to("summary")
    tab.keyboard.press("Enter")
    assert tab.locator("#boxes i.lit").get_attribute("data-number") == "2"  # pinned
    assert len(json.loads(tab.input_value("#json"))["images"][0]["detections"]) == 2
    tab.hover("#list li:nth-child(1)")
    assert tab.locator("#boxes i.lit").get_attribute("data-number") == "1"
    # Without TLS there is no clipboard for pages; what is selected can be copied.
    tab.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    tab.click("#copy")
    said(tab, "The JSON of 2 detections is copied.")
    tab.click("#actual")
    assert tab.eval_on_selector("#picture", "one => [one.clientWidth, one.clientHeight]") == [96, 64]


@pytest.fixture
def answered(opened):
    """``answered(*answers)``: the page after a picture was chosen, of a server that answers these one after another:
    (status, body, headers), or None for nothing."""

    def get(*answers):
        tab, asked, left = opened(), [], list(answers)

        def answer(route):
            asked.append(route.request.headers)
            told = left.pop(0)
            if told is None:
                return route.abort()
            status, body, headers = told
            return route.fulfill(
                status=status, body=body if isinstance(body, str) else json.dumps(body), headers=headers
            )

        tab.route("**/predict*", answer)
        tab.set_input_files("#files", BOTH)
        return tab, asked

    return get


def found(*detections, classes=("red", "blue"), width=96, height=64):
    image = {"file": "both.png", "width": width, "height": height, "detections": list(detections)}
    return 200, {"model": "signs", "classes": list(classes), "score": 0.05, "images": [image]}, {}


def test_what_a_server_may_answer_is_said_and_can_be_tried_again(answered):
    busy = {"error": "too many requests wait already"}
    tab, asked = answered(
        *[(429, busy, {"Retry-After": "0.01"})] * 5,
        (503, {"error": "loads"}, {"Retry-After": "3600"}),
        None,
        (504, {"error": "there was no answer within 20 seconds"}, {}),
        (502, "<h1>Bad Gateway</h1>", {}),
        (503, {"error": "out of memory"}, {}),
        (200, "[]", {}),
        (429, busy, {"Retry-After": "1"}),
        found(),
    )
    for text in (
        "both.png: The server refuses it (429): too many requests wait already. Try again when it is less busy.",
        "both.png: The server refuses it (503): loads. Try again in a while.",
        "both.png: The server gave no answer. It may have stopped, or take no file of 0.0 MB.",
        "both.png: The server refuses it (504): there was no answer within 20 seconds. Try again, or send a smaller",
        "both.png: The server refuses it (502): Bad Gateway.",
        "both.png: The server refuses it (503): out of memory. Try again in a while.",
        "both.png: The server refuses it (200): this is no answer of /predict.",
    ):
        said(tab, text)
        tab.click("#again")
    said(tab, "both.png: Not yet (429): too many requests wait already. It is sent again in 1 second.")
    said(tab, "both.png: nothing was found")
    assert len(asked) == 13


def test_a_token_is_asked_for_where_the_server_wants_one_and_kept_nowhere(answered):
    wanted = (401, {"error": "a token is needed"}, {"WWW-Authenticate": "Bearer"})
    tab, asked = answered(wanted, wanted, found(), found())
    said(tab, "both.png: The server asks for a token.")
    assert violations(tab) == []
    for text in ("wrong", "open-sesame"):
        assert tab.evaluate("document.activeElement.id") == "token"
        tab.keyboard.type(text)
        tab.keyboard.press("Enter")
        said(tab, {"wrong": "The server does not take this token.", "open-sesame": "nothing was found"}[text])
    assert not tab.is_visible("#ask")
    tab.set_input_files("#files", BOTH)
    tab.wait_for_function("() => document.querySelectorAll('#pictures span')[1].textContent === '0 detections'")
    tokens = [headers.get("authorization") for headers in asked]
    assert tokens == [None, "Bearer wrong", "Bearer open-sesame", "Bearer open-sesame"]
    assert tab.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]


def test_no_name_is_more_than_a_text_and_many_boxes_have_no_names(answered):
    names = [
        "<img src=x onerror='window.broken = 1'>",
        "</script><script>window.broken = 1</script>",
        "\u202eright",
        "x" * 500,
        " ",
    ]
    detections = [
        {
            "label": names[number % 5],
            "score": 1 - number / 500,
            "box": [230 * number % 3900, 300 * number % 2900, 230 * number % 3900 + 60, 2950],
        }
        for number in range(300)
    ]
    tab, _ = answered(found(*detections, classes=names, width=4000, height=3000))
    said(tab, "both.png: 251 detections")
    assert [row[1] for row in rows(tab)[:5]] == names
    assert tab.evaluate("window.broken") is None and tab.locator("img").count() == 1
    assert tab.locator("#class option").count() == 1 + len(names)
    assert not tab.is_visible("#boxes b >> nth=0")
    tab.fill("#threshold", "0.97")
    outside = """all => { const frame = document.querySelector("#frame").getBoundingClientRect();
        return all.map((one) => one.getBoundingClientRect()).filter(
            (r) => r.left < frame.left - 4 || r.right > frame.right + 4 || r.top < frame.top - 4).length; }"""
    assert tab.locator("#boxes b:visible").count() == 16 and tab.eval_on_selector_all("#boxes b", outside) == 0
    tab.select_option("#class", names[0])
    tab.fill("#threshold", "0.9")
    assert tab.locator("#boxes b:visible").count() == 11
    assert tab.text_content("#note") != ""  # the browser's picture is of another size
    for width in WIDTHS:
        tab.set_viewport_size({"width": width, "height": 800})
        assert tab.evaluate("document.documentElement.scrollWidth") == width
