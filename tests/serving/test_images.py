"""Images as a form sends them."""

import json

import pytest

from fixtures.serving import encoded, picture
from resight.serving.answer import answer
from resight.serving.images import HOW
from resight.serving.request import Request, Route

JPEG = encoded(picture(30, 50))


def form(*parts, end=b"--x--\r\n"):
    """A body of ``(name, file, data)``."""
    text = b""
    for name, file, data in parts:
        text += f'--x\r\nContent-Disposition: form-data; name="{name}"; filename="{file}"\r\n\r\n'.encode()
        text += data + b"\r\n"
    return text + end


def ask(servable, body, query="", kind="multipart/form-data; boundary=x"):
    return answer(servable, Request(Route("images", query=query), body, {"content-type": kind}))


def test_the_answer_is_what_the_model_finds(servable, tmp_path):
    model = servable()
    turned = encoded(picture(30, 50, 1), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0")
    (tmp_path / "é.jpg").write_bytes(JPEG)
    (tmp_path / "turned.jpg").write_bytes(turned)
    found = ask(model, form(("image", "é.jpg", JPEG), ("image", "turned.jpg", turned)))
    told = json.loads(found.body)
    wanted = [model.detector(tmp_path / name) for name in ("é.jpg", "turned.jpg")]
    assert (found.status, found.media_type, told["model"]) == (200, "application/json", "signs")
    assert (told["classes"], told["score"], told["default_score"]) == (["stop", "yield", "merge"], 0.25, 0.25)
    assert [each["file"] for each in told["images"]] == ["é.jpg", "turned.jpg"] and found.model_seconds > 0
    for image, each in zip(told["images"], wanted, strict=True):
        assert image | {"file": each.file} == each.listed() and image["detections"]
    assert [(image["width"], image["height"]) for image in told["images"]] == [(50, 30), (30, 50)]


def test_the_score_is_asked_for(servable, tmp_path):
    model = servable()
    (tmp_path / "a.jpg").write_bytes(JPEG)
    found = json.loads(ask(model, form(("image", "", JPEG)), "score=.6").body)
    wanted = model.detector(tmp_path / "a.jpg", 0.6)
    assert (found["score"], found["default_score"]) == (0.6, 0.25)
    assert found["images"][0]["detections"] == wanted.listed()["detections"]


@pytest.mark.parametrize(
    ("body", "query", "status", "message"),
    [
        (form(("image", "a.jpg", b"")), "", 400, "a.jpg: the image is empty (0 bytes)"),
        (form(("image", "", JPEG), ("image", "", b"x")), "", 400, "image 2: is not an image of a known format"),
        (form(("image", "a.jpg", JPEG[:-300])), "", 400, "a.jpg: the image is truncated or damaged"),
        (form(("file", "a.jpg", JPEG)), "", 400, f"the form has no part called image but file. {HOW}"),
        (form(), "", 400, f"the form has no part called image. {HOW}"),
        (form(("image", "a.jpg", JPEG), end=b""), "", 400, f"the form is cut off. {HOW}"),
        (form(*[("x", "", b"")] * 10_001), "", 400, "there are more than 10,000 images in the request"),
        (b"", "", 400, f"the form is cut off. {HOW}"),
        (JPEG, "", 400, "the form cannot be read: "),
        (form(("image", "", JPEG)), "score=2", 400, "score is a number from 0 to 1, not '2'"),
        (form(("image", "", JPEG)), "score=nan", 400, "score is a number from 0 to 1, not 'nan'"),
        (form(("image", "", JPEG)), "score", 400, "score is a number from 0 to 1, not ''"),
        (form(("image", "", JPEG)), "treshold=.5", 400, "there is no parameter 'treshold'; /predict takes ?score="),
        (form(("image", "", JPEG)), "&".join(["score=1"] * 200), 400, "the query cannot be read"),
    ],
)
def test_what_is_wrong_is_told(servable, body, query, status, message, caplog):
    found = ask(servable(), body, query)
    assert found.status == status and json.loads(found.body)["error"].startswith(message)
    assert caplog.text == ""  # as who sent it is told


@pytest.mark.parametrize(
    "kind", ["", "image/jpeg", "application/json", "multipart/form-data", "multipart/form-data; boundary=", "é; ä=ö"]
)
def test_another_body_is_told_how_it_should_be(servable, kind):
    found = ask(servable(), JPEG, kind=kind)
    error = json.loads(found.body)["error"]
    assert found.status == 415 and HOW in error and ("without its boundary" in error) == kind.startswith("multipart")


def test_a_boundary_that_is_none_is_told(servable):
    assert ask(servable(), form(), kind=f"multipart/form-data; boundary={'x' * 5000}").status == 400
